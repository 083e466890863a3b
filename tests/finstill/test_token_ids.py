"""Token ids in one array say what lists of them say."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finstill.corpus.token_ids import TokenIds

ROWS = st.lists(st.lists(st.integers(0, 30_000), max_size=6), max_size=12)


@given(ROWS, st.integers(1, 5), st.data())
def test_they_are_the_rows_that_they_were_made_from(rows: list[list[int]], piece: int, data: st.DataObject) -> None:
    ids = TokenIds.of(rows)
    assert ids.tolist() == rows
    assert len(ids) == len(rows)
    assert ids[1:].tolist() == rows[1:]
    positions = data.draw(st.lists(st.integers(0, len(rows) - 1))) if rows else []
    chosen = ids.at(np.array(positions, np.int64))
    assert chosen.tolist() == [rows[i] for i in positions]
    flat = [token for part in chosen.pieces(piece) for token in part.tolist()]
    assert flat == [token for i in positions for token in rows[i]]
    assert TokenIds.joined([chosen, ids]).tolist() == [*chosen.tolist(), *rows]


@given(ROWS, st.integers(0, 12))
def test_a_column_of_any_chunks_gives_its_rows(rows: list[list[int]], cut: int) -> None:
    chunks = [pa.array(part, pa.list_(pa.int32())) for part in (rows[:cut], rows[cut:])]
    column = pa.chunked_array([*chunks, pa.array([[7], *rows], pa.list_(pa.int32())).slice(1)])
    assert TokenIds.of_column(column).tolist() == rows + rows


@given(st.integers(0, 50), st.integers(1, 50))
def test_spaced_rows_are_as_many_as_there_can_be_and_lie_evenly(rows: int, wanted: int) -> None:
    chosen = [row[0] for row in TokenIds.of([[i] for i in range(rows)]).spaced(wanted).tolist()]
    assert len(chosen) == min(rows, wanted)
    assert chosen[:1] == [0][:rows]
    assert len(set(np.diff([*chosen, rows]).tolist())) <= 2, "gaps differ by one at most"


def test_chosen_rows_share_their_tokens() -> None:
    ids = TokenIds.of([[1, 2], [3]])
    assert np.shares_memory(ids.at(np.array([1])).values, ids.values)
    with pytest.raises(IndexError):
        ids[2]
