"""The distillation loss, against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from finstill.config.temperature import TemperatureSchedule
from finstill.errors import InputError
from finstill.training.loss import class_weights, distillation_loss, hard_loss, trusted_alpha
from finstill.training.rows import NO_LABEL
from finstill.training.soft_losses import SOFT_LOSSES

LOGITS = torch.tensor([[2.0, 1.0, 0.1]])


@pytest.mark.parametrize(("temperature", "expected"), [(1, (0.659, 0.242, 0.099)), (2, (0.502, 0.304, 0.194))])
def test_softmax_at_a_temperature(temperature: float, expected: tuple[float, ...]) -> None:
    assert torch.softmax(LOGITS / temperature, -1)[0].tolist() == pytest.approx(expected, abs=5e-4)


def test_rows_without_a_label_do_not_count_in_the_hard_loss() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [5.0, -5.0, 1.0]])
    labels = torch.tensor([1, NO_LABEL])
    assert hard_loss(logits, labels).tolist() == pytest.approx([math.log(3), 0])
    assert distillation_loss(logits, None, labels, alpha=0, temperature=1).item() == pytest.approx(math.log(3))


def test_a_batch_without_labels_has_no_hard_loss() -> None:
    assert distillation_loss(LOGITS, None, torch.tensor([NO_LABEL]), alpha=0, temperature=1).item() == 0.0


class TestClassWeights:
    NAMES = ("negative", "neutral", "positive")
    # Ten rows of 6, 3 and 1, and two without a label.
    LABELS = np.array([0] * 6 + [1] * 3 + [2] + [NO_LABEL] * 2)

    def test_balanced_is_scikit_learns(self) -> None:
        weights = class_weights("balanced", self.LABELS, self.NAMES)
        assert weights is not None
        # n / (k n_c): 10 / 18, 10 / 9, 10 / 3.
        assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
        labelled = self.LABELS[self.LABELS != NO_LABEL]
        assert weights.tolist() == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=labelled))

    def test_given_ones_have_a_mean_of_one_over_the_rows(self) -> None:
        # Nine rows of weight 1 and one of 5 weigh 14: each is scaled by 10 / 14.
        weights = class_weights({"positive": 5}, self.LABELS, self.NAMES)
        assert weights is not None
        assert weights.tolist() == pytest.approx([10 / 14, 10 / 14, 50 / 14])

    def test_a_class_of_another_task_is_named(self) -> None:
        with pytest.raises(InputError, match=r"class_weights names \['risk'\], and the task's labels are \['negative'"):
            class_weights({"risk": 5}, self.LABELS, self.NAMES)

    def test_without_them_or_without_labels_all_count_alike(self) -> None:
        assert class_weights(None, self.LABELS, self.NAMES) is None
        assert class_weights("balanced", np.array([NO_LABEL]), self.NAMES) is None

    def test_they_weigh_the_hard_loss_and_leave_the_soft_one(self) -> None:
        # The student is uniform: each labelled row's cross-entropy is ln 2. Weights 3/2 and 1/2, labels 0, 0 and 1.
        student, labels = torch.zeros(4, 2), torch.tensor([0, 0, 1, NO_LABEL])
        teacher = torch.tensor([[math.log(3), 0.0]] * 4)
        soft = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
        weights = torch.tensor([1.5, 0.5])
        total = distillation_loss(student, teacher, labels, alpha=0.6, temperature=1.0, class_weights=weights)
        assert total.item() == pytest.approx(0.6 * soft + 0.4 * math.log(2) * (1.5 + 1.5 + 0.5) / 3)

    def test_a_rare_row_counts_for_the_same_in_whichever_batch_it_stands(self) -> None:
        weights, logits = torch.tensor([0.5, 5.0]), torch.zeros(2, 2)

        def of(*labels: int) -> float:
            targets = torch.tensor(labels)
            return distillation_loss(logits, None, targets, alpha=0, temperature=1, class_weights=weights).item()

        assert of(0, 1) == pytest.approx((of(0, 0) + of(1, 1)) / 2)


def test_total_weighs_soft_by_alpha() -> None:
    teacher, labels = torch.tensor([[0.3, 1.2, -0.4]]), torch.tensor([2])
    hard = hard_loss(LOGITS, labels)
    for name, soft_loss in SOFT_LOSSES.items():
        soft = soft_loss(LOGITS, teacher, labels, 3.0)
        total = distillation_loss(LOGITS, teacher, labels, alpha=0.7, temperature=3.0, soft_loss=name)
        assert total.item() == pytest.approx((0.7 * soft + 0.3 * hard).item())


def test_a_trusted_alpha_is_alpha_times_the_teachers_probability_of_the_target() -> None:
    # Sure and right, unsure, wrong: the teacher gives the target 3/4, 1/2 and 1/4.
    teacher = torch.tensor([[math.log(3), 0.0], [0.0, 0.0], [math.log(3), 0.0]])
    weights = trusted_alpha(0.8, teacher, torch.tensor([0, 0, 1]))
    assert weights.tolist() == pytest.approx([0.6, 0.4, 0.2])


def test_where_the_teacher_is_trusted_less_the_label_counts_more() -> None:
    # Teacher (3/4, 1/4) against label 1: alpha 0.8 becomes 0.2. Student uniform: the hard loss is ln 2.
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    soft = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    total = distillation_loss(student, teacher, torch.tensor([1]), alpha=0.8, temperature=1.0, alpha_rule="trusted")
    assert total.item() == pytest.approx(0.2 * soft + 0.8 * math.log(2))


def test_without_a_label_only_the_teachers_doubt_lowers_alpha() -> None:
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    soft = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    unlabelled = torch.tensor([NO_LABEL])
    total = distillation_loss(student, teacher, unlabelled, alpha=0.8, temperature=1.0, alpha_rule="trusted")
    assert total.item() == pytest.approx(0.6 * soft)


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


def test_cosine_temperature_is_half_way_in_the_middle_and_slow_at_both_ends() -> None:
    schedule = TemperatureSchedule(schedule="cosine", start=5, end=1)
    # 1 + 4 * (1 + cos(pi * share)) / 2 at shares 0, 1/4, 1/2, 3/4 and 1.
    expected = [5, 3 + math.sqrt(2), 3, 3 - math.sqrt(2), 1]
    assert [schedule.at(step, 5) for step in range(5)] == pytest.approx(expected)


def test_constant_temperature_stays_and_is_3_where_nothing_is_said() -> None:
    assert {TemperatureSchedule(schedule="constant").at(step, 9) for step in range(9)} == {3}
    assert {TemperatureSchedule(schedule="constant", start=2).at(step, 9) for step in range(9)} == {2}
