"""The search for a better recipe."""

from dagster import AssetExecutionContext, DataVersion, MaterializeResult, asset

from assets.augmented_corpus import augmented_corpus
from assets.cancelling import stop_when_cancelled
from assets.corpus import corpus
from assets.faults import explain_faults
from assets.metadata import OWNERS, picture, table
from assets.resources import TUNED, TUNED_FILE, ProfileResource
from assets.students import students
from assets.teacher import teacher_checkpoint, tokens
from assets.teacher_logits import teacher_logits


@asset(
    deps=[corpus, tokens, augmented_corpus, teacher_checkpoint, teacher_logits],
    group_name="students",
    kinds={"pytorch", "optuna"},
    owners=OWNERS,
    code_version="3",
    pool="training",
)
@explain_faults
def tuning(context: AssetExecutionContext, profile: ProfileResource) -> MaterializeResult:
    """The best recipe that a search on the validation split finds, from cached logits alone: the student `tuned`.

    A search that was cut off goes on. Where the profile asks for none, there is nothing to make.
    """
    from finstill.corpus.provenance import require_tokens_of
    from finstill.errors import InputError
    from finstill.files import whole_folder, write_json
    from finstill.teacher.checkpoint import Checkpoint
    from finstill.training.rows import training_rows, with_augmented
    from finstill.tuning.plots import search_history, search_slices
    from finstill.tuning.search import search

    settings, workspace, recipes = profile.profile(), profile.workspace, profile.recipes()
    if settings.tuning is None:
        return MaterializeResult(metadata={"trials": 0}, data_version=DataVersion("none"))
    if settings.tuning.recipe not in recipes:
        raise InputError(
            f"there is no recipe '{settings.tuning.recipe}'; there are {list(recipes)}", where="tuning.recipe"
        )
    checkpoint = Checkpoint.read(workspace.teacher_checkpoint).folder
    require_tokens_of(workspace.tokens, checkpoint, None, "Materialize tokens again")
    rows = training_rows(workspace.corpus, workspace.tokens, settings.task, workspace.teacher_logits)
    found = search(
        recipes[settings.tuning.recipe],
        with_augmented(rows["train"], workspace.augmented, workspace.teacher_logits, settings.task),
        rows["validation"],
        settings.task.labels,
        checkpoint,
        workspace.root / "trial",
        storage=profile.study or f"sqlite:///{workspace.root / 'study.db'}",
        trials=settings.tuning.trials,
        seed=settings.tuning.seed,
        starts=workspace.starts,
        callbacks=[stop_when_cancelled(context)],
    )
    plots = {
        "Tuning": search_history(found.trials),
        "Settings tried in tuning": search_slices(found.trials),
    }
    recipe = found.recipe.model_dump(mode="json")
    with whole_folder(workspace.tuning) as unfinished:
        write_json(unfinished / TUNED_FILE, recipe)
        write_json(unfinished / "trials.json", found.trials)
        for name, png in plots.items():
            (unfinished / f"{name}.png").write_bytes(png)
    context.instance.add_dynamic_partitions(str(students.name), [TUNED])
    return MaterializeResult(
        metadata={
            "trials": len(found.trials),
            "validation_kl_to_teacher": found.divergence,
            "recipe": table([{"setting": key, "value": str(value)} for key, value in recipe.items()]),
            "importances": table([{"setting": name, "share": share} for name, share in found.importances.items()]),
            **{title: picture(title, png) for title, png in plots.items()},
        },
        data_version=DataVersion(found.recipe.digest),
    )
