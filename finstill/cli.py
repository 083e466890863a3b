"""The command `finstill`: what people do from a terminal with texts, a cache of soft labels and a student.

Each command imports what it needs when it runs: the base installation has nothing but what `score` needs.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finstill.errors import InputError
from finstill.progress import progress_to

if TYPE_CHECKING:
    from finstill.cache.cache import SoftLabelCache


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 1 where it cannot be done, 130 where it was interrupted."""
    given = _parser().parse_args(arguments)
    try:
        status = given.run(given) or 0
        # A reader that has enough is met here, not by Python when it closes the stream.
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        remedy = "Here `finstill score` works alone; for everything else: pip install 'finstill[pipeline]'"
        print(f"error: {error}. {remedy}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has enough. Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # Scores that nobody reads are no loss; what another command had yet to do may be one.
        return 0 if given.run is score else 1
    except KeyboardInterrupt:
        return 130
    return status


def score(given: argparse.Namespace) -> int:
    """Label the texts of a table with a packaged student.

    The output is the table with columns for the label, the decision and whether to ask the teacher where the package
    says so, the probabilities, and the number of windows that a text was read in. Rows that cannot be scored go to a
    side file with the reason. What was cut off goes on when the same command is given again.
    """
    from finstill.serving.command import run

    return run(given)


def new(given: argparse.Namespace) -> None:
    """Write a profile and a file of recipes for your own texts; comments say where something was guessed."""
    from finstill.preflight.new import write_new_profile

    written, recipes = write_new_profile(given.files, given.teacher, given.profile)
    print(f"{written} and {recipes} are written:\n")
    print(written.read_text(encoding="utf-8"))
    print(f"Next: finstill check {written}, then make demo PROFILE={written}")


def check(given: argparse.Namespace) -> int:
    """Tell what a run of a profile would do, before anything is spent; exit with 1 where a run would stop."""
    from rich.console import Console
    from rich.markup import escape

    from finstill.files import write_json
    from finstill.preflight.check import check_profile
    from finstill.preflight.terminal import print_report

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    handler = logging.Handler()
    with console.status("reading") as status, progress_to(handler):
        handler.emit = lambda record: status.update(escape(record.getMessage()))  # type: ignore[method-assign]
        report = check_profile(given.profile, given.home, given.cache or str(given.home / "cache"))
    print_report(report, console)
    if given.json is not None:
        write_json(given.json, report.to_json())
    return int(report.stops)


def ls(given: argparse.Namespace) -> None:
    """List the teachers in the cache and what each has labelled."""
    from rich.console import Console
    from rich.table import Table

    from finstill.cache.cache import SoftLabelCache, teachers
    from finstill.cache.upkeep import summarise

    table = Table("teacher", "source", "labels", "rows", "parts", "MiB", "last written")
    for fingerprint in teachers(given.root):
        cache = SoftLabelCache.open(given.root, fingerprint)
        summary, about = summarise(cache), cache.description().get("about", {})
        table.add_row(
            fingerprint[:12],
            about.get("source") or about.get("imported", ""),
            ", ".join(summary.labels),
            f"{summary.rows:,}",
            f"{summary.parts:,}",
            f"{summary.bytes / 2**20:,.1f}",
            f"{summary.last_written:%Y-%m-%d %H:%M} UTC" if summary.last_written else "never",
        )
    Console().print(table)


def stats(given: argparse.Namespace) -> None:
    """Show what one teacher has labelled: rows, duplicates, parts and the lengths of its texts."""
    from rich.console import Console
    from rich.table import Table

    from finstill.cache.upkeep import statistics, summarise

    cache = _open(given)
    summary, counts = summarise(cache), statistics(cache)
    table = Table("", "", show_header=False)
    table.add_row("teacher", cache.fingerprint)
    for name, value in cache.description().get("about", {}).items():
        table.add_row(name, value)
    table.add_row("labels", ", ".join(cache.labels))
    table.add_row("rows", f"{counts.rows:,}")
    table.add_row("duplicates", f"{counts.duplicates:,}")
    table.add_row("parts", f"{summary.parts:,}")
    table.add_row("bytes", f"{summary.bytes:,}")
    table.add_row("truncated", f"{counts.truncated:,}")
    for probability, count in counts.tokens.items():
        table.add_row(f"tokens, {probability:.0%} at most", f"{count:,.0f}")
    Console().print(table)


def verify(given: argparse.Namespace) -> int:
    """Read every byte of every part; exit with 1 where a damaged one is left."""
    from finstill.cache import upkeep
    from finstill.cache.cache import SoftLabelCache

    damaged = 0
    for fingerprint in _matching(given):
        cache = SoftLabelCache.open(given.root, fingerprint)
        for error in upkeep.verify(cache):
            damaged += 1
            print(f"{error.place}: {error.problem}")
            if given.quarantine:
                moved = upkeep.quarantine(cache, error.part)
                print(f"  moved to {moved}; the next run labels its texts again, or import them again")
    print(f"{damaged:,} damaged parts" if damaged else "all parts are sound")
    return int(damaged > 0 and not given.quarantine)


def compact(given: argparse.Namespace) -> None:
    """Merge small parts into few large ones and drop repeated rows. Labelling may go on meanwhile."""
    from finstill.cache import upkeep
    from finstill.cache.cache import SoftLabelCache

    for fingerprint in _matching(given):
        report = upkeep.compact(SoftLabelCache.open(given.root, fingerprint))
        print(
            f"{fingerprint[:12]}: {report.merged:,} parts became {report.written:,}, "
            f"{report.duplicates:,} repeated rows dropped"
        )


def prune(given: argparse.Namespace) -> int:
    """Remove all that one teacher has labelled, for good."""
    from finstill.cache import upkeep

    cache = _open(given)
    rows = upkeep.summarise(cache).rows
    imported = "imported" in cache.description().get("about", {})
    again = "They must be imported again" if imported else "The teacher must label them again"
    question = f"Remove {rows:,} rows in {cache.where}? {again}"
    if not given.yes and not _confirmed(question):
        print("Aborted.", file=sys.stderr)
        return 1
    upkeep.prune(cache)
    print(f"removed {rows:,} rows")
    return 0


def export(given: argparse.Namespace) -> None:
    """Write one teacher's rows to a file, each text once: key in hexadecimal and a column of logits for each label.

    `finstill cache import --key key --values logits` reads it back.
    """
    from finstill.cache import upkeep

    print(f"{upkeep.export(_open(given), given.path):,} rows written to {given.path}")


def import_(given: argparse.Namespace) -> None:
    """Take soft labels that were made elsewhere into the cache, as those of a teacher that a profile can name.

    The table has a row a text and a column a class, named after it. Every row is checked before anything is written.
    """
    from finstill.cache.imported import Declaration, import_soft_labels
    from finstill.cache.soft_labels import read_soft_labels
    from finstill.corpus.readers import Form
    from finstill.files import digest

    if given.settings is not None and not given.settings.is_file():
        raise InputError("there is no such file", where=given.settings)
    declared = Declaration(
        given.teacher,
        given.classes,
        "" if given.settings is None else digest(given.settings),
        "" if given.floor is None else f"{given.floor:g}",
    )
    form = Form(given.encoding, given.delimiter, given.columns, settings="--")
    table = read_soft_labels(
        given.table, given.classes, given.values, form, text=given.text, key=given.key, floor=given.floor
    )
    report = import_soft_labels(given.root, declared, table)
    print(
        f"{report.rows:,} rows read: {report.written:,} texts are new, {report.known:,} were in the cache and "
        f"{report.repeated:,} rows repeat another"
    )
    if table.covered is not None:
        print(f"the classes have {table.covered:.1%} of the probability on average")
    print(f"teacher {given.teacher}: fingerprint {report.fingerprint}")


def _matching(given: argparse.Namespace) -> list[str]:
    """Return the fingerprints in `given.root` that start with `given.teacher`.

    Raises:
        InputError: there are none.
    """
    from finstill.cache.cache import teachers

    known = teachers(given.root)
    if matching := [fingerprint for fingerprint in known if fingerprint.startswith(given.teacher)]:
        return matching
    there = ", ".join(fingerprint[:12] for fingerprint in known)
    raise InputError(
        f"no teacher's fingerprint starts with '{given.teacher}'; there are {there}"
        if known
        else "no teacher is cached here",
        where="--root",
    )


def _open(given: argparse.Namespace) -> SoftLabelCache:
    from finstill.cache.cache import SoftLabelCache

    matching = _matching(given)
    if len(matching) > 1:
        raise InputError(f"'{given.teacher}' begins {len(matching)} fingerprints: {', '.join(matching)}")
    return SoftLabelCache.open(given.root, matching[0])


def _confirmed(question: str) -> bool:
    try:
        return input(f"{question} [y/N]: ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _character(value: str) -> str:
    if len(value) != 1:
        raise argparse.ArgumentTypeError(f"one character was expected, not '{value}'")
    return value


def _names(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"different names with commas between them were expected, not '{value}'")
    return names


def _classes(value: str) -> tuple[str, ...]:
    if len(names := _names(value)) < 2:
        raise argparse.ArgumentTypeError(f"two classes at least were expected, not '{value}'")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finstill", description="Finstill: small students of an expensive financial teacher."
    )
    commands = _commands(parser)

    command = _add(commands, score)
    command.add_argument("package", help="the folder of a packaged student, as .finstill/embedded/champion/current")
    command.add_argument(
        "input",
        help="a .csv, .tsv, .txt, .jsonl, .json or .parquet file (the text ones also as .gz or .zst), or - for the "
        "standard input",
    )
    command.add_argument(
        "output",
        nargs="?",
        default="-",
        help="a file of the same kind, not compressed; .jsonl for .json, .csv for a text a line; or - (the default)",
    )
    command.add_argument("--text", default="text", metavar="COLUMN", help="the column with the text (text)")
    command.add_argument(
        "--format", choices=["csv", "tsv", "jsonl", "parquet"], help="of the input, where no ending tells it"
    )
    command.add_argument("--encoding", help="of a text input (UTF-8), as windows-1252")
    command.add_argument(
        "--delimiter", metavar="CHARACTER", type=_character, help="between columns (a comma; a tab in .tsv)"
    )
    command.add_argument("--columns", metavar="NAME,NAME", help="of an input without a header")
    command.add_argument("--precision", choices=["int8", "float32"], help="which graph answers (int8)")
    command.add_argument("--threads", type=int, default=1, help="batches run at a time (1)")
    command.add_argument(
        "--long",
        choices=["windows", "refuse"],
        help="what becomes of a text longer than the student reads: scored by overlapping windows, or set aside; by "
        "default it is read as in training",
    )
    command.add_argument(
        "--threshold",
        type=float,
        metavar="PROBABILITY",
        help="the calibrated probability from which a text is decided to have the label that the package decides "
        "about, in place of the package's own threshold",
    )
    command.add_argument(
        "--teacher",
        metavar="FOLDER",
        help="the exported teacher, as .finstill/embedded/teacher/onnx, which answers the texts marked in `ask`",
    )
    command.add_argument("--explain", action="store_true", help="add a column with each word's share of the attention")
    command.add_argument("--prefix", default="", help="stands before the name of each new column")
    command.add_argument("--rejects", metavar="FILE", help="of rows set aside, as JSONL (OUTPUT.rejects.jsonl)")

    command = _add(commands, new)
    command.add_argument("files", type=Path, nargs="+", help="Files of texts, one folder or one zip of them.")
    command.add_argument(
        "--teacher",
        default="ProsusAI/finbert",
        help="A Hugging Face model, or a checkpoint's folder (ProsusAI/finbert).",
    )
    command.add_argument("--profile", type=Path, help="The file to write; by default named after the data.")

    command = _add(commands, check)
    command.add_argument("profile", type=Path, help="The profile's YAML file.")
    command.add_argument("--json", type=Path, metavar="FILE", help="Also write the report to this file as JSON.")
    command.add_argument(
        "--home",
        type=Path,
        default=os.environ.get("FINSTILL_HOME") or ".finstill",
        help="The folder of all artefacts (FINSTILL_HOME, or .finstill).",
    )
    command.add_argument(
        "--cache",
        default=os.environ.get("FINSTILL_CACHE"),
        help="The cache of logits (FINSTILL_CACHE, or `cache` in the home).",
    )

    about = "Look after the cache of a teacher's logits."
    commands = _commands(commands.add_parser("cache", help=about, description=about))
    root = argparse.ArgumentParser(add_help=False)
    root.add_argument(
        "--root",
        default=os.environ.get("FINSTILL_CACHE") or ".finstill/cache",
        help="The cache: a folder, or a URL such as s3://bucket/prefix (FINSTILL_CACHE, or .finstill/cache).",
    )
    one = argparse.ArgumentParser(add_help=False, parents=[root])
    one.add_argument("teacher", help="The teacher's fingerprint, or the beginning of it.")
    several = argparse.ArgumentParser(add_help=False, parents=[root])
    several.add_argument(
        "teacher", nargs="?", default="", help="The fingerprint, or the beginning of it; by default every teacher."
    )
    _add(commands, ls, root)
    _add(commands, stats, one)
    _add(commands, verify, several).add_argument("--quarantine", action="store_true", help="Set damaged parts aside.")
    _add(commands, compact, several)
    _add(commands, prune, one).add_argument("--yes", action="store_true", help="Do not ask.")
    _add(commands, export, one).add_argument("path", type=Path, help="The file to write: .parquet or .csv.")
    command = _add(commands, import_, root)
    command.add_argument("table", type=Path, help="A .parquet, .jsonl, .json, .csv or .tsv file.")
    command.add_argument(
        "--teacher", required=True, metavar="NAME", help="The teacher's name, with its version: votes@2026-11."
    )
    command.add_argument(
        "--classes", required=True, type=_classes, metavar="NAME,NAME", help="The classes, and so their columns."
    )
    command.add_argument(
        "--values", required=True, choices=["probabilities", "log-probabilities", "logits"], help="What they hold."
    )
    command.add_argument("--text", default="text", metavar="COLUMN", help="The column with the text (text).")
    command.add_argument("--key", metavar="COLUMN", help="The column with the text's key, for a table without texts.")
    command.add_argument(
        "--floor", type=float, metavar="PROBABILITY", help="Of a class that a row leaves out or gives 0; no default."
    )
    command.add_argument("--settings", type=Path, metavar="FILE", help="What the teacher was asked with, as a prompt.")
    command.add_argument("--encoding", help="Of a text file (UTF-8), as windows-1252.")
    command.add_argument(
        "--delimiter", metavar="CHARACTER", type=_character, help="Between columns (a comma; a tab in .tsv)."
    )
    command.add_argument("--columns", metavar="NAME,NAME", type=_names, help="Of a file without a header.")
    return parser


def _commands(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """Give `parser` commands; where none follows, it prints its help and the exit status is that of a usage error."""

    def show_help(_: argparse.Namespace) -> int:
        parser.print_help()
        return 2

    parser.set_defaults(run=show_help)
    return parser.add_subparsers(title="commands", metavar="COMMAND")


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], int | None],
    *parents: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add the command that `run` runs, with its name, a keyword's underscore left out; its docstring is the help."""
    about = run.__doc__ or ""
    summary = about.partition("\n\n")[0]
    command = commands.add_parser(run.__name__.rstrip("_"), help=summary, description=about, parents=parents)
    command.set_defaults(run=run)
    return command
