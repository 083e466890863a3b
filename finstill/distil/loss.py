"""The distillation loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

NO_LABEL = -100
"""The label of a row that has none: torch's own mark for rows that cross-entropy leaves out."""


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return KL(softmax(teacher / T) || softmax(student / T)), summed over classes, averaged over rows.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", without its factor T^2: see
    `distillation_loss`.

    Args:
        student_logits, teacher_logits: float, (rows, classes).

    Returns:
        A scalar, in nats.
    """
    return F.kl_div(
        F.log_softmax(student_logits / temperature, dim=-1),
        F.log_softmax(teacher_logits / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )


def hard_loss(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy with the true label, averaged over the rows that have one, and 0 where none has.

    Args:
        student_logits: float, (rows, classes).
        labels: int64, (rows,), `NO_LABEL` where a row has none.
    """
    labelled = (labels != NO_LABEL).sum()
    return F.cross_entropy(student_logits, labels, ignore_index=NO_LABEL, reduction="sum") / labelled.clamp(min=1)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    soft_scale: str = "square",
) -> Tensor:
    """Return alpha * scale * soft + (1 - alpha) * hard.

    With scale T^2 the size of the soft gradient does not depend on T (Hinton et al. 2015, section 2.1).

    Args:
        student_logits, teacher_logits: float, (rows, classes); the teacher's are not needed with alpha 0.
        labels: int64, (rows,), `NO_LABEL` where a row has none.
        soft_scale: `square` for T^2, `inverse_square` for 1/T^2.
    """
    hard = hard_loss(student_logits, labels)
    if alpha == 0:
        return hard
    if teacher_logits is None:
        raise ValueError(f"alpha is {alpha}, and there are no teacher logits")
    scale = temperature**2 if soft_scale == "square" else temperature**-2
    return alpha * scale * soft_loss(student_logits, teacher_logits, temperature) + (1 - alpha) * hard
