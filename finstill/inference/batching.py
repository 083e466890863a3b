"""Cutting texts into batches with little padding, or of few shapes."""

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


LENGTH_STEP = 8
"""Tokens by which the lengths of `few_shapes` differ."""


def few_shapes(lengths: Sequence[int] | np.ndarray, token_budget: int) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """Yield the positions of `lengths` in batches, longest first, each with the shape that it is to be padded to.

    The shape is a function of a text's own length alone: its length, rounded up to a multiple of `LENGTH_STEP`, and as
    many rows as the budget then allows. A GPU's library chooses by the shape how it sums a product; so the texts that
    happen to lie in a batch do not decide how one of them is computed. And memory is planned once a shape.

    Args:
        lengths: tokens of each text, (texts,).
        token_budget: tokens of one batch, padding included.

    Yields:
        Positions, int64, (batch,), every one once; rows and tokens of the shape, the rows no fewer than the batch's.
    """
    lengths = np.asarray(lengths)
    rounded = -(-lengths // LENGTH_STEP) * LENGTH_STEP
    for tokens in np.unique(rounded)[::-1].tolist():
        alike = np.flatnonzero(rounded == tokens)
        rows = max(1, token_budget // tokens)
        for start in range(0, len(alike), rows):
            yield alike[start : start + rows], (rows, tokens)


def pad(
    rows: Sequence[Sequence[int]] | Sequence[np.ndarray], tokens: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids padded at the end to `tokens`, by default the longest row's, and the mask that is 1 on tokens
    and 0 on padding.

    Returns:
        input_ids and attention_mask, int64, (rows, tokens).
    """
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    mask = np.arange(lengths.max() if tokens is None else tokens) < lengths[:, None]
    input_ids = np.zeros(mask.shape, dtype=np.int64)
    if isinstance(rows[0], np.ndarray):
        input_ids[mask] = np.concatenate(rows)
    else:
        # Not an array a row: to make them would take longer than a small student does.
        input_ids[mask] = np.fromiter(chain.from_iterable(rows), np.int64, lengths.sum())
    return input_ids, mask.astype(np.int64)
