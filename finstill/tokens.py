"""Token ids by the teacher's own tokenizer: student and teacher read the same input."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from finstill.errors import InputError
from finstill.files import whole_file
from finstill.progress import progress_logger
from finstill.text import KEY_BYTES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENS_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(KEY_BYTES), nullable=False),
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
    ]
)

ROWS_PER_WINDOW = 8192

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokensReport:
    """Counts over a token table: texts, texts cut at the maximum length, and tokens kept."""

    rows: int
    truncated: int
    tokens: int


def load_tokenizer(folder: Path, max_length: int) -> Tokenizer:
    """Return the fast tokenizer in `folder`, set to cut at `max_length` tokens and not to pad.

    Raises:
        InputError: the folder has no `tokenizer.json`.
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise InputError(
            "there is no tokenizer.json",
            where=folder,
            remedy="Finstill needs a fast tokenizer: save it with transformers' AutoTokenizer.save_pretrained",
        )
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def tokenize(keys: pa.Array, texts: list[str], tokenizer: Tokenizer) -> pa.Table:
    """Return `TOKENS_SCHEMA` rows for `texts`, in their order."""
    encodings = tokenizer.encode_batch(texts)
    columns = {
        "key": keys,
        "input_ids": [encoding.ids for encoding in encodings],
        "n_tokens": [len(encoding.ids) for encoding in encodings],
        # What was cut off stands in `overflowing`.
        "truncated": [bool(encoding.overflowing) for encoding in encodings],
    }
    return pa.table(columns, schema=TOKENS_SCHEMA)


def tokenize_corpus(corpus: Path, tokenizer: Tokenizer, path: Path) -> TokensReport:
    """Tokenize the Parquet corpus `corpus` into `path`, a window of rows in memory at a time, in the corpus's order."""
    rows = truncated = tokens = 0
    with pq.ParquetFile(corpus) as source, whole_file(path) as unfinished:
        advance = progress_logger(logger, "tokens", source.metadata.num_rows, "texts")
        with pq.ParquetWriter(unfinished, TOKENS_SCHEMA) as writer:
            for batch in source.iter_batches(ROWS_PER_WINDOW, columns=["key", "text"]):
                window = tokenize(batch["key"], batch["text"].to_pylist(), tokenizer)
                writer.write_table(window)
                rows += window.num_rows
                truncated += sum(window["truncated"].to_pylist())
                tokens += sum(window["n_tokens"].to_pylist())
                advance(window.num_rows)
    return TokensReport(rows, truncated, tokens)
