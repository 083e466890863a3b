"""A student from the launchpad: its recipe joins the recipe file, and its name becomes a partition at once."""

from typing import Any, Literal

from dagster import Config, MetadataValue, OpExecutionContext, in_process_executor, job, op
from pydantic import Field

from assets.faults import explain_faults
from assets.resources import ProfileResource
from assets.students import students
from finstill.config.recipe import Recipe


def _default(setting: str) -> Any:
    return Recipe.model_fields[setting].default


class NewRecipe(Config):
    """A recipe; docs/recipes.md explains each setting."""

    name: str = Field(description="What the student is called: lower-case letters, digits, '.', '_' and '-'.")
    student: str = Field(default=_default("student"), description="The architecture.")
    architecture: dict[str, Any] = Field(
        default={}, description="Its size, as {hidden_width: 64, layers: 2}; what is not given is the default."
    )
    alpha: float = Field(
        default=_default("alpha"), description="Weight of the teacher against the labels, from 0 (labels alone) to 1."
    )
    first_temperature: float = Field(default=5.0, description="Softmax temperature at the first step.")
    last_temperature: float = Field(default=1.0, description="Softmax temperature at the last step.")
    alpha_rule: Literal["constant", "trusted"] = Field(
        default=_default("alpha_rule"),
        description="Trusted lowers alpha for a row where the teacher contradicts the label or is unsure.",
    )
    soft_loss: Literal["kl", "kl_inverse_square", "mse", "standardised_kl", "dkd", "dist"] = Field(
        default=_default("soft_loss"), description="What of the teacher's logits the student is to match."
    )
    epochs: int = Field(default=_default("epochs"), description="Epochs at most.")
    patience: int = Field(
        default=_default("patience"),
        description="Epochs that are no better on the validation rows, after which training ends.",
    )
    batch_size: int = Field(default=_default("batch_size"), description="Texts in a batch.")
    learning_rate: float = Field(default=_default("learning_rate"), description="AdamW's.")
    weight_decay: float = Field(default=_default("weight_decay"), description="AdamW's.")
    labelled_repeats: int = Field(
        default=_default("labelled_repeats"),
        description="How often an epoch reads a labelled row where there are rows without labels.",
    )
    seed: int = Field(default=_default("seed"), description="The same recipe, data and seed give the same student.")
    baseline: bool = Field(
        default=True,
        description="Also add its label-only baseline, <name>-baseline, which shows what distilling pays.",
    )


@op
@explain_faults
def write_recipe(context: OpExecutionContext, config: NewRecipe, profile: ProfileResource) -> None:
    """Adds a recipe to the profile's recipe file and registers the student as a partition."""
    from finstill.config.recipe import add_recipes
    from finstill.files import one_at_a_time

    settings = config.model_dump()
    name, baseline = settings.pop("name"), settings.pop("baseline")
    start, end = settings.pop("first_temperature"), settings.pop("last_temperature")
    settings["temperature"] = {"schedule": "linear", "start": start, "end": end}
    recipes = {name: settings}
    if baseline and config.alpha > 0:
        recipes[f"{name}-baseline"] = {**settings, "alpha": 0.0}
    path = profile.profile().recipes
    # Two that write the file at once would lose one recipe. No lock beside it: its folder is the user's.
    with one_at_a_time(profile.workspace.root / "recipes"):
        add_recipes(path, recipes)
    context.instance.add_dynamic_partitions(str(students.name), list(recipes))
    context.add_output_metadata({"recipes": MetadataValue.path(str(path)), "students": ", ".join(recipes)})


@job(executor_def=in_process_executor)
def add_recipe() -> None:
    """Adds a student without a restart; train it with the job `distil`, or let the next night do it."""
    write_recipe()
