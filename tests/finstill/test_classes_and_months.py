"""What the test rows tell of each class and of each month, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from finstill.evaluation.classes import by_class, classes_with_too_few_rows, rows_needed, wilson_interval
from finstill.evaluation.months import Month, by_month
from finstill.evaluation.plots import confusion_matrices, quality_by_month
from finstill.metrics import quality
from finstill.training.rows import NO_LABEL

RISK = ("no_risk", "risk")


def answers(*classes: int) -> np.ndarray:
    return 5 * np.eye(2, dtype=np.float32)[list(classes)]


def test_classes_named_after_sums_of_money_are_plotted() -> None:
    counts = np.array([[3, 1], [0, 2]])
    assert confusion_matrices({"student": counts}, ("$1m_to_$10m", "more")).startswith(b"\x89PNG")


class TestIntervals:
    def test_wilsons_interval(self) -> None:
        # 8 of 10, z = 1.96: centre (0.8 + z^2 / 20) / (1 + z^2 / 10) = 0.7168, half-width 0.2266.
        assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
        assert wilson_interval(0, 0) == (0, 1)

    def test_precision_is_of_what_was_predicted_and_recall_of_what_was_labelled(self) -> None:
        # Of ten risks eight are found, and two alarms are false.
        labels = np.array([1] * 10 + [0] * 90)
        measured = quality(labels, answers(*[1] * 8, *[0] * 2, *[1] * 2, *[0] * 88), RISK)
        risk = by_class(measured)[1]
        assert (risk["class"], risk["precision"], risk["recall"], risk["rows"]) == ("risk", 0.8, 0.8, 10)
        assert (risk["precision_low"], risk["precision_high"]) == wilson_interval(8, 10)
        assert (risk["recall_low"], risk["recall_high"]) == wilson_interval(8, 10)
        assert by_class(measured)[0]["recall_low"] == wilson_interval(88, 90)[0]

    @pytest.mark.parametrize(("low", "high", "share"), [(0.2, 0.9, 0.5), (0.0, 0.1, 0.1), (0.8, 0.95, 0.8)])
    def test_the_number_of_rows_is_the_least_that_tells_a_share_to_within_five_points(
        self, low: float, high: float, share: float
    ) -> None:
        needed = rows_needed(low, high)

        def half_width(rows: int) -> float:
            square = 1.959964**2
            spread = (share * (1 - share) / rows + square / (4 * rows**2)) ** 0.5
            return square**0.5 / (1 + square / rows) * spread

        assert half_width(needed) <= 0.05 < half_width(needed - 1)

    def test_a_class_is_short_where_the_recall_of_one_student_is_hardly_known(self) -> None:
        labels = np.array([1] * 60 + [0] * 400)
        found_all = quality(labels, answers(*[1] * 60, *[0] * 400), RISK)
        found_half = quality(labels, answers(*[1] * 30, *[0] * 430), RISK)
        assert classes_with_too_few_rows({"sure": found_all, "unlabelled": None}) == []
        (short,) = classes_with_too_few_rows({"half": found_half, "sure": found_all})
        # One half is within the interval: 1.96^2 / (4 * 0.05^2) - 1.96^2 = 380.3 rows.
        assert (short["class"], short["rows"], short["student"], short["rows_needed"]) == ("risk", 60, "half", 381)


class TestMonths:
    LABELS = np.array([0, 1, 1, 1, NO_LABEL, 0, 1])
    DATES = ("2020-02-28", "2020-02-01T10:00:00", "20200229", "2020-04-01", "2020-04-30", "spring", None)

    def test_each_month_is_measured_over_the_classes_that_its_labels_hold(self) -> None:
        logits = answers(0, 1, 0, 1, 1, 0, 0)
        teacher = answers(0, 1, 1, 1, 0, 1, 1)
        # February: class 0 has precision 1/2 and recall 1, class 1 precision 1 and recall 1/2; F1 is 2/3 for both.
        # April's one label is 1, and right.
        february, april = by_month(self.LABELS, logits, teacher, self.DATES)
        assert february == Month("2020-02", 3, 3, pytest.approx(2 / 3), pytest.approx(2 / 3))
        assert april == Month("2020-04", 2, 1, 1.0, 0.5)

    def test_a_month_without_labels_has_agreement_alone(self) -> None:
        unlabelled = np.full(7, NO_LABEL)
        measured = by_month(unlabelled, answers(*[0] * 7), answers(*[0] * 7), self.DATES)
        assert [(each.macro_f1, each.agreement) for each in measured] == [(None, 1.0), (None, 1.0)]
        assert quality_by_month({"teacher": measured, "small": measured}).startswith(b"\x89PNG")

    def test_without_a_date_there_is_no_month(self) -> None:
        assert by_month(self.LABELS, answers(*[0] * 7), answers(*[0] * 7), [None] * 7) == []
