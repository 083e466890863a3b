"""Which rows each epoch reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from finstill.config.recipe import Recipe
from finstill.training.rows import NO_LABEL, TrainingRows

BATCHES_SORTED = 50
ROWS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class Epoch:
    """How many rows an epoch reads of each kind.

    Attributes:
        labelled: rows with a label, each counted as often as it is read.
        unlabelled: rows without, each read once at most.
    """

    labelled: int
    unlabelled: int

    @classmethod
    def of(cls, recipe: Recipe, rows: TrainingRows) -> Epoch:
        """Return the epoch of a student that learns from the teacher.

        Each labelled row is read `labelled_repeats` times: rows without a label speak through the teacher alone, and
        where they are many, few batches would hold a label.
        """
        labelled = int((rows.labels != NO_LABEL).sum())
        unlabelled = len(rows) - labelled
        repeats = recipe.labelled_repeats if unlabelled else 1
        return cls(labelled * repeats, min(unlabelled, recipe.rows_per_epoch or unlabelled))

    def __len__(self) -> int:
        return self.labelled + self.unlabelled

    def of_labels_alone(self) -> Epoch:
        """Return an epoch of as many rows, all of them labelled.

        So a label-only baseline takes as many steps as the student that also learns from the teacher, at the same
        learning rates, and is as often judged on the validation rows: neither has the longer training.
        """
        return Epoch(len(self), 0)


class EpochSampler(Sampler[int]):
    """The rows of each epoch in batches of similar length, the same for the same seed, whichever epoch comes first.

    Where an epoch reads a part of the rows without a label, each reads the next part of them in one shuffled order: no
    row comes again before all were read. Many texts read few times teach more than few texts read often (Beyer et al.
    2022, "Knowledge distillation: A good teacher is patient and consistent"). A label-only baseline, which reads its
    labelled rows over and over, goes on in each epoch where the one before ended.

    Args:
        rows: all rows there are.
        epoch: how many an epoch reads.
        batch_size: rows of a batch.
        seed: of both orders.
    """

    def __init__(self, rows: TrainingRows, epoch: Epoch, batch_size: int, seed: int):
        self._lengths = rows.input_ids.lengths
        self._labelled = np.flatnonzero(rows.labels != NO_LABEL)
        unlabelled = np.flatnonzero(rows.labels == NO_LABEL)
        self._unlabelled = np.random.default_rng(seed).permutation(unlabelled)
        self._epoch = epoch
        self._batch_size = batch_size
        self._seed = seed
        self._number = 0

    def set_epoch(self, number: int) -> None:
        """Choose the epoch, from 0, that the next iteration yields; the trainer's loader calls it."""
        self._number = number

    def __len__(self) -> int:
        return len(self._epoch)

    def __iter__(self) -> Iterator[int]:
        positions = np.concatenate(
            [self._next(self._labelled, self._epoch.labelled), self._next(self._unlabelled, self._epoch.unlabelled)]
        )
        shuffled = np.random.default_rng([self._seed, self._number]).permutation(positions)
        # As transformers groups rows by length, whose own function makes Python objects of all: so many batches at a
        # time are sorted among themselves.
        group = np.arange(len(shuffled)) // (BATCHES_SORTED * self._batch_size)
        ordered = shuffled[np.lexsort((-self._lengths[shuffled], group))]
        for start in range(0, len(ordered), ROWS_AT_A_TIME):
            yield from ordered[start : start + ROWS_AT_A_TIME].tolist()

    def _next(self, rows: np.ndarray, count: int) -> np.ndarray:
        """Return the `count` of `rows`, over and over, that this epoch reads."""
        return rows[(np.arange(count) + self._number * count) % max(1, len(rows))]
