"""Hints: before a student learns classes, its layers learn what its checkpoint says of each token.

Romero et al. 2015, "FitNets: Hints for Thin Deep Nets": a student is first fitted to a layer of a larger model, through
a linear map that is then thrown away. A text has one answer of a few classes, and a state of hundreds of numbers for
each token: so the same texts teach the layers more.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
import transformers
from joblib import cpu_count
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import BatchSampler
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from finstill.config.architectures import HintedConfig
from finstill.config.recipe import Recipe
from finstill.corpus.token_ids import TokenIds
from finstill.errors import InputError
from finstill.files import digest, made_once
from finstill.inference.batching import pad
from finstill.progress import progress_logger
from finstill.students.base import Student, TokenStateStudent
from finstill.students.start import Start
from finstill.students.word_vectors import last_states
from finstill.training.epochs import Epoch, EpochSampler
from finstill.training.loop import library_versions, one_thread
from finstill.training.rows import NO_LABEL, TrainingRows

LARGEST_GRADIENT = 1.0
"""Norm to which gradients are cut, as the trainer's are."""

logger = logging.getLogger(__name__)


def learn_hints(
    student: Student, start: Start, rows: TokenIds, recipe: Recipe, folder: Path | None, stage: str
) -> None:
    """Train the student's layers and word vectors on the last hidden states of its checkpoint, one epoch long.

    It takes batches and learning rate of the recipe. The loss is the mean squared error to each state, which is first
    scaled to mean 0 and variance 1: encoders' states differ in scale by more than a learning rate bears.

    Args:
        student: untrained; its weights depend on the recipe, its seed and `start` alone.
        rows: token ids of the train texts; the recipe's `hint_texts` of them at most, evenly spaced, are read.
        folder: where weights are kept for students of the same beginning, as a student's label-only baseline is one;
            None keeps none.
        stage: how log lines and errors call this training.

    Raises:
        InputError: the loss is not finite.
    """
    architecture = recipe.architecture
    assert isinstance(architecture, HintedConfig)
    assert isinstance(student, TokenStateStudent)
    texts = rows.spaced(architecture.hint_texts)
    if folder is None:
        _learn(student, start, texts, recipe, stage)
        return

    def write(unfinished: Path) -> None:
        _learn(student, start, texts, recipe, stage)
        save_file({name: each.contiguous() for name, each in student.state_dict().items()}, unfinished)

    kept = made_once(folder / f"{_inputs_digest(student, start, texts, recipe)}.safetensors", write)
    student.load_state_dict(load_file(kept))


def _learn(student: TokenStateStudent, start: Start, texts: TokenIds, recipe: Recipe, stage: str) -> None:
    rows = TrainingRows(texts, np.full(len(texts), NO_LABEL))
    order = EpochSampler(rows, Epoch(0, len(rows)), recipe.batch_size, recipe.seed)
    batches = list(BatchSampler(order, recipe.batch_size, drop_last=False))
    device, encoder = torch.device("cuda" if torch.cuda.is_available() else "cpu"), cast(nn.Module, start.encoder)
    advance = progress_logger(logger, f"{stage}: hints", len(texts), "texts")
    transformers.set_seed(recipe.seed)
    with one_thread(), student.embedding.learning(np.flatnonzero(texts.counts(student.config.vocab_size))):
        projection = nn.Linear(student.head.in_features, start.encoder.config.hidden_size)
        trained = nn.ModuleList([student, projection]).train()
        try:
            encoder.to(device)
            trained.to(device)
            optimizer = torch.optim.AdamW(trained.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
            rate = get_linear_schedule_with_warmup(optimizer, len(batches) // 10, len(batches))
            for batch, hints in _hints(start.encoder, texts, batches):
                input_ids, mask = (torch.from_numpy(array).to(device) for array in pad(batch))
                states = student.token_states(input_ids, mask.bool())[mask.bool()]
                scaled = functional.layer_norm(hints.to(device), hints.shape[-1:])
                loss = functional.mse_loss(projection(states), scaled)
                if not loss.isfinite():
                    raise InputError(
                        "the loss of the hints is not finite", where=stage, remedy="Lower the recipe's learning_rate"
                    )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(trained.parameters(), LARGEST_GRADIENT)
                optimizer.step()
                rate.step()
                advance(len(batch))
        finally:
            encoder.to("cpu")
            trained.to("cpu")


def _hints(
    encoder: PreTrainedModel, texts: TokenIds, batches: list[list[int]]
) -> Iterator[tuple[list[np.ndarray], Tensor]]:
    """Yield the texts of each batch with their tokens' last hidden states: float32, (tokens, width).

    The encoder is most of the work: a thread for each core reads the batches that come next, one thread to a product.
    """
    reading: deque[tuple[list[np.ndarray], Future[np.ndarray]]] = deque()
    threads = cpu_count()
    with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
        for batch in batches:
            ids = [texts[position] for position in batch]
            reading.append((ids, pool.submit(last_states, encoder, ids)))
            if len(reading) > threads:
                ids, states = reading.popleft()
                yield ids, torch.from_numpy(states.result())
        for ids, states in reading:
            yield ids, torch.from_numpy(states.result())


def _inputs_digest(student: TokenStateStudent, start: Start, texts: TokenIds, recipe: Recipe) -> str:
    settings = f"{recipe.batch_size} {recipe.learning_rate} {recipe.weight_decay} {recipe.seed}"
    weights = (tensor.contiguous().numpy().tobytes() for _, tensor in sorted(student.state_dict().items()))
    dropout = str(student.dropout.p)
    return digest(library_versions(), settings, dropout, *start.weights_digests(), *weights, *texts.content())
