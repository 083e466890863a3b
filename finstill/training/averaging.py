"""The mean of a student's weights over the last steps of its training."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback

from finstill.training.loop import checkpoint_of

AVERAGE_FILE = "average.safetensors"


class WeightAverage(TrainerCallback):
    """Keeps the mean of the weights after each of the last steps, in the trainer's checkpoints too.

    Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization", by torch's own
    `AveragedModel`.

    Args:
        student: whose weights are averaged.
        last: share of the steps, at the end, that count.
    """

    def __init__(self, student: nn.Module, last: float):
        self._student = student
        self._last = last

    def weights(self) -> dict[str, torch.Tensor] | None:
        """Return the mean weights by the student's names for them; None where training ended before they were kept."""
        return self._average.module.state_dict() if self._average.n_averaged else None

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The trainer has put the student on its device by now.
        self._average = AveragedModel(self._student, use_buffers=False)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        kept = checkpoint_of(args, state) / AVERAGE_FILE
        if kept.is_file():
            self._average.load_state_dict(load_file(kept))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step > (1 - self._last) * state.max_steps:
            self._average.update_parameters(self._student)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        weights = {name: each.contiguous() for name, each in self._average.state_dict().items()}
        save_file(weights, checkpoint_of(args, state) / AVERAGE_FILE)
