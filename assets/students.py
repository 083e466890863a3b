"""A student from recipe to evaluation: one partition a recipe."""

from typing import TYPE_CHECKING, Any

from dagster import (
    AssetExecutionContext,
    DataVersion,
    DynamicPartitionsDefinition,
    MaterializeResult,
    MetadataValue,
    asset,
)

from assets.cancelling import stop_when_cancelled
from assets.corpus import corpus, tokens
from assets.metadata import OWNERS, picture, table
from assets.other_origin import other_origin
from assets.resources import ProfileResource
from assets.teacher import augmented_corpus, teacher_checkpoint, teacher_logits, teacher_onnx

if TYPE_CHECKING:
    from finstill.evaluation.evaluate import StudentEvaluation

students = DynamicPartitionsDefinition(name="students")

RECIPE_TAG = "finstill/recipe"


@asset(
    partitions_def=students,
    deps=[corpus, tokens, augmented_corpus, teacher_checkpoint, teacher_logits],
    group_name="students",
    kinds={"pytorch"},
    owners=OWNERS,
    code_version="1",
    pool="training",
)
def student(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """A student, trained by its recipe from cached teacher logits alone: the teacher is not run."""
    from finstill.distil.rows import training_rows, with_augmented
    from finstill.distil.trainer import train_student
    from finstill.errors import InputError
    from finstill.evaluation.plots import training_curves
    from finstill.files import digest
    from finstill.teacher.checkpoint import Checkpoint

    name, recipes = context.partition_key, profile.recipes()
    settings, workspace = profile.profile(), profile.workspace
    if name not in recipes:
        raise InputError(
            f"there is no recipe '{name}'; it names {list(recipes)}",
            where=settings.recipes,
            remedy="Write the recipe, or delete the partition",
        )
    rows = training_rows(workspace.corpus, workspace.tokens, settings.task, workspace.teacher_logits)
    trained = train_student(
        recipes[name],
        with_augmented(rows["train"], workspace.augmented, workspace.augmented_logits, settings.task),
        rows["validation"],
        settings.task.labels,
        Checkpoint.read(workspace.teacher_checkpoint / "checkpoint.json").folder,
        workspace.student(name),
        stage=f"student {name}",
        report_to=settings.report_to,
        callbacks=[stop_when_cancelled(context)],
    )
    return MaterializeResult(
        metadata={
            "recipe": table(
                [{"setting": key, "value": str(value)} for key, value in _flat(trained.recipe.model_dump())]
            ),
            "rows_trained_on": trained.rows,
            "parameters": trained.parameters,
            "epochs": len(trained.history),
            **{
                f"validation_{measure}": max(epoch[measure] for epoch in trained.history)
                for measure in ("macro_f1", "agreement")
                if measure in trained.history[0]
            },
            "training": picture(f"Training of {name}", training_curves(trained.history, name)),
            "folder": str(trained.folder),
        },
        data_version=DataVersion(digest(trained.folder / "model.safetensors")),
        tags={RECIPE_TAG: recipes[name].digest},
    )


@asset(
    partitions_def=students,
    deps=[corpus, tokens, teacher_logits, student, teacher_onnx],
    group_name="students",
    kinds={"onnx"},
    owners=OWNERS,
    code_version="2",
)
def student_package(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """The student as a folder that runs without torch: graphs in float32 and int8, proved to answer as its checkpoint,
    tokenizer, labels, calibration and a model card."""
    from finstill.distil.rows import training_rows
    from finstill.distil.trainer import TrainedStudent
    from finstill.files import digest
    from finstill.packaging.build import build_package
    from finstill.packaging.model_card import CARD_FILE, Provenance
    from finstill.teacher.export import read_teachers

    name, settings, workspace = context.partition_key, profile.profile(), profile.workspace
    trained = TrainedStudent.read(workspace.student(name))
    rows = training_rows(workspace.corpus, workspace.tokens, settings.task, workspace.teacher_logits)
    built = build_package(
        trained.folder,
        name,
        trained.recipe.model_dump(mode="json"),
        settings.task,
        read_teachers(workspace.teacher_onnx, workspace.teacher_ensemble),
        Provenance.of(settings, digest(workspace.corpus), {split: len(each) for split, each in rows.items()}),
        rows,
        workspace.package(name),
    )
    package, megabytes = built.package, built.package.measured["megabytes"]
    return MaterializeResult(
        metadata={
            "megabytes": megabytes["float32"],
            "megabytes_int8": megabytes["int8"],
            "largest_difference_from_checkpoint": built.parity.largest_difference,
            "texts_compared": built.parity.rows,
            "int8_agreement": built.int8.agreement,
            "int8_batch_dependence": built.int8.batch_dependence,
            **({} if built.int8.macro_f1_lost is None else {"int8_macro_f1_lost": built.int8.macro_f1_lost}),
            **({} if package.temperature is None else {"calibration_temperature": package.temperature}),
            "model_card": MetadataValue.md(
                (package.folder / CARD_FILE).read_text(encoding="utf-8").split("---\n", 2)[2]
            ),
            "teacher_fingerprint": package.teacher,
            "folder": str(package.folder),
        },
        data_version=DataVersion(package.digest),
    )


@asset(
    partitions_def=students,
    deps=[corpus, tokens, teacher_logits, other_origin, student_package],
    group_name="evaluation",
    kinds={"scikitlearn"},
    owners=OWNERS,
    code_version="1",
    pool="training",
)
def evaluation(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """What the packaged student is worth on the test split, and how fast it is, beside its teacher in the same run."""
    import pyarrow.parquet as pq

    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.distil.rows import training_rows
    from finstill.evaluation.evaluate import evaluate_student
    from finstill.evaluation.plots import confusion_matrices, reliability_diagram
    from finstill.package import Package
    from finstill.teacher.export import TeacherGraph, read_teachers

    name, settings, workspace = context.partition_key, profile.profile(), profile.workspace
    rows = training_rows(workspace.corpus, workspace.tokens, settings.task, workspace.teacher_logits)
    elsewhere = None
    if (source := settings.other_origin) is not None:
        other = workspace.other_origin
        there = training_rows(other.corpus, other.tokens, settings.task, other.teacher_logits)["test"]
        elsewhere = str(source.name), there
    teacher, *further = read_teachers(workspace.teacher_onnx, workspace.teacher_ensemble)
    texts = pq.read_table(workspace.corpus, columns=["text"], filters=[("split", "=", "test")])["text"].to_pylist()

    def rows_of(reader: TeacherGraph) -> list[list[int]]:
        return [each.ids for each in load_tokenizer(reader.folder, reader.max_length).encode_batch(texts)]

    result = evaluate_student(
        Package.read(workspace.package(name)),
        teacher,
        rows["test"],
        settings.teacher.token_budget,
        workspace.evaluation(name),
        elsewhere,
        [(each, rows_of(each)) for each in further],
    )
    both = (result.student, result.teacher)
    metadata: dict[str, Any] = {
        "test_texts": result.student.test_rows,
        "test_texts_labelled": result.student.labelled_rows,
        "agreement": result.student.agreement,
        "divergence_nats": result.student.divergence,
        "latency_ms": result.student.speed.latency_ms,
        "texts_per_second": result.student.speed.texts_per_second,
        "times_the_teacher": result.student.speed.texts_per_second / result.teacher.speed.texts_per_second,
        "megabytes": result.student.megabytes,
    }
    if result.student.quality is not None:
        quality = {each.name: each.quality for each in both if each.quality is not None}
        own = result.student.quality
        classes = [{"class": label, **figures} for label, figures in own["classes"].items()]
        matrices = {each: measured["confusion"] for each, measured in quality.items()}
        bins = {each: measured["reliability"] for each, measured in quality.items()}
        metadata |= {
            **{measure: own[measure] for measure in ("accuracy", "macro_f1", "calibration_error")},
            "by_class": table(classes),
            "confusion": picture("Confusion matrices", confusion_matrices(matrices, settings.task.labels)),
            "reliability": picture("Reliability", reliability_diagram(bins)),
        }
    if result.student.elsewhere is not None:
        metadata["elsewhere"] = table(
            [
                {
                    "classifier": each.name,
                    "texts of": each.elsewhere.name,
                    "macro_f1": each.elsewhere.quality["macro_f1"],
                }
                for each in both
                if each.elsewhere is not None
            ]
        )
    if sentences := advice_for(profile, name, result):
        metadata["advice"] = MetadataValue.md("\n".join(f"- {sentence}" for sentence in sentences))
    return MaterializeResult(metadata=metadata)


def advice_for(profile: ProfileResource, name: str, result: "StudentEvaluation") -> list[str]:
    """Return what is worth changing about a student that was evaluated; nothing where it is good."""
    import pyarrow.parquet as pq

    from finstill.distil.trainer import TrainedStudent
    from finstill.evaluation.advice import Learned, advice

    train = pq.read_table(profile.workspace.corpus, columns=["label"], filters=[("split", "=", "train")])["label"]
    student = TrainedStudent.read(profile.workspace.student(name))
    learned = Learned(student.recipe, student.history, student.rows, len(train) - train.null_count)
    return advice(result.student, result.teacher, learned)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Return nested settings as dotted names and values."""
    flat: list[tuple[str, object]] = []
    for key, value in values.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return flat
