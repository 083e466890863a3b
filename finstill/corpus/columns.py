"""What the values of a source's columns say: texts, labels as the source calls them, dates, ids and splits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finstill.config.known import KNOWN
from finstill.config.profile import CorpusSource
from finstill.corpus.readers import Fault, text_fault
from finstill.corpus.rows import ROWS_SCHEMA, Row, writable
from finstill.corpus.text import unescaped

ROLES = ("text", "label", "date", "id", "split")

NO_LABEL_WORDS = {"", "nan", "null"}
"""What stands for no label in files, unless the task or `label_names` knows it."""


def array_of(values: Sequence[Any]) -> pa.Array | None:
    """Return Python values as an array, or None where they are of several types or Arrow cannot hold one."""
    kinds = set(map(type, values)) - {type(None)}
    if len(kinds) > 1 or not kinds <= {str, int, float, bool}:
        return None
    try:
        return pa.array(values, pa.string() if kinds <= {str} else None)
    except (UnicodeEncodeError, OverflowError, pa.ArrowInvalid):
        return None


def batch_of_columns(
    name: str,
    numbers: pa.Array,
    columns: Mapping[str, pa.Array | None],
    source: CorpusSource,
) -> pa.RecordBatch | None:
    """Return the rows of whole columns as `row_of` reads them one by one, or None where it has to.

    That is so where a column holds what is not valid UTF-8, or values of a type that needs a look at each.

    Args:
        name: of the file.
        numbers: of the rows.
        columns: the values by role; None stands for values that are no array.
    """
    read: dict[str, pa.Array] = {}
    for role, column in columns.items():
        plain = None if column is None else _plain(column)
        if plain is None or (role == "text" and not pa.types.is_string(plain.type)):
            return None
        read[role] = plain
    if source.unescape and pc.any(pc.match_substring(read["text"], "&")).as_py():
        return None
    faults = pa.nulls(len(numbers), pa.string())
    if "label" in read:
        distinct = read["label"].dictionary_encode()
        labels, reasons = _labels(distinct.dictionary.to_pylist(), source)
        read["label"], faults = labels.take(distinct.indices), reasons.take(distinct.indices)
    for role in ROLES[2:]:
        if role in read and not pa.types.is_string(read[role].type):
            read[role] = pa.array(
                [None if value is None else str(value) for value in read[role].to_pylist()], pa.string()
            )
    nothing = pa.nulls(len(numbers), pa.string())
    values = [read.get(role, nothing) for role in ROLES]
    arrays = [pa.repeat(name, len(numbers)), numbers.cast(pa.int64()), *values, faults, nothing]
    return pa.record_batch(arrays, ROWS_SCHEMA)


def _plain(column: pa.Array) -> pa.Array | None:
    """Return a column as text or as numbers and times, valid ones; None where it is neither."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            return None
        return column.cast(pa.string())
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return column if number or pa.types.is_date(kind) or pa.types.is_timestamp(kind) else None


def _labels(values: Iterable[Any], source: CorpusSource) -> tuple[pa.Array, pa.Array]:
    """Return the label for each distinct value, and why it is none that can be read."""
    labels: list[str | None] = []
    reasons: list[str | None] = []
    for value in values:
        try:
            labels.append(_label(value, source))
            reasons.append(None)
        except ValueError as error:
            labels.append(None)
            reasons.append(str(error))
    return pa.array(labels, pa.string()), pa.array(reasons, pa.string())


def row_of(
    name: str, number: int, values: Mapping[str, Any], source: CorpusSource, fault: Fault | None, content: Any
) -> Row:
    """Return the row with these values by role, each as text or None."""
    if fault is not None:
        held = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)
        return Row(name, number, writable(held), None, None, None, None, fault)
    for role in ROLES[1:]:
        value = values.get(role)
        if isinstance(value, str) and not value.isascii() and (half := text_fault(value)):
            reason = f"column '{getattr(source, role)}': {half.reason}"
            held = writable(str(values.get("text")))
            return Row(name, number, held, None, None, None, None, Fault(reason, half.remedy))
    text, label = values.get("text"), values.get("label")
    if text is not None and not isinstance(text, str):
        # A number that is not one is how pandas writes a missing text.
        if isinstance(text, float) and text != text:
            text = None
        else:
            wrong = Fault(f"column '{source.text}' holds {type(text).__name__}, text was expected")
            return Row(name, number, writable(str(text)), None, None, None, None, wrong)
    if text is not None:
        if wrong_text := text_fault(text) if not text.isascii() else None:
            return Row(name, number, writable(text), None, None, None, None, wrong_text)
        if source.unescape:
            text = unescaped(text)
    try:
        given = _label(label, source)
    except ValueError as error:
        return Row(name, number, text, None, None, None, None, Fault(str(error)))
    date, key, split = (None if (value := values.get(role)) is None else str(value) for role in ROLES[2:])
    return Row(name, number, text, given, date, key, split)


def _label(value: Any, source: CorpusSource) -> str | None:
    """Return the label of a row as the source calls it; None where it has none, or its targets disagree.

    Raises:
        ValueError: the label is no number where a score was expected, or cannot be read as the data set writes it.
    """
    known = KNOWN.get(source.known or "")
    if known is None or known.targets is None:
        return _scored(value, source)
    try:
        found = {_scored(each, source) for each in known.targets(value)} if value is not None else set()
    except (KeyError, TypeError, SyntaxError, AttributeError, ValueError) as error:
        raise ValueError(f"column '{source.label}' is not written as {source.known} writes it: {error}") from error
    return found.pop() if len(found) == 1 else None


def _scored(value: Any, source: CorpusSource) -> str | None:
    label = canonical_label(value)
    if label is None or source.thresholds is None or label.casefold() in _no_labels(source):
        return label
    try:
        score = float(label)
    except ValueError as error:
        raise ValueError(f"column '{source.label}' holds '{label}', a score was expected") from error
    low, high = source.thresholds
    return "negative" if score < low else "positive" if score > high else "neutral"


def _no_labels(source: CorpusSource) -> set[str]:
    """Return what stands for no label, folded."""
    return NO_LABEL_WORDS | {given.casefold() for given, name in source.label_names.items() if name is None}


def canonical_label(value: Any) -> str | None:
    """Return a label as text: whole numbers without a fraction, no space around, None for what is missing."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    label = str(value).strip()
    whole, point, fraction = label.partition(".")
    if point and whole.lstrip("-").isdigit() and not fraction.strip("0"):
        return "0" if whole == "-0" else whole
    return label or None
