"""Reading a table of soft labels: a row a text, a column a class, each row checked before any of them counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from finstill.corpus.readers import (
    BYTES_LOOKED_AT,
    Delimited,
    Form,
    Kind,
    Record,
    decompressed,
    json_lines,
    json_rows,
    kind_of,
    parquet_rows,
    reading,
    text_fault,
)
from finstill.corpus.text import KEY_BYTES, cleaned, normalise, text_key
from finstill.errors import InputError

Values = Literal["probabilities", "log-probabilities", "logits"]

READERS: dict[Kind, Callable[..., Any]] = {
    "delimited": Delimited,
    "jsonl": json_lines,
    "json": json_rows,
    "parquet": parquet_rows,
}

ROUNDING = 0.02
"""How far from 1 probabilities may add up: three that were rounded to two digits are off by 0.015 at most."""

ROWS_PER_CHUNK = 1 << 16

FLOOR_REMEDY = "Declare the probability of a class that is left out or 0, as --floor 0.001"


@dataclass(frozen=True)
class SoftLabels:
    """The rows of a table, in its order: row number `i + 1` of the table is at position `i`.

    Attributes:
        name: how messages call the table.
        keys: of the texts, binary(16).
        logits: float32, (rows, classes).
        covered: mean over the rows of what the classes' probabilities add up to, before a floor; None of logits.
    """

    name: str
    keys: pa.ChunkedArray
    logits: np.ndarray
    covered: float | None


class _BadRowError(Exception):
    def __init__(self, position: int, problem: str, remedy: str | None = None):
        self.position, self.problem, self.remedy = position, problem, remedy


def read_soft_labels(
    path: Path,
    classes: Sequence[str],
    values: Values,
    form: Form,
    *,
    text: str = "text",
    key: str | None = None,
    floor: float | None = None,
) -> SoftLabels:
    """Read and check a table of soft labels.

    Probabilities and log-probabilities become logits as their logarithms, of which the softmax is the probabilities
    again; those of a row need not add up to 1, as those of label tokens do not. Memory holds every row, 16 bytes and 4
    for each class.

    Args:
        path: Parquet, JSONL, JSON or delimited text, by its ending; the latter may be compressed.
        classes: names of the classes, which are the names of their columns.
        values: what the columns hold.
        form: how a text file is written.
        text: the column with the text, HTML entities decoded where the corpus's are.
        key: the column with the text's key in hexadecimal, for a table without texts.
        floor: the probability of a class that has none: its cell is empty, NaN, or no probability at all. Smaller ones
            count as much. None is for tables without such a class.

    Raises:
        InputError: the table cannot be read, or a row has no text, or a value is not what `values` says; names the row.
    """
    if floor is not None and not 0 < floor < 1 / len(classes):
        raise InputError(
            f"it is {floor:g}, and must lie between 0 and 1/{len(classes)}, a class's share", where="--floor"
        )
    if floor is not None and values == "logits":
        raise InputError("logits have no floor: each class has one", where="--floor", remedy="Leave it out")
    if not path.is_file():
        raise InputError("there is no such file", where=path)
    reader = READERS.get(kind_of(path.name) or "lines")
    if reader is None:
        raise InputError("a table of soft labels is .parquet, .jsonl, .json, .csv or .tsv", where=path)
    keys, logits, totals = [], [], []
    number = 0
    with path.open("rb", buffering=BYTES_LOOKED_AT) as raw, reading(str(path), form):
        records = reader(decompressed(raw, str(path)), str(path), form, [key or text, *classes])
        try:
            for found, chunk in _chunks(records, classes, text, key):
                converted, total = _logits(chunk, classes, values, floor)
                keys.append(pa.array(found, pa.binary(KEY_BYTES)))
                logits.append(converted)
                totals.append(total)
                number += len(found)
        except _BadRowError as error:
            raise InputError(error.problem, where=path, row=number + error.position + 1, remedy=error.remedy) from error
    if not number:
        raise InputError("the table has no rows", where=path)
    total = np.concatenate(totals)
    joined = np.concatenate(logits)
    if values == "logits" and (joined >= 0).all() and (np.abs(joined.sum(axis=1) - 1) < ROUNDING).all():
        raise InputError(
            "its rows add up to 1: they are probabilities", where=path, remedy="Give --values probabilities"
        )
    covered = None if values == "logits" else float(total.mean())
    return SoftLabels(str(path), pa.chunked_array(keys), joined, covered)


def _chunks(
    records: Iterator[Record], classes: Sequence[str], text: str, key: str | None
) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Yield keys and values, float64, (rows, classes), NaN where a class has none, of rows that follow each other."""
    keys: list[bytes] = []
    values: list[list[float]] = []
    for record in records:
        position = len(keys)
        if record.fault is not None:
            raise _BadRowError(position, record.fault.reason, record.fault.remedy)
        first, *given = record.values
        keys.append(_given_key(first, key, position) if key else _key_of(first, text, position))
        values.append([_number(value, name, position) for name, value in zip(classes, given, strict=True)])
        if len(keys) == ROWS_PER_CHUNK:
            yield keys, np.array(values)
            keys, values = [], []
    if keys:
        yield keys, np.array(values)


def _key_of(value: Any, column: str, position: int) -> bytes:
    if not isinstance(value, str):
        problem = "has no text" if value is None else f"holds {type(value).__name__}, text was expected"
        raise _BadRowError(position, f"column '{column}' {problem}")
    if fault := text_fault(value):
        raise _BadRowError(position, fault.reason, fault.remedy)
    text = normalise(cleaned(value))
    if not text:
        raise _BadRowError(position, "the text is empty")
    return text_key(text)


def _given_key(value: Any, column: str, position: int) -> bytes:
    try:
        found = bytes.fromhex(value)
    except (TypeError, ValueError):
        found = b""
    if len(found) != KEY_BYTES:
        raise _BadRowError(position, f"column '{column}' holds {value!r}, and a key has 32 hexadecimal digits")
    return found


def _number(value: Any, name: str, position: int) -> float:
    if value is None or value == "":
        return np.nan
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError) as error:
        raise _BadRowError(position, f"column '{name}' holds {value!r}, and a number was expected") from error


def _logits(
    values: np.ndarray, classes: Sequence[str], kind: Values, floor: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, float32, (rows, classes), and what the probabilities of each row add up to.

    Raises:
        _BadRowError: names the first row with a value that is not of `kind`.
    """

    def refuse(wrong: np.ndarray, problem: str, remedy: str | None = None) -> None:
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise _BadRowError(int(row), problem.format(name=classes[column], value=values[row, column]), remedy)

    refuse(np.isposinf(values), "'{name}' is infinite")
    totals = np.zeros(len(values))
    if kind == "logits":
        refuse(~np.isfinite(values), "'{name}' is {value}, and a logit was expected")
        logits = values
    else:
        if kind == "probabilities":
            refuse((values < 0) | (values > 1 + ROUNDING), "'{name}' is {value:g}, and a probability lies from 0 to 1")
            with np.errstate(divide="ignore"):
                logits = np.log(values)
        else:
            remedy = "Or give --values logits"
            refuse(values > ROUNDING, "'{name}' is {value:g}, and a log-probability is at most 0", remedy)
            logits = values
        logits = np.nan_to_num(logits, nan=-np.inf, neginf=-np.inf)
        totals = np.exp(logits).sum(axis=1)
        _require_distributions(totals, kind == "probabilities" and ~np.isnan(values).any(axis=1))
        if floor is None:
            refuse(np.isneginf(logits), "'{name}' has no probability", FLOOR_REMEDY)
        else:
            logits = np.maximum(logits, np.log(floor))
    with np.errstate(over="ignore"):
        rounded = logits.astype(np.float32)
    refuse(~np.isfinite(rounded), "'{name}' is {value:g}, which is beyond float32")
    return rounded, totals


def _require_distributions(totals: np.ndarray, whole: np.ndarray | bool) -> None:
    """Refuse rows whose probabilities cannot be those of classes that exclude each other.

    Log-probabilities, and rows that leave a class out, may add up to less than 1: label tokens share the probability
    with all other tokens.

    Args:
        totals: what the probabilities of each row add up to.
        whole: which rows have the probability of every class.
    """
    wrong = (totals == 0) | (totals > 1 + ROUNDING) | (whole & (totals < 1 - ROUNDING))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        expected = "1" if np.broadcast_to(whole, wrong.shape)[row] else "more than 0 and at most 1"
        raise _BadRowError(
            row,
            f"its probabilities add up to {totals[row]:.3g}, and {expected} was expected",
            "Divide votes by their number; where several classes may be true at once, they are no soft labels",
        )
