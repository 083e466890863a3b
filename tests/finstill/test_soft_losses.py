"""Each soft loss against values worked out by hand."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from finstill.config.recipe import Recipe
from finstill.errors import InputError
from finstill.training.soft_losses import SOFT_LOSSES, dist, dkd, kl, kl_inverse_square, mse, standardised_kl

NONE = torch.zeros(1, dtype=torch.int64)


def log(*probabilities: float) -> Tensor:
    """Return logits, one row, whose softmax at T = 1 is `probabilities`."""
    return torch.tensor([probabilities]).log()


def divergence(teacher: tuple[float, ...], student: tuple[float, ...]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))


def test_kl_is_the_divergence_from_teacher_to_student() -> None:
    # Teacher (3/4, 1/4), student uniform: 3/4 ln(3/2) + 1/4 ln(1/2).
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl(torch.zeros(1, 2), log(0.75, 0.25), NONE, 1.0).item() == pytest.approx(expected)


def test_the_temperature_divides_the_logits_and_its_square_multiplies_the_divergence() -> None:
    # At T = 2 the teacher's (9/10, 1/10) becomes (3/4, 1/4): the square root of 9 is 3.
    teacher, student = log(0.9, 0.1), torch.zeros(1, 2)
    expected = divergence((0.75, 0.25), (0.5, 0.5))
    assert kl(student, teacher, NONE, 2.0).item() == pytest.approx(4 * expected)
    assert kl_inverse_square(student, teacher, NONE, 2.0).item() == pytest.approx(expected / 4)


def test_mse_is_the_mean_squared_difference_over_classes_at_any_temperature() -> None:
    # (1 + 4 + 1) / 3
    student, teacher = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 0.0, 4.0]])
    assert mse(student, teacher, NONE, 1.0).tolist() == mse(student, teacher, NONE, 7.0).tolist() == [2]


def test_standardised_kl_compares_z_scores() -> None:
    # (3, 0, 0) has the mean 1 and the deviation sqrt 2, so its z-scores are (2, -1, -1) / sqrt 2; the student's are
    # (-1, -1, 2) / sqrt 2. With a = e^sqrt(2) and b = e^(-1/sqrt 2) the softmaxes are (a, b, b) / (a + 2b) and
    # (b, b, a) / (a + 2b), so the divergence is (a - b) / (a + 2b) * (log a - log b).
    a, b = math.exp(math.sqrt(2)), math.exp(-1 / math.sqrt(2))
    expected = (a - b) / (a + 2 * b) * (math.log(a) - math.log(b))
    teacher, student = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[-1.0, -1.0, 5.0]])
    assert standardised_kl(student, teacher, NONE, 1.0).item() == pytest.approx(expected, rel=1e-5)


def test_standardised_kl_does_not_ask_for_the_teachers_range() -> None:
    teacher = torch.tensor([[4.0, 1.0, -2.0]])
    assert standardised_kl(0.1 * teacher + 3, teacher, NONE, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_standardised_kl_refuses_two_classes() -> None:
    with pytest.raises(InputError, match="three or more classes"):
        standardised_kl(torch.zeros(1, 2), torch.ones(1, 2), NONE, 1.0)


def test_dkd_weighs_the_target_and_the_others_apart() -> None:
    # Target 0. Teacher (1/2, 3/8, 1/8): (1/2, 1/2) of target or not, (3/4, 1/4) among the others. Student uniform:
    # (1/3, 2/3) and (1/2, 1/2).
    student, teacher = torch.zeros(1, 3), log(1 / 2, 3 / 8, 1 / 8)
    target_part = divergence((0.5, 0.5), (1 / 3, 2 / 3))
    others_part = divergence((0.75, 0.25), (0.5, 0.5))
    assert dkd(student, teacher, NONE, 1.0).item() == pytest.approx(target_part + 8 * others_part)
    weighed = dkd(student, teacher, NONE, 1.0, target_weight=2.0, others_weight=0.5)
    assert weighed.item() == pytest.approx(2 * target_part + 0.5 * others_part)


def test_dkd_with_the_teachers_own_doubt_as_weight_is_kl() -> None:
    """Zhao et al. 2022, equation 7: KL is TCKD and (1 - the teacher's probability of the target) times NCKD."""
    student, teacher = torch.tensor([[0.2, -1.0, 0.7]]), log(0.6, 0.3, 0.1)
    apart = dkd(student, teacher, NONE, 1.0, target_weight=1.0, others_weight=0.4)
    assert apart.item() == pytest.approx(kl(student, teacher, NONE, 1.0).item(), rel=1e-5)


def test_dist_adds_what_is_lacking_to_correlation_within_rows_and_within_classes() -> None:
    # Within rows: the first is the teacher's (Pearson 1) and the second 2/3 less the teacher's (-1), so they lack 0 and
    # 2. Within classes: the teacher's two rows are equal, so nothing correlates with them and 1 is lacking.
    teacher = log(1 / 2, 1 / 3, 1 / 6).repeat(2, 1)
    student = torch.cat([log(1 / 2, 1 / 3, 1 / 6), log(1 / 6, 1 / 3, 1 / 2)])
    assert dist(student, teacher, NONE, 1.0).tolist() == pytest.approx([0 + 1, 2 + 1], abs=1e-5)


def test_dist_sees_the_order_of_rows_within_a_class() -> None:
    # The teacher's rows exchanged: every class correlates -1 within the batch of two.
    teacher = torch.cat([log(0.6, 0.3, 0.1), log(0.2, 0.5, 0.3)])
    lacking = dist(teacher.flip(0), teacher, NONE, 1.0) - dist(teacher, teacher, NONE, 1.0)
    within_rows = 1 - torch.corrcoef(teacher.softmax(-1))[0, 1].item()
    assert lacking.tolist() == pytest.approx([within_rows + 2] * 2, abs=1e-5)


@pytest.mark.parametrize("name", sorted(SOFT_LOSSES))
def test_a_student_that_says_what_the_teacher_says_has_no_loss_and_a_row_no_neighbours(name: str) -> None:
    torch.manual_seed(0)
    teacher, other, targets = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    soft_loss = SOFT_LOSSES[name]
    assert soft_loss(teacher, teacher, targets, 2.0).tolist() == pytest.approx([0] * 5, abs=1e-5)
    assert soft_loss(other, teacher, targets, 2.0).min() > 0
    if name != "dist":  # Its second part is of the batch.
        alone = soft_loss(other[:1], teacher[:1], targets[:1], 2.0)
        assert soft_loss(other, teacher, targets, 2.0)[0].item() == pytest.approx(alone.item())


def test_recipes_can_name_every_soft_loss() -> None:
    assert set(get_args(Recipe.model_fields["soft_loss"].annotation)) == set(SOFT_LOSSES)
