"""Which split a text is in."""

from __future__ import annotations

from datetime import UTC, date, datetime

from finstill.config.profile import SplitByDate

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


def split_of_day(day: date | None, by: SplitByDate) -> str:
    """Return the split of a text that was first published on this day; a text without a day is train."""
    if day is None or day < by.validation_from:
        return "train"
    return "validation" if day < by.test_from else "test"


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


def earlier(first: str | None, second: str | None) -> str | None:
    """Return the date of the earlier day, the first where both are of the same; None where neither is given."""
    dated = [(day, given) for given in (first, second) if (day := day_of(given))]
    return min(dated, key=lambda pair: pair[0])[1] if dated else None


def canonical_split(name: str) -> str | None:
    """Return the split that a source calls `name`, or None where the name is not known."""
    return _ALIASES.get(name.strip().casefold())
