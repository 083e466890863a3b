"""What became of the rows of a corpus, and of those that cannot be used."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finstill.config.profile import CorpusSource
from finstill.corpus.corrections import Corrected
from finstill.corpus.readers import Fault
from finstill.corpus.rows import Row
from finstill.corpus.sources import SourceReport
from finstill.errors import InputError
from finstill.files import whole_file

EXAMPLES_PER_REASON = 3
EXAMPLE_CHARACTERS = 120


@dataclass(frozen=True)
class BadRow:
    """A row that was set aside: its file, its number in it, why, and what it holds."""

    file: str
    row: int
    reason: str
    content: str


@dataclass
class CorpusReport:
    """What became of the rows.

    Attributes:
        read: rows in the source.
        kept: rows in the corpus.
        reasons: rows dropped, merged or set aside, by reason.
        cleaned: rows whose text was cleaned, by what was removed.
        examples: for each reason, the first few as (place, text).
        set_aside: rows that could not be used, where the profile sets such rows aside.
        source: what was understood of the source.
        corrected: what corrections changed.
    """

    read: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    cleaned: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    set_aside: list[BadRow] = field(default_factory=list)
    source: SourceReport = field(default_factory=SourceReport)
    corrected: Corrected = field(default_factory=Corrected)

    def count(self, reason: str, rows: int, examples: Iterable[tuple[str, str]]) -> None:
        """Count rows under a reason. Of their places and texts, no more are looked at than are shown."""
        if rows:
            self.reasons[reason] += rows
            self.show(reason, examples)

    def show(self, reason: str, examples: Iterable[tuple[str, str]]) -> None:
        shown = self.examples.setdefault(reason, [])
        for place, text in itertools.islice(examples, EXAMPLES_PER_REASON - len(shown)):
            shown.append((place, text[:EXAMPLE_CHARACTERS]))

    def add(self, other: CorpusReport) -> None:
        """Add what became of further rows."""
        self.read += other.read
        self.kept += other.kept
        self.reasons += other.reasons
        self.cleaned += other.cleaned
        for reason, examples in other.examples.items():
            self.show(reason, examples)
        self.set_aside += other.set_aside
        self.source.files += other.source.files
        self.source.empty += other.source.empty
        self.source.unknown += other.source.unknown
        self.source.reasons |= other.source.reasons

    def as_dict(self) -> dict[str, Any]:
        """Return this as values that JSON keeps, but the rows set aside, which `write_bad_rows` keeps, and what
        corrections changed: rows of a file have none yet."""
        others = {name: value for name, value in vars(self).items() if name not in ("corrected", "set_aside")}
        return {**others, "source": asdict(self.source)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CorpusReport:
        """Return what `as_dict` took apart."""
        return cls(
            values["read"],
            values["kept"],
            Counter(values["reasons"]),
            Counter(values["cleaned"]),
            {reason: [(place, text) for place, text in examples] for reason, examples in values["examples"].items()},
            # An older version of Finstill kept them here.
            [BadRow(**bad) for bad in values.get("set_aside", [])],
            SourceReport(**values["source"]),
        )


@dataclass(frozen=True)
class BadRows:
    """What becomes of a row that cannot be used.

    Attributes:
        stop: whether it stops the run; where not, it is set aside.
        at_most: share of the rows that may be set aside; more stop the run.
        section: the profile's section that says so.
    """

    stop: bool = True
    at_most: float = 1.0
    section: str = CorpusSource.section

    @classmethod
    def of(cls, source: CorpusSource) -> BadRows:
        return cls(source.on_bad_rows == "stop", source.bad_rows_at_most, source.section)

    def take(self, row: Row, fault: Fault, report: CorpusReport) -> None:
        """Set a row aside.

        Raises:
            InputError: it stops the run.
        """
        if self.stop:
            aside = f"Or write {self.section}.on_bad_rows: set_aside, to go on without such rows"
            remedy = f"{fault.remedy}. {aside}" if fault.remedy else f"Correct the row. {aside}"
            raise InputError(fault.reason, where=row.source, row=row.number, remedy=remedy)
        report.set_aside.append(BadRow(row.source, row.number, fault.reason, row.text or ""))
        report.count("set aside", 1, [(f"{row.source}, row {row.number}: {fault.reason}", row.text or "")])

    def finish(self, report: CorpusReport) -> None:
        """Stop where too many rows were set aside.

        Raises:
            InputError: names the first of them.
        """
        if len(report.set_aside) > self.at_most * report.read:
            first = "; ".join(
                f"{bad.file}, row {bad.row}: {bad.reason}" for bad in report.set_aside[:EXAMPLES_PER_REASON]
            )
            raise InputError(
                f"{len(report.set_aside):,} of {report.read:,} rows cannot be used, and the profile allows "
                f"{self.at_most:.1%} ({first})",
                where=f"{self.section}.bad_rows_at_most",
                remedy="Correct the rows, or allow more",
            )


def write_bad_rows(bad_rows: Sequence[BadRow], path: Path) -> None:
    """Write the rows that were set aside to `path` as JSONL, whole or not at all; remove it where there are none."""
    if not bad_rows:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for bad in bad_rows:
            file.write(json.dumps(asdict(bad), ensure_ascii=False) + "\n")


def read_bad_rows(path: Path) -> list[BadRow]:
    """Return the rows that `write_bad_rows` wrote to `path`, none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [BadRow(**json.loads(line)) for line in file]
