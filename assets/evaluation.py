"""What a packaged student is worth, and the checks of it: what keeps it out of service, and what to look at."""

from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetExecutionContext,
    MaterializeResult,
    MetadataValue,
    asset,
    asset_check,
)

from assets.corpus import corpus
from assets.faults import explain_faults
from assets.metadata import OWNERS, picture, table
from assets.out_of_domain import out_of_domain
from assets.resources import ProfileResource
from assets.students import student_package, students
from assets.teacher import tokens
from assets.teacher_logits import teacher_logits

if TYPE_CHECKING:
    from finstill.config.workspace import Workspace
    from finstill.evaluation.evaluate import StudentEvaluation
    from finstill.training.rows import TrainingRows


@asset(
    partitions_def=students,
    deps=[corpus, tokens, teacher_logits, out_of_domain, student_package],
    group_name="evaluation",
    kinds={"scikitlearn"},
    owners=OWNERS,
    code_version="5",
    # One at a time, since it measures speed.
    pool="evaluation",
)
@explain_faults
def evaluation(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """What the packaged student is worth on the test split, and how fast it is, beside its teacher in the same run."""
    from dataclasses import asdict

    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.evaluation.classes import by_class
    from finstill.evaluation.evaluate import evaluate_student
    from finstill.evaluation.months import by_month
    from finstill.evaluation.plots import (
        confusion_matrices,
        quality_against_share_asked,
        quality_by_month,
        reliability_diagram,
    )
    from finstill.evaluation.report import draw_decisions
    from finstill.serving.package import Package
    from finstill.teacher.export import AnyTeacher, TeacherGraph, read_teachers

    name, settings, workspace = context.partition_key, profile.profile(), profile.workspace
    teacher, *further = read_teachers(workspace.teacher_onnx, workspace.teacher_ensemble)
    validation, test, out_of_domain_rows = rows_to_measure_on(profile)
    texts = texts_of(test)

    def rows_of(reader: AnyTeacher) -> list[list[int]]:
        if not isinstance(reader, TeacherGraph):
            return []
        return [each.ids for each in load_tokenizer(reader.folder, reader.max_length).encode_batch(texts)]

    result = evaluate_student(
        Package.read(workspace.package(name)),
        teacher,
        validation,
        test,
        settings.teacher.token_budget,
        workspace.evaluation(name),
        out_of_domain_rows,
        [(each, rows_of(each)) for each in further],
    )
    both = (result.student, result.teacher)
    speed, times_the_teacher = result.student.speed, result.student.times_faster(result.teacher)
    assert speed is not None
    metadata: dict[str, Any] = {
        "test_texts": result.student.test_rows,
        "test_texts_labelled": result.student.labelled_rows,
        "agreement": result.student.agreement,
        "kl_to_teacher_nats": result.student.kl_to_teacher,
        "latency_ms": speed.latency_ms,
        "texts_per_second": speed.texts_per_second,
        "times_the_teacher": "an imported teacher is not run" if times_the_teacher is None else times_the_teacher,
        "megabytes": result.student.megabytes,
    }
    if result.student.quality is not None:
        quality = {each.name: each.quality for each in both if each.quality is not None}
        own = result.student.quality
        matrices = {each: measured["confusion"] for each, measured in quality.items()}
        bins = {each: measured["reliability"] for each, measured in quality.items()}
        metadata |= {
            **{measure: own[measure] for measure in ("accuracy", "macro_f1", "calibration_error")},
            "by_class": table(by_class(own)),
            "confusion": picture("Confusion matrices", confusion_matrices(matrices, settings.task.labels)),
            "reliability": picture("Reliability", reliability_diagram(bins)),
        }
    dates = dates_of(profile, texts)
    months = {
        each: by_month(result.labels, logits, result.teacher_logits, dates)
        for each, logits in (("teacher", result.teacher_logits), (name, result.logits))
    }
    if months[name]:
        metadata["by_month"] = table(
            [
                {**vars(own), "teacher_macro_f1": theirs.macro_f1}
                for own, theirs in zip(months[name], months["teacher"], strict=True)
            ]
        )
        metadata["months"] = picture("Quality by month", quality_by_month(months))
    if result.student.out_of_domain is not None:
        metadata["out_of_domain"] = table(
            [
                {
                    "classifier": each.name,
                    "texts of": each.out_of_domain.name,
                    "macro_f1": each.out_of_domain.quality["macro_f1"],
                }
                for each in both
                if each.out_of_domain is not None
            ]
        )
    if (curve := result.deferral_curve()) is not None:
        share = curve.share_for_teacher_quality
        metadata |= {
            "deferral_share_for_teacher_quality": share,
            **(
                {}
                if times_the_teacher is None
                else {"times_the_teacher_at_that_share": 1 / (1 / times_the_teacher + share)}
            ),
            "deferral": picture("Asking", quality_against_share_asked({name: (curve.shares, curve.macro_f1)})),
        }
    if result.student.decision is not None:
        metadata["decisions"] = table(
            [
                {"classifier": each.name, "texts": texts, **asdict(found)}
                for each in both
                for texts, found in (
                    ("test", each.decision),
                    *([(each.out_of_domain.name, each.out_of_domain.decision)] if each.out_of_domain else []),
                )
                if found is not None
            ]
        )
        metadata |= {
            title: picture(title, png) for title, png in draw_decisions([result], settings.task.labels).items()
        }
    if sentences := advice_for(profile, name, result):
        metadata["advice"] = MetadataValue.md("\n".join(f"- {sentence}" for sentence in sentences))
    return MaterializeResult(metadata=metadata)


def advice_for(profile: ProfileResource, name: str, result: "StudentEvaluation") -> list[str]:
    """Return what is worth changing about a student that was evaluated; nothing where it is good."""
    from finstill.evaluation.advice import Learned, advice
    from finstill.training.trained import TrainedStudent

    student = TrainedStudent.read(profile.workspace.student(name))
    warm = student.started_from is not None
    learned = Learned(student.recipe, student.history, student.texts, student.labelled, warm)
    return advice(result.student, result.teacher, learned)


@asset_check(asset=evaluation)
@explain_faults
def within_budgets(context: AssetCheckExecutionContext, profile: ProfileResource) -> AssetCheckResult:
    """Logits are finite, and size, latency, fidelity and calibration keep to the profile's budgets.

    A student that fails this is not promoted. It stops nothing else.
    """
    from finstill.evaluation.budgets import breaches

    measured, budgets = _evaluation(context, profile), profile.profile().budgets
    asked = {name: value for name, value in budgets.model_dump().items() if value is not None}
    found = breaches(measured, budgets)
    return AssetCheckResult(
        passed=not found,
        severity=AssetCheckSeverity.ERROR,
        description=f"It cannot go into service: {'; '.join(found)}."
        if found
        else f"It keeps to {asked or 'no budget: none is set'}.",
        metadata={f"budget_{name}": value for name, value in asked.items()},
    )


@asset_check(asset=evaluation)
@explain_faults
def no_worse_than_the_champion(context: AssetCheckExecutionContext, profile: ProfileResource) -> AssetCheckResult:
    """It is not shown to be worse than the champion on today's test texts, without those the champion learned from."""
    from finstill.packaging.champion import difference_from_champion
    from finstill.serving.package import Package

    measured = _evaluation(context, profile)
    folder = profile.workspace.champion / "current"
    if not folder.is_dir():
        return AssetCheckResult(passed=True, description="There is no champion yet.")
    champion = Package.read(folder)
    if champion.labels != tuple(profile.profile().task.labels):
        return AssetCheckResult(passed=True, description=f"The champion answers another task, {champion.task}.")
    test = _rows_of(profile, profile.workspace)["test"]
    found = difference_from_champion(measured, champion, test, texts_of(test), level=0.95)
    difference, left_out = found.difference, {"test_texts_left_out": found.left_out}
    if difference is None:
        why = f"{champion.name} learned from all test texts of {', '.join(found.missing)}, and cannot be measured."
        return AssetCheckResult(passed=True, description=why, metadata=left_out)
    return AssetCheckResult(
        passed=not difference.shown or difference.better,
        severity=AssetCheckSeverity.WARN,
        description=f"Against {champion.name}: {difference}{found.note}.",
        metadata=vars(difference) | left_out,
    )


def _evaluation(context: AssetCheckExecutionContext, profile: ProfileResource) -> "StudentEvaluation":
    from finstill.evaluation.evaluate import StudentEvaluation

    return StudentEvaluation.read(profile.workspace.evaluation(context.partition_key))


def rows_to_measure_on(
    profile: ProfileResource,
) -> "tuple[TrainingRows, TrainingRows, tuple[str, TrainingRows] | None]":
    """Return the rows of validation and test split, and name and rows of the out-of-domain texts where there are any.

    Raises:
        InputError: a table's logits are not the teacher's of today.
    """
    rows = _rows_of(profile, profile.workspace)
    source = profile.profile().out_of_domain
    further = (str(source.name), _rows_of(profile, profile.workspace.out_of_domain)["test"]) if source else None
    return rows["validation"], rows["test"], further


def _rows_of(profile: ProfileResource, tables: "Workspace") -> "dict[str, TrainingRows]":
    """Return the rows of each split of a workspace's corpus, with logits that are the teacher's of today."""
    from finstill.teacher.export import read_teachers, require_answers_of
    from finstill.training.rows import training_rows

    workspace = profile.workspace
    require_answers_of(read_teachers(workspace.teacher_onnx, workspace.teacher_ensemble), tables.teacher_logits)
    return training_rows(tables.corpus, tables.tokens, profile.profile().task, tables.teacher_logits)


def dates_of(profile: ProfileResource, texts: list[str]) -> "list[str | None]":
    """Return the date of each of some test texts, None where it has none."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    test = pq.read_table(profile.workspace.corpus, columns=["text", "date"], filters=[("split", "=", "test")])
    return test["date"].take(pc.index_in(pa.array(texts, pa.string()), test["text"].combine_chunks())).to_pylist()


def texts_of(rows: "TrainingRows") -> list[str]:
    """Return the texts of rows that are measured on."""
    assert rows.texts is not None
    return rows.texts.to_pylist()
