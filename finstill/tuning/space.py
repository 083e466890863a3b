"""What a search may change of a recipe."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from optuna.trial import Trial

from finstill.config.recipe import Recipe

SPACE = "3"
"""Part of a study's name. Other choices need another one: Optuna refuses to go on with a study of others."""

# The setting that makes a student wide, by what its architecture calls it.
_WIDTHS = ("hidden_width", "filters", "embedding_width")

_ALPHA = (0.3, 1.0)
_TEMPERATURE = (1.0, 10.0)
_LARGEST_RATE = 0.1


def suggest(trial: Trial, base: Recipe, classes: int) -> Recipe:
    """Return `base` with what `trial` proposes: alpha, temperature, learning rate, width, and the choices of loss.

    Ranges are around what `base` says where that is a size, and what papers use where it is not. The architecture, the
    seed and how long it trains stay, and so does a width of 0 or None, which leaves a part of the student out.

    Args:
        classes: how many labels the task has.
    """
    settings = base.model_dump()
    settings["alpha"] = trial.suggest_float("alpha", *_ALPHA)
    settings["learning_rate"] = trial.suggest_float(
        "learning_rate", base.learning_rate / 5, min(base.learning_rate * 5, _LARGEST_RATE), log=True
    )
    settings["temperature"] = {
        "schedule": trial.suggest_categorical("schedule", _choices(type(base.temperature), "schedule")),
        "start": trial.suggest_float("temperature", *_TEMPERATURE, log=True),
        "end": 1.0,
    }
    if (width := _width(base)) is not None:
        own = settings["architecture"][width]
        settings["architecture"][width] = trial.suggest_categorical(
            width, [max(1, own // 2), own, own * 3 // 2, own * 2]
        )
    for name, choices in _choices_of_loss(base, classes).items():
        settings[name] = trial.suggest_categorical(name, choices)
    return Recipe.model_validate(settings)


def settings_of(base: Recipe, classes: int) -> dict[str, Any]:
    """Return what a trial proposes that is `base` itself, or as near to it as `suggest` goes."""
    settings = {
        "alpha": max(base.alpha, _ALPHA[0]),
        "learning_rate": min(base.learning_rate, _LARGEST_RATE),
        "schedule": base.temperature.schedule,
        "temperature": min(max(base.temperature.start, _TEMPERATURE[0]), _TEMPERATURE[1]),
    }
    if (width := _width(base)) is not None:
        settings[width] = getattr(base.architecture, width)
    # A loss that is not searched is left out, and drawn.
    choices_of_loss = _choices_of_loss(base, classes).items()
    return settings | {name: own for name, choices in choices_of_loss if (own := getattr(base, name)) in choices}


def _width(base: Recipe) -> str | None:
    return next((name for name in _WIDTHS if getattr(base.architecture, name, None)), None)


def _choices_of_loss(base: Recipe, classes: int) -> dict[str, list[str]]:
    """Return the settings of the loss that are one of several names, with the names that are tried."""
    found = {name: _choices(type(base), name) for name in type(base).model_fields}
    # A student learns little from its teacher by it: it is there to be compared with.
    found["soft_loss"].remove("kl_inverse_square")
    if classes < 3:
        # It refuses two classes, and a search does not learn from trials that fail.
        found["soft_loss"].remove("standardised_kl")
    return {name: choices for name, choices in found.items() if choices and name not in ("student", "start_from")}


def _choices(model: Any, field: str) -> list[str]:
    annotation = model.model_fields[field].annotation
    return list(get_args(annotation)) if get_origin(annotation) is Literal else []
