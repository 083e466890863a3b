"""How the softmax temperature moves over training."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


def _usual_start(settings: dict[str, object]) -> float:
    return 3.0 if settings.get("schedule") == "constant" else 5.0


class TemperatureSchedule(BaseModel):
    """A temperature for each training step.

    Annealing from a soft to a sharp target follows Jafari et al. 2021, "Annealing Knowledge Distillation"; a constant
    one is Hinton et al. 2015; the half cosine is the shape of Loshchilov and Hutter 2017, "SGDR".

    Attributes:
        schedule: `constant` stays at `start`; `linear` goes from `start` to `end` in equal steps; `cosine` along half a
            cosine, which stays longer near both.
        start: 5 where it is not given, and 3 for a constant one.
        end: 1 where it is not given; a constant one has no other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: Literal["constant", "linear", "cosine"] = "linear"
    start: float = Field(default_factory=_usual_start, gt=0, le=100)
    end: float = Field(1.0, gt=0, le=100)

    @model_validator(mode="after")
    def _constant_does_not_end_elsewhere(self) -> TemperatureSchedule:
        # Its default may stand there: what is stored of a recipe names every setting.
        if self.schedule == "constant" and self.end != type(self).model_fields["end"].default:
            raise ValueError("a constant temperature stays at 'start': leave out 'end', or choose linear or cosine")
        return self

    def at(self, step: int, steps: int) -> float:
        """Return the temperature of step `step` (from 0) of `steps`."""
        if self.schedule == "constant" or steps <= 1:
            return self.start
        done = min(step / (steps - 1), 1.0)
        if self.schedule == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * done
