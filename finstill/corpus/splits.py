"""Which split a text is in."""

from __future__ import annotations

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
    share = int.from_bytes(key[:8], "big") / 2**64
    if share < TRAIN_SHARE:
        return "train"
    return "validation" if share < TRAIN_SHARE + VALIDATION_SHARE else "test"


def canonical_split(name: str) -> str | None:
    """Return the split that a source calls `name`, or None where the name is not known."""
    return _ALIASES.get(name.strip().casefold())
