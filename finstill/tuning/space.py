"""What a search may change of a recipe."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from optuna.trial import Trial

from finstill.config.recipe import Recipe

SPACE = "3"
"""Part of a study's name. Other choices need another one: Optuna refuses to go on with a study of others."""

# The setting that makes a student wide, by what its architecture calls it.
_WIDTHS = ("hidden_width", "filters", "embedding_width")


def suggest(trial: Trial, base: Recipe, classes: int) -> Recipe:
    """Return `base` with what `trial` proposes: alpha, temperature, learning rate, width, and the choices of loss.

    Ranges are around what `base` says where that is a size, and what papers use where it is not. The architecture, the
    seed and how long it trains stay, and so does a width of 0 or None, which leaves a part of the student out.

    Args:
        classes: how many labels the task has.
    """
    settings = base.model_dump()
    settings["alpha"] = trial.suggest_float("alpha", 0.3, 1.0)
    settings["learning_rate"] = trial.suggest_float(
        "learning_rate", base.learning_rate / 5, min(base.learning_rate * 5, 0.1), log=True
    )
    settings["temperature"] = {
        "schedule": trial.suggest_categorical("schedule", _choices(type(base.temperature), "schedule")),
        "start": trial.suggest_float("temperature", 1.0, 10.0, log=True),
        "end": 1.0,
    }
    width = next((name for name in _WIDTHS if settings["architecture"].get(name)), None)
    if width is not None:
        own = settings["architecture"][width]
        settings["architecture"][width] = trial.suggest_categorical(
            width, [max(1, own // 2), own, own * 3 // 2, own * 2]
        )
    for name in type(base).model_fields:
        # Every other choice by name is one of the loss.
        if name not in ("student", "start_from") and (choices := _choices(type(base), name)):
            if name == "soft_loss":
                # A student learns little from its teacher by it: it is there to be compared with.
                choices.remove("kl_inverse_square")
                if classes < 3:
                    # It refuses two classes, and a search does not learn from trials that fail.
                    choices.remove("standardised_kl")
            settings[name] = trial.suggest_categorical(name, choices)
    return Recipe.model_validate(settings)


def _choices(model: Any, field: str) -> list[str]:
    annotation = model.model_fields[field].annotation
    return list(get_args(annotation)) if get_origin(annotation) is Literal else []
