"""All students side by side, and the one in service."""

from typing import TYPE_CHECKING

from dagster import AssetExecutionContext, DataVersion, MaterializeResult, MetadataValue, asset

from assets.corpus import corpus
from assets.metadata import OWNERS, picture, table
from assets.resources import ProfileResource
from assets.students import advice_for, evaluation, student_package

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
    """Teacher, students and their directly trained twins on the same test texts: the table, the plots, the report."""
    import pyarrow.parquet as pq

    from finstill.distil.trainer import TrainedStudent
    from finstill.evaluation.compare import compare
    from finstill.evaluation.mistakes import worst_mistakes
    from finstill.evaluation.report import draw, write_report
    from finstill.package import Package

    settings, workspace = profile.profile(), profile.workspace
    students = evaluated_students(profile)
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
            "by_recipe": table(result.standings),
            "verdicts": MetadataValue.md(
                "\n".join(f"- {verdict.sentence}" for verdict in result.verdicts) or "no twins"
            ),
            **{title: picture(title, png) for title, png in plots.items()},
            "report": MetadataValue.path(str(report)),
        }
    )


@asset(deps=[comparison, student_package], group_name="evaluation", kinds={"onnx"}, owners=OWNERS, code_version="1")
def champion(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """The student in service. It is replaced only by one that the paired interval shows to be better."""
    import pyarrow.parquet as pq

    from finstill.champion import choose_champion
    from finstill.distil.rows import training_rows
    from finstill.package import Package

    settings, workspace = profile.profile(), profile.workspace
    students = evaluated_students(profile)
    test = training_rows(workspace.corpus, workspace.tokens, settings.task, workspace.teacher_logits)["test"]
    packages = {name: Package.read(workspace.package(name)) for name in students}
    texts = pq.read_table(workspace.corpus, columns=["text"], filters=[("split", "=", "test")])["text"].to_pylist()
    decision = choose_champion(students, packages, test, texts, workspace.champion)
    context.log.info(decision.reason)
    return MaterializeResult(
        metadata={
            "champion": decision.champion,
            "promoted": decision.promoted,
            "reason": decision.reason,
            "folder": str(workspace.champion / "current"),
        },
        data_version=DataVersion(decision.digest),
    )


def evaluated_students(profile: ProfileResource) -> "dict[str, StudentEvaluation]":
    """Return the evaluations of the students that the recipe file names, in its order.

    Raises:
        InputError: none of them has been evaluated.
    """
    from finstill.errors import InputError
    from finstill.evaluation.evaluate import StudentEvaluation

    folders = {name: profile.workspace.evaluation(name) for name in profile.recipes()}
    found = {name: StudentEvaluation.read(folder) for name, folder in folders.items() if folder.is_dir()}
    if not found:
        raise InputError(f"none of the students {list(folders)} has been evaluated", remedy="Materialize one first")
    return found
