"""Which split a text is in."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np

SPLITS = ("train", "validation", "test")
TRAIN_SHARE = 0.70
VALIDATION_SHARE = 0.12

_ALIASES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def split_of(key: bytes) -> str:
    """Return the split of the text with this key: train 70%, validation 12%, test 18%.

    The key is a hash, so its first 8 bytes are a uniform number that depends on the text alone. A text keeps its split
    however the corpus grows, and each label (and the unlabelled rows) is divided in the same shares in expectation,
    which is the most that stratification can give while no text ever moves.
    """
    return SPLITS[int(split_numbers(np.frombuffer(key[:8], ">u8"))[0])]


def split_numbers(beginnings: np.ndarray) -> np.ndarray:
    """Return the position among `SPLITS` of the split of each text, as `split_of` does: int64, (texts,).

    Args:
        beginnings: the first 8 bytes of each key as a number, the first byte counting most: uint64, (texts,).
    """
    shares = beginnings.astype(np.float64) / 2**64
    return np.searchsorted([TRAIN_SHARE, TRAIN_SHARE + VALIDATION_SHARE], shares, side="right")


def day_of(given: str | None) -> date | None:
    """Return the day of an ISO 8601 date or datetime, None where it is empty; with an offset, its day in UTC.

    Raises:
        ValueError: it is neither.
    """
    if not given or not given.strip():
        return None
    try:
        moment = datetime.fromisoformat(given.strip())
        return (moment.astimezone(UTC) if moment.tzinfo else moment).date()
    except OverflowError as error:
        raise ValueError(f"out of range: {given!r}") from error


def canonical_split(name: str) -> str | None:
    """Return the split that a source calls `name`, or None where the name is not known."""
    return _ALIASES.get(name.strip().casefold())
