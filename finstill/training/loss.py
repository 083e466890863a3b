"""The distillation loss: what the teacher says and what the label says, weighed for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finstill.errors import InputError
from finstill.training.rows import NO_LABEL
from finstill.training.soft_losses import SOFT_LOSSES


def class_weights(
    setting: Literal["balanced"] | Mapping[str, float] | None, labels: np.ndarray, names: Sequence[str]
) -> Tensor | None:
    """Return the weight of each class in the hard loss: float32, (classes,); None where all rows count alike.

    `balanced` gives class c the weight n / (k n_c), so that each of the k classes counts for as much as another (King
    and Zeng 2001, "Logistic Regression in Rare Events Data"; scikit-learn computes it so). Weights that are given by
    name are scaled to a mean of 1 over the labelled rows, which the balanced ones have too: so `alpha` weighs the soft
    loss against the hard one as it does without them.

    Args:
        setting: a recipe's; a class that it does not name has the weight 1.
        labels: int64, (rows,), of the train rows, `NO_LABEL` where a row has none.
        names: the task's labels, in the order of the logits.

    Raises:
        InputError: the setting names a class that is none of them.
    """
    if isinstance(setting, Mapping) and (unknown := setting.keys() - set(names)):
        raise InputError(
            f"class_weights names {sorted(unknown)}, and the task's labels are {list(names)}",
            remedy="Name labels of the task in the recipe",
        )
    counts = np.bincount(labels[labels != NO_LABEL], minlength=len(names))
    if setting is None or not counts.any():
        return None
    if setting == "balanced":
        weights = 1 / np.maximum(counts, 1)
    else:
        weights = np.array([setting.get(name, 1.0) for name in names])
    return torch.from_numpy(weights * counts.sum() / (weights @ counts)).float()


def hard_loss(student_logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy with the true label, nats, and 0 where a row has none.

    Args:
        student_logits: float, (rows, classes).
        labels: int64, (rows,), `NO_LABEL` where a row has none.
        weights: float, (classes,): see `class_weights`.

    Returns:
        float, (rows,).
    """
    weights = None if weights is None else weights.to(student_logits)
    return F.cross_entropy(student_logits, labels, weights, ignore_index=NO_LABEL, reduction="none")


def trusted_alpha(alpha: float, teacher_logits: Tensor, targets: Tensor) -> Tensor:
    """Return `alpha` times the probability (T = 1) that the teacher gives to the target class.

    It is near `alpha` where the teacher is sure and right, lower where it is unsure, and near 0 where it contradicts
    the label. So a row's label counts for more where its teacher is worth less: a soft form of Meng et al. 2019,
    "Conditional Teacher-Student Learning", which takes the teacher's logits only where it is right. A row without a
    label has the teacher's own class for a target, and only its doubt counts.

    Args:
        teacher_logits: float, (rows, classes).
        targets: int64, (rows,): the true label, or the teacher's class where a row has none.

    Returns:
        float, (rows,).
    """
    return alpha * torch.softmax(teacher_logits, dim=-1).gather(1, targets[:, None]).squeeze(1)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    soft_loss: str = "kl",
    alpha_rule: str = "constant",
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return alpha * soft + (1 - alpha) * hard, soft averaged over the rows and hard over those that have a label.

    Class weights multiply a row's hard loss, and the average is over the number of rows and not over their weights: a
    rare row then counts for the same in whichever batch it stands. They leave the soft loss as it is: at its least a
    student gives each row its teacher's probabilities, however the rows are weighed.

    Args:
        student_logits, teacher_logits: float, (rows, classes); the teacher's are not needed with alpha 0.
        labels: int64, (rows,), `NO_LABEL` where a row has none.
        soft_loss: a name of `SOFT_LOSSES`.
        alpha_rule: `constant`, or `trusted` to lower it a row by `trusted_alpha`.
        class_weights: float, (classes,): see the function of this name.

    Returns:
        A scalar.
    """
    is_labelled = labels != NO_LABEL
    hard, labelled = hard_loss(student_logits, labels, class_weights), is_labelled.sum().clamp(min=1)
    if alpha == 0:
        return hard.sum() / labelled
    if teacher_logits is None:
        raise ValueError(f"alpha is {alpha}, and there are no teacher logits")
    targets = torch.where(is_labelled, labels, teacher_logits.argmax(dim=-1))
    soft = SOFT_LOSSES[soft_loss](student_logits, teacher_logits, targets, temperature)
    weights = trusted_alpha(alpha, teacher_logits, targets) if alpha_rule == "trusted" else alpha
    return (weights * soft).mean() + ((1 - weights) * hard).sum() / labelled
