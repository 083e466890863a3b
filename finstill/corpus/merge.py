"""Merging the rows of one text. DuckDB sorts them by key, on disk where they are many; each text's rows then stand
together and are folded a batch at a time, by arrays. A large part that is kept is sorted once, and not each night."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finstill.config.profile import SplitByDate
from finstill.corpus.ahead import ahead
from finstill.corpus.parts import PART_SCHEMA, REPORT_KEY, part_writer, place_of
from finstill.corpus.report import EXAMPLES_PER_REASON, CorpusReport
from finstill.corpus.splits import SPLITS, day_of, split_numbers
from finstill.corpus.text import KEY_BYTES
from finstill.files import TEMPORARY_PREFIX, whole_file

CORPUS_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(KEY_BYTES), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("date", pa.string()),
        pa.field("id", pa.string()),
    ]
)

PLACED_SCHEMA = pa.schema([*PART_SCHEMA, pa.field("position", pa.int64(), nullable=False)])
"""Rows with their position among all that were read."""

SORTED_KEY = b"sorted"
"""In the metadata of a part whose rows are sorted by key, and by their number in the file that they are of."""

RUNS_MERGED = 64
"""So many parts are read side by side; of more, the engine sorts all rows."""

SORT_MEMORY = "1GB"
"""More rows than this holds are sorted on disk."""

ROWS_PER_BATCH = 1 << 15

ROWS_SORTED_BY_ARROW = 1 << 17
"""Fewer rows than the engine takes longer to start for."""

ROWS_OF_A_FILE = 1 << 40
"""More than a file has: positions are unique over all of them."""

ORDER = [("key", "ascending"), ("position", "ascending")]

BY_PRECEDENCE = pa.array(reversed(SPLITS))
"""A text that two splits claim goes to the one that must not leak into the others."""

TRAIN = len(BY_PRECEDENCE) - 1

NO_SPLIT = len(BY_PRECEDENCE)

NO_DAY = np.iinfo(np.int64).max


def keep_sorted(part: Path) -> None:
    """Sort the rows of one file's part in place where they are many, so that `sorted_rows` need not."""
    before = pq.read_metadata(part)
    if before.num_rows <= ROWS_SORTED_BY_ARROW or SORTED_KEY in before.metadata:
        return
    with (
        whole_file(part) as unfinished,
        TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=part.parent) as scratch,
        part_writer(unfinished, PART_SCHEMA) as writer,
    ):
        for table in ahead(_sorted_by_engine({0: part}, Path(scratch))):
            writer.write_table(table.select(PART_SCHEMA.names))
        writer.add_key_value_metadata({REPORT_KEY: before.metadata[REPORT_KEY], SORTED_KEY: "key, number"})


def sorted_rows(parts: Sequence[Path], scratch: Path) -> Iterator[pa.Table]:
    """Yield the rows of `parts`, sorted by key and then as they were read: `PLACED_SCHEMA`.

    Args:
        parts: Parquet files of `PART_SCHEMA`, in the order in which they count.
        scratch: where rows lie that do not fit into memory.
    """
    footers = [pq.read_metadata(part) for part in parts]
    already = [number for number, footer in enumerate(footers) if SORTED_KEY in footer.metadata]
    runs = already if len(already) <= RUNS_MERGED else []
    others = {number: part for number, part in enumerate(parts) if number not in runs}
    few = sum(footers[number].num_rows for number in others) <= ROWS_SORTED_BY_ARROW
    rest = _sorted_by_arrow(others) if few else _sorted_by_engine(others, scratch, already)
    yield from _merged([*(_read_sorted(parts[number], number) for number in runs), rest])


def _read_sorted(part: Path, number: int) -> Iterator[pa.Table]:
    with pq.ParquetFile(part) as file:
        for batch in file.iter_batches(ROWS_PER_BATCH):
            yield _placed(pa.table(batch), number, batch["number"])


def _sorted_by_arrow(parts: Mapping[int, Path]) -> Iterator[pa.Table]:
    read = ((number, pq.read_table(part)) for number, part in parts.items())
    placed = [_placed(rows, number, np.arange(len(rows))) for number, rows in read]
    yield pa.concat_tables([PLACED_SCHEMA.empty_table(), *placed]).sort_by(ORDER)


def _placed(rows: pa.Table, number: int, of_part: pa.Array | np.ndarray) -> pa.Table:
    """Return rows of the part of this number with their position, of which `of_part` is that in the part."""
    position = pc.add(of_part, number * ROWS_OF_A_FILE)
    return pa.table([*rows.columns, position], schema=PLACED_SCHEMA)


def _sorted_by_engine(parts: Mapping[int, Path], scratch: Path, already: Collection[int] = ()) -> Iterator[pa.Table]:
    import duckdb

    own = [number in already for number in parts]
    of_part = "CASE WHEN list_extract($sorted, file_index::BIGINT + 1) THEN number ELSE file_row_number END"
    position = f"list_extract($numbers::BIGINT[], file_index::BIGINT + 1) * {ROWS_OF_A_FILE} + {of_part} AS position"
    with duckdb.connect(config={"memory_limit": SORT_MEMORY, "temp_directory": str(scratch)}) as connection:
        found = connection.sql(
            f"SELECT {', '.join(PART_SCHEMA.names)}, {position} FROM read_parquet($parts) ORDER BY key, position",
            params={"parts": [str(part) for part in parts.values()], "numbers": list(parts), "sorted": own},
        )
        for batch in found.to_arrow_reader(ROWS_PER_BATCH):
            yield pa.table(batch).cast(PLACED_SCHEMA)


def _merged(runs: Iterable[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Yield the rows of sorted runs in one order."""
    # So that all rows of the last key of a table of each run are at hand.
    following = [_whole_groups(run) for run in runs]
    held = [(table, run) for run in following if (table := next(run, None)) is not None]
    while len(held) > 1:
        last = min(table["key"][-1].as_py() for table, _ in held)
        taken, left = [], []
        for table, run in held:
            count = rows_up_to(table["key"], last)
            taken.append(table[:count])
            rest = table[count:] if count < len(table) else next(run, None)
            left += [] if rest is None else [(rest, run)]
        taken = [rows for rows in taken if len(rows)]
        yield pa.concat_tables(taken).sort_by(ORDER) if len(taken) > 1 else taken[0]
        held = left
    for table, run in held:
        yield table
        yield from run


def rows_up_to(keys: pa.ChunkedArray, last: bytes) -> int:
    """Return how many of sorted keys lie up to one."""
    (high, low), (last_high, last_low) = key_halves(keys).T, divmod(int.from_bytes(last), 1 << 64)
    return int(((high < last_high) | ((high == last_high) & (low <= last_low))).sum())


def splits_to_cut(parts: Iterable[Path]) -> list[str]:
    """Return which of validation and test is to be cut from train, since no row of `parts` is in it.

    Many data sets come in two splits. Rows without a split fill each split by their keys. So nothing is cut where some
    of them have a label, or any are there and both splits are missing. Beside a data set in two splits, unlabelled rows
    that arrive later change nothing.

    Args:
        parts: Parquet files of `PART_SCHEMA`.
    """
    given: set[str] = set()
    labels = of_no_split = labels_of_no_split = False
    for part in parts:
        with pq.ParquetFile(part, read_dictionary=["split", "label"]) as file:
            for batch in file.iter_batches(columns=["split", "label"]):
                given.update(pc.unique(batch["split"].drop_null()).to_pylist())
                labels |= batch["label"].null_count < len(batch)
                of_no_split |= batch["split"].null_count > 0
                labelled = pc.and_(pc.is_null(batch["split"]), pc.is_valid(batch["label"]))
                labels_of_no_split |= labelled.true_count > 0
    missing = [split for split in ("validation", "test") if split not in given]
    filled = labels_of_no_split if labels and len(missing) == 1 else of_no_split
    return [] if filled else missing


def merge(
    rows: Iterable[pa.Table],
    report: CorpusReport,
    by_date: SplitByDate | None = None,
    corrected: Iterable[bytes] = (),
    cut: Collection[str] = (),
) -> Iterator[pa.Table]:
    """Yield each text once, `CORPUS_SCHEMA`, sorted by key.

    A text takes the first label, date and id that any of its rows gives; where two give different labels it is left
    out, since neither can be believed. A given split is honoured; where a text stands in two, test goes before
    validation and validation before train. Split by date, a text takes the earliest of its dates, so that no test text
    was known before; one without a date is train, and is counted.

    Args:
        rows: as `sorted_rows` yields them.
        report: is told of the rows that were merged and the texts that were left out.
        by_date: the days that divide the splits; None where keys or the rows themselves say the split.
        corrected: keys of the texts whose label a person says: these stay, whatever labels their rows give.
        cut: splits that take the texts given as train which their keys put there; the texts are counted.
    """
    events, believed = _Events(report), pa.array(list(corrected), pa.binary(KEY_BYTES))
    for table in _whole_groups(rows):
        yield _fold(table, events, by_date, believed, cut)
    events.show()


def _whole_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in tables that end where the rows of a text do."""
    held: pa.Table | None = None
    for table in filter(len, tables):
        table = table if held is None else pa.concat_tables([held, table])
        begins = np.flatnonzero(_begins(table["key"]))
        last = int(begins[-1])
        if last:
            yield table[:last]
        held = table[last:]
    if held is not None:
        yield held


def _begins(keys: pa.ChunkedArray) -> np.ndarray:
    """Return whether each of sorted keys is the first of its kind: bool, (rows,)."""
    halves = key_halves(keys)
    return np.concatenate([[True], (halves[1:] != halves[:-1]).any(axis=1)])


def key_halves(keys: pa.ChunkedArray) -> np.ndarray:
    """Return keys as two numbers each, of which the first counts most: uint64, (rows, 2)."""
    array = keys.combine_chunks()
    start = array.offset * KEY_BYTES
    content = array.buffers()[1][start : start + len(array) * KEY_BYTES]
    return np.frombuffer(content, ">u8").astype(np.uint64).reshape(-1, 2)


def _fold(
    rows: pa.Table, events: _Events, by_date: SplitByDate | None, believed: pa.Array, cut: Collection[str]
) -> pa.Table:
    begins = _begins(rows["key"])
    starts = np.flatnonzero(begins)
    group = np.cumsum(begins) - 1
    label = rows["label"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    labelled = _first(label >= 0, starts, group)
    held = np.where(labelled >= 0, label[labelled], -1)[group]
    against = _first((label >= 0) & (label != held), starts, group)
    given = pc.index_in(rows["split"], BY_PRECEDENCE).fill_null(NO_SPLIT).combine_chunks().to_numpy()
    split, conflicts = _splits(given, starts, group)
    own = len(SPLITS) - 1 - split_numbers(key_halves(rows["key"])[starts, 0])
    moved = (split == TRAIN) & np.isin(own, pc.index_in(pa.array(cut, pa.string()), BY_PRECEDENCE).to_numpy())
    split = np.where((split == NO_SPLIT) | moved, own, split)
    contradicted = against >= 0
    if len(believed):
        contradicted &= ~pc.is_in(rows["key"].take(pa.array(starts)), believed).to_numpy()
    place = partial(place_of, rows)
    events.add("duplicate merged", rows, np.flatnonzero(~begins), place)
    events.add("in two splits", rows, conflicts, place)
    for name in cut:
        now = moved & (split == BY_PRECEDENCE.index(name).as_py()) & ~contradicted
        events.add(f"cut from train for {name}, which no row is in", rows, starts[now], place)
    said = np.where(labelled >= 0, labelled, starts)
    events.add(
        "contradictory labels",
        rows,
        starts[contradicted],
        lambda i: f"{place(int(said[group[i]]))}, and {place(int(against[group[i]]))}",
    )
    columns = {name: rows[name].take(pa.array(starts)) for name in ("key", "text", "source")}
    columns["label"] = rows["label"].take(pa.array(labelled, mask=labelled < 0))
    ends = np.append(starts[1:], len(rows)) - 1
    for name in ("date", "id"):
        says = pc.fill_null(pc.not_equal(rows[name], ""), False).combine_chunks().to_numpy(zero_copy_only=False)
        if name == "date" and by_date is not None:
            days = _days(rows["date"])
            earliest = np.minimum.reduceat(days, starts) if len(starts) else days
            says = (days == earliest[group]) & (days != NO_DAY)
            split = _splits_by_day(earliest, by_date)
            events.add("no date, so in train", rows, starts[earliest == NO_DAY], place)
        first = _first(says, starts, group)
        columns[name] = rows[name].take(pa.array(np.where(first >= 0, first, ends)))
    columns["split"] = BY_PRECEDENCE.take(pa.array(split))
    table = pa.table({name: columns[name] for name in CORPUS_SCHEMA.names}, schema=CORPUS_SCHEMA)
    return table.filter(pa.array(~contradicted)) if contradicted.any() else table


def _first(wanted: np.ndarray, starts: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return for each group its first row that is wanted, or -1: int64, (groups,)."""
    found = np.full(len(starts), -1)
    rows = np.flatnonzero(wanted)
    groups, at = np.unique(group[rows], return_index=True)
    found[groups] = rows[at]
    return found


def _splits(given: np.ndarray, starts: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each group the split that goes before its others, and the rows that contradict one before them.

    Args:
        given: of each row, as its position among the splits, the one that goes first at 0; `NO_SPLIT` for none.
    """
    # No split of a later group is above one of an earlier group, so that the running minimum begins anew in each.
    above = group * (NO_SPLIT + 1)
    running = np.minimum.accumulate(given - above) + above
    before = np.concatenate([[NO_SPLIT], running[:-1]])
    before[starts] = NO_SPLIT
    conflicts = np.flatnonzero((given != NO_SPLIT) & (before != NO_SPLIT) & (given != before))
    return running[np.append(starts[1:], len(given)) - 1], conflicts


def _days(dates: pa.ChunkedArray) -> np.ndarray:
    """Return the day of each date, counted from the year 1, `NO_DAY` where there is none: int64, (rows,)."""
    distinct = dates.combine_chunks().dictionary_encode()
    days = [NO_DAY if (day := day_of(value)) is None else day.toordinal() for value in distinct.dictionary.to_pylist()]
    return np.array([*days, NO_DAY])[distinct.indices.fill_null(len(days)).to_numpy()]


def _splits_by_day(days: np.ndarray, by: SplitByDate) -> np.ndarray:
    """Return the position in `BY_PRECEDENCE` of each text's split; one without a day is train."""
    bounds = [by.validation_from.toordinal(), by.test_from.toordinal()]
    later = np.where(days == NO_DAY, 0, np.searchsorted(bounds, days, side="right"))
    return len(SPLITS) - 1 - later


class _Events:
    """Counts what became of rows that come in the order of keys; its examples are those that were read first."""

    def __init__(self, report: CorpusReport):
        self._report = report
        self._found: dict[str, list[tuple[int, str, str]]] = {}

    def add(self, reason: str, rows: pa.Table, at: np.ndarray, place: Callable[[int], str]) -> None:
        """Count the rows `at` these positions under a reason; `place` says how an example's place is called."""
        if not len(at):
            return
        self._report.count(reason, len(at), ())
        positions = rows["position"].take(pa.array(at)).to_numpy()
        first = np.argsort(positions)[:EXAMPLES_PER_REASON]
        new = [
            (position, place(i), rows["text"][i].as_py())
            for position, i in zip(positions[first].tolist(), at[first].tolist(), strict=True)
        ]
        self._found[reason] = sorted([*self._found.get(reason, []), *new])[:EXAMPLES_PER_REASON]

    def show(self) -> None:
        for reason, examples in self._found.items():
            self._report.show(reason, [(place, text) for _, place, text in examples])
