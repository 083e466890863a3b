"""Scoring a table of any length, a chunk of rows in memory at a time; what was cut off goes on where it was."""

from __future__ import annotations

import json
import os
import reprlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

import finstill
from finstill.errors import InputError
from finstill.files import read_json, whole_file, write_json
from finstill.progress import SECONDS_BETWEEN_LINES
from finstill.serving import Score, StudentClassifier
from finstill.serving.tables import Added, Chunk, Fault, Table

RUN_FILE = "run.json"


@dataclass(frozen=True)
class ScoringReport:
    """Counts of a scoring: rows scored, and rows that could not be."""

    scored: int
    set_aside: int


class TableScorer:
    """A student and how its answers are written.

    Args:
        prefix: stands before the name of each new column.
        explain: also write the attention over words.
        refuse_long: set rows aside whose text is longer than the student reads at once.
        say: is given a line for people.
    """

    def __init__(
        self,
        student: StudentClassifier,
        *,
        prefix: str = "",
        explain: bool = False,
        refuse_long: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ):
        self._student, self._prefix, self._explain, self._refuse_long = student, prefix, explain, refuse_long
        self._say = say

    @property
    def columns(self) -> list[str]:
        """The names of the new columns."""
        labels = dict.fromkeys(self._student.package.labels, 0.0)
        calibrated = None if self._student.package.temperature is None else labels
        decision = None if self._student.package.decision is None else False
        ask = None if self._student.package.deferral is None else False
        return list(self._added(Score("", labels, calibrated, 1, () if self._explain else None, decision, ask)))

    def to_file(self, table: Table, source: Path, output: Path, rejects: Path) -> ScoringReport:
        """Score `table`, read from the file `source`, into the file `output`, which appears whole.

        Each chunk is kept beside `output` until all are there. The same call goes on after the last chunk that one
        before it left, where input, package and settings are the same.

        Args:
            rejects: where rows go that cannot be scored, as JSONL: row, reason, content.

        Raises:
            InputError: another run writes to `output`, or the system is not a POSIX one; or the table cannot be
                scored, see `Table.chunks` and `Table.head`.
        """
        with _only_run(output):
            return self._to_file(table, source, output, rejects)

    def _to_file(self, table: Table, source: Path, output: Path, rejects: Path) -> ScoringReport:
        parts = _parts(output)
        self._prepare(parts, source, table)
        done: list[Path] = []
        counts = ScoringReport(0, 0)
        advance = self._progress(table)
        for i, chunk in enumerate(table.chunks()):
            if i == 0:
                table.head(self.columns)
            part, faulty = parts / f"{i:08}.rows", parts / f"{i:08}.rejects"
            resumed = part.is_file() and faulty.is_file()
            if not resumed:
                added, faults = self._score(chunk)
                _write(faulty, b"".join(_line(fault) for fault in faults))
                _write(part, table.encode(chunk, added))
            done.append(part)
            set_aside = faulty.read_bytes().count(b"\n")
            scored = len(chunk.texts) - set_aside
            counts = ScoringReport(counts.scored + scored, counts.set_aside + set_aside)
            advance(len(chunk.texts), resumed)
        with whole_file(output) as unfinished:
            table.join(done, self.columns, unfinished)
        if counts.set_aside:
            with whole_file(rejects) as unfinished, unfinished.open("wb") as file:
                for part in done:
                    file.write(part.with_suffix(".rejects").read_bytes())
        else:
            rejects.unlink(missing_ok=True)
        shutil.rmtree(parts)
        return counts

    def to_stream(self, table: Table, output: BinaryIO, rejects: Path | None) -> ScoringReport:
        """Score `table` and write it to `output` as it goes.

        Args:
            rejects: as for `to_file`; where it is None, each row set aside is said.
        """
        counts = ScoringReport(0, 0)
        advance = self._progress(table)
        with nullcontext() if rejects is None else rejects.open("wb") as side:
            chunks = table.chunks()
            chunk = next(chunks, None)
            output.write(table.head(self.columns))
            while chunk is not None:
                added, faults = self._score(chunk)
                output.write(table.encode(chunk, added))
                output.flush()
                for fault in faults:
                    if side is None:
                        self._say(f"row {fault.row}: {fault.reason}")
                    else:
                        side.write(_line(fault))
                counts = replace(
                    counts,
                    scored=counts.scored + len(chunk.texts) - len(faults),
                    set_aside=counts.set_aside + len(faults),
                )
                advance(len(chunk.texts), False)
                chunk = next(chunks, None)
        return counts

    def _score(self, chunk: Chunk) -> tuple[list[Added | None], list[Fault]]:
        """Return what is added to each row, None where it is set aside, and the rows that are."""
        faults = list(chunk.faults)
        if self._student.package.unescape:
            faults += self._empty(chunk)
        if self._refuse_long:
            faults += self._too_long(chunk)
        # In the order of the rows, whatever each was set aside for.
        faults.sort(key=lambda fault: fault.row)
        scores = self._student.score((text for text in chunk.texts if text is not None), explain=self._explain)
        return [None if text is None else self._added(next(scores)) for text in chunk.texts], faults

    def _empty(self, chunk: Chunk) -> Iterator[Fault]:
        """Set texts aside that are empty without their HTML entities, as `&nbsp;`; the table has set others aside."""
        for i, text in enumerate(chunk.texts):
            if text is not None and not self._student.read(text):
                chunk.texts[i] = None
                yield Fault(chunk.first_row + i, "the text is empty", {"text": text})

    def _too_long(self, chunk: Chunk) -> Iterator[Fault]:
        limit = self._student.package.max_length
        for i, text in enumerate(chunk.texts):
            if text is not None and (tokens := self._student.tokens(text)) > limit:
                chunk.texts[i] = None
                reason = f"the text has {tokens:,} tokens, and the student reads {limit}"
                yield Fault(chunk.first_row + i, reason, {"text": text})

    def _added(self, score: Score) -> dict[str, Any]:
        values: dict[str, Any] = {"label": score.label}
        if score.decision is not None:
            values["decision"] = score.decision
        if score.ask is not None:
            values["ask"] = score.ask
        values |= {f"probability_{label}": value for label, value in score.probabilities.items()}
        if score.calibrated is not None:
            values |= {f"calibrated_{label}": value for label, value in score.calibrated.items()}
        values["windows"] = score.windows
        if score.attention is not None:
            values["attention"] = [{"word": word, "weight": weight} for word, weight in score.attention]
        return {self._prefix + name: value for name, value in values.items()}

    def _prepare(self, parts: Path, source: Path, table: Table) -> None:
        """Make the folder of the chunks; what another input, package or setting left in it goes."""
        status = source.stat()
        run = {
            "input": [str(source.resolve()), status.st_size, status.st_mtime_ns],
            "package": self._student.package.digest,
            "graph": self._student.precision,
            "threshold": self._student.threshold,
            "asks": self._student.asks,
            "kind": type(table).__name__,
            "form": repr(table.form),
            "text": table.column,
            "columns": self.columns,
            "refuse_long": self._refuse_long,
            "long": self._student.long,
            "version": finstill.__version__,
        }
        if (parts / RUN_FILE).is_file():
            if read_json(parts / RUN_FILE) == run:
                self._say("goes on where it was cut off")
                return
            self._say("input, package or settings changed since it was cut off: it starts anew")
        shutil.rmtree(parts, ignore_errors=True)
        write_json(parts / RUN_FILE, run)

    def _progress(self, table: Table) -> Callable[[int, bool], None]:
        started = last = time.monotonic()
        rows = scored = 0

        def advance(count: int, resumed: bool) -> None:
            nonlocal rows, scored, last
            rows += count
            scored += 0 if resumed else count
            now = time.monotonic()
            if now - last < SECONDS_BETWEEN_LINES:
                return
            last = now
            share = table.share_read()
            read = "" if share is None else f", {share:.0%} read"
            self._say(f"{rows:,} rows, {scored / (now - started):,.0f} a second{read}")

        return advance


def _parts(output: Path) -> Path:
    """Return the folder of the chunks of `output`."""
    return output.with_name(f"{output.name}.unfinished")


@contextmanager
def _only_run(output: Path) -> Iterator[None]:
    """Keep other runs from `output` and its chunks, by a lock beside it that the system gives up with the process.

    Raises:
        InputError: another run has the lock; or the system has no such locks.
    """
    try:
        import fcntl  # Windows lacks it; streams are scored there too.
    except ModuleNotFoundError as error:
        raise InputError(
            "scores are written to files on POSIX systems alone", where=output, remedy="Write to the standard output"
        ) from error
    path = output.with_name(f"{_parts(output).name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    "another run of finstill score writes there",
                    where=output,
                    remedy="Wait until it has ended, or name another output",
                ) from error
            # Whoever had it may have removed it after it was opened here: then no other run would meet this lock.
            if not _names(path, lock):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _names(path: Path, file: IO[str]) -> bool:
    """Return whether `path` is the name of the open `file`, and not of another one or of none."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _line(fault: Fault) -> bytes:
    values = {"row": fault.row, "reason": fault.reason, "content": fault.content}
    try:
        line = json.dumps(values, ensure_ascii=False, default=str)
    except RecursionError:
        # Nested too deeply to be written.
        line = json.dumps({**values, "content": reprlib.repr(fault.content)}, ensure_ascii=False)
    return f"{line}\n".encode(errors="replace")


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content)
