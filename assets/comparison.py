"""All students side by side, and the one in service."""

from typing import TYPE_CHECKING

from dagster import AssetExecutionContext, Config, DataVersion, MaterializeResult, MetadataValue, asset
from pydantic import Field

from assets.corpus import corpus
from assets.metadata import OWNERS, picture, table
from assets.resources import ProfileResource
from assets.students import advice_for, evaluation, student_package

if TYPE_CHECKING:
    from finstill.evaluation.evaluate import StudentEvaluation
    from finstill.training import TrainingRows


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
            "by_recipe": table(result.standings),
            "verdicts": MetadataValue.md(
                "\n".join(f"- {verdict.sentence}" for verdict in result.verdicts) or "no twins"
            ),
            **{title: picture(title, png) for title, png in plots.items()},
            "report": MetadataValue.path(str(report)),
        }
    )


class ChampionConfig(Config):
    """What to do with the student in service."""

    roll_back: bool = Field(
        default=False,
        description="Put the champion before this one back into service. This one is withdrawn: it is not promoted "
        "again until its recipe makes another student.",
    )


@asset(deps=[comparison, student_package], group_name="evaluation", kinds={"onnx"}, owners=OWNERS, code_version="1")
def champion(context: AssetExecutionContext, config: ChampionConfig, profile: ProfileResource) -> MaterializeResult:
    """The student in service. It is replaced only by one that the paired interval shows to be better.

    The one it replaces is kept: materialize this with `roll_back` to have it back.
    """
    from finstill.champion import choose_champion, roll_back
    from finstill.package import Package

    settings, workspace = profile.profile(), profile.workspace
    if config.roll_back:
        decision = roll_back(workspace.champion)
    else:
        students = current_students(profile)
        packages = {name: Package.read(workspace.package(name)) for name in students}
        decision = choose_champion(students, packages, *read_test(profile), settings.budgets, workspace.champion)
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


def read_test(profile: ProfileResource) -> "tuple[TrainingRows, list[str]]":
    """Return the rows of the test split, with the teacher's logits, and their texts."""
    import pyarrow.parquet as pq

    from finstill.distil.rows import training_rows

    settings, workspace = profile.profile(), profile.workspace
    rows = training_rows(workspace.corpus, workspace.tokens, settings.task, workspace.teacher_logits)
    texts = pq.read_table(workspace.corpus, columns=["text"], filters=[("split", "=", "test")])["text"].to_pylist()
    return rows["test"], texts


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
