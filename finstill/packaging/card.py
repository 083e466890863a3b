"""The model card of a packaged student, in the hub's format, written from what is known of it and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from finstill.config.profile import EMBEDDED, CorpusSource, Profile
from finstill.config.recipe import dotted_settings
from finstill.evaluation.decisions import LEVEL
from finstill.serving.package import Package
from finstill.teacher.export import AnyTeacher, TeacherGraph

CARD_FILE = "README.md"
"""Where the hub looks for a card."""

TASK_TYPE = "text-classification"


@dataclass(frozen=True)
class Provenance:
    """What a card says of the teacher and the corpus.

    Attributes:
        corpus: the name of a data set on the hub, or of a file or folder.
        corpus_digest: hash of the corpus's texts, labels and splits.
        on_hub: whether `corpus` is the name of a data set on the hub.
        corpus_licence, teacher_licence: as the profile declares them; None where it does not.
        rows: texts by split.
    """

    corpus: str
    corpus_digest: str
    on_hub: bool
    corpus_licence: str | None
    teacher_licence: str | None
    rows: dict[str, int]

    @classmethod
    def of(cls, profile: Profile, corpus_digest: str, rows: dict[str, int]) -> Provenance:
        corpus, teacher = profile.corpus, profile.teacher
        return cls(_corpus_name(corpus), corpus_digest, corpus.hub is not None, corpus.licence, teacher.licence, rows)


def model_card(package: Package, teachers: Sequence[AnyTeacher], provenance: Provenance) -> ModelCard:
    """Return the card of `package`.

    Raises:
        ValueError: the metadata block is not what the hub reads.
    """
    licence = _licence(provenance)
    data = ModelCardData(
        model_name=package.name,
        pipeline_tag=TASK_TYPE,
        library_name="finstill",
        tags=["finance", "knowledge-distillation", "onnx", package.task],
        base_model=[teacher.source for teacher in teachers if _is_on_hub(teacher)] or None,
        datasets=[provenance.corpus] if provenance.on_hub else None,
        eval_results=_eval_results(package, provenance),
        license=licence,
        license_name="licences-of-teacher-and-corpus" if licence == "other" else None,
    )
    return ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n{_body(package, teachers, provenance)}", ignore_metadata_errors=False
    )


def _eval_results(package: Package, provenance: Provenance) -> list[EvalResult] | None:
    quality = package.measured["quality"]
    if quality is None:
        return None
    return [
        EvalResult(
            task_type=TASK_TYPE,
            # The hub reads this as the name of a data set there.
            dataset_type=provenance.corpus if provenance.on_hub else "unknown",
            dataset_name=provenance.corpus,
            dataset_split="test",
            metric_type=kind,
            metric_name=name,
            metric_value=round(quality[measure], 4),
        )
        for kind, name, measure in (("accuracy", "accuracy", "accuracy"), ("f1", "macro-F1", "macro_f1"))
    ]


def _licence(provenance: Provenance) -> str | None:
    """Return the one licence of teacher and corpus, `other` where they have two, None where one is not declared."""
    teacher, corpus = provenance.teacher_licence, provenance.corpus_licence
    if teacher is None or corpus is None:
        return None
    return teacher if teacher == corpus else "other"


def _body(package: Package, teachers: Sequence[AnyTeacher], provenance: Provenance) -> str:
    measured, recipe = package.measured, package.recipe
    quality, int8, graph = measured["quality"], measured["int8"], measured["graph"]
    distilled = recipe.get("alpha", 0) > 0
    names = ", ".join(_named(teacher) for teacher in teachers)
    who = f"teacher {names}" if len(teachers) == 1 else f"teachers {names}, averaged"
    trained_on = list(dict.fromkeys(name for teacher in teachers for name in teacher.trained_on))
    learned = (
        f"It learned from the logits of the {who}" + ("" if recipe["alpha"] == 1 else " and from labels")
        if distilled
        else "It learned from labels alone, without a teacher"
    )
    contamination = (
        f"The teacher was trained on {', '.join(trained_on)}. Figures on these data sets are contaminated."
        if trained_on
        else "The profile names no data set that the teacher was trained on."
    )
    figures = [("test texts", f"{measured['test_rows']:,}"), ("of them labelled", f"{measured['labelled_rows']:,}")]
    if quality is not None:
        figures += [(name, f"{quality[key]:.3f}") for name, key in (("accuracy", "accuracy"), ("macro-F1", "macro_f1"))]
        figures += [
            (f"F1 of {label}", f"{values['f1']:.3f} ({values['rows']:,} texts)")
            for label, values in quality["classes"].items()
        ]
        figures.append(("expected calibration error, T = 1", f"{quality['calibration_error']:.3f}"))
    if measured["calibrated_error"] is not None:
        figures.append((f"the same, T = {package.temperature:.2f}", f"{measured['calibrated_error']:.3f}"))
    if measured["agreement"] is not None:
        figures.append(("agreement with the teacher", f"{measured['agreement']:.3f}"))
        figures.append(("KL to teacher, nats", f"{measured['kl_to_teacher']:.3f}"))
    if package.decision is not None:
        found = measured["decision"]
        figures += [
            (
                f"decided `{package.decision.label}`: {name}",
                "not defined" if found[key] is None else f"{found[key]:.3f}",
            )
            for name, key in (
                ("precision", "precision"),
                ("recall", "recall"),
                ("average precision", "average_precision"),
                ("ROC area", "roc_area"),
            )
        ]
        figures.append(
            (f"decided `{package.decision.label}`: alerts a thousand", f"{found['alerts_per_thousand']:.0f}")
        )
    figures += [
        ("float32 graph: largest difference of a logit from the checkpoint", f"{graph['largest_difference']:.1g}"),
        ("int8 graph: same label as float32", f"{int8['agreement']:.3f}"),
        ("int8 graph: largest difference of a logit alone and in a batch", f"{int8['batch_dependence']:.1g}"),
    ]
    if int8["macro_f1_lost"] is not None:
        figures.append(("int8 graph: macro-F1 lost", f"{int8['macro_f1_lost']:+.3f}"))
    parts = [("parameters", f"{package.parameters:,}"), ("tokens read at once", f"{package.max_length:,}")]
    parts += [(f"{precision} graph", f"{size:.1f} MB") for precision, size in measured["megabytes"].items()]
    return f"""# {package.name}

A small classifier of financial texts, made by Finstill for the task `{package.task}`: {", ".join(package.labels)}.
{learned}.

## Use

```python
from finstill.serving import StudentClassifier

for score in StudentClassifier("this-folder").score(["Shares fell after the warning"]):
    print(score.label, score.probabilities)
```

With transformers: `import finstill.students.registry`, then `AutoModelForSequenceClassification.from_pretrained`.

It is made to label texts like those of its corpus, at volume, where the teacher is too slow or too large. It is not
made to decide about people or money by itself.

{_table(parts)}

## Data

Corpus `{provenance.corpus}` (digest `{provenance.corpus_digest}`):
{", ".join(f"{rows:,} {split}" for split, rows in provenance.rows.items())} texts.
{who[0].upper() + who[1:]}; fingerprint `{package.teacher}`.
{contamination}

## Figures

On the test split, of the int8 graph where nothing else is said.

{_table(figures)}

## Limits

- What the teacher and the labels have wrong, it has learned. Texts unlike its corpus were not measured.
- {_long_limit(package)}
- {_calibration_limit(package)}{_decision_limit(package)}{_entities_limit(package)}

## Licences

Teacher: {provenance.teacher_licence or "not declared"}. Corpus: {provenance.corpus_licence or "not declared"}.
What is distilled from them may be bound by both.

## Recipe

{_table(dotted_settings(recipe))}
"""


def _long_limit(package: Package) -> str:
    tokens = f"{package.max_length:,} tokens"
    if package.long == "cut":
        return (
            f"Of a text of more than {tokens} the beginning is read, as in training and for the figures above. "
            '`long_texts="windows"` reads all of it, in windows whose logits are averaged; that was not measured.'
        )
    measured = "as in training and for the figures above" if package.long == "windows" else "that was not measured"
    return f"A text of more than {tokens} is read in windows whose logits are averaged; {measured}."


def _calibration_limit(package: Package) -> str:
    if package.temperature is None:
        return "Probabilities are not calibrated: too few validation texts are labelled."
    return f"Calibrated probabilities are at T = {package.temperature:.3f}, fitted on the validation split."


def _decision_limit(package: Package) -> str:
    if (rule := package.decision) is None:
        return ""
    return (
        f"\n- A text is decided to be `{rule.label}` from a calibrated probability of {rule.threshold:.3f} on "
        f"({LEVEL:.0%} interval {rule.low:.3f} to {rule.high:.3f}): fitted for {rule.wish} on "
        f"{rule.rows:,} validation texts, {rule.positives:,} of them of that label."
    )


def _entities_limit(package: Package) -> str:
    if not package.unescape:
        return ""
    return (
        "\n- HTML entities such as `&amp;` are decoded before a text is read, as in training. With transformers, "
        "decode them yourself, as `html.unescape` does."
    )


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _corpus_name(corpus: CorpusSource) -> str:
    if corpus.hub is not None or corpus.name is not None:
        return str(corpus.hub or corpus.name)
    return "finstill-embedded" if corpus.path == EMBEDDED else Path(str(corpus.path)).name


def _named(teacher: AnyTeacher) -> str:
    """Return a teacher's name: of a folder the last part, and no path of the machine it was made on."""
    if not isinstance(teacher, TeacherGraph):
        return f"`{teacher.source}` (imported soft labels)"
    name = teacher.source if _is_on_hub(teacher) else Path(teacher.source).name
    return f"`{name}` at revision `{teacher.revision}`" if teacher.revision else f"`{name}`"


def _is_on_hub(teacher: AnyTeacher) -> bool:
    """Whether it is a model of the hub, named owner/name, and no folder of the machine it was made on."""
    source = teacher.source
    named = source.count("/") == 1 and not source.startswith(("/", ".", "~")) and not Path(source).exists()
    return isinstance(teacher, TeacherGraph) and named
