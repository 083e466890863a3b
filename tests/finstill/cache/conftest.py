"""A real teacher of milliseconds: a byte tokenizer and an ONNX graph that averages embeddings."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bench.tiny_teacher import write_tiny_teacher
from finstill.cache.cache import SoftLabelCache
from finstill.corpus.provenance import TableProvenance
from finstill.corpus.text import KEY_BYTES, normalise, text_key
from finstill.corpus.tokens import TOKENS_SCHEMA, tokenize

LABELS = ("negative", "neutral", "positive")


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny teacher's ONNX file: a row's logits are the mean of its tokens' embeddings."""
    path = tmp_path_factory.mktemp("teacher") / "model.onnx"
    write_tiny_teacher(path, vocabulary=256, classes=len(LABELS), seed=5)
    return path


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """One token a UTF-8 byte, cut at 64."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.enable_truncation(64)
    return tokenizer


@pytest.fixture(scope="session")
def write_tokens(byte_tokenizer: Tokenizer) -> Callable[[Path, Sequence[str]], pa.Table]:
    """Write a token table of texts to a path and return it."""

    def write(path: Path, texts: Sequence[str]) -> pa.Table:
        normal = [normalise(text) for text in texts]
        keys = pa.array([text_key(text) for text in normal], pa.binary(KEY_BYTES))
        schema = TableProvenance.of_tokenizer(byte_tokenizer, "cut").of_schema(TOKENS_SCHEMA)
        table = tokenize(keys, normal, byte_tokenizer).cast(schema)
        pq.write_table(table, path, row_group_size=50)
        return table

    return write


@pytest.fixture
def cache(tmp_path: Path) -> SoftLabelCache:
    return SoftLabelCache(tmp_path / "cache", "f" * 32, LABELS)


def random_rows(count: int, seed: int = 0) -> pa.Table:
    """Return rows of a part with keys that no other seed gives."""
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "key": pa.array([random.bytes(KEY_BYTES) for _ in range(count)], pa.binary(KEY_BYTES)),
            "logits": pa.FixedSizeListArray.from_arrays(
                pa.array(random.standard_normal(3 * count).astype(np.float32)), 3
            ),
            "n_tokens": pa.array(random.integers(4, 60, count), pa.int32()),
            "truncated": pa.array(random.random(count) < 0.1),
        }
    )


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., pa.Table]:
    return random_rows


@pytest.fixture(scope="session")
def add_unreadable_windows() -> Callable[[Path], None]:
    """Add a column `window` to a token table, of which no page can be decoded."""

    def add(path: Path) -> None:
        table = pq.read_table(path)
        table = table.append_column("window", pa.array(["a window"] * len(table)))
        pq.write_table(table, path, row_group_size=50, use_dictionary=False)
        content = bytearray(path.read_bytes())
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                column = file.metadata.row_group(group).column(file.metadata.num_columns - 1)
                size = column.total_compressed_size
                content[column.data_page_offset : column.data_page_offset + size] = bytes(size)
        path.write_bytes(content)

    return add


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: the kernel refuses the write as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="session")
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    return limited
