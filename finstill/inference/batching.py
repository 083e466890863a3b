"""Cutting texts into batches with little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np


def length_sorted_batches(lengths: Sequence[int] | np.ndarray, token_budget: int) -> Iterator[np.ndarray]:
    """Yield the positions of `lengths` in batches of similar length, longest first.

    A batch of n texts whose longest has m tokens costs n * m tokens, padding included. Each batch takes as many texts
    as `token_budget` allows, and at least one. Longest first, so that memory peaks at the start and not at the end.

    Args:
        lengths: tokens of each text, (texts,).

    Yields:
        int64, (batch,); every position occurs once.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, token_budget // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def pad(rows: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids padded at the end to the longest row, and the mask that is 1 on tokens and 0 on padding.

    Returns:
        input_ids and attention_mask, int64, (rows, longest).
    """
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    mask = np.arange(lengths.max()) < lengths[:, None]
    input_ids = np.full(mask.shape, pad_id, dtype=np.int64)
    # Not an array a row: they would take longer than a small student does.
    input_ids[mask] = np.fromiter(chain.from_iterable(rows), np.int64, lengths.sum())
    return input_ids, mask.astype(np.int64)
