"""All students side by side, and the checks of what distilling is worth and of how well that is known."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    MaterializeResult,
    MetadataValue,
    asset,
)

from assets.corpus import corpus
from assets.evaluation import advice_for, dates_of, evaluation, rows_to_measure_on, texts_of
from assets.faults import explain_faults
from assets.metadata import OWNERS, picture, table
from assets.resources import ProfileResource
from assets.students import student_package

if TYPE_CHECKING:
    from finstill.evaluation.compare import Verdict
    from finstill.evaluation.evaluate import StudentEvaluation
    from finstill.training.rows import TrainingRows


@asset(
    deps=[corpus, student_package, evaluation],
    group_name="evaluation",
    kinds={"python"},
    owners=OWNERS,
    code_version="1",
    check_specs=[
        AssetCheckSpec(
            "distilling_pays",
            asset="comparison",
            description="Each distilled student is shown to be better than its label-only baseline.",
        ),
        AssetCheckSpec(
            "enough_test_rows_of_each_class",
            asset="comparison",
            description="The test rows of each class tell each student's recall to within 10 points.",
        ),
    ],
)
@explain_faults
def comparison(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """Teacher, students and their label-only baselines on the same test texts: the table, the plots, the report."""
    import pyarrow.parquet as pq

    from finstill.evaluation.compare import compare
    from finstill.evaluation.mistakes import worst_mistakes
    from finstill.evaluation.report import draw, write_report
    from finstill.serving.package import Package
    from finstill.training.rows import read_left_out
    from finstill.training.trained import TrainedStudent

    settings, workspace = profile.profile(), profile.workspace
    students, left_out, test = current_students(profile)
    for name, why in left_out.items():
        context.log.warning(f"{name} is left out: {why}")
    trained = {name: TrainedStudent.read(workspace.student(name)) for name in students}
    texts, test_texts = pq.read_table(workspace.corpus, columns=["label", "split"]), texts_of(test)
    unheard = read_left_out(pq.read_schema(workspace.teacher_logits))
    steps = {name: each.steps for name, each in trained.items()}
    result = compare(students, profile.recipes(), steps, dates_of(profile, test_texts))
    plots = draw(result, {name: each.history for name, each in trained.items()}, settings.task.labels)
    plots |= {png.stem: png.read_bytes() for png in sorted(workspace.tuning.glob("*.png"))}
    packages = {name: Package.read(workspace.package(name)) for name in students}
    mistakes = worst_mistakes(students, packages, profile.recipes(), test_texts)
    figures = {
        "texts": f"{texts.num_rows:,}",
        "with a label": f"{texts.num_rows - texts['label'].null_count:,}",
        **({"left out, without a soft label": f"{unheard:,}"} if unheard else {}),
        **{f"in {each['values']}": f"{each['counts']:,}" for each in texts["split"].value_counts().to_pylist()},
    }
    advice = {name: advice_for(profile, name, student) for name, student in students.items()}
    report = write_report(result, plots, mistakes, settings, figures, advice, workspace.comparison)
    return MaterializeResult(
        metadata={
            "table": table(result.table()),
            "leaderboard": table(result.leaderboard),
            "verdicts": MetadataValue.md(
                "\n".join(f"- {verdict.sentence}" for verdict in result.verdicts) or "no label-only baselines"
            ),
            **{title: picture(title, png) for title, png in plots.items()},
            "report": MetadataValue.path(str(report)),
        },
        check_results=[_distilling_pays(result.verdicts), _enough_test_rows(students)],
    )


class CurrentStudents(NamedTuple):
    """The evaluations that compare, by name, the recipes that are left out, each with the reason, and the test rows."""

    students: "dict[str, StudentEvaluation]"
    left_out: dict[str, str]
    test: "TrainingRows"


def current_students(profile: ProfileResource) -> CurrentStudents:
    """Return the students of today.

    An evaluation counts for the package that it names and no other, and only on today's texts and teacher.

    Raises:
        InputError: none compares.
    """
    from finstill.config.task import digest_of_decisions
    from finstill.errors import InputError
    from finstill.evaluation.evaluate import StudentEvaluation, evaluation_inputs
    from finstill.serving.package import Package
    from finstill.teacher.export import ensemble_fingerprint, read_teachers

    workspace = profile.workspace
    teacher = ensemble_fingerprint(read_teachers(workspace.teacher_onnx, workspace.teacher_ensemble))
    validation, test, further = rows_to_measure_on(profile)
    decide = digest_of_decisions(profile.profile().task.decide)
    inputs = evaluation_inputs(teacher, validation, test, further, decide)
    current, left_out = {}, {}
    for name in profile.recipes():
        folder = workspace.evaluation(name)
        if not folder.is_dir():
            left_out[name] = "it was not evaluated"
            continue
        try:
            student, package = StudentEvaluation.read(folder), Package.read(workspace.package(name))
        except InputError as error:
            left_out[name] = str(error)
            continue
        if student.inputs != inputs:
            left_out[name] = "it was evaluated on other texts, beside another teacher or by another decision"
        elif student.student.digest != package.digest:
            left_out[name] = "it was packaged again, and that package was not evaluated"
        else:
            current[name] = student
    if not current:
        raise InputError(
            "no student can be compared (" + "; ".join(f"{name}: {why}" for name, why in left_out.items()) + ")",
            remedy="Run the job distil for one",
        )
    return CurrentStudents(current, left_out, test)


def _distilling_pays(verdicts: "Sequence[Verdict]") -> AssetCheckResult:
    return AssetCheckResult(
        check_name="distilling_pays",
        passed=all(verdict.difference.better for verdict in verdicts),
        severity=AssetCheckSeverity.WARN,
        description=" ".join(verdict.sentence for verdict in verdicts) or "No recipe has a label-only baseline.",
        metadata={
            "verdicts": table(
                [{"student": each.student, "baseline": each.baseline, **vars(each.difference)} for each in verdicts]
            )
        },
    )


def _enough_test_rows(students: "Mapping[str, StudentEvaluation]") -> AssetCheckResult:
    from finstill.evaluation.classes import classes_with_too_few_rows

    found = classes_with_too_few_rows({name: each.student.quality for name, each in students.items()})
    sentences = [
        f"{row['class']} has {row['rows']:,} labelled test texts, by which the recall of {row['student']} lies between "
        f"{row['recall_low']:.2f} and {row['recall_high']:.2f}; {row['rows_needed']:,} tell it to within 5 points."
        for row in found
    ]
    return AssetCheckResult(
        check_name="enough_test_rows_of_each_class",
        passed=not found,
        severity=AssetCheckSeverity.WARN,
        description=" ".join(sentences) or "The recall of each class is known to within 10 points.",
        metadata={"classes": table(found)},
    )
