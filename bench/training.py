"""Training an `lstm_attention` student, beside a plain loop and beside the machine's matrix-product rate.

    python bench/training.py [--quick] [--json FILE]

The texts are the phrase bank's, cut into tokens by the embedded encoder's tokenizer; labels and teacher logits are
random, since they do not change what a step costs. Ours is the trainer that makes every student, one epoch at a time,
without the evaluation and the checkpoint after it. The plain loop is the same student as one would write it: packed
sequences through a bidirectional `nn.LSTM`, shuffled batches of the same size, AdamW as torch sets it, the same
loss, clipping and learning-rate schedule. Rivals take turns within each round.

`training_vs_plain_loop` is our texts a second over the plain loop's. `training_vs_matmul` is our useful operations a
second over those of a large float32 product: the multiplications and additions of the matrix products that tokens need,
forwards once and backwards twice; padding, word vectors, gates and the optimizer count as none. Where torch has a GPU,
all three run there, ours in bfloat16 as the trainer does then.

`fine_tuning_in_bfloat16` is the speed of fine-tuning the embedded encoder on a processor that multiplies in bfloat16,
relative to its speed in float32. Other machines leave it out.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from machine import MATMUL_SIZE, describe_machine, matmul, read_arguments, read_shared, report, take_turns, times_faster
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import TrainerCallback, get_linear_schedule_with_warmup

from finstill.config.architectures import LstmAttentionConfig
from finstill.config.profile import FineTuning
from finstill.config.recipe import Recipe
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import load_tokenizer
from finstill.inference.batching import pad
from finstill.students.lstm_attention import AdditiveAttention, LstmAttention
from finstill.students.vocabulary import Vocabulary
from finstill.teacher.checkpoint import resolve_checkpoint
from finstill.training.distil import DistillationTrainer
from finstill.training.epochs import Epoch
from finstill.training.fine_tune import fine_tune
from finstill.training.loop import cpu_has_bfloat16, run_training
from finstill.training.loss import distillation_loss
from finstill.training.rows import TrainingRows

GOALS = {"training_vs_plain_loop": "at least 3", "training_vs_matmul": "", "fine_tuning_in_bfloat16": ""}

LABELS = ("negative", "neutral", "positive")
MAX_LENGTH = 128
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class PlainStudent(nn.Module):
    """The same sizes, by torch's own packed bidirectional LSTM."""

    def __init__(self, architecture: LstmAttentionConfig, vocabulary: int):
        super().__init__()
        width = 2 * architecture.hidden_width
        self.embedding = nn.Embedding(vocabulary, architecture.embedding_width)
        self.lstm = nn.LSTM(
            architecture.embedding_width,
            architecture.hidden_width,
            num_layers=architecture.layers,
            bidirectional=True,
            batch_first=True,
            dropout=architecture.dropout,
        )
        self.attention = AdditiveAttention(width)
        self.dropout = nn.Dropout(architecture.dropout)
        self.head = nn.Linear(width, len(LABELS))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        embedded = self.dropout(self.embedding(input_ids))
        lengths = attention_mask.sum(dim=1).cpu()
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0])
        states = self.dropout(states)
        weights = self.attention(states, attention_mask.T.bool())
        return self.head(self.dropout(torch.einsum("tr,trw->rw", weights, states)))


class EpochTimer(TrainerCallback):
    """Keeps the seconds of each epoch's steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._started)


def read_rows(texts: int | None) -> TrainingRows:
    """Return texts of the phrase bank with random labels and logits."""
    tokenizer = load_tokenizer(resolve_checkpoint("embedded").folder, MAX_LENGTH)
    encodings = tokenizer.encode_batch(read_shared("financial_phrasebank")["text"].to_pylist()[:texts])
    random = np.random.default_rng(0)
    labels = random.integers(len(LABELS), size=len(encodings))
    logits = random.normal(size=(len(encodings), len(LABELS))).astype(np.float32)
    return TrainingRows(TokenIds.of([encoding.ids for encoding in encodings]), labels, logits)


def few(rows: TrainingRows) -> TrainingRows:
    """Return rows to validate on, which is not measured."""
    return rows.at(np.arange(64))


def train_epoch(recipe: Recipe, rows: TrainingRows, vocabulary: int, clock: TrainerCallback) -> None:
    """Run the recipe's one epoch through our trainer, and tell `clock` of it."""
    torch.manual_seed(0)
    config = LstmAttention.configuration(recipe.architecture, LABELS, Vocabulary.full(vocabulary), MAX_LENGTH)
    with tempfile.TemporaryDirectory(prefix="finstill-bench-") as folder:
        trainer = DistillationTrainer(
            recipe,
            LstmAttention(config),
            rows,
            few(rows),
            Epoch.of(recipe, rows),
            Path(folder) / "training",
            stage="ours",
            callbacks=[clock],
        )
        run_training(trainer, "ours")


def our_epoch(recipe: Recipe, rows: TrainingRows, vocabulary: int) -> float:
    """Return the seconds of an epoch of our trainer."""
    timer = EpochTimer()
    train_epoch(recipe, rows, vocabulary, timer)
    (seconds,) = timer.seconds
    return seconds


def plain_epoch(recipe: Recipe, rows: TrainingRows, vocabulary: int) -> float:
    """Return the seconds of an epoch of the plain loop."""
    torch.manual_seed(0)
    assert isinstance(recipe.architecture, LstmAttentionConfig)
    assert rows.teacher_logits is not None
    student = PlainStudent(recipe.architecture, vocabulary).to(DEVICE)
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    batches = torch.randperm(len(rows)).split(recipe.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, len(batches))
    started = time.perf_counter()
    for step, batch in enumerate(batches):
        arrays = (*pad([rows.input_ids[i] for i in batch.tolist()]), rows.teacher_logits[batch], rows.labels[batch])
        input_ids, attention_mask, teacher_logits, labels = (torch.from_numpy(array).to(DEVICE) for array in arrays)
        loss = distillation_loss(
            student(input_ids, attention_mask),
            teacher_logits,
            labels,
            alpha=recipe.alpha,
            temperature=recipe.temperature.at(step, len(batches)),
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    if DEVICE != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def fine_tuning_epoch(rows: TrainingRows, *, bfloat16: bool) -> float:
    """Return the seconds of an epoch of fine-tuning the embedded encoder, in bfloat16 or in float32."""
    timer = EpochTimer()
    with (
        tempfile.TemporaryDirectory(prefix="finstill-bench-") as folder,
        patch.object(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bfloat16}),
    ):
        encoder, settings = resolve_checkpoint("embedded"), FineTuning(epochs=1)
        fine_tune(encoder, settings, rows, few(rows), LABELS, Path(folder) / "teacher", seed=0, callbacks=[timer])
    (seconds,) = timer.seconds
    return seconds


def useful_operations(architecture: LstmAttentionConfig, tokens: int) -> float:
    """Return the multiplications and additions of matrix products in one epoch over `tokens` tokens."""
    states = 2 * architecture.hidden_width
    inputs = [architecture.embedding_width] + [states] * (architecture.layers - 1)
    gates = sum(2 * (width + architecture.hidden_width) * 4 * architecture.hidden_width for width in inputs)
    attention = states * states // 2 + states // 2
    forwards = 2 * (gates + attention)
    return 3.0 * forwards * tokens


def main() -> None:
    arguments = read_arguments(__doc__)
    rows = read_rows(960 if arguments.quick else None)
    vocabulary = load_tokenizer(resolve_checkpoint("embedded").folder, MAX_LENGTH).get_vocab_size()
    recipe = Recipe(epochs=1)
    assert isinstance(recipe.architecture, LstmAttentionConfig)
    product = matmul(device=DEVICE)
    product()
    epochs: dict[str, list[float]] = {"ours": [], "plain": []}
    rivals = {
        "ours": lambda: epochs["ours"].append(our_epoch(recipe, rows, vocabulary)),
        "plain": lambda: epochs["plain"].append(plain_epoch(recipe, rows, vocabulary)),
        "matmul": product,
    }
    # Of the epochs only the time of their steps counts, and not what comes before and after them.
    seconds = {**take_turns(rivals, 3 if arguments.quick else 5), **epochs}
    tokens = int(rows.input_ids.lengths.sum())
    operations = useful_operations(recipe.architecture, tokens) / (2.0 * MATMUL_SIZE**3)
    figures = {
        "training_vs_plain_loop": times_faster(seconds, "ours", "plain"),
        "training_vs_matmul": operations * times_faster(seconds, "ours", "matmul"),
        "training_texts_per_second": len(rows) / float(np.median(seconds["ours"])),
        "plain_loop_texts_per_second": len(rows) / float(np.median(seconds["plain"])),
    }
    if cpu_has_bfloat16():
        part = rows.at(np.arange(960))
        tuned: dict[str, list[float]] = {"bfloat16": [], "float32": []}
        rivals = {
            "bfloat16": lambda: tuned["bfloat16"].append(fine_tuning_epoch(part, bfloat16=True)),
            "float32": lambda: tuned["float32"].append(fine_tuning_epoch(part, bfloat16=False)),
        }
        take_turns(rivals, 3)
        figures["fine_tuning_in_bfloat16"] = times_faster(tuned, "bfloat16", "float32")
    report(figures, GOALS, describe_machine("torch", "transformers"), arguments.json)


if __name__ == "__main__":
    main()
