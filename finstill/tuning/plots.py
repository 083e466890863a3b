"""Plots of a search, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from finstill.evaluation.plots import COLOURS, png

DIVERGENCE = "KL to teacher, nats"

_NOT_SETTINGS = ("number", "state", "value")


def search_history(trials: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot each trial's divergence from the teacher over their order, pruned ones apart, and the least so far."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for colour, state in zip(COLOURS, ("complete", "pruned"), strict=False):
        these = [trial for trial in trials if trial["state"] == state]
        numbers, values = [trial["number"] for trial in these], [trial["value"] for trial in these]
        axes.scatter(numbers, values, s=22, color=colour, label=state)
    complete = [trial for trial in trials if trial["state"] == "complete"]
    best = np.minimum.accumulate([trial["value"] for trial in complete])
    axes.step([trial["number"] for trial in complete], best, where="post", color=COLOURS[2], label="least so far")
    axes.set(title="Tuning", xlabel="trial", ylabel=f"{DIVERGENCE}, validation")
    axes.legend(frameon=False, loc="upper right")
    return png(figure)


def search_slices(trials: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot the complete trials' divergences over each setting that the search changed."""
    complete = [trial for trial in trials if trial["state"] == "complete"]
    names = [name for name in complete[0] if name not in _NOT_SETTINGS]
    rows = -(-len(names) // 4)
    figure = Figure(figsize=(11, 2.7 * rows), layout="constrained")
    panels = figure.subplots(rows, 4, sharey=True, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        tried = [trial[name] for trial in complete]
        is_number = all(isinstance(value, float) for value in tried)
        places = tried if is_number else [str(value) for value in tried]
        axes.scatter(places, [trial["value"] for trial in complete], s=18)
        axes.set(xlabel=name)
        axes.tick_params(axis="x", rotation=0 if is_number else 25)
        if name in ("learning_rate", "temperature"):
            axes.set_xscale("log")
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes in panels[::4]:
        axes.set_ylabel(DIVERGENCE)
    return png(figure)
