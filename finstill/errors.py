"""The errors a user is meant to read."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message reads ``where, row N: problem. Remedy`` so that a log line alone is enough to act on.

    Args:
        problem: what is wrong, naming what was given and what was expected.
        where: the file, folder, column or setting that holds the fault.
        row: the record of a data file, from 1, its header not counted.
        line: the line of a text file, from 1.
        remedy: what the user can do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str | Path | None = None,
        row: int | None = None,
        line: int | None = None,
        remedy: str | None = None,
    ):
        place = [str(where)] if where is not None else []
        place += [f"{unit} {number}" for unit, number in (("row", row), ("line", line)) if number is not None]
        message = f"{', '.join(place)}: {problem}" if place else problem
        ended = message if message.endswith("?") else f"{message.rstrip('.')}."
        super().__init__(f"{ended} {remedy}" if remedy else message)


class UnreachableError(InputError):
    """A place on the network did not answer. The one fault here that may be gone when the same is tried again."""
