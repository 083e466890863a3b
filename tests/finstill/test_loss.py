"""The distillation loss, against values worked out by hand."""

import math

import pytest
import torch

from finstill.distil.loss import NO_LABEL, distillation_loss, hard_loss, soft_loss
from finstill.distil.schedules import TemperatureSchedule

LOGITS = torch.tensor([[2.0, 1.0, 0.1]])


@pytest.mark.parametrize(("temperature", "expected"), [(1, (0.659, 0.242, 0.099)), (2, (0.502, 0.304, 0.194))])
def test_softmax_at_a_temperature(temperature: float, expected: tuple[float, ...]) -> None:
    assert torch.softmax(LOGITS / temperature, -1)[0].tolist() == pytest.approx(expected, abs=5e-4)


def test_soft_loss_is_the_divergence_from_teacher_to_student() -> None:
    # Teacher (3/4, 1/4), student uniform: 3/4 ln(3/2) + 1/4 ln(1/2).
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert soft_loss(student, teacher, 1.0).item() == pytest.approx(expected)


def test_soft_loss_is_averaged_over_rows_and_summed_over_classes() -> None:
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    once = soft_loss(student, teacher, 2.0)
    assert soft_loss(student.repeat(5, 1), teacher.repeat(5, 1), 2.0).item() == pytest.approx(once.item())


def test_rows_without_a_label_do_not_count_in_the_hard_loss() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [5.0, -5.0, 1.0]])
    assert hard_loss(logits, torch.tensor([1, NO_LABEL])).item() == pytest.approx(math.log(3))


def test_a_batch_without_labels_has_no_hard_loss() -> None:
    assert hard_loss(LOGITS, torch.tensor([NO_LABEL])).item() == 0.0


def test_total_weighs_soft_by_alpha_and_temperature_squared() -> None:
    teacher, labels = torch.tensor([[0.3, 1.2, -0.4]]), torch.tensor([2])
    soft, hard = soft_loss(LOGITS, teacher, 3.0), hard_loss(LOGITS, labels)
    total = distillation_loss(LOGITS, teacher, labels, alpha=0.7, temperature=3.0)
    assert total.item() == pytest.approx((0.7 * 9 * soft + 0.3 * hard).item())
    inverse = distillation_loss(LOGITS, teacher, labels, alpha=0.7, temperature=3.0, soft_scale="inverse_square")
    assert inverse.item() == pytest.approx((0.7 / 9 * soft + 0.3 * hard).item())


def test_the_square_keeps_the_size_of_the_soft_gradient() -> None:
    """The reason for T^2: from T = 5 to 20 the gradient stays within a tenth, where 1/T^2 would shrink it 256 times."""

    def gradient(temperature: float) -> float:
        student = torch.zeros(1, 3, requires_grad=True)
        distillation_loss(student, LOGITS, torch.tensor([NO_LABEL]), alpha=1.0, temperature=temperature).backward()
        assert student.grad is not None
        return student.grad.norm().item()

    assert gradient(20.0) == pytest.approx(gradient(5.0), rel=0.1)


def test_alpha_zero_needs_no_teacher() -> None:
    labels = torch.tensor([0])
    loss = distillation_loss(LOGITS, None, labels, alpha=0.0, temperature=1.0)
    assert loss.item() == pytest.approx(hard_loss(LOGITS, labels).item())


def test_linear_temperature_goes_from_start_to_end() -> None:
    schedule = TemperatureSchedule(schedule="linear", start=5, end=1)
    assert [schedule.at(step, 5) for step in range(5)] == [5, 4, 3, 2, 1]


def test_constant_temperature_stays() -> None:
    assert {TemperatureSchedule(schedule="constant", start=3).at(step, 9) for step in range(9)} == {3}
