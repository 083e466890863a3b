"""Whether a corpus file is what every stage after it takes it for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from finstill.corpus.build import CORPUS_SCHEMA
from finstill.corpus.splits import SPLITS
from finstill.corpus.text import normalise, text_key


def faults(corpus: pa.Table, labels: Sequence[str]) -> list[str]:
    """Return what is wrong with a corpus, as sentences; none where it is sound.

    Args:
        labels: the task's.
    """
    if not corpus.schema.equals(CORPUS_SCHEMA):
        return [f"The columns are {corpus.schema.names} of {[str(kind) for kind in corpus.schema.types]}."]
    found = []
    keys = corpus["key"].to_pylist()
    if any(first >= second for first, second in pairwise(keys)):
        found.append("Keys are not ascending, or one stands twice.")
    wrong = [text for key, text in zip(keys, corpus["text"].to_pylist(), strict=True) if key != text_key(text)]
    wrong += [text for text in corpus["text"].to_pylist() if text != normalise(text)]
    if wrong:
        found.append(f"{len(wrong):,} texts are not in their normal form or not under their key, as {wrong[0][:60]!r}.")
    given = {column: set(pc.unique(corpus[column].drop_null()).to_pylist()) for column in ("label", "split")}
    for column, known in (("label", list(labels)), ("split", list(SPLITS))):
        if strange := sorted(given[column] - set(known)):
            found.append(f"The {column}s {strange} are not among {known}.")
    found += [f"No text is in the split {split}." for split in SPLITS if split not in given["split"]]
    if given["label"] and (missing := [label for label in labels if label not in given["label"]]):
        found.append(
            f"No text is labelled {' or '.join(missing)}, and others have a label: is the source a part of a table?"
        )
    return found
