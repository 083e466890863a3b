"""Whether a student's int8 graph may answer in the float32 one's place, and tokie read in the place of tokenizers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from finstill.corpus.tokens import ROWS_PER_CHUNK
from finstill.corpus.wordpiece import TOKENIZER_FILE, WordPieceTokenizer, is_wordpiece
from finstill.files import read_json
from finstill.inference.parity import LARGEST_DIFFERENCE, run_alone
from finstill.inference.session import OnnxClassifier
from finstill.metrics import agreement, macro_f1
from finstill.training.rows import NO_LABEL

LEAST_AGREEMENT = 0.98
MOST_MACRO_F1_LOST = 0.01

ROWS_OF_CHANCE = 2
"""Rows that may differ in a test split of any size: in a small one a single row is more than the limits."""


@dataclass(frozen=True)
class Int8Proof:
    """How the answers of the int8 graph compare with those of the float32 one on the same rows.

    Attributes:
        rows: texts compared.
        rows_that_differ: number of rows whose most likely class differs between the two graphs.
        agreement: share of rows with the same most likely class.
        macro_f1_lost: the float32 graph's macro-F1 less the int8 one's, over labelled rows; None where there are none.
        batch_dependence: the largest distance of a logit in a batch from that of its text alone, over texts run alone.
    """

    rows: int
    rows_that_differ: int
    agreement: float
    macro_f1_lost: float | None
    batch_dependence: float

    @property
    def holds(self) -> bool:
        close = self.agreement >= LEAST_AGREEMENT and (self.macro_f1_lost or 0.0) <= MOST_MACRO_F1_LOST
        return self.batch_dependence <= LARGEST_DIFFERENCE and (close or self.rows_that_differ <= ROWS_OF_CHANCE)


def prove_int8(
    quantised: OnnxClassifier,
    logits: np.ndarray,
    exact: np.ndarray,
    rows: Sequence[Sequence[int]],
    labels: np.ndarray,
) -> Int8Proof:
    """Compare the int8 graph with what the float32 one says of the same rows; those of `run_alone` also run alone.

    Args:
        quantised: the int8 graph.
        logits, exact: float32, (rows, classes): the int8 graph's logits, and the float32 one's.
        rows: token ids, special tokens included.
        labels: int64, (rows,), `NO_LABEL` where a row has none.
    """
    at = run_alone(len(rows))
    alone = np.concatenate([quantised.batch_logits([rows[i]]) for i in at])
    labelled = labels != NO_LABEL
    lost = None
    if labelled.any():
        lost = macro_f1(labels[labelled], exact[labelled]) - macro_f1(labels[labelled], logits[labelled])
    return Int8Proof(
        rows=len(rows),
        rows_that_differ=int((logits.argmax(axis=1) != exact.argmax(axis=1)).sum()),
        agreement=agreement(logits, exact),
        macro_f1_lost=lost,
        batch_dependence=float(np.abs(logits[at] - alone).max()),
    )


def reads_alike(tokenizer: Tokenizer, folder: Path, texts: Iterable[pa.Array | None]) -> bool:
    """Whether tokie, which reads texts in service, reads some texts as the library tokenizers does.

    Ids, offsets and words decide all: windows and the attention over words follow from them.

    Args:
        tokenizer: the one of `folder`; it neither pads nor cuts.
        texts: in normal form; None where they are not known.
    """
    if not is_wordpiece(read_json(folder / TOKENIZER_FILE)):
        return False
    in_service = WordPieceTokenizer(folder)
    return all(
        (own.ids, own.offsets, own.word_ids) == (theirs.ids, theirs.offsets, theirs.word_ids)
        for part in texts
        if part is not None
        for start in range(0, len(part), ROWS_PER_CHUNK)
        for chunk in [part.slice(start, ROWS_PER_CHUNK).to_pylist()]
        for own, theirs in zip(in_service.encode_batch(chunk), tokenizer.encode_batch(chunk), strict=True)
    )
