"""Making a teacher: an encoder fine-tuned on the corpus's labelled rows."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForSequenceClassification, Trainer

from finstill.errors import InputError
from finstill.files import digest, read_json, whole_folder, write_json
from finstill.profile import FineTuning
from finstill.quiet import quiet_transformers
from finstill.students.base import label_maps
from finstill.teacher.checkpoint import Checkpoint
from finstill.training import TrainingRows, collate, run_training, training_arguments, validation_metrics

FINE_TUNING_FILE = "fine_tuning.json"

logger = logging.getLogger(__name__)


def fine_tune(
    encoder: Checkpoint,
    settings: FineTuning,
    train: TrainingRows,
    validation: TrainingRows,
    labels: Sequence[str],
    folder: Path,
    *,
    seed: int,
) -> list[dict[str, float]]:
    """Fine-tune `encoder` with a new classification head into `folder`, whole or not at all, and return the history.

    Devlin et al. 2019, "BERT", section 4: all weights are trained, warming up over the first tenth of the steps. The
    epoch with the best macro-F1 on `validation` is kept. A teacher that stands there already and was made from the
    same rows and settings is kept, and with it every logit it has given.

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
            "the validation split has no labelled row to choose the best epoch by", where="teacher.fine_tune"
        )
    inputs = _inputs_digest(encoder, settings, train, validation, labels, seed)
    record = folder / FINE_TUNING_FILE
    if record.is_file() and (existing := read_json(record))["inputs"] == inputs:
        logger.info("teacher_checkpoint: unchanged, the teacher of these rows is kept")
        return existing["history"]
    transformers.set_seed(seed)
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(
            encoder.folder,
            dtype=torch.float32,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            **label_maps(labels),
        )
    steps = settings.epochs * -(-len(train) // settings.batch_size)
    trainer = Trainer(
        model=model,
        args=training_arguments(
            folder.parent / f"fine-tuning-{inputs}",
            best_by="macro_f1",
            seed=seed,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=steps // 10,
        ),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collate,
        compute_metrics=validation_metrics,
    )
    history = run_training(trainer, "teacher_checkpoint")
    with whole_folder(folder) as unfinished:
        with quiet_transformers():
            model.save_pretrained(unfinished)
        shutil.copy(encoder.folder / "tokenizer.json", unfinished)
        write_json(unfinished / FINE_TUNING_FILE, {"inputs": inputs, "rows": len(train), "history": history})
    return history


def _inputs_digest(
    encoder: Checkpoint,
    settings: FineTuning,
    train: TrainingRows,
    validation: TrainingRows,
    labels: Sequence[str],
    seed: int,
) -> str:
    weights = sorted(encoder.folder.glob("*.safetensors")) or sorted(encoder.folder.glob("*.bin"))
    parts: list[bytes | str | Path] = [*weights, settings.model_dump_json(), str(seed), *labels]
    return digest(*parts, *train.content(), *validation.content())
