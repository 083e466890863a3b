"""A part of the cache: a Parquet file that is never changed and whose name is the digest of its bytes.

Two runs that write the same rows write the same file, and a damaged part no longer matches its name.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from finstill.corpus.text import KEY_BYTES

ROW_GROUP_ROWS = 1 << 17
"""Rows a reader holds at a time, a few of them in flight."""

PART_FORMAT = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)
"""How parts are read: every page against its checksum, so that flipped bytes are an error and not a wrong logit."""


def logits_schema(classes: int) -> pa.Schema:
    """Return the columns of a part for a teacher with `classes` classes; logits stand in the teacher's label order."""
    return pa.schema(
        [
            pa.field("key", pa.binary(KEY_BYTES), nullable=False),
            pa.field("logits", pa.list_(pa.float32(), classes), nullable=False),
            pa.field("n_tokens", pa.int32(), nullable=False),
            pa.field("truncated", pa.bool_(), nullable=False),
        ]
    )


def encode_part(rows: pa.Table) -> tuple[str, pa.Buffer]:
    """Return the name and the bytes of the part that holds `rows`."""
    sink = pa.BufferOutputStream()
    # Keys and logits do not repeat, and a dictionary of them only adds to the file.
    pq.write_table(rows, sink, row_group_size=ROW_GROUP_ROWS, use_dictionary=["n_tokens"], write_page_checksum=True)
    content = sink.getvalue()
    return _part_name(content), content


def decode_part(path: str, content: pa.Buffer, schema: pa.Schema) -> pa.Table:
    """Return the rows of the part at `path`.

    Raises:
        ValueError: it does not hold what its name says, or no values of the columns `schema`, or a logit is not finite.
    """
    if _part_name(content) != PurePosixPath(path).name:
        raise ValueError("its bytes do not match the digest in its name")
    try:
        rows = pq.read_table(pa.BufferReader(content))
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"it is not readable Parquet ({str(error).splitlines()[0]})") from error
    try:
        # In a part that another tool wrote, keys and lists have no fixed size.
        rows = rows.cast(schema)
    except (ValueError, pa.ArrowException) as error:
        columns = f"its columns are {_columns(rows.schema)}, and {_columns(schema)} were expected"
        raise ValueError(f"{columns} ({str(error).splitlines()[0]})") from error
    if not finite_rows(rows).all():
        raise ValueError("it holds logits that are not finite")
    return rows


def finite_rows(rows: pa.Table) -> np.ndarray:
    """Return of which rows every logit is a number, neither null, NaN nor infinite: bool, (rows,)."""
    finite = np.ones(len(rows), bool)
    for i in range(rows.schema.field("logits").type.list_size):
        finite &= pc.fill_null(pc.is_finite(pc.list_element(rows["logits"], i)), False).to_numpy()
    return finite


def _part_name(content: pa.Buffer) -> str:
    return f"part-{hashlib.blake2b(content, digest_size=16).hexdigest()}.parquet"


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
