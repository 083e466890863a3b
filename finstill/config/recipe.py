"""A recipe: everything that makes one student, and nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationInfo, field_validator, model_validator
from ruamel.yaml import YAML

from finstill.config.architectures import ARCHITECTURES, TEACHER, ArchitectureConfig, StaticConfig, StudentName
from finstill.config.settings import read_settings, rename_old_keys
from finstill.config.temperature import TemperatureSchedule
from finstill.errors import InputError
from finstill.files import digest, whole_file

# Dagster reserves '|' and ',' in partition keys, and a name is a folder too.
RECIPE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


class Recipe(BaseModel):
    """How one student is made. A recipe with `alpha: 0` learns from labels alone, without a teacher.

    Attributes:
        student: the architecture.
        architecture: its size, in its own settings.
        alpha: weight of the soft loss; `1 - alpha` is the hard loss's.
        alpha_rule: `constant`, or `trusted`: lower for a row where the teacher contradicts the label or is unsure; see
            `finstill.training.loss.trusted_alpha`.
        temperature: how the softmax temperature moves over the training steps.
        soft_loss: what of the teacher's logits the student is to match; see `finstill.training.soft_losses`.
        class_weights: what a labelled row counts for in the hard loss, by its class: `balanced`, or a weight for each
            class that has not the weight 1; see `finstill.training.loss.class_weights`. None weighs all alike.
        patience: epochs that are no better on the validation rows after which training stops.
        seed: the same recipe, data and seed give the same student.
        labelled_repeats: how often an epoch reads a labelled row where there are rows without labels, among which the
            labels would drown.
        rows_per_epoch: rows without a label that an epoch reads, each epoch the next ones; None reads all. A pool of
            texts several times larger than an epoch is then read few times each.
        average_last: share of the steps, at the end of training, whose weights are averaged; the student is the average
            where that is no worse on the validation rows than the best epoch. 0 averages nothing.
        start_from: `checkpoint` trains anew; `champion` goes on from the student in service, where its recipe has the
            same architecture and it learned from the same teacher: see `finstill.training.warm_start`.
        warm_epochs: epochs of a student that starts from the champion.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    student: StudentName = "lstm_attention"
    architecture: ArchitectureConfig = Field(default_factory=lambda settings: _architecture_class(settings)())
    alpha: float = Field(0.7, ge=0, le=1)
    alpha_rule: Literal["constant", "trusted"] = "constant"
    temperature: TemperatureSchedule = TemperatureSchedule()
    soft_loss: Literal["kl", "kl_inverse_square", "mse", "standardised_kl", "dkd", "dist"] = "kl"
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    epochs: int = Field(20, ge=1, le=1000)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(2e-3, gt=0, lt=1)
    weight_decay: float = Field(0.01, ge=0, lt=1)
    patience: int = Field(5, ge=1)
    seed: int = Field(17, ge=0, lt=2**32)
    labelled_repeats: int = Field(3, ge=1, le=100)
    rows_per_epoch: int | None = Field(None, ge=1)
    average_last: float = Field(0.0, ge=0, le=1)
    start_from: Literal["checkpoint", "champion"] = "checkpoint"
    warm_epochs: int = Field(2, ge=1, le=1000)

    @model_validator(mode="after")
    def _baseline_of_labels_alone(self) -> Recipe:
        if self.alpha == 0 and self.start_from == "champion":
            raise ValueError(
                "alpha: 0 learns from labels alone, and a champion may have learned from the teacher: write "
                "start_from: checkpoint, or an alpha above 0"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_of_labels(self) -> Recipe:
        if self.class_weights is not None and self.alpha == 1 and self.alpha_rule == "constant":
            raise ValueError(
                "'class_weights' weigh the loss of the labels, which alpha: 1 leaves out: write an alpha below 1, or "
                "no class_weights"
            )
        return self

    @field_validator("class_weights", mode="before")
    @classmethod
    def _class_weights(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None or value == "balanced":
            return value
        if not isinstance(value, dict) or not value:
            raise ValueError("write balanced, or a weight for each class that counts more or less, as {risk: 5}")
        # In one order, so that the same weights have the same digest.
        weights = {str(label): weight for label, weight in sorted(value.items(), key=str)}
        labels = (info.context or {}).get("labels", weights)
        for label, weight in weights.items():
            if label not in labels:
                raise ValueError(f"'{label}' is not one of the task's labels {list(labels)}")
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise ValueError(f"the weight of '{label}' must be a number above 0")
        return weights

    @model_validator(mode="before")
    @classmethod
    def _older_student(cls, values: Any) -> Any:
        # An older version knew an encoder of its teacher's layers alone, and called it otherwise.
        if isinstance(values, dict) and values.get("student") == "transformer":
            architecture = {"checkpoint": TEACHER, "layers": (0, 2, 4), **(values.get("architecture") or {})}
            return {**values, "student": "encoder", "architecture": architecture}
        return values

    @field_validator("architecture", mode="before")
    @classmethod
    def _architecture_of_this_student(cls, architecture: Any, info: ValidationInfo) -> Any:
        expected = _architecture_class(info.data)
        if isinstance(architecture, BaseModel) and not isinstance(architecture, expected):
            raise ValueError(
                f"{type(architecture).__name__} is not of this student's architecture: {expected.__name__} is"
            )
        return expected.model_validate(architecture)

    @classmethod
    def from_stored(cls, values: dict[str, Any]) -> Recipe:
        """Return the recipe that this or an older version stored as JSON."""
        values = dict(values)
        rename_old_keys(values, cls.__name__)
        if values.get("student") == "static":
            values["architecture"] = StaticConfig.from_stored(values["architecture"])
        if (temperature := values.get("temperature", {})).get("schedule") == "constant":
            # An older version let one have an end, and passed it over.
            values["temperature"] = {name: value for name, value in temperature.items() if name != "end"}
        return cls.model_validate(values)

    @property
    def digest(self) -> str:
        """Tells this recipe from every other."""
        return digest(self.model_dump_json())

    def is_baseline_of(self, other: Recipe) -> bool:
        """Whether this is `other` trained on labels alone: alpha 0 and nothing else changed.

        Where the other starts from the champion, its baseline is trained anew: the champion has learned from the
        teacher.
        """
        alone = other.model_copy(update={"alpha": 0.0, "start_from": self.start_from})
        return self.alpha == 0 < other.alpha and self == alone


def _architecture_class(settings: dict[str, Any]) -> type[ArchitectureConfig]:
    """Return the settings' class for the student of a recipe; a student of an unknown name is an error of its own."""
    return ARCHITECTURES[settings.get("student", "lstm_attention")]


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


def read_recipes(path: Path, where: str | Path | None = None, labels: Sequence[str] | None = None) -> dict[str, Recipe]:
    """Read a file of recipes, in the order of the file.

    Args:
        labels: the task's, which class weights must name; None where the task is not known.
        where: how messages call the file, where not by its path.

    Raises:
        InputError: see `finstill.config.settings.read_settings`.
    """
    return read_settings(path, RecipeBook, where, {} if labels is None else {"labels": labels}).root


def add_recipes(path: Path, recipes: Mapping[str, Mapping[str, Any]]) -> None:
    """Append recipes to a file of them, which is otherwise left as it is, comments and all.

    Args:
        recipes: settings by name, as the file would hold them.

    Raises:
        InputError: a name is taken, a setting is not allowed, or the file cannot be written to; it is as it was.
    """
    existing = read_recipes(path)
    if taken := [name for name in recipes if name in existing]:
        raise InputError(f"there is a recipe '{taken[0]}' already", where=path, remedy="Choose another name")
    added = StringIO()
    YAML(typ="safe", pure=True).dump({name: dict(settings) for name, settings in recipes.items()}, added)
    try:
        with whole_file(path) as unfinished:
            existing_text = path.read_text(encoding="utf-8").rstrip()
            unfinished.write_text(f"{existing_text}\n\n{added.getvalue()}", encoding="utf-8")
            read_recipes(unfinished, where=f"{path}, with the recipe added")
    except OSError as error:
        raise InputError(
            f"the file cannot be written to ({error.strerror})",
            where=path,
            remedy="Name a recipe file of your own in the profile",
        ) from error


def dotted_settings(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return nested settings as dotted names and values, for people."""
    dotted = []
    for name, value in values.items():
        if isinstance(value, dict):
            dotted += [(f"{name}.{inner}", each) for inner, each in dotted_settings(value)]
        else:
            dotted.append((name, str(value)))
    return dotted
