"""Word vectors from what an encoder says of words in texts, and not from what it looks up for them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from joblib import cpu_count
from torch import nn
from transformers import PreTrainedModel

from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import frame, tokenizer_identity
from finstill.files import digest, made_once
from finstill.inference.batching import length_sorted_batches, pad
from finstill.progress import progress_logger
from finstill.students.start import Start
from finstill.students.vocabulary import Vocabulary

TEXTS = 4_000
"""Texts read at most: more make no better student (docs/quality.md), and each costs a run of the encoder."""

TOKEN_BUDGET = 2048

logger = logging.getLogger(__name__)


def output_vectors(start: Start, rows: TokenIds, vocabulary: Vocabulary, folder: Path | None, stage: str) -> np.ndarray:
    """Return for each token of a student the mean of the encoder's last hidden states over its occurrences.

    Bommasani et al. 2020, "Interpreting Pretrained Contextualized Representations via Reductions to Static Embeddings":
    such vectors are better than the encoder's own word embeddings. A token that no text holds is read by itself. Each
    batch runs on one thread, so that their number moves no bit.

    Args:
        rows: token ids of texts, special ones included; at most `TEXTS` of them, evenly spaced, are read.
        vocabulary: the student's.
        folder: where vectors are kept for other students of the same checkpoint, texts and vocabulary; None keeps none.
        stage: how log lines call this.

    Returns:
        float32, (tokens, width), in the vocabulary's order.
    """
    texts = rows.spaced(TEXTS)
    if folder is None:
        return _read(start, texts, vocabulary, stage)

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            np.save(file, _read(start, texts, vocabulary, stage))

    return np.load(made_once(folder / f"{_inputs_digest(start, texts, vocabulary)}.npy", write), allow_pickle=False)


def _read(start: Start, texts: TokenIds, vocabulary: Vocabulary, stage: str) -> np.ndarray:
    before, after = frame(start.tokenizer)
    positions = vocabulary.positions()
    read = np.unique(positions[np.flatnonzero(texts.counts(len(positions)))])
    absent = np.delete(vocabulary.token_ids, read).tolist()
    vectors = _mean_states(start.encoder, texts, positions, len(vocabulary.token_ids), f"{stage}: word vectors")
    alone = [[*before, token, *after] for token in absent]
    if alone:
        by_itself = _mean_states(start.encoder, alone, positions, len(vectors), f"{stage}: words alone")
        unread = np.delete(np.arange(len(vectors)), read)
        vectors[unread] = by_itself[unread]
    return vectors


def _mean_states(
    encoder: PreTrainedModel, texts: Sequence[Sequence[int]], positions: np.ndarray, tokens: int, stage: str
) -> np.ndarray:
    """Return the mean last hidden state of each token over all its occurrences: float32, (tokens, width).

    Args:
        positions: int64, (ids,): for each id of the tokenizer which of the `tokens` it is.
    """
    total = np.zeros((tokens, encoder.config.hidden_size))
    counts = np.zeros(tokens)
    advance = progress_logger(logger, stage, len(texts), "texts")
    lengths = [len(text) for text in texts]
    batches = [[texts[i] for i in batch] for batch in length_sorted_batches(lengths, TOKEN_BUDGET)]
    threads, module = torch.get_num_threads(), cast(nn.Module, encoder)
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with ThreadPoolExecutor(cpu_count(), initializer=partial(torch.set_num_threads, 1)) as pool:
            for batch, states in zip(batches, pool.map(partial(last_states, encoder), batches), strict=True):
                read = positions[np.concatenate([np.asarray(text) for text in batch])]
                np.add.at(total, read, states)
                np.add.at(counts, read, 1)
                advance(len(batch))
    finally:
        torch.set_num_threads(threads)
        module.to("cpu")
    return (total / np.maximum(counts, 1)[:, None]).astype(np.float32)


def _inputs_digest(start: Start, texts: TokenIds, vocabulary: Vocabulary) -> str:
    return digest(
        *start.weights_digests(),
        tokenizer_identity(start.tokenizer),
        vocabulary.token_ids.tobytes(),
        *texts.content(),
    )


@torch.inference_mode()
def last_states(encoder: PreTrainedModel, texts: Sequence[Sequence[int]] | Sequence[np.ndarray]) -> np.ndarray:
    """Return the last hidden states of the texts' tokens, one text after the other: float32, (tokens, width)."""
    ids, mask = (torch.from_numpy(array).to(encoder.device) for array in pad(texts))
    return encoder(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()].cpu().numpy()
