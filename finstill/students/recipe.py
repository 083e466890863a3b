"""A recipe: everything that makes one student, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator

from finstill.distil.schedules import TemperatureSchedule
from finstill.settings import read_settings

# Dagster reserves '|' and ',' in partition keys, and a name is a folder too.
RECIPE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


class LstmAttentionShape(BaseModel):
    """The size of an `lstm_attention` student.

    Attributes:
        embedding: `teacher` starts from the teacher's word embeddings, projected to `embedding_width` by PCA where the
            widths differ; `random` starts from nothing.
        hidden_width: units of one direction of one layer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedding: Literal["teacher", "random"] = "teacher"
    embedding_width: int = Field(128, ge=1, le=4096)
    hidden_width: int = Field(128, ge=1, le=4096)
    layers: int = Field(3, ge=1, le=12)
    dropout: float = Field(0.3, ge=0, lt=1)


class Recipe(BaseModel):
    """How one student is made. A recipe with `alpha: 0` learns from labels alone, without a teacher.

    Attributes:
        student: the architecture.
        shape: its size.
        alpha: weight of the soft loss; `1 - alpha` is the hard loss's.
        temperature: how the softmax temperature moves over the training steps.
        soft_scale: what the soft loss is multiplied by: `square` is T^2, `inverse_square` is 1/T^2 (docs/loss.md says
            why it is not the default).
        patience: epochs without a better validation score after which training stops.
        seed: the same recipe, data and seed give the same student.
        labelled_repeats: how often an epoch reads a labelled row where there are rows without labels, among which the
            labels would drown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    student: Literal["lstm_attention"] = "lstm_attention"
    shape: LstmAttentionShape = LstmAttentionShape()
    alpha: float = Field(0.7, ge=0, le=1)
    temperature: TemperatureSchedule = TemperatureSchedule()
    soft_scale: Literal["square", "inverse_square"] = "square"
    epochs: int = Field(20, ge=1, le=1000)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(2e-3, gt=0, lt=1)
    weight_decay: float = Field(0.01, ge=0, lt=1)
    patience: int = Field(5, ge=1)
    seed: int = 17
    labelled_repeats: int = Field(3, ge=1, le=100)

    def is_twin_of(self, other: Recipe) -> bool:
        """Whether this is `other` trained without a teacher: alpha 0 and nothing else changed."""
        return self.alpha == 0 < other.alpha and self == other.model_copy(update={"alpha": 0.0})


class RecipeBook(RootModel[dict[str, Recipe]]):
    """Recipes by name, as one YAML file holds them."""

    @field_validator("root")
    @classmethod
    def _usable_names(cls, recipes: dict[str, Recipe]) -> dict[str, Recipe]:
        if not recipes:
            raise ValueError("the file names no recipe")
        for name in recipes:
            if not RECIPE_NAME.fullmatch(name):
                raise ValueError(
                    f"'{name}' cannot name a recipe: use lower-case letters, digits, '.', '_' and '-', at most 63"
                )
        return recipes


def read_recipes(path: Path) -> dict[str, Recipe]:
    """Read a file of recipes, in the order of the file.

    Raises:
        InputError: see `finstill.settings.read_settings`.
    """
    return read_settings(path, RecipeBook).root
