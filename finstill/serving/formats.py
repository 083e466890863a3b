"""Which table a file or a stream of texts is, and what it is written to."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

from finstill.corpus.readers import BYTES_LOOKED_AT, KINDS, Form, Kind, kind_of
from finstill.errors import InputError
from finstill.serving.tables import CsvTable, JsonlTable, JsonTable, LinesTable, Table

FILES: dict[Kind, type[Table]] = {
    "delimited": CsvTable,
    "lines": LinesTable,
    "jsonl": JsonlTable,
    "json": JsonTable,
}

COMMAND_LINE = Form(settings="--")
"""A form of which nothing is told; messages name the command's options."""

STREAMED: dict[str, type[Table]] = {"csv": CsvTable, "tsv": CsvTable, "jsonl": JsonlTable}
"""What can be read from a stream, by the name that `--format` gives."""

OUTPUTS: dict[str, tuple[str, ...]] = {
    "delimited": (".csv", ".tsv", ".txt"),
    "lines": (".csv",),
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".jsonl", ".ndjson"),
    "parquet": (".parquet",),
}
"""Endings of the file that a table of each kind is written to."""


def table_kind(path: Path, given: str | None, form: Form) -> Kind:
    """Return what the file `path` holds, by its ending or by the format that was given.

    Raises:
        InputError: no reader knows it.
    """
    kind = {"csv": "delimited", "tsv": "delimited", None: kind_of(path.name)}.get(given, given)
    if kind is None:
        raise InputError(f"the file ends in none of {', '.join(KINDS)} ('{path.name}')", where=path)
    if kind == "lines" and (form.delimiter is not None or form.columns is not None):
        return "delimited"
    return cast(Kind, kind)


def open_table(path: Path | None, given: str | None, column: str, form: Form = COMMAND_LINE) -> Table:
    """Open the table in the file `path`, or in the standard input where that is None.

    Args:
        given: `csv`, `tsv`, `jsonl` or `parquet`; by default the file's ending tells.
        form: how it is written.

    Raises:
        InputError: the file does not exist, or is of no known kind; or it is Parquet and pyarrow is not installed.
    """
    if given == "tsv" and form.delimiter is None:
        form = replace(form, delimiter="\t")
    if path is None:
        if given not in STREAMED:
            raise InputError(
                "its format is not told" if given is None else "Parquet cannot be read from a stream",
                where="the standard input",
                remedy="Give --format csv, tsv or jsonl",
            )
        return STREAMED[given](sys.stdin.buffer, "the standard input", column, form)
    if not path.is_file():
        raise InputError("there is no such file", where=path)
    kind = table_kind(path, given, form)
    if kind == "parquet":
        try:
            from finstill.serving.parquet import ParquetTable
        except ModuleNotFoundError as error:
            raise InputError(
                f"Parquet is read by pyarrow, which cannot be imported ({error})",
                where=path,
                remedy="pip install 'finstill[pipeline]' (or pyarrow alone), or give CSV or JSONL",
            ) from error
        return ParquetTable(path.open("rb"), str(path), column, form)
    return FILES[kind](path.open("rb", buffering=BYTES_LOOKED_AT), str(path), column, form)
