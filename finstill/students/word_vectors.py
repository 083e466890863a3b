"""Word vectors from what an encoder says of words in texts, and not from what it looks up for them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from joblib import cpu_count
from transformers import PreTrainedModel

from finstill.corpus.tokenizer import frame
from finstill.inference.batching import length_sorted_batches, pad
from finstill.progress import progress_logger
from finstill.students.start import Start
from finstill.students.vocabulary import Vocabulary

TEXTS = 20_000
"""Texts read at most: more move the mean of a word little, and each costs a run of the encoder."""

TOKEN_BUDGET = 2048

logger = logging.getLogger(__name__)


def output_vectors(start: Start, rows: Sequence[Sequence[int]], vocabulary: Vocabulary, stage: str) -> np.ndarray:
    """Return for each token of a student the mean of the encoder's last hidden states over its occurrences.

    Bommasani et al. 2020, "Interpreting Pretrained Contextualized Representations via Reductions to Static Embeddings":
    such vectors are better than the encoder's own word embeddings. A token counts as read once by itself too, so that
    one which no text holds has a vector. Each batch runs on one thread, so that their number moves no bit.

    Args:
        rows: token ids of texts, special ones included; at most `TEXTS` of them, evenly spaced, are read.
        vocabulary: the student's.
        stage: how log lines call this.

    Returns:
        float32, (tokens, width), in the vocabulary's order.
    """
    before, after = frame(start.tokenizer)
    step = max(1, -(-len(rows) // TEXTS))
    texts = [[*before, token, *after] for token in vocabulary.token_ids.tolist()] + list(rows[::step])
    positions = vocabulary.positions()
    total: np.ndarray | None = None
    counts = np.zeros(len(vocabulary.token_ids))
    advance = progress_logger(logger, f"{stage}: word vectors", len(texts), "texts")
    batches = [
        [texts[i] for i in batch] for batch in length_sorted_batches([len(text) for text in texts], TOKEN_BUDGET)
    ]
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(cpu_count(), initializer=partial(torch.set_num_threads, 1)) as pool:
        for batch, states in zip(batches, pool.map(partial(_states, start.encoder), batches), strict=True):
            tokens = positions[np.concatenate([np.asarray(text) for text in batch])]
            if total is None:
                total = np.zeros((len(counts), states.shape[1]))
            np.add.at(total, tokens, states)
            np.add.at(counts, tokens, 1)
            advance(len(batch))
    torch.set_num_threads(threads)
    assert total is not None
    # A token alone was read once at least.
    return (total / counts[:, None]).astype(np.float32)


@torch.inference_mode()
def _states(encoder: PreTrainedModel, texts: list[list[int]]) -> np.ndarray:
    """Return the last hidden states of the texts' tokens, one text after the other: float32, (tokens, width)."""
    ids, mask = (torch.from_numpy(array) for array in pad(texts))
    return encoder(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()].numpy()
