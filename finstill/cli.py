"""The command `finstill`: what people do from a terminal with a cache of soft labels and with a student."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from finstill.cache import upkeep
from finstill.cache.cache import SoftLabelCache, teachers
from finstill.errors import InputError
from finstill.progress import progress_to


class _Group(TyperGroup):
    """Commands whose `InputError` is a message and an exit status, not a traceback."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except InputError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(cls=_Group, no_args_is_help=True, help="Finstill: small students of an expensive financial teacher.")
cache_app = typer.Typer(no_args_is_help=True, help="Look after the cache of a teacher's logits.")
app.add_typer(cache_app, name="cache")

DEFAULT_ROOT = ".finstill/cache"
DEFAULT_HOME = Path(".finstill")

Root = Annotated[
    str, typer.Option(envvar="FINSTILL_CACHE", help="The cache: a folder, or a URL such as s3://bucket/prefix.")
]
Teacher = Annotated[str, typer.Argument(help="The teacher's fingerprint, or the beginning of it.")]
AnyTeacher = Annotated[str, typer.Argument(help="The fingerprint, or the beginning of it; by default every teacher.")]


@app.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
def score(arguments: Annotated[list[str], typer.Argument()]) -> None:
    """Label the texts of a table with a packaged student; `finstill score --help` says how."""
    from finstill.serving import command

    raise typer.Exit(command.main(arguments))


@app.command()
def new(
    files: Annotated[list[Path], typer.Argument(help="Files of texts, or one folder or zip of them.")],
    teacher: Annotated[str, typer.Option(help="A Hugging Face model, or a checkpoint's folder.")] = "ProsusAI/finbert",
    profile: Annotated[Path | None, typer.Option(help="The file to write; by default named after the data.")] = None,
) -> None:
    """Write a profile and a file of recipes for your own texts; comments say where something was guessed."""
    from finstill.preflight.new import write_new_profile

    written, recipes = write_new_profile(files, teacher, profile)
    typer.echo(f"{written} and {recipes} are written:\n")
    typer.echo(written.read_text(encoding="utf-8"))
    typer.echo(f"Next: finstill check {written}, then make demo PROFILE={written}")


@app.command()
def check(
    profile: Annotated[Path, typer.Argument(help="The profile's YAML file.")],
    json: Annotated[Path | None, typer.Option(help="Also write the report to this file as JSON.")] = None,
    home: Annotated[Path, typer.Option(envvar="FINSTILL_HOME", help="The folder of all artefacts.")] = DEFAULT_HOME,
    cache: Annotated[
        str, typer.Option(envvar="FINSTILL_CACHE", help="The cache of logits; by default `cache` in the home.")
    ] = "",
) -> None:
    """Tell what a run of a profile would do, before anything is spent; exit with 1 where a run would stop."""
    from finstill.files import write_json
    from finstill.preflight.check import check_profile
    from finstill.preflight.terminal import print_report

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    handler = logging.Handler()
    with console.status("reading") as status, progress_to(handler):
        handler.emit = lambda record: status.update(escape(record.getMessage()))  # type: ignore[method-assign]
        report = check_profile(profile, home, cache or str(home / "cache"))
    print_report(report, console)
    if json is not None:
        write_json(json, report.to_json())
    if report.stops:
        raise typer.Exit(1)


@cache_app.command("ls")
def list_teachers(root: Root = DEFAULT_ROOT) -> None:
    """List the teachers in the cache and what each has labelled."""
    table = Table("teacher", "source", "labels", "rows", "parts", "MiB", "last written")
    for fingerprint in teachers(root):
        cache = SoftLabelCache.open(root, fingerprint)
        summary = upkeep.summarise(cache)
        table.add_row(
            fingerprint[:12],
            cache.description().get("about", {}).get("source", ""),
            ", ".join(summary.labels),
            f"{summary.rows:,}",
            f"{summary.parts:,}",
            f"{summary.bytes / 2**20:,.1f}",
            f"{summary.last_written:%Y-%m-%d %H:%M} UTC" if summary.last_written else "never",
        )
    Console().print(table)


@cache_app.command()
def stats(teacher: Teacher, root: Root = DEFAULT_ROOT) -> None:
    """Show what one teacher has labelled: rows, duplicates, parts and the lengths of its texts."""
    cache = _open(root, teacher)
    summary, statistics = upkeep.summarise(cache), upkeep.statistics(cache)
    table = Table("", "", show_header=False)
    table.add_row("teacher", cache.fingerprint)
    for name, value in cache.description().get("about", {}).items():
        table.add_row(name, value)
    table.add_row("labels", ", ".join(cache.labels))
    table.add_row("rows", f"{statistics.rows:,}")
    table.add_row("duplicates", f"{statistics.duplicates:,}")
    table.add_row("parts", f"{summary.parts:,}")
    table.add_row("bytes", f"{summary.bytes:,}")
    table.add_row("truncated", f"{statistics.truncated:,}")
    for probability, count in statistics.tokens.items():
        table.add_row(f"tokens, {probability:.0%} at most", f"{count:,.0f}")
    Console().print(table)


@cache_app.command()
def verify(
    root: Root = DEFAULT_ROOT,
    teacher: AnyTeacher = "",
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Set damaged parts aside.")] = False,
) -> None:
    """Read every byte of every part; exit with 1 where a damaged one is left."""
    damaged = 0
    for fingerprint in _matching(root, teacher):
        cache = SoftLabelCache.open(root, fingerprint)
        for error in upkeep.verify(cache):
            damaged += 1
            typer.echo(f"{error.place}: {error.problem}")
            if quarantine:
                typer.echo(f"  moved to {upkeep.quarantine(cache, error.part)}; its texts will be labelled again")
    typer.echo(f"{damaged:,} damaged parts" if damaged else "all parts are sound")
    if damaged and not quarantine:
        raise typer.Exit(1)


@cache_app.command()
def compact(root: Root = DEFAULT_ROOT, teacher: AnyTeacher = "") -> None:
    """Merge small parts into few large ones and drop repeated rows. Labelling may go on meanwhile."""
    for fingerprint in _matching(root, teacher):
        report = upkeep.compact(SoftLabelCache.open(root, fingerprint))
        typer.echo(
            f"{fingerprint[:12]}: {report.merged:,} parts became {report.written:,}, "
            f"{report.duplicates:,} repeated rows dropped"
        )


@cache_app.command()
def prune(
    teacher: Teacher,
    root: Root = DEFAULT_ROOT,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove all that one teacher has labelled, for good."""
    cache = _open(root, teacher)
    rows = upkeep.summarise(cache).rows
    if not yes:
        typer.confirm(f"Remove {rows:,} rows in {cache.where}? The teacher must label them again", abort=True)
    upkeep.prune(cache)
    typer.echo(f"removed {rows:,} rows")


@cache_app.command()
def export(
    teacher: Teacher,
    path: Annotated[Path, typer.Argument(help="The file to write: .parquet or .csv.")],
    root: Root = DEFAULT_ROOT,
) -> None:
    """Write one teacher's rows to a file, each text once: key in hexadecimal and a column for each label."""
    typer.echo(f"{upkeep.export(_open(root, teacher), path):,} rows written to {path}")


def _matching(root: str, beginning: str) -> list[str]:
    """Return the fingerprints in `root` that start so.

    Raises:
        InputError: there are none.
    """
    known = teachers(root)
    if matching := [fingerprint for fingerprint in known if fingerprint.startswith(beginning)]:
        return matching
    there = ", ".join(fingerprint[:12] for fingerprint in known)
    raise InputError(
        f"no teacher's fingerprint starts with '{beginning}'; there are {there}"
        if known
        else "no teacher is cached here",
        where="--root",
    )


def _open(root: str, beginning: str) -> SoftLabelCache:
    matching = _matching(root, beginning)
    if len(matching) > 1:
        raise InputError(f"'{beginning}' begins {len(matching)} fingerprints: {', '.join(matching)}")
    return SoftLabelCache.open(root, matching[0])
