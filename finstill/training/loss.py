"""The distillation loss: what the teacher says and what the label says, weighed for each row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from finstill.training.rows import NO_LABEL
from finstill.training.soft_losses import SOFT_LOSSES


def hard_loss(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy with the true label, nats, and 0 where a row has none.

    Args:
        student_logits: float, (rows, classes).
        labels: int64, (rows,), `NO_LABEL` where a row has none.

    Returns:
        float, (rows,).
    """
    return F.cross_entropy(student_logits, labels, ignore_index=NO_LABEL, reduction="none")


def trusted_alpha(alpha: float, teacher_logits: Tensor, targets: Tensor) -> Tensor:
    """Return `alpha` times the probability (T = 1) that the teacher gives to the target class.

    It is near `alpha` where the teacher is sure and right, lower where it is unsure, and near 0 where it contradicts
    the label. So a row's label counts for more where its teacher is worth less: a soft form of Meng et al. 2019,
    "Conditional Teacher-Student Learning", which hears the teacher only where it is right. A row without a label has
    the teacher's own class for a target, and only its doubt counts.

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
) -> Tensor:
    """Return alpha * soft + (1 - alpha) * hard, soft averaged over the rows and hard over those that have a label.

    Args:
        student_logits, teacher_logits: float, (rows, classes); the teacher's are not needed with alpha 0.
        labels: int64, (rows,), `NO_LABEL` where a row has none.
        soft_loss: a name of `SOFT_LOSSES`.
        alpha_rule: `constant`, or `trusted` to lower it a row by `trusted_alpha`.

    Returns:
        A scalar.
    """
    is_labelled = labels != NO_LABEL
    hard, labelled = hard_loss(student_logits, labels), is_labelled.sum().clamp(min=1)
    if alpha == 0:
        return hard.sum() / labelled
    if teacher_logits is None:
        raise ValueError(f"alpha is {alpha}, and there are no teacher logits")
    targets = torch.where(is_labelled, labels, teacher_logits.argmax(dim=-1))
    soft = SOFT_LOSSES[soft_loss](student_logits, teacher_logits, targets, temperature)
    weights = trusted_alpha(alpha, teacher_logits, targets) if alpha_rule == "trusted" else alpha
    return (weights * soft).mean() + ((1 - weights) * hard).sum() / labelled
