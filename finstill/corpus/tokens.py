"""Token ids of texts, each text in as many windows as it is read in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tokenizers import Encoding, Tokenizer

from finstill.corpus.ahead import ahead
from finstill.corpus.long_texts import Window, read_windows
from finstill.corpus.merge import rows_up_to
from finstill.corpus.provenance import LongTexts, TableProvenance, made_by
from finstill.corpus.text import KEY_BYTES, text_key
from finstill.corpus.tokenizer import unknown_id
from finstill.errors import InputError
from finstill.files import whole_file
from finstill.progress import progress_logger

TOKENS_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(KEY_BYTES), nullable=False),
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
    ]
)
"""What the teacher pass reads: a row for each text that is read at once."""

CORPUS_TOKENS_SCHEMA = pa.schema(
    [
        *TOKENS_SCHEMA,
        pa.field("text_key", pa.binary(KEY_BYTES), nullable=False),
        pa.field("size", pa.int32(), nullable=False),
        pa.field("window", pa.string()),
    ]
)
"""A row for each window of each text of a corpus, in the corpus's order: `key` is the window's own and `text_key` the
text's, `size` counts the tokens that are not special, and `window` is its text, null where a text is read whole."""

ENCODING: dict[str, Any] = {
    # A dictionary of keys or of token ids is longer than what it stands for, and given up after it was made.
    "use_dictionary": ["window"],
    "use_byte_stream_split": ["input_ids.list.element"],
    "write_statistics": False,
    "compression": "lz4",
}
"""Of a token table: half the time of pyarrow's own choice to write, a third to read, and as many bytes."""

ROWS_PER_CHUNK = 8192

EXAMPLES = 5
EXAMPLE_CHARACTERS = 160
NOTABLE_UNKNOWN_SHARE = 0.05

logger = logging.getLogger(__name__)


@dataclass
class TokensReport:
    """What tokenizing a corpus found.

    Attributes:
        rows: number of rows of the token table.
        texts: number of texts.
        tokens: number of tokens that are read, special ones included.
        truncated: number of texts of which only the beginning is read.
        long: number of texts that are read in several windows.
        windows: number of windows that these are read in.
        unknown: number of tokens that stand for what the tokenizer does not know.
        examples: the first texts with such tokens.
    """

    rows: int = 0
    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    long: int = 0
    windows: int = 0
    unknown: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that stand for what the tokenizer does not know."""
        return self.unknown / max(self.tokens, 1)

    @property
    def cut_share(self) -> float:
        """Share of the texts of which only the beginning is read."""
        return self.truncated / max(self.texts, 1)


def tokenize(keys: pa.Array, texts: list[str], tokenizer: Tokenizer) -> pa.Table:
    """Return `TOKENS_SCHEMA` rows for `texts`, in their order; longer ones are cut where the tokenizer is set to."""
    return _table(keys, tokenizer.encode_batch(texts))


def _table(keys: pa.Array, encodings: list[Encoding]) -> pa.Table:
    columns = {
        "key": keys,
        "input_ids": [encoding.ids for encoding in encodings],
        "n_tokens": [len(encoding.ids) for encoding in encodings],
        # What was cut off stands in `overflowing`.
        "truncated": [bool(encoding.overflowing) for encoding in encodings],
    }
    return pa.table(columns, schema=TOKENS_SCHEMA)


def tokenize_windows(keys: pa.Array, texts: list[str], tokenizer: Tokenizer, long: LongTexts) -> pa.Table:
    """Return `CORPUS_TOKENS_SCHEMA` rows for `texts`, in their order.

    Args:
        keys: of the texts.
        texts: in normal form.
        tokenizer: set to cut at the tokens that are read at once.
        long: a longer text is cut there, or read in windows.
    """
    read = [
        (key, window, window.text if len(of_text) > 1 else None)
        for key, of_text in zip(keys.to_pylist(), windows_of(texts, tokenizer, long), strict=True)
        for window in of_text
    ]
    own = pa.array([key if text is None else text_key(text) for key, _, text in read], pa.binary(KEY_BYTES))
    more = [[key for key, _, _ in read], [window.size for _, window, _ in read], [text for _, _, text in read]]
    table = _table(own, [cast(Encoding, window.encoding) for _, window, _ in read])
    return pa.table([*table.columns, *more], schema=CORPUS_TOKENS_SCHEMA)


def windows_of(texts: list[str], tokenizer: Tokenizer, long: LongTexts) -> list[list[Window]]:
    """Return the windows that each text is read in: one where it fits, or where a longer one is cut.

    Args:
        texts, tokenizer, long: as `tokenize_windows` takes them.
    """
    if long == "cut":
        encodings = tokenizer.encode_batch(texts)
        return [[Window(text, 0, encoding)] for text, encoding in zip(texts, encodings, strict=True)]
    cut = tokenizer.truncation
    assert cut is not None
    # Set and set back, and not a copy: to copy a tokenizer is to parse its whole vocabulary again.
    tokenizer.no_truncation()
    try:
        encodings = tokenizer.encode_batch(texts)
        return [
            read_windows(text, encoding, tokenizer, cut["max_length"])
            for text, encoding in zip(texts, encodings, strict=True)
        ]
    finally:
        tokenizer.enable_truncation(**cut)


def text_positions(keys: pa.ChunkedArray, text_keys: pa.ChunkedArray, path: Path) -> np.ndarray:
    """Return for each window of a token table the position of its text in the corpus: int64, (windows,), ascending.

    Args:
        keys: of the corpus's texts.
        text_keys: of the table's windows, each with its text's.
        path: of the token table.

    Raises:
        InputError: the table is not of this corpus.
    """
    positions = pc.index_in(text_keys, keys.combine_chunks()).fill_null(-1).to_numpy().astype(np.int64)
    steps = np.diff(positions, prepend=-1, append=len(keys))
    if (positions < 0).any() or ((steps < 0) | (steps > 1)).any():
        raise InputError("it is not of these texts", where=path, remedy=f"Materialize {made_by(path)} again")
    return positions


def texts_read(corpus: Path, tokens: Path) -> pa.Table:
    """Return key and text of what each row of a token table holds: a text of the corpus, or a window of one.

    Args:
        corpus: Parquet file with the columns `key` and `text`.
        tokens: Parquet file of `CORPUS_TOKENS_SCHEMA`, of this corpus; or `corpus` itself, where its rows are tokens.
    """
    texts = pq.read_table(corpus, columns=["key", "text"])
    if tokens == corpus:
        return texts
    rows = pq.read_table(tokens, columns=["key", "text_key", "window"])
    # `take` copies into one array, whose offsets as a `string` would end at 2 GiB.
    whole = texts["text"].cast(pa.large_string()).take(pc.index_in(rows["text_key"], texts["key"].combine_chunks()))
    return pa.table({"key": rows["key"], "text": pc.coalesce(rows["window"].cast(pa.large_string()), whole)})


def tokenize_corpus(corpus: Path, tokenizer: Tokenizer, path: Path, long: LongTexts = "cut") -> TokensReport:
    """Tokenize the Parquet corpus `corpus` into `path`, a chunk of rows in memory at a time, in the corpus's order.

    The table says by which tokenizer, up to which length and how long texts were read; see
    `finstill.corpus.provenance`. What a table at `path` says that was made alike is taken over for the texts that it
    has: only the others are tokenized.

    Args:
        tokenizer, long: as `tokenize_windows` takes them.
    """
    report = TokensReport()
    unknown = unknown_id(tokenizer)
    schema = TableProvenance.of_tokenizer(tokenizer, long).of_schema(CORPUS_TOKENS_SCHEMA)

    def tables(source: pq.ParquetFile, before: _Before) -> Iterator[pa.Table]:
        advance = progress_logger(logger, "tokens", source.metadata.num_rows, "texts")
        for chunk in _chunks(source):
            table = before.rows_up_to(chunk.keys)
            at = pc.index_in(table["text_key"], chunk.keys)
            if at.null_count:
                table, at = table.filter(at.is_valid()), at.drop_null()
            new = np.ones(len(chunk.keys), bool)
            new[at.to_numpy()] = False
            if new.any():
                keys, texts = (column.filter(pa.array(new)) for column in (chunk.keys, chunk.texts))
                made = tokenize_windows(keys, texts.to_pylist(), tokenizer, long)
                table = pa.concat_tables([table, made])
                order = np.argsort(pc.index_in(table["text_key"], chunk.keys).to_numpy(), kind="stable")
                table = table.take(pa.array(order))
            _count(report, table, unknown, chunk)
            yield table.cast(schema)
            advance(len(chunk.keys))

    with (
        pq.ParquetFile(corpus) as source,
        _Before.opened(path, schema) as before,
        whole_file(path) as unfinished,
        pq.ParquetWriter(unfinished, schema, **ENCODING) as writer,
    ):
        for table in ahead(tables(source, before)):
            writer.write_table(table)
    return report


@dataclass(frozen=True)
class _Chunk:
    """Some texts of a corpus, of one row group of its file. Known texts are not read.

    Attributes:
        keys: of the texts.
        start: of the first of them in the row group.
        group: returns all texts of the row group.
    """

    keys: pa.Array
    start: int
    group: Callable[[], pa.Array]

    @property
    def texts(self) -> pa.Array:
        return self.group().slice(self.start, len(self.keys))


def _chunks(corpus: pq.ParquetFile) -> Iterator[_Chunk]:
    def column(group: int, name: str) -> pa.Array:
        return corpus.read_row_group(group, columns=[name])[name].combine_chunks()

    for group in range(corpus.num_row_groups):
        keys, texts = column(group, "key"), lru_cache(partial(column, group, "text"))
        for start in range(0, len(keys), ROWS_PER_CHUNK):
            yield _Chunk(keys.slice(start, ROWS_PER_CHUNK), start, texts)


class _Before:
    """The rows of an earlier table of the same tokenizer, in its order; of none where there is no such table."""

    def __init__(self, file: pq.ParquetFile | None):
        self._batches = iter(()) if file is None else file.iter_batches(ROWS_PER_CHUNK)
        self._held = CORPUS_TOKENS_SCHEMA.empty_table()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, schema: pa.Schema) -> Iterator[_Before]:
        """Open the table at `path` where there is one with this schema, its metadata included."""
        try:
            file = pq.ParquetFile(path)
        except (OSError, pa.ArrowInvalid):
            # There is none, or it is damaged: it is made anew.
            yield cls(None)
            return
        with file:
            found = file.schema_arrow
            yield cls(file if found.equals(schema) and found.metadata == schema.metadata else None)

    def rows_up_to(self, keys: pa.Array) -> pa.Table:
        """Return the next rows, up to those of the last of these keys; they are ascending from one call to the next."""
        last = keys[-1].as_py()
        held = [self._held]
        while not len(held[-1]) or rows_up_to(held[-1]["text_key"], last) == len(held[-1]):
            batch = next(self._batches, None)
            if batch is None:
                break
            held.append(pa.table(batch).replace_schema_metadata(None))
        rows = pa.concat_tables(held)
        count = rows_up_to(rows["text_key"], last)
        self._held = rows[count:]
        return rows[:count]


def _count(report: TokensReport, table: pa.Table, unknown: int | None, texts: _Chunk) -> None:
    """Add the rows of a chunk to the report."""
    parts = table.num_rows - table["window"].null_count
    report.rows += table.num_rows
    report.texts += len(texts.keys)
    report.tokens += pc.sum(table["n_tokens"]).as_py()
    report.truncated += pc.sum(table["truncated"]).as_py()
    report.windows += parts
    report.long += len(texts.keys) - (table.num_rows - parts)
    if unknown is None:
        return
    ids = table["input_ids"].combine_chunks()
    rows = pc.list_parent_indices(ids).filter(pc.equal(ids.flatten(), unknown))
    report.unknown += len(rows)
    for owner in table["text_key"].take(pc.unique(rows)[: EXAMPLES - len(report.examples)]).to_pylist():
        report.examples.append(texts.texts[pc.index(texts.keys, owner).as_py()].as_py()[:EXAMPLE_CHARACTERS])
