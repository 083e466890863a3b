"""Making a teacher: an encoder fine-tuned on the corpus's labelled rows."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from safetensors.torch import load_model, save_model
from torch.optim.swa_utils import AveragedModel
from transformers import AutoModelForSequenceClassification, PreTrainedModel, Trainer, TrainerCallback

from finstill.config.profile import FineTuning
from finstill.corpus.tokenizer import TOKENIZER_FILE, read_tokenizer
from finstill.errors import InputError
from finstill.files import digest, read_json, whole_folder, write_json
from finstill.quiet import quiet_transformers
from finstill.students.base import label_maps
from finstill.teacher.checkpoint import Checkpoint, weight_files
from finstill.training.loop import (
    collate,
    cpu_has_bfloat16,
    gpu_has_bfloat16,
    run_training,
    training_arguments,
    validation_metrics,
)
from finstill.training.rows import TrainingRows

FINE_TUNING_FILE = "fine_tuning.json"
STAGE = "teacher_checkpoint"

HISTORY_FILE = "history.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuned:
    """How a teacher was made.

    Attributes:
        history: an entry an epoch, of one run after the other; `epoch` counts on.
        macro_f1: of the teacher on the labelled validation rows.
    """

    history: list[dict[str, float]]
    macro_f1: float


def fine_tune(
    encoder: Checkpoint,
    settings: FineTuning,
    train: TrainingRows,
    validation: TrainingRows,
    labels: Sequence[str],
    folder: Path,
    *,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> FineTuned:
    """Fine-tune `encoder` with a new classification head into `folder`, whole or not at all.

    Devlin et al. 2019, "BERT", section 4: all weights are trained, warming up over the first tenth of the steps. The
    epoch with the best macro-F1 on `validation` is kept. Where the settings ask for several runs, all start from one
    head and differ in batches and dropout, and the teacher is the mean of their weights (Wortsman et al. 2022, "Model
    soups", the uniform one): it costs the pass no more than one of them.

    A teacher that stands there already and was made from the same rows and settings is kept, and with it every logit
    it has given. Where a run was cut off, those before it are not trained again and it goes on from its last epoch.

    Args:
        callbacks: of each run's trainer; one may raise to end the training.

    Raises:
        InputError: a label has no row in train, or validation has no labelled row.
    """
    train, validation = train.labelled(), validation.labelled()
    rows = np.bincount(train.labels, minlength=len(labels))
    if missing := [label for label, count in zip(labels, rows, strict=True) if not count]:
        raise InputError(
            f"no labelled row of the train split is {' or '.join(missing)}, so no teacher can learn it",
            where="teacher.fine_tune",
            remedy="Label some rows, or name a trained classifier as teacher.checkpoint",
        )
    if not len(validation):
        raise InputError(
            "the validation split has no labelled row to choose the best epoch by",
            where="teacher.fine_tune",
            remedy="Label some of its rows, or name a trained classifier as teacher.checkpoint",
        )
    inputs = _inputs_digest(encoder, settings, train, validation, labels, seed)
    record = folder / FINE_TUNING_FILE
    if record.is_file() and (existing := read_json(record))["inputs"] == inputs:
        logger.info("%s: unchanged, the teacher of these rows is kept", STAGE)
        return FineTuned(existing["history"], existing["macro_f1"])
    unfinished_runs = folder.parent / f"fine-tuning-{inputs}"
    average, history = None, []
    for run in range(settings.runs):
        model = untrained_classifier(encoder, labels, seed)
        checkpoints = unfinished_runs / f"checkpoints-{run}"
        trainer = _trainer(model, settings, train, validation, checkpoints, seed + run, callbacks)
        stage = f"{STAGE}, run {run + 1} of {settings.runs}"
        history += _train_once(model, trainer, unfinished_runs / f"run-{run}", stage)
        # Of mixed precision the trainer leaves a wrapper that cannot be copied.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        average = average or AveragedModel(model)
        average.update_parameters(model)
    assert average is not None
    model.load_state_dict(average.module.state_dict())
    # Rows are a map-style data set without torch's base class, so that what measures them need not load torch.
    metrics = trainer.predict(cast(Any, validation)).metrics
    assert metrics is not None
    macro_f1 = metrics["test_macro_f1"]
    logger.info("%s: macro-F1 %.4g on validation", STAGE, macro_f1)
    history = [{**epoch, "epoch": float(number)} for number, epoch in enumerate(history, 1)]
    with whole_folder(folder) as unfinished:
        with quiet_transformers():
            model.save_pretrained(unfinished)
        read_tokenizer(encoder.folder).save(str(unfinished / TOKENIZER_FILE))
        figures = {"rows": len(train), "macro_f1": macro_f1, "history": history}
        write_json(unfinished / FINE_TUNING_FILE, {"inputs": inputs, **figures})
    # This fine-tuning's runs, and what others left when they were cut off.
    for left in folder.parent.glob("fine-tuning-*"):
        shutil.rmtree(left)
    return FineTuned(history, macro_f1)


def untrained_classifier(encoder: Checkpoint, labels: Sequence[str], seed: int) -> PreTrainedModel:
    """Return the encoder with a new head, the same for the same seed: the mean of unlike heads is of no use."""
    transformers.set_seed(seed)
    with quiet_transformers():
        return AutoModelForSequenceClassification.from_pretrained(
            encoder.folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            **label_maps(labels),
        )


def _trainer(
    model: PreTrainedModel,
    settings: FineTuning,
    train: TrainingRows,
    validation: TrainingRows,
    checkpoints: Path,
    seed: int,
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    return Trainer(
        model=model,
        args=training_arguments(
            checkpoints,
            best_by="macro_f1",
            seed=seed,
            bfloat16=gpu_has_bfloat16() or cpu_has_bfloat16(),
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=steps // 10,
        ),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collate,
        compute_metrics=validation_metrics,
        callbacks=list(callbacks),
    )


def _train_once(model: PreTrainedModel, trainer: Trainer, finished: Path, stage: str) -> list[dict[str, float]]:
    """Train the model into the folder `finished`, or read it where that stands, and return the run's history."""
    if finished.is_dir():
        logger.info("%s: finished before", stage)
        load_model(model, finished / "model.safetensors")
        return read_json(finished / HISTORY_FILE)
    history = run_training(trainer, stage)
    with whole_folder(finished) as unfinished:
        save_model(model, str(unfinished / "model.safetensors"))
        write_json(unfinished / HISTORY_FILE, history)
    # Not before: one that is cut off while it is saved goes on from them.
    shutil.rmtree(str(trainer.args.output_dir))
    return history


def _inputs_digest(
    encoder: Checkpoint,
    settings: FineTuning,
    train: TrainingRows,
    validation: TrainingRows,
    labels: Sequence[str],
    seed: int,
) -> str:
    parts: list[bytes | str | Path] = [*weight_files(encoder.folder), settings.model_dump_json(), str(seed), *labels]
    return digest(*parts, *train.content(), *validation.content())
