"""`finstill score`: label a table of texts. Needs nothing but what the runtime does."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from finstill.corpus.readers import Form
from finstill.errors import InputError
from finstill.files import whole_file
from finstill.serving import StudentClassifier
from finstill.serving.package import SERVED
from finstill.serving.score import ScoringReport, TableScorer
from finstill.serving.tables import OUTPUTS, open_table, table_kind

STREAM = "-"


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status: 1 where it cannot be done, 130 where it was interrupted."""
    given = _parser().parse_args(arguments)
    try:
        started = time.monotonic()
        report = _run(given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has enough. Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
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


def _run(given: argparse.Namespace) -> ScoringReport:
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
    if source is not None and output is not None and output.exists() and source.samefile(output):
        raise InputError("input and output are the same file", where=output)
    student = StudentClassifier(given.package, precision=given.precision, threads=given.threads)
    scorer = TableScorer(
        student, prefix=given.prefix, explain=given.explain, refuse_long=given.long == "refuse", say=_say
    )
    table = open_table(source, given.format, given.text, form)
    rejects = _rejects(given)
    with table.raw:
        if output is None:
            return scorer.to_stream(table, sys.stdout.buffer, rejects)
        assert rejects is not None
        if source is not None:
            return scorer.to_file(table, source, output, rejects)
        with whole_file(output) as unfinished, unfinished.open("wb") as file:
            return scorer.to_stream(table, file, rejects)


def _rejects(given: argparse.Namespace) -> Path | None:
    """Return where rows that cannot be scored go; None where they are said on the standard error alone."""
    if given.rejects is not None:
        return Path(given.rejects)
    return None if given.output == STREAM else Path(f"{given.output}.rejects.jsonl")


def _say(line: str) -> None:
    print(f"finstill score: {line}", file=sys.stderr, flush=True)


def _character(value: str) -> str:
    if len(value) != 1:
        raise argparse.ArgumentTypeError(f"one character was expected, not '{value}'")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finstill score",
        description="Label the texts of a table with a packaged student. The output is the table with columns for the "
        "label, the probabilities, and the number of windows that a text was read in. Rows that cannot be scored go to "
        "a side file with the reason. What was cut off goes on when the same command is given again.",
    )
    parser.add_argument("package", help="the folder of a packaged student, as .finstill/embedded/champion/current")
    parser.add_argument(
        "input",
        help="a .csv, .tsv, .txt, .jsonl, .json or .parquet file (the text ones also as .gz or .zst), or - for the "
        "standard input",
    )
    parser.add_argument(
        "output",
        nargs="?",
        default=STREAM,
        help="a file of the same kind, not compressed; .jsonl for .json, .csv for a text a line; or - (the default)",
    )
    parser.add_argument("--text", default="text", metavar="COLUMN", help="the column with the text (text)")
    parser.add_argument(
        "--format", choices=["csv", "tsv", "jsonl", "parquet"], help="of the input, where no ending tells it"
    )
    parser.add_argument("--encoding", help="of a text input (UTF-8), as windows-1252")
    parser.add_argument(
        "--delimiter", metavar="CHARACTER", type=_character, help="between columns (a comma; a tab in .tsv)"
    )
    parser.add_argument("--columns", metavar="NAME,NAME", help="of an input without a header")
    parser.add_argument("--precision", choices=["int8", "float32"], default=SERVED, help="which graph answers (int8)")
    parser.add_argument("--threads", type=int, default=1, help="batches run at a time (1)")
    parser.add_argument(
        "--long",
        choices=["windows", "refuse"],
        default="windows",
        help="what becomes of a text longer than the student reads: scored by overlapping windows, or set aside",
    )
    parser.add_argument("--explain", action="store_true", help="add a column with each word's share of the attention")
    parser.add_argument("--prefix", default="", help="stands before the name of each new column")
    parser.add_argument("--rejects", metavar="FILE", help="of rows set aside, as JSONL (OUTPUT.rejects.jsonl)")
    return parser
