"""What a student may be asked to match in its teacher's logits: one function a method, by the names recipes use.

Each takes the same arguments and returns a value a row, so that rows can be weighed:

    student_logits, teacher_logits: float, (rows, classes).
    targets: int64, (rows,): the true label, or the teacher's class where a row has none.
    temperature: of both softmaxes, above 0.

    Returns: float, (rows,), whose mean over the rows is the method's loss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from finstill.errors import InputError

SoftLoss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def kl(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(softmax(teacher / T) || softmax(student / T)), nats.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network". With the factor T^2 the size of the gradient
    does not depend on T (section 2.1).
    """
    return temperature**2 * _divergence(student_logits / temperature, teacher_logits / temperature)


def kl_inverse_square(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return KL(softmax(teacher / T) || softmax(student / T)) / T^2, nats.

    Some texts print this form. docs/loss.md says what it does.
    """
    return temperature**-2 * _divergence(student_logits / temperature, teacher_logits / temperature)


def mse(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the squared difference of the logits, averaged over classes; the temperature does not enter.

    Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?"; for a BiLSTM from BERT, Tang et al. 2019, "Distilling
    Task-Specific Knowledge from BERT into Simple Neural Networks".
    """
    return (student_logits - teacher_logits).square().mean(dim=-1)


def standardised_kl(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return `kl` of the z-scores of both logits: (logit - row's mean) / row's standard deviation.

    Sun et al. 2024, "Logit Standardization in Knowledge Distillation", Algorithm 1. The student need not reach the
    teacher's range of logits, only the relations within a row.

    Raises:
        InputError: there are two classes, whose z-scores are 1 and -1 whatever the logits are.
    """
    if student_logits.shape[-1] < 3:
        raise InputError(
            "standardised_kl compares how three or more classes relate, and the task has two",
            where="soft_loss",
            remedy="Choose another soft loss for this task: kl",
        )
    return kl(_z_score(student_logits), _z_score(teacher_logits), targets, temperature)


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    temperature: float,
    target_weight: float = 1.0,
    others_weight: float = 8.0,
) -> Tensor:
    """Return T^2 * (target_weight * TCKD + others_weight * NCKD), nats.

    Zhao et al. 2022, "Decoupled Knowledge Distillation", whose alpha and beta the weights are: TCKD is the divergence
    of (target, not target), NCKD that of the other classes among themselves, which `kl` would shrink by how sure the
    teacher is.
    """
    student, teacher = (torch.log_softmax(x / temperature, dim=-1) for x in (student_logits, teacher_logits))
    is_target = F.one_hot(targets, student.shape[-1]).bool()

    def target_or_not(log_probabilities: Tensor) -> Tensor:
        others = log_probabilities.masked_fill(is_target, float("-inf")).logsumexp(dim=-1)
        return torch.stack([log_probabilities[is_target], others], dim=-1)

    def among_others(log_probabilities: Tensor) -> Tensor:
        return log_probabilities[~is_target].view(len(log_probabilities), -1)

    target_part = _divergence(target_or_not(student), target_or_not(teacher))
    others_part = _divergence(among_others(student), among_others(teacher))
    return temperature**2 * (target_weight * target_part + others_weight * others_part)


def dist(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return (1 - Pearson within a row over its classes) + (1 - Pearson within a class over the batch's rows).

    Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher", inter-class and intra-class relation with equal
    weights. The second part is one number for the batch and is added to each row. A correlation has no scale, so there
    is no T^2.
    """
    student, teacher = (torch.softmax(x / temperature, dim=-1) for x in (student_logits, teacher_logits))
    within_rows = 1 - _pearson(student, teacher)
    within_classes = 1 - _pearson(student.T, teacher.T).mean()
    return within_rows + within_classes


SOFT_LOSSES: dict[str, SoftLoss] = {
    "kl": kl,
    "kl_inverse_square": kl_inverse_square,
    "mse": mse,
    "standardised_kl": standardised_kl,
    "dkd": dkd,
    "dist": dist,
}


def _divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    student, teacher = torch.log_softmax(student_logits, dim=-1), torch.log_softmax(teacher_logits, dim=-1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)


def _z_score(logits: Tensor) -> Tensor:
    # The small number keeps a row of equal logits at 0.
    deviation = logits.std(dim=-1, correction=0, keepdim=True)
    return (logits - logits.mean(dim=-1, keepdim=True)) / (deviation + 1e-7)


def _pearson(left: Tensor, right: Tensor) -> Tensor:
    """Return the correlation along the last axis; 0 where one side does not vary."""
    left, right = (x - x.mean(dim=-1, keepdim=True) for x in (left, right))
    return F.cosine_similarity(left, right, dim=-1)
