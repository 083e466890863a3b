"""How the softmax temperature moves over training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TemperatureSchedule(BaseModel):
    """A temperature for each training step.

    Annealing from a soft to a sharp target follows Jafari et al. 2021, "Annealing Knowledge Distillation"; a constant
    one is Hinton et al. 2015.

    Attributes:
        schedule: `constant` stays at `start`; `linear` goes from `start` to `end` in equal steps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: Literal["constant", "linear"] = "linear"
    start: float = Field(5.0, gt=0, le=100)
    end: float = Field(1.0, gt=0, le=100)

    def at(self, step: int, steps: int) -> float:
        """Return the temperature of step `step` (from 0) of `steps`."""
        if self.schedule == "constant" or steps <= 1:
            return self.start
        return self.start + (self.end - self.start) * min(step / (steps - 1), 1.0)
