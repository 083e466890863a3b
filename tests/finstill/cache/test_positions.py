"""Rows of a Parquet file by their positions."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finstill.cache.positions import chunks_at


@given(
    rows=st.integers(1, 60),
    group_rows=st.integers(1, 20),
    chunk_rows=st.integers(1, 9),
    wanted=st.sets(st.integers(0, 59)),
)
def test_the_rows_are_those_at_the_positions(rows: int, group_rows: int, chunk_rows: int, wanted: set[int]) -> None:
    table = pa.table({"number": np.arange(rows), "text": [f"text {i}" for i in range(rows)]})
    positions = np.array(sorted(each for each in wanted if each < rows), np.int64)
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(table, Path(folder) / "rows.parquet", row_group_size=group_rows)
        with pq.ParquetFile(Path(folder) / "rows.parquet") as file:
            chunks = list(chunks_at(file, positions, chunk_rows, ["number"]))
    assert all(chunk.num_rows == chunk_rows for chunk in chunks[:-1])
    assert all(0 < chunk.num_rows <= chunk_rows for chunk in chunks[-1:])
    assert [number for chunk in chunks for number in chunk["number"].to_pylist()] == positions.tolist()


def test_row_groups_without_a_position_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"number": np.arange(30)}), path, row_group_size=10, use_dictionary=False)
    content = bytearray(path.read_bytes())
    with pq.ParquetFile(path) as file:
        damaged = file.metadata.row_group(1).column(0)
    content[damaged.data_page_offset : damaged.data_page_offset + damaged.total_compressed_size] = bytes(
        damaged.total_compressed_size
    )
    path.write_bytes(content)
    positions = np.array([3, 22])
    with pq.ParquetFile(path) as file:
        assert [each["number"].to_pylist() for each in chunks_at(file, positions, 8)] == [[3, 22]]
        with pytest.raises(OSError, match="thrift"):
            file.read()
