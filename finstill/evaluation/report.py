"""The report: one HTML file with everything in it, to read, mail or keep."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO

from finstill.config.profile import Profile
from finstill.evaluation.compare import Comparison
from finstill.evaluation.mistakes import Mistake
from finstill.evaluation.plots import confusion_matrices, quality_against_speed, reliability_diagram, training_curves
from finstill.files import whole_folder, write_json

REPORT_FILE = "report.html"
TABLE_FILE = "comparison.json"

NO_RACE = "The teacher was imported, or one of several was: it has no size, and no speed to compare the students' with."


def draw(
    comparison: Comparison, histories: Mapping[str, list[dict[str, float]]], labels: tuple[str, ...]
) -> dict[str, bytes]:
    """Return the plots by title, as PNG.

    Args:
        histories: each student's training history by name.
        labels: the task's labels.
    """
    measured = {e.name: e.quality for e in comparison.evaluations if e.quality is not None}
    measure = "macro_f1" if measured else "agreement"
    timed = [row for row in comparison.table() if row["texts_per_second"] is not None]
    points = {row["name"]: (row["texts_per_second"], row[measure]) for row in timed}
    plots = {"Quality against speed": quality_against_speed(points, measure.replace("_f1", "-F1"))}
    if measured:
        plots["Confusion matrices"] = confusion_matrices({n: q["confusion"] for n, q in measured.items()}, labels)
        plots["Reliability"] = reliability_diagram({name: q["reliability"] for name, q in measured.items()})
    for name, history in histories.items():
        plots[f"Training of {name}"] = training_curves(history, name)
    return plots


def write_report(
    comparison: Comparison,
    plots: Mapping[str, bytes],
    mistakes: Mapping[str, Sequence[Mistake]],
    profile: Profile,
    corpus: Mapping[str, Any],
    advice: Mapping[str, Sequence[str]],
    folder: Path,
) -> Path:
    """Write the report and its table as JSON to `folder`, whole or not at all, and return the report's path.

    Args:
        mistakes: the worst of each student.
        corpus: figures of the corpus to print, by name.
        advice: what is worth changing about each student, by name.
    """
    environment = Environment(
        loader=PackageLoader("finstill.evaluation", "."), autoescape=True, undefined=StrictUndefined
    )
    images = {title: base64.b64encode(png).decode() for title, png in plots.items()}
    contaminated = {
        "test": profile.is_contaminated(profile.corpus),
        "out_of_domain": profile.is_contaminated(profile.out_of_domain),
    }
    teacher = comparison.evaluations[0]
    page = environment.get_template("report.html.j2").render(
        comparison=comparison,
        table=comparison.table(),
        teacher=teacher,
        out_of_domain=teacher.out_of_domain,
        contaminated=contaminated,
        images=images,
        mistakes=mistakes,
        profile=profile,
        profile_yaml=_yaml(profile.model_dump(mode="json")),
        corpus=corpus,
        no_race=NO_RACE if teacher.speed is None else "",
        advice={name: sentences for name, sentences in advice.items() if sentences},
    )
    with whole_folder(folder) as unfinished:
        (unfinished / REPORT_FILE).write_text(page, encoding="utf-8")
        verdicts = [verdict.sentence for verdict in comparison.verdicts]
        splits = {"test": "the test split", "out_of_domain": f"{profile.out_of_domain and profile.out_of_domain.name}"}
        notes = [
            f"The teacher's figures on {splits[where]} are contaminated: the teacher was trained on this data set."
            for where, is_contaminated in contaminated.items()
            if is_contaminated
        ]
        if teacher.speed is None:
            notes.append(NO_RACE)
        outcome = {
            "table": comparison.table(),
            "leaderboard": comparison.leaderboard,
            "verdicts": verdicts,
            "notes": notes,
            "advice": {name: list(sentences) for name, sentences in advice.items()},
        }
        write_json(unfinished / TABLE_FILE, outcome)
    return folder / REPORT_FILE


def _yaml(values: Mapping[str, Any]) -> str:
    stream = StringIO()
    YAML(typ="safe", pure=True).dump(values, stream)
    return stream.getvalue()
