"""The report: one HTML file with everything in it, to read, mail or keep."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO

from finstill.config.profile import Profile
from finstill.evaluation.classes import by_class
from finstill.evaluation.compare import Comparison
from finstill.evaluation.evaluate import StudentEvaluation
from finstill.evaluation.mistakes import Mistake
from finstill.evaluation.plots import (
    confusion_matrices,
    precision_and_recall,
    quality_against_share_asked,
    quality_against_speed,
    quality_by_month,
    receiver_operating_characteristic,
    reliability_diagram,
    training_curves,
)
from finstill.files import whole_folder, write_json
from finstill.training.rows import NO_LABEL

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
    plots |= draw_decisions(comparison.students, labels)
    curves = {each.student.name: each.deferral_curve() for each in comparison.students}
    if drawn := {name: (curve.shares, curve.macro_f1) for name, curve in curves.items() if curve}:
        plots["Asking the teacher"] = quality_against_share_asked(drawn)
    if comparison.months:
        plots["Quality by month"] = quality_by_month(comparison.months)
    for name, history in histories.items():
        plots[f"Training of {name}"] = training_curves(history, name)
    return plots


def draw_decisions(students: Sequence[StudentEvaluation], labels: tuple[str, ...]) -> dict[str, bytes]:
    """Return the curves of the label that the task decides about, by title, the teacher's beside the students'.

    Nothing where the task decides about no label, or no labelled test row tells two kinds apart.
    """
    first = students[0]
    if first.decided is None:
        return {}
    known, label = first.labels != NO_LABEL, labels[first.decided.position]
    truth = first.labels[known] == first.decided.position
    if truth.all() or not truth.any():
        return {}
    scores = {"teacher": first.decided.teacher_scores[known]}
    scores |= {each.student.name: each.decided.scores[known] for each in students if each.decided}
    chosen = {
        each.name: (each.decision.recall, each.decision.precision)
        for each in (first.teacher, *(each.student for each in students))
        if each.decision and each.decision.recall is not None and each.decision.precision is not None
    }
    return {
        "Precision and recall": precision_and_recall(scores, truth, chosen, label),
        "ROC": receiver_operating_characteristic(scores, truth, label),
    }


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
        classes={each.name: by_class(each.quality) for each in comparison.evaluations if each.quality},
        teacher=teacher,
        out_of_domain=teacher.out_of_domain,
        measure=comparison.students[0].decided and comparison.students[0].decided.point.measure,
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
            "months": {name: [asdict(month) for month in months] for name, months in comparison.months.items()},
            "notes": notes,
            "advice": {name: list(sentences) for name, sentences in advice.items()},
        }
        write_json(unfinished / TABLE_FILE, outcome)
    return folder / REPORT_FILE


def _yaml(values: Mapping[str, Any]) -> str:
    stream = StringIO()
    YAML(typ="safe", pure=True).dump(values, stream)
    return stream.getvalue()
