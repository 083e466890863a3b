"""Whether a corpus file is what every stage after it takes it for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from finstill.corpus.merge import CORPUS_SCHEMA
from finstill.corpus.parts import is_plainly_normal, text_keys
from finstill.corpus.rows import ROWS_PER_BATCH
from finstill.corpus.splits import SPLITS
from finstill.corpus.text import normalise, text_key


def faults(corpus: Path, labels: Sequence[str]) -> list[str]:
    """Return what is wrong with a corpus file, as sentences; none where it is sound.

    Args:
        labels: the task's.
    """
    with pq.ParquetFile(corpus) as file:
        schema = file.schema_arrow
        if not schema.equals(CORPUS_SCHEMA):
            return [f"The columns are {schema.names} of {[str(kind) for kind in schema.types]}."]
        found, before, ascending, wrong, first = [], b"", True, 0, ""
        given: dict[str, set[str]] = {"label": set(), "split": set()}
        for batch in file.iter_batches(ROWS_PER_BATCH):
            keys = [before, *batch["key"].to_pylist()]
            ascending, before = ascending and all(one < other for one, other in pairwise(keys)), keys[-1]
            plain = pc.and_(pc.equal(batch["key"], text_keys(batch["text"])), is_plainly_normal(batch["text"]))
            for row in batch.filter(pc.invert(plain)).to_pylist():
                if row["key"] != text_key(row["text"]) or row["text"] != normalise(row["text"]):
                    wrong, first = wrong + 1, first or row["text"]
            for column, values in given.items():
                values.update(pc.unique(batch[column].drop_null()).to_pylist())
    if not ascending:
        found.append("Keys are not ascending, or one stands twice.")
    if wrong:
        found.append(f"{wrong:,} texts are not in their normal form or not under their key, as {first[:60]!r}.")
    for column, known in (("label", list(labels)), ("split", list(SPLITS))):
        if strange := sorted(given[column] - set(known)):
            found.append(f"The {column}s {strange} are not among {known}.")
    found += [f"No text is in the split {split}." for split in SPLITS if split not in given["split"]]
    if given["label"] and (missing := [label for label in labels if label not in given["label"]]):
        found.append(
            f"No text is labelled {' or '.join(missing)}, and others have a label: is the source a part of a table?"
        )
    return found
