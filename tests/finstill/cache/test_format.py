"""The format is what its page says: other tools read it."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finstill.cache.cache import DamagedPartError, SoftLabelCache
from finstill.cache.upkeep import compact, quarantine, verify

PAGE = Path(__file__).parents[3] / "docs" / "cache.md"


@pytest.fixture
def filled(cache: SoftLabelCache, make_rows: Callable[..., pa.Table]) -> tuple[SoftLabelCache, pa.Table]:
    """A cache with a repeated row, a part in quarantine and what a killed run leaves; and its hundred rows."""
    rows = make_rows(100)
    cache.append(rows.slice(0, 60))
    cache.append(rows.slice(50))
    quarantine(cache, cache.append(make_rows(10, seed=2)))
    (Path(cache.folder) / ".unfinished-abc").write_bytes(b"PAR1")
    return cache, rows


def test_duckdb_reads_it_with_the_query_of_the_page(filled: tuple[SoftLabelCache, pa.Table]) -> None:
    cache, rows = filled
    (query,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "cache/-/" in query
    answer = duckdb.execute(query.replace("cache/-", str(cache.folder))).fetchall()
    by_key = {key: (logits, best, tokens) for key, logits, best, tokens in answer}
    assert len(answer) == 100
    for row in rows.to_pylist():
        logits, best, tokens = by_key[row["key"].hex().upper()]
        assert list(logits) == row["logits"]
        assert best == np.argmax(row["logits"])
        assert tokens == row["n_tokens"]


def test_polars_reads_it(filled: tuple[SoftLabelCache, pa.Table]) -> None:
    cache, rows = filled
    frame = pl.scan_parquet(f"{cache.folder}/part-*.parquet").unique("key").collect()
    assert set(frame["key"].bin.encode("hex")) == {key.hex() for key in rows["key"].to_pylist()}


def test_every_page_has_a_checksum_and_every_column_its_type(filled: tuple[SoftLabelCache, pa.Table]) -> None:
    cache, _ = filled
    for part in cache.parts():
        schema = pq.ParquetFile(part).schema
        types = {schema.column(i).path: schema.column(i).physical_type for i in range(len(schema))}
        assert types == {
            "key": "FIXED_LEN_BYTE_ARRAY",
            "logits.list.element": "FLOAT",
            "n_tokens": "INT32",
            "truncated": "BOOLEAN",
        }
        assert schema.column(0).length == 16
        content = bytearray(Path(part).read_bytes())
        # A key's last bytes stand well inside the first page: nothing but its checksum can tell that they changed.
        content[content.index(pq.read_table(part)["key"][5].as_py())] ^= 1
        Path(part).write_bytes(content)
        with pytest.raises(OSError, match="CRC"):
            pq.read_table(part, page_checksum_verification=True)


def put_by_another_tool(cache: SoftLabelCache, rows: pa.Table, logits: list[list[float | None]]) -> str:
    """Store rows as a part that Polars wrote: with keys and lists of any length, and columns that may lack a value."""
    columns = {name: rows[name] for name in rows.column_names} | {"logits": pa.array(logits, pa.list_(pa.float32()))}
    sink = io.BytesIO()
    pl.DataFrame(pa.table(columns)).write_parquet(sink)
    content = sink.getvalue()
    return cache.put(f"part-{hashlib.blake2b(content, digest_size=16).hexdigest()}.parquet", content)


def test_rows_of_ones_own_are_read_verified_and_merged(
    cache: SoftLabelCache, make_rows: Callable[..., pa.Table]
) -> None:
    rows = make_rows(30)
    put_by_another_tool(cache, rows.slice(0, 20), rows["logits"][:20].to_pylist())
    cache.append(rows.slice(20))
    assert cache.unseen(rows["key"]).tolist() == []
    assert list(verify(cache)) == []
    for _ in range(2):
        np.testing.assert_array_equal(cache.lookup(rows["key"]), rows["logits"].to_pylist())
        compact(cache)
    assert len(cache.parts()) == 1


@pytest.mark.parametrize("logits", [[0.1, 0.2], [0.1, 0.2, 0.3, 0.4], [0.1, None, 0.3]])
def test_rows_of_ones_own_without_a_logit_for_each_label_are_damage(
    cache: SoftLabelCache, make_rows: Callable[..., pa.Table], logits: list[float | None]
) -> None:
    rows = make_rows(5)
    part = put_by_another_tool(cache, rows, [*rows["logits"][:4].to_pylist(), logits])
    assert [error.part for error in verify(cache)] == [part]
    with pytest.raises(DamagedPartError):
        cache.lookup(rows["key"])
