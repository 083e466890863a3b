"""Random numbers that belong to a text: drawn from its key, whatever other texts there are."""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mixed(*parts: np.ndarray | int) -> np.ndarray:
    """Return 64 bits that each bit of `parts`, and their order, decide.

    SplitMix64's finaliser (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators") over one part after
    the other: a generator that needs no state, so that any number can be drawn alone.

    Args:
        parts: uint64 arrays that broadcast, or integers from 0.

    Returns:
        uint64, of the shape that `parts` broadcast to, at least one axis.
    """
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = (state ^ np.asarray(part, np.uint64)) + _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def uniform(*parts: np.ndarray | int) -> np.ndarray:
    """Return uniform numbers from [0, 1) that `parts` decide: float64, see `mixed`."""
    return (mixed(*parts) >> np.uint64(11)) * 2.0**-53


def whole(draws: np.ndarray, below: np.ndarray | int) -> np.ndarray:
    """Return uniform `draws` as whole numbers from 0 to `below` - 1: int64."""
    return (draws * below).astype(np.int64)
