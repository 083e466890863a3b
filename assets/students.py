"""A student from recipe to evaluation: one partition a recipe."""

from dagster import (
    AssetExecutionContext,
    DataVersion,
    DynamicPartitionsDefinition,
    MaterializeResult,
    MetadataValue,
    asset,
)

from assets.augmented_corpus import augmented_corpus
from assets.cancelling import stop_when_cancelled
from assets.corpus import corpus
from assets.faults import explain_faults
from assets.metadata import OWNERS, picture, table
from assets.resources import ProfileResource
from assets.teacher import teacher_checkpoint, teacher_onnx, tokens
from assets.teacher_logits import teacher_logits
from finstill.config.recipe import dotted_settings

students = DynamicPartitionsDefinition(name="students")

RECIPE_TAG = "finstill/recipe"
CHECKPOINT_TAG = "finstill/checkpoint"
PACKAGE_TAG = "finstill/package_settings"


@asset(
    partitions_def=students,
    deps=[corpus, tokens, augmented_corpus, teacher_checkpoint, teacher_logits],
    group_name="students",
    kinds={"pytorch"},
    owners=OWNERS,
    code_version="2",
    pool="training",
)
@explain_faults
def student(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """A student, trained by its recipe from cached teacher logits alone: the teacher is not run."""
    from finstill.corpus.provenance import require_tokens_of
    from finstill.corpus.state import checkpoint_state
    from finstill.errors import InputError
    from finstill.evaluation.plots import training_curves
    from finstill.files import digest, one_at_a_time
    from finstill.teacher.checkpoint import Checkpoint
    from finstill.training.distil import train_student
    from finstill.training.rows import training_rows, with_augmented

    name, recipes = context.partition_key, profile.recipes()
    settings, workspace = profile.profile(), profile.workspace
    if name not in recipes:
        raise InputError(
            f"there is no recipe '{name}'; it names {list(recipes)}",
            where=settings.recipes,
            remedy="Write the recipe, or delete the partition",
        )
    starts_from = checkpoint_state(recipes[name].architecture.checkpoint)
    checkpoint = Checkpoint.read(workspace.teacher_checkpoint).folder
    require_tokens_of(workspace.tokens, checkpoint, None, "Materialize tokens again")
    rows = training_rows(workspace.corpus, workspace.tokens, settings.task, workspace.teacher_logits)
    # Two runs of one student would remove each other's checkpoints. The second finds it made.
    with one_at_a_time(workspace.student(name)):
        trained = train_student(
            recipes[name],
            with_augmented(rows["train"], workspace.augmented, workspace.teacher_logits, settings.task),
            rows["validation"],
            settings.task.labels,
            checkpoint,
            workspace.student(name),
            stage=f"student {name}",
            starts=workspace.starts,
            champion=workspace.champion / "current",
            report_to=settings.report_to,
            callbacks=[stop_when_cancelled(context)],
        )
    return MaterializeResult(
        metadata={
            "recipe": table(
                [{"setting": key, "value": value} for key, value in dotted_settings(trained.recipe.model_dump())]
            ),
            "rows_trained_on": trained.rows,
            "training_steps": trained.steps,
            "parameters": trained.parameters,
            **({"started_from_champion": trained.started_from} if trained.started_from else {}),
            "epochs": len(trained.history),
            **{f"validation_{measure}": value for measure, value in trained.validation.items()},
            "training": picture(f"Training of {name}", training_curves(trained.history, name)),
            "folder": str(trained.folder),
        },
        data_version=DataVersion(digest(trained.folder / "model.safetensors")),
        tags={RECIPE_TAG: recipes[name].digest, CHECKPOINT_TAG: starts_from},
    )


@asset(
    partitions_def=students,
    deps=[corpus, tokens, teacher_logits, student, teacher_onnx],
    group_name="students",
    kinds={"onnx"},
    owners=OWNERS,
    code_version="5",
)
@explain_faults
def student_package(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """The student as a folder that runs without torch: graphs in float32 and int8, proved to answer as its checkpoint,
    tokenizer, labels, calibration and a model card."""
    from dataclasses import asdict

    from finstill.files import digest
    from finstill.packaging.build import build_package
    from finstill.packaging.card import CARD_FILE, Provenance
    from finstill.teacher.export import read_teachers, require_answers_of
    from finstill.training.rows import training_rows
    from finstill.training.trained import TrainedStudent

    name, settings, workspace = context.partition_key, profile.profile(), profile.workspace
    trained = TrainedStudent.read(workspace.student(name))
    teachers = read_teachers(workspace.teacher_onnx, workspace.teacher_ensemble)
    trained.require_taught_by(workspace.teacher_logits)
    require_answers_of(teachers, workspace.teacher_logits)
    rows = training_rows(workspace.corpus, workspace.tokens, settings.task, workspace.teacher_logits)
    built = build_package(
        trained.folder,
        name,
        trained.recipe.model_dump(mode="json"),
        settings.task,
        teachers,
        Provenance.of(settings, digest(workspace.corpus), {split: len(each) for split, each in rows.items()}),
        rows,
        workspace.package(name),
        defer=settings.defer,
        unescape=settings.corpus.unescape,
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
            **(
                {}
                if package.decision is None
                else {"decision": table([asdict(package.decision) | {"point": package.decision.wish}])}
            ),
            "model_card": MetadataValue.md(
                (package.folder / CARD_FILE).read_text(encoding="utf-8").split("---\n", 2)[2]
            ),
            "teacher_fingerprint": package.teacher,
            "tokenizer_read_by": package.tokenizer,
            "folder": str(package.folder),
        },
        data_version=DataVersion(package.digest),
        tags={PACKAGE_TAG: settings.package_settings},
    )
