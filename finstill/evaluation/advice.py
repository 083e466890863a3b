"""What to change about a poor student, from what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finstill.config.recipe import Recipe
from finstill.evaluation.evaluate import Evaluation

LEAST_SHARE = 0.95
"""Of the teacher's macro-F1 that a student should keep."""

LEAST_AGREEMENT = 0.90
GOOD_TEACHER = 0.75
CALIBRATED = 0.05
OVERFITTING = 1.2
"""How far the last validation loss may lie above the best one."""

SOFT_ROWS_PER_LABEL = 3
ALPHA_FOR_A_GOOD_TEACHER = 0.7


@dataclass(frozen=True)
class Learned:
    """How a student was trained.

    Attributes:
        recipe: what it was made by.
        history: an entry an epoch.
        texts, labelled: that it has learned from, over all its nights where it started from a champion, and how many of
            them had a label.
        started_from_champion: whether it took the recipe's `warm_epochs`.
    """

    recipe: Recipe
    history: Sequence[dict[str, float]]
    texts: int
    labelled: int
    started_from_champion: bool


def advice(student: Evaluation, teacher: Evaluation, learned: Learned) -> list[str]:
    """Return what is worth changing, most telling first; nothing where the student is as good as its teacher allows.

    Each piece of advice says what was measured, so that a reader can judge it. The thresholds are this module's
    constants: rules of thumb, and no more.

    Args:
        student, teacher: on the same test rows.
    """
    recipe = learned.recipe
    if recipe.alpha == 0 or not _is_poor(student, teacher):
        return []
    found: list[str] = []
    taught = teacher.quality["macro_f1"] if teacher.quality else None
    if taught is not None and taught < GOOD_TEACHER:
        better = (
            "fine-tune it (teacher.fine_tune), for more epochs, or on more labels."
            if teacher.speed
            else "import better answers, of another prompt, model or more people."
        )
        found.append(f"The teacher itself has a macro-F1 of {taught:.3f}, and a student seldom passes it: {better}")
    if learned.texts < (1 + SOFT_ROWS_PER_LABEL) * learned.labelled:
        found.append(
            f"It learned from {learned.texts:,} texts, {learned.labelled:,} of them labelled, and agrees with the "
            f"teacher on {student.agreement:.1%}: train it on more text that the teacher labels. Leave rows without a "
            + (
                "label in the corpus, or set augmentation.variants_per_text."
                if teacher.speed
                else "label in the corpus."
            )
        )
    losses = [epoch["validation_loss"] for epoch in learned.history if "validation_loss" in epoch]
    if losses and losses[-1] > OVERFITTING * min(losses):
        found.append(
            f"Its validation loss rose from {min(losses):.3f} to {losses[-1]:.3f}, so it learns its rows by heart: "
            "raise architecture.dropout, or lower learning_rate or its width."
        )
    setting = "warm_epochs" if learned.started_from_champion else "epochs"
    epochs = getattr(recipe, setting)
    if losses and len(losses) == epochs and losses[-1] == min(losses):
        found.append(f"Its validation loss still fell in the last of {epochs} epochs: raise {setting}.")
    if student.agreement < LEAST_AGREEMENT and recipe.alpha < ALPHA_FOR_A_GOOD_TEACHER:
        found.append(
            f"It agrees with the teacher on {student.agreement:.1%} at alpha {recipe.alpha:g}: raise alpha to 0.7 or "
            "0.9, so that the teacher counts more."
        )
    if student.quality and teacher.quality:
        own, theirs = student.quality["calibration_error"], teacher.quality["calibration_error"]
        if own > CALIBRATED and own > theirs:
            measured = f"Its calibration error is {own:.3f} beside the teacher's {theirs:.3f}"
            if _too_sure(student.quality):
                if recipe.alpha < 1:
                    found.append(
                        f"{measured}, and it is too sure: raise alpha, since labels make it surer than its teacher."
                    )
            elif (end := recipe.temperature.at(1, 2)) > 1:
                found.append(f"{measured}, and it is not sure enough: let the temperature end at 1, not at {end:g}.")
    if not found:
        found.append("Nothing stands out: search for a better recipe with the job `tune` (docs/tuning.md).")
    return found


def _is_poor(student: Evaluation, teacher: Evaluation) -> bool:
    if student.quality is None or teacher.quality is None:
        return student.agreement < LEAST_AGREEMENT
    return student.quality["macro_f1"] < LEAST_SHARE * teacher.quality["macro_f1"]


def _too_sure(quality: dict[str, Any]) -> bool:
    """Whether the confidence exceeds the accuracy over all rows."""
    return sum(bin_["rows"] * (bin_["confidence"] - bin_["accuracy"]) for bin_ in quality["reliability"]) > 0
