"""What every training here shares: rows as batches, quiet arguments, progress, and going on where a run was cut off."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalPrediction, get_last_checkpoint

from finstill.batching import pad
from finstill.corpus.long_texts import mean_over_windows
from finstill.distil.loss import NO_LABEL
from finstill.evaluation.metrics import agreement, macro_f1
from finstill.files import read_json
from finstill.progress import progress_logger
from finstill.quiet import quiet_transformers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WindowsOfTexts:
    """Which rows are windows of the same text.

    Attributes:
        texts: int64, (rows,), ascending from 0: the text that each row is a window of.
        sizes: int64, (rows,): tokens of each window, special ones left out.
    """

    texts: np.ndarray
    sizes: np.ndarray

    def at(self, positions: np.ndarray) -> WindowsOfTexts:
        """Return the same of the rows at `positions`, texts numbered anew in their order."""
        _, texts = np.unique(self.texts[positions], return_inverse=True)
        return WindowsOfTexts(texts, self.sizes[positions])


@dataclass(frozen=True)
class TrainingRows(Dataset[dict[str, Any]]):
    """Texts to learn from.

    Where long texts are read in windows, a row is a window: it has its text's label, and its own teacher logits.

    Attributes:
        input_ids: token ids of each row.
        labels: int64, (rows,), `NO_LABEL` where a text has none.
        teacher_logits: float32, (rows, classes), over the task's labels; None where no teacher is heard.
        windows: which windows are of one text; None where each row is a text.
    """

    input_ids: list[list[int]]
    labels: np.ndarray
    teacher_logits: np.ndarray | None = None
    windows: WindowsOfTexts | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, position: int) -> dict[str, Any]:
        item = {"input_ids": self.input_ids[position], "labels": self.labels[position]}
        if self.teacher_logits is not None:
            item["teacher_logits"] = self.teacher_logits[position]
        return item

    def over_texts(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits of each text, float32, (texts, classes), from those of each row."""
        return logits if self.windows is None else mean_over_windows(logits, self.windows.texts, self.windows.sizes)

    def whole_texts(self) -> TrainingRows:
        """Return a row a text: its first window, its label, and the teacher's logits of the whole text."""
        if self.windows is None:
            return self
        first = np.flatnonzero(np.diff(self.windows.texts, prepend=-1))
        logits = None if self.teacher_logits is None else self.over_texts(self.teacher_logits)
        return TrainingRows([self.input_ids[i] for i in first.tolist()], self.labels[first], logits)

    def labelled(self) -> TrainingRows:
        """Return the rows that have a label."""
        return self.at(np.flatnonzero(self.labels != NO_LABEL))

    def with_labelled_repeated(self, times: int) -> TrainingRows:
        """Return the rows with each labelled one `times` times, or as they are where all are labelled.

        Rows without a label speak through the teacher alone. Where they are many, few batches would hold a label.
        """
        labelled = np.flatnonzero(self.labels != NO_LABEL)
        if len(labelled) == len(self):
            return self
        # A batch knows no texts: only what is measured is put together from windows.
        rows = replace(self, windows=None)
        return rows.at(np.concatenate([np.arange(len(self)), *[labelled] * (times - 1)]))

    def content(self) -> list[bytes]:
        """Return the bytes that tell these rows from others, for a digest."""
        lengths = np.array([len(ids) for ids in self.input_ids], dtype=np.int64)
        tokens = np.array([token for ids in self.input_ids for token in ids], dtype=np.int64)
        logits = b"" if self.teacher_logits is None else self.teacher_logits.tobytes()
        return [lengths.tobytes(), tokens.tobytes(), self.labels.tobytes(), logits]

    def at(self, positions: np.ndarray) -> TrainingRows:
        """Return the rows at `positions`, int64, ascending where rows are windows."""
        return TrainingRows(
            [self.input_ids[i] for i in positions.tolist()],
            self.labels[positions],
            None if self.teacher_logits is None else self.teacher_logits[positions],
            None if self.windows is None else self.windows.at(positions),
        )


def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return the items of `TrainingRows` as one padded batch of tensors."""
    input_ids, attention_mask = pad([item["input_ids"] for item in items])
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    for name in ("labels", "teacher_logits"):
        if name in items[0]:
            batch[name] = np.stack([item[name] for item in items])
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def training_arguments(folder: Path, *, best_by: str, seed: int, **settings: Any) -> TrainingArguments:
    """Return arguments that evaluate and save each epoch, keep the best by `best_by`, and print nothing.

    Args:
        folder: of the checkpoints a cut-off run resumes from.
        best_by: the evaluation metric, higher being better.
    """
    return TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        per_device_eval_batch_size=128,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=best_by,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        log_level="error",
        **settings,
    )


def run_training(trainer: Trainer, stage: str) -> list[dict[str, float]]:
    """Train, from the last whole checkpoint where a cut-off run left one, and return the history, an entry an epoch.

    The trainer's model is the best epoch's when this returns, and the checkpoints are gone.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_ProgressCallback(stage))
    folder = Path(str(trainer.args.output_dir))
    _drop_torn_checkpoints(folder)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if last:
        logger.info("%s: goes on from %s", stage, Path(last).name)
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=last)
    history = _epochs(trainer.state.log_history)
    shutil.rmtree(folder)
    return history


def early_stopping(patience: int) -> EarlyStoppingCallback:
    return EarlyStoppingCallback(early_stopping_patience=patience)


def validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Return macro-F1 over the labelled rows and, where the teacher is heard, the agreement with it."""
    logits = np.asarray(prediction.predictions)
    given = prediction.label_ids
    labels, teacher_logits = given if isinstance(given, tuple) else (given, None)  # type: ignore[misc]
    metrics = {}
    labelled = np.asarray(labels) != NO_LABEL
    if labelled.any():
        metrics["macro_f1"] = macro_f1(labels[labelled], logits[labelled])
    if teacher_logits is not None:
        metrics["agreement"] = agreement(logits, np.asarray(teacher_logits))
    return metrics


class _ProgressCallback(TrainerCallback):
    """Logs steps as they pass and each epoch's figures."""

    def __init__(self, stage: str):
        self._stage = stage
        self._advance: Callable[[int], None] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance = progress_logger(logger, self._stage, state.max_steps - state.global_step, "steps")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self._advance is not None
        self._advance(1)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if epochs := _epochs(state.log_history):
            figures = ", ".join(f"{name} {value:.4g}" for name, value in epochs[-1].items() if name != "epoch")
            logger.info("%s: epoch %.0f of %.0f, %s", self._stage, state.epoch, args.num_train_epochs, figures)


def _epochs(log_history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the trainer's log as one entry an epoch: training loss, temperature and the evaluation's figures."""
    names = {
        "loss": "loss",
        "temperature": "temperature",
        "eval_loss": "validation_loss",
        "eval_macro_f1": "macro_f1",
        "eval_agreement": "agreement",
    }
    epochs: dict[float, dict[str, float]] = {}
    for entry in log_history:
        figures = {ours: entry[theirs] for theirs, ours in names.items() if theirs in entry}
        epochs.setdefault(entry["epoch"], {"epoch": entry["epoch"]}).update(figures)
    return [epoch for epoch in epochs.values() if "loss" in epoch]


def _drop_torn_checkpoints(folder: Path) -> None:
    """Remove checkpoints that a killed run did not finish: the trainer writes its state file last."""
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            read_json(checkpoint / "trainer_state.json")
        except (FileNotFoundError, json.JSONDecodeError):
            shutil.rmtree(checkpoint)
