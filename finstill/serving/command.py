"""`finstill score`: label a table of texts. Needs nothing but what the runtime does."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from finstill.corpus.readers import Form
from finstill.errors import InputError
from finstill.files import whole_file
from finstill.serving import StudentClassifier
from finstill.serving.formats import OUTPUTS, open_table, table_kind
from finstill.serving.package import SERVED
from finstill.serving.score import ScoringReport, TableScorer

STREAM = "-"


def run(given: argparse.Namespace) -> int:
    """Score and say how it went; return the exit status: 1 where it cannot be done, 130 where it was interrupted.

    Raises:
        InputError: what was given cannot be used.
        BrokenPipeError: whoever read the output has enough.
    """
    started = time.monotonic()
    try:
        report = _score(given)
    except BrokenPipeError:
        raise
    except OSError as error:
        # A place that cannot be written to, or a full disk.
        print(f"error: {error.filename2 or error.filename or given.output}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = STREAM not in (given.input, given.output)
        _say("interrupted" + ("; the same command goes on from here" if kept else ""))
        return 130
    aside = f"; {report.set_aside:,} set aside" if report.set_aside else ""
    where = f" in {_rejects(given)}" if report.set_aside and _rejects(given) else ""
    _say(f"{report.scored:,} rows scored in {time.monotonic() - started:,.1f} s{aside}{where}")
    return 0


def _score(given: argparse.Namespace) -> ScoringReport:
    source = None if given.input == STREAM else Path(given.input)
    output = None if given.output == STREAM else Path(given.output)
    columns = tuple(name.strip() for name in given.columns.split(",")) if given.columns else None
    form = Form(given.encoding, given.delimiter, columns, settings="--")
    if source is not None and not source.is_file():
        raise InputError("there is no such file", where=source)
    kind = given.format or "" if source is None else table_kind(source, given.format, form)
    if output is None and kind == "parquet":
        raise InputError("Parquet cannot be written to a stream", where="the standard output", remedy="Name a file")
    endings = OUTPUTS.get({"csv": "delimited", "tsv": "delimited"}.get(kind, kind), ())
    if output is not None and endings and output.suffix.lower() not in endings:
        told = given.format or (source.suffix.lower().removeprefix(".") if source else kind)
        raise InputError(f"the input is {told}, and so is the output: name it *{endings[0]}", where=output)
    if output is not None and output.is_dir():
        raise InputError("it is a folder, and the output is a file", where=output)
    rejects = _rejects(given)
    _refuse_same("input and output", source, output)
    _refuse_same("input and rejects", source, rejects)
    _refuse_same("output and rejects", output, rejects)
    student = StudentClassifier(
        given.package,
        precision=given.precision or SERVED,
        threads=given.threads,
        # What is refused is set aside row by row.
        long_texts="windows" if given.long == "windows" else None,
        threshold=given.threshold,
        teacher=given.teacher,
    )
    scorer = TableScorer(
        student, prefix=given.prefix, explain=given.explain, refuse_long=given.long == "refuse", say=_say
    )
    table = open_table(source, given.format, given.text, form)
    with table.raw:
        if output is None:
            return scorer.to_stream(table, sys.stdout.buffer, rejects)
        assert rejects is not None
        if source is not None:
            return scorer.to_file(table, source, output, rejects)
        with whole_file(output) as unfinished, unfinished.open("wb") as file:
            return scorer.to_stream(table, file, rejects)


def _refuse_same(names: str, one: Path | None, other: Path | None) -> None:
    """Refuse to write `other` where it is `one`, by another name too; None is a stream.

    Raises:
        InputError: they are one file.
    """
    if one is None or other is None:
        return
    if one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other)):
        raise InputError(f"{names} are the same file", where=other)


def _rejects(given: argparse.Namespace) -> Path | None:
    """Return where rows that cannot be scored go; None where they are said on the standard error alone."""
    if given.rejects is not None:
        return Path(given.rejects)
    return None if given.output == STREAM else Path(f"{given.output}.rejects.jsonl")


def _say(line: str) -> None:
    print(f"finstill score: {line}", file=sys.stderr, flush=True)
