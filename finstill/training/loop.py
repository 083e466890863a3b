"""What every training here shares: rows as batches, quiet arguments, progress, and going on where a run was cut off."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalPrediction, get_last_checkpoint

import finstill
from finstill.inference.batching import pad
from finstill.metrics import agreement, kl_to_teacher, macro_f1
from finstill.progress import progress_logger
from finstill.quiet import quiet_transformers
from finstill.training.rows import NO_LABEL

logger = logging.getLogger(__name__)

WHOLE_FILE = "whole"
"""Stands in a checkpoint that all callbacks have written to."""


MEASURES = {
    "loss": "validation_loss",
    "macro_f1": "macro_f1",
    "agreement": "agreement",
    "kl_to_teacher": "kl_to_teacher",
}
"""What validation rows tell, and how the history calls it."""


def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return the items of `TrainingRows` as one padded batch of tensors."""
    input_ids, attention_mask = pad([item["input_ids"] for item in items])
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    for name in ("labels", "teacher_logits"):
        if name in items[0]:
            batch[name] = np.stack([item[name] for item in items])
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def training_arguments(folder: Path, *, best_by: str, seed: int, bfloat16: bool, **settings: Any) -> TrainingArguments:
    """Return arguments that use one GPU at most, evaluate and save each epoch, keep the best by `best_by`, and print
    nothing.

    Args:
        folder: of the checkpoints a cut-off run resumes from.
        best_by: `loss`, the lowest being best, or a metric of the evaluation, the highest being best.
        bfloat16: multiply in it; weights stay in float32.
    """
    arguments = TrainingArguments(
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
        greater_is_better=best_by != "loss",
        restore_callback_states_from_checkpoint=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        # Without a GPU the trainer refuses bfloat16, unless it is told that none was expected.
        use_cpu=bfloat16 and not torch.cuda.is_available(),
        bf16=bfloat16,
        log_level="error",
        **settings,
    )
    # The trainer gives each GPU that it sees a batch of its own, so that a batch size would mean another one on each
    # machine. It sets the number itself, as here, where a model lies on several GPUs.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def library_versions() -> str:
    """Return the versions that decide what a training gives, for a digest of its inputs."""
    return f"finstill {finstill.__version__} torch {torch.__version__} transformers {transformers.__version__}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch take one thread to a product while the block runs.

    A student's products are so small that threads mostly wait for each other: shared by two cores, those of an LSTM
    take more than twice as long as on one. And a student is then the same whatever the number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def gpu_has_bfloat16() -> bool:
    """Return whether a GPU here multiplies in bfloat16."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def cpu_has_bfloat16() -> bool:
    """Return whether training is on a processor that multiplies in bfloat16."""
    capabilities = torch.cpu.get_capabilities()
    return not torch.cuda.is_available() and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def run_training(trainer: Trainer, stage: str) -> list[dict[str, float]]:
    """Train, from the last whole checkpoint where a cut-off run left one, and return the history, an entry an epoch.

    The trainer's model is the best epoch's when this returns. The checkpoints stay: whoever saves the model
    removes them afterwards.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_ProgressCallback(stage))
    # The last of the callbacks, since they are called in their order.
    trainer.add_callback(_WholeCheckpoints())
    folder = Path(str(trainer.args.output_dir))
    _drop_torn_checkpoints(folder)
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if last:
        logger.info("%s: goes on from %s", stage, Path(last).name)
        state = TrainerState.load_from_json(str(Path(last) / TRAINER_STATE_NAME))
        if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            # The trainer forgets that as it begins, and would train an epoch more where early stopping ended it.
            trainer.args.num_train_epochs = round(state.epoch or 0)
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=last)
    return _epochs(trainer.state.log_history)


def checkpoint_of(args: Any, state: Any) -> Path:
    """Return the folder of the trainer's checkpoint at the step where it is, as callbacks are told both."""
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def early_stopping(patience: int) -> EarlyStoppingCallback:
    return EarlyStoppingCallback(early_stopping_patience=patience)


def validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Return macro-F1 over the labelled rows and, where rows have teacher logits, how near theirs are to these."""
    logits = np.asarray(prediction.predictions)
    given = prediction.label_ids
    labels, teacher_logits = given if isinstance(given, tuple) else (given, None)  # type: ignore[misc]
    metrics = {}
    labelled = np.asarray(labels) != NO_LABEL
    if labelled.any():
        metrics["macro_f1"] = macro_f1(labels[labelled], logits[labelled])
    if teacher_logits is not None:
        teacher_logits = np.asarray(teacher_logits)
        metrics["agreement"] = agreement(logits, teacher_logits)
        metrics["kl_to_teacher"] = kl_to_teacher(logits, teacher_logits)
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


class _WholeCheckpoints(TrainerCallback):
    """Marks a checkpoint when everything is in it: the trainer writes its own files before callbacks write theirs."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (checkpoint_of(args, state) / WHOLE_FILE).touch()


def _epochs(log_history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the trainer's log as one entry an epoch: training loss, temperature and the evaluation's figures."""
    names = {"loss": "loss", "temperature": "temperature"} | {f"eval_{name}": MEASURES[name] for name in MEASURES}
    epochs: dict[float, dict[str, float]] = {}
    for entry in log_history:
        figures = {ours: entry[theirs] for theirs, ours in names.items() if theirs in entry}
        epochs.setdefault(entry["epoch"], {"epoch": entry["epoch"]}).update(figures)
    return [epoch for epoch in epochs.values() if "loss" in epoch]


def _drop_torn_checkpoints(folder: Path) -> None:
    """Remove checkpoints that a killed run did not finish."""
    for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not (checkpoint / WHOLE_FILE).is_file():
            shutil.rmtree(checkpoint)
