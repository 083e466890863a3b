"""The plots a person decides from, each as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from sklearn.metrics import precision_recall_curve, roc_curve

from finstill.evaluation.in_service import Night
from finstill.evaluation.months import Month

# Okabe and Ito's colours, told apart by people of every colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")


# A class may be named after sums of money: two dollar signs do not make a formula of what is between them.
matplotlib.rcParams["text.parse_math"] = False


def training_curves(history: Sequence[Mapping[str, float]], name: str) -> bytes:
    """Plot losses and validation scores over epochs, with the temperature where there is one."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    epochs = [epoch["epoch"] for epoch in history]
    kinds = {"loss": "training", "validation_loss": "validation, T = 1"}
    for colour, (key, label) in zip(COLOURS, kinds.items(), strict=False):
        losses.plot(epochs, [epoch.get(key, np.nan) for epoch in history], color=colour, label=label)
    losses.set(title=f"{name}: loss", xlabel="epoch", ylim=(0, None))
    losses.legend(frameon=False)
    if any("temperature" in epoch for epoch in history):
        temperature = losses.twinx()
        temperature.plot(epochs, [epoch["temperature"] for epoch in history], color="#888888", linestyle="--")
        temperature.set_ylabel("temperature (dashed)")
        temperature.set_ylim(0, None)
    measures = {"macro_f1": "macro-F1", "agreement": "agreement with teacher"}
    for colour, (key, label) in zip(COLOURS, measures.items(), strict=False):
        if any(key in epoch for epoch in history):
            scores.plot(epochs, [epoch.get(key, np.nan) for epoch in history], color=colour, label=label)
    scores.set(title=f"{name}: validation", xlabel="epoch", ylim=(0, 1))
    scores.legend(frameon=False, loc="lower right")
    return png(figure)


def confusion_matrices(matrices: Mapping[str, Sequence[Sequence[int]]], labels: Sequence[str]) -> bytes:
    """Plot each confusion matrix: true labels down, predicted ones across, shares of the true label as shade."""
    figure = Figure(figsize=(3.4 * len(matrices), 3.2), layout="constrained")
    for axes, (name, matrix) in zip(figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True):
        counts = np.array(matrix)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            shade = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=shade)
        ticks = range(len(labels))
        axes.set(title=name, xlabel="predicted", ylabel="true", xticks=ticks, yticks=ticks)
        axes.set_xticklabels(labels, rotation=30, ha="right")
        axes.set_yticklabels(labels)
    return png(figure)


def reliability_diagram(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """Plot accuracy over confidence; on the diagonal a classifier is as often right as it says."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#888888", linestyle="--")
    for colour, (name, points) in zip(COLOURS * len(bins), bins.items(), strict=False):
        confidence, accuracy = ([point[key] for point in points] for key in ("confidence", "accuracy"))
        sizes = np.array([point["rows"] for point in points])
        axes.plot(confidence, accuracy, color=colour, label=name)
        axes.scatter(confidence, accuracy, s=200 * sizes / sizes.sum(), color=colour)
    axes.set(title="Reliability", xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, loc="upper left")
    return png(figure)


def precision_and_recall(
    scores: Mapping[str, np.ndarray], truth: np.ndarray, chosen: Mapping[str, tuple[float, float]], label: str
) -> bytes:
    """Plot each classifier's precision over its recall of a label, a dot where it decides.

    Args:
        scores: float64, (rows,), the probability of the label, by classifier.
        truth: bool, (rows,): which rows have the label.
        chosen: recall and precision at the threshold, of each classifier that has one.
    """
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for colour, (name, values) in zip(COLOURS * len(scores), scores.items(), strict=False):
        precision, recall, _ = precision_recall_curve(truth, values)
        axes.step(recall, precision, where="post", color=colour, label=name)
        if name in chosen:
            axes.scatter(*chosen[name], s=60, color=colour, zorder=3)
    axes.axhline(truth.mean(), color="#888888", linestyle="--")
    axes.set(title=f"Precision and recall of {label}", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    return png(figure)


def receiver_operating_characteristic(scores: Mapping[str, np.ndarray], truth: np.ndarray, label: str) -> bytes:
    """Plot the share of rows with the label that are alerts over that of the other rows; arguments as above."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for colour, (name, values) in zip(COLOURS * len(scores), scores.items(), strict=False):
        false_alarms, recall, _ = roc_curve(truth, values)
        axes.plot(false_alarms, recall, color=colour, label=name)
    axes.plot([0, 1], [0, 1], color="#888888", linestyle="--")
    axes.set(title=f"ROC of {label}", xlabel="share of the others that are alerts", ylabel="recall")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, loc="lower right")
    return png(figure)


def quality_against_share_asked(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Plot macro-F1 over the share of texts that the teacher answers, and a line at the teacher's own.

    Args:
        curves: share and macro-F1, float64, (points,), by student; the last point is the teacher alone.
    """
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for colour, (name, (shares, values)) in zip(COLOURS * len(curves), curves.items(), strict=False):
        axes.plot(shares, values, color=colour, label=name)
        axes.axhline(values[-1], color="#888888", linestyle="--")
    axes.grid(alpha=0.3)
    axes.set(title="Asking the teacher", xlabel="share of texts that it answers", ylabel="macro-F1", xlim=(0, 1))
    axes.legend(frameon=False)
    return png(figure)


def quality_against_speed(points: Mapping[str, tuple[float, float]], measure: str) -> bytes:
    """Plot each classifier's quality over its texts a second on one thread."""
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for colour, (name, (texts_per_second, value)) in zip(COLOURS * len(points), points.items(), strict=False):
        axes.scatter(texts_per_second, value, s=70, color=colour)
        axes.annotate(name, (texts_per_second, value), xytext=(7, 5), textcoords="offset points")
    axes.set_xscale("log")
    axes.margins(x=0.35, y=0.25)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    axes.set(title="Quality against speed", xlabel="texts a second, one thread", ylabel=measure)
    return png(figure)


def nights_in_service(nights: Sequence[Night]) -> bytes:
    """Plot agreement, divergence and alert rate over nights, each with its interval; each student has a colour."""
    measures = ["agreement", "kl_to_teacher"] + ["alerts_per_thousand"] * any(n.alerts_per_thousand for n in nights)
    figure = Figure(figsize=(9, 2.4 * len(measures)), layout="constrained")
    students = list(dict.fromkeys(night.digest for night in nights))
    for axes, measure in zip(
        figure.subplots(len(measures), 1, sharex=True, squeeze=False)[:, 0], measures, strict=True
    ):
        for night in nights:
            if (value := getattr(night, measure)) is None:
                continue
            middle, low, high = value
            when = np.datetime64(night.recorded[:19])
            colour = COLOURS[students.index(night.digest) % len(COLOURS)]
            axes.errorbar([when], [middle], [[middle - low], [high - middle]], fmt="o", color=colour, capsize=3)
        axes.set(ylabel=measure.replace("_", " "))
        axes.grid(alpha=0.3)
    locator = AutoDateLocator(minticks=2, maxticks=12)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return png(figure)


def quality_by_month(months: Mapping[str, Sequence[Month]]) -> bytes:
    """Plot each classifier's macro-F1 and its agreement with the teacher over months, above the number of texts."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    scores, agreements, texts = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1])
    for colour, (name, measured) in zip(COLOURS * len(months), months.items(), strict=False):
        # By days, in which a bar's width is counted.
        when = np.array([each.month for each in measured], "datetime64[D]")
        # A month without a label is a gap.
        macro_f1 = np.array([each.macro_f1 for each in measured], np.float64)
        scores.plot(when, macro_f1, color=colour, marker="o", label=name)
        if name != "teacher":
            agreements.plot(when, [each.agreement for each in measured], color=colour, marker="o", label=name)
    texts.bar(when, [each.rows for each in measured], width=20, color="#888888")
    scores.set(title="Quality by month", ylabel="macro-F1", ylim=(0, 1))
    agreements.set(ylabel="agreement with teacher", ylim=(0, 1))
    texts.set(ylabel="test texts")
    locator = AutoDateLocator(minticks=3, maxticks=12)
    texts.xaxis.set_major_locator(locator)
    texts.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    scores.legend(frameon=False, loc="lower left", ncols=4)
    return png(figure)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
