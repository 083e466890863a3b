"""Tables that tests write by hand, as the stages before would have written them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finstill.corpus.provenance import TableProvenance


def write_logits_table(
    path: Path, keys: Sequence[bytes], logits: np.ndarray, labels: Sequence[str], provenance: TableProvenance | None
) -> Path:
    """Write a table of logits, (keys, labels); without a provenance, as an older version did."""
    schema = pa.schema(
        [pa.field("key", pa.binary(16)), pa.field("logits", pa.list_(pa.float32(), len(labels)))],
        metadata={"labels": "\n".join(labels)},
    )
    schema = provenance.of_schema(schema) if provenance else schema
    pq.write_table(pa.table([list(keys), list(logits.astype(np.float32))], schema=schema), path)
    return path


def forget_provenance(path: Path) -> None:
    """Make a table one of an older version's, which did not say what made it."""
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"labels": (table.schema.metadata or {}).get(b"labels", b"")}), path)
