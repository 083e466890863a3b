"""All students side by side, and the check of what distilling is worth."""

from typing import TYPE_CHECKING

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetExecutionContext,
    MaterializeResult,
    MetadataValue,
    asset,
    asset_check,
)

from assets.corpus import corpus
from assets.evaluation import advice_for, evaluation, read_test
from assets.metadata import OWNERS, picture, table
from assets.resources import ProfileResource
from assets.students import student_package

if TYPE_CHECKING:
    from finstill.evaluation.evaluate import StudentEvaluation


@asset(
    deps=[corpus, student_package, evaluation],
    group_name="evaluation",
    kinds={"python"},
    owners=OWNERS,
    code_version="1",
)
def comparison(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """Teacher, students and their label-only baselines on the same test texts: the table, the plots, the report."""
    import pyarrow.parquet as pq

    from finstill.evaluation.compare import compare
    from finstill.evaluation.mistakes import worst_mistakes
    from finstill.evaluation.report import draw, write_report
    from finstill.serving.package import Package
    from finstill.training.distil import TrainedStudent

    settings, workspace = profile.profile(), profile.workspace
    students = current_students(profile)
    if left_out := [name for name in profile.recipes() if name not in students]:
        context.log.warning(f"left out, as they were not evaluated on today's test texts: {', '.join(left_out)}")
    result = compare(students, profile.recipes())
    histories = {name: TrainedStudent.read(workspace.student(name)).history for name in students}
    plots = draw(result, histories, settings.task.labels)
    plots |= {png.stem: png.read_bytes() for png in sorted(workspace.tuning.glob("*.png"))}
    texts = pq.read_table(workspace.corpus, columns=["text", "label", "split"])
    test = [
        text
        for text, split in zip(texts["text"].to_pylist(), texts["split"].to_pylist(), strict=True)
        if split == "test"
    ]
    packages = {name: Package.read(workspace.package(name)) for name in students}
    mistakes = worst_mistakes(students, packages, profile.recipes(), test)
    figures = {
        "texts": f"{texts.num_rows:,}",
        "with a label": f"{texts.num_rows - texts['label'].null_count:,}",
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
        }
    )


def current_students(profile: ProfileResource) -> "dict[str, StudentEvaluation]":
    """Return the evaluations on today's test texts and teacher, of the students that the recipe file names.

    A student whose last training failed has only an older one, which does not compare.

    Raises:
        InputError: there is none.
    """
    import numpy as np

    from finstill.errors import InputError
    from finstill.evaluation.evaluate import StudentEvaluation

    folders = {name: profile.workspace.evaluation(name) for name in profile.recipes()}
    found = {name: StudentEvaluation.read(folder) for name, folder in folders.items() if folder.is_dir()}
    test = read_test(profile)[0].whole_texts()
    assert test.teacher_logits is not None
    current = {
        name: student
        for name, student in found.items()
        if np.array_equal(student.labels, test.labels) and np.array_equal(student.teacher_logits, test.teacher_logits)
    }
    if not current:
        raise InputError(
            f"none of the students {list(folders)} has been evaluated on today's texts",
            remedy="Materialize one first",
        )
    return current


@asset_check(asset=comparison)
def distilling_pays(profile: ProfileResource) -> AssetCheckResult:
    """Each distilled student beats its label-only baseline, the 95% interval of the difference above 0."""
    from finstill.evaluation.compare import compare

    verdicts = compare(current_students(profile), profile.recipes()).verdicts
    return AssetCheckResult(
        passed=all(verdict.difference.low > 0 for verdict in verdicts),
        severity=AssetCheckSeverity.WARN,
        description=" ".join(verdict.sentence for verdict in verdicts) or "No recipe has a label-only baseline.",
        metadata={
            "verdicts": table(
                [{"student": each.student, "baseline": each.baseline, **vars(each.difference)} for each in verdicts]
            )
        },
    )
