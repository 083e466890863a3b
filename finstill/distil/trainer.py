"""Training a student from cached teacher logits."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.tensorboard import SummaryWriter
from transformers import Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback

import finstill
from finstill.distil.loss import distillation_loss
from finstill.files import digest, read_json, whole_folder, write_json
from finstill.quiet import quiet_transformers
from finstill.students.recipe import Recipe
from finstill.students.registry import STUDENTS
from finstill.teacher.checkpoint import word_embeddings
from finstill.training import (
    TrainingRows,
    collate,
    early_stopping,
    run_training,
    training_arguments,
    validation_metrics,
)

TRAINING_FILE = "training.json"

logger = logging.getLogger(__name__)


class DistillationTrainer(Trainer):
    """transformers' trainer with the distillation loss in place of the model's own."""

    def __init__(self, recipe: Recipe, **kwargs: Any):
        super().__init__(**kwargs)
        self._recipe = recipe
        heard = recipe.alpha > 0
        self.label_names = ["labels", "teacher_logits"] if heard else ["labels"]
        # The loss is a mean over the batch: the trainer is not to rescale it by its own count of items.
        self.model_accepts_loss_kwargs = False

    @property
    def temperature(self) -> float:
        return self._recipe.temperature.at(self.state.global_step, self.state.max_steps)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        loss = distillation_loss(
            outputs.logits,
            inputs.get("teacher_logits"),
            inputs["labels"],
            alpha=self._recipe.alpha,
            # Evaluated at T = 1, as the student will be used, so that epochs compare while T moves.
            temperature=self.temperature if model.training else 1.0,
            soft_scale=self._recipe.soft_scale,
        )
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._recipe.alpha > 0:
            logs["temperature"] = round(self.temperature, 4)
        super().log(logs, start_time)


@dataclass(frozen=True)
class TrainedStudent:
    """A trained student's folder.

    Attributes:
        folder: in the transformers layout, with the tokenizer and this description.
        recipe: what it was made by.
        inputs: digest of everything that determines it; equal inputs give an equal student.
        history: an entry an epoch: loss, temperature, validation figures.
        rows: texts it was trained on, each counted once.
        parameters: number of weights.
    """

    folder: Path
    recipe: Recipe
    inputs: str
    history: list[dict[str, float]]
    rows: int
    parameters: int

    @classmethod
    def read(cls, folder: Path) -> TrainedStudent:
        values = read_json(folder / TRAINING_FILE)
        return cls(
            folder, Recipe(**values["recipe"]), *(values[k] for k in ("inputs", "history", "rows", "parameters"))
        )


def train_student(
    recipe: Recipe,
    train: TrainingRows,
    validation: TrainingRows,
    labels: Sequence[str],
    teacher_checkpoint: Path,
    folder: Path,
    *,
    stage: str,
    report_to: Sequence[str] = (),
) -> TrainedStudent:
    """Train the student of `recipe` into `folder`, whole or not at all.

    A run that was cut off goes on from its last epoch. A student that stands there already and was made from the same
    inputs is kept: the seed is part of the recipe, so training again would only make it again.

    Args:
        train, validation: teacher logits over the task's labels; with alpha 0 only labelled rows are read.
        labels: the task's labels, in the order of the logits.
        teacher_checkpoint: the teacher's folder; its tokenizer goes with the student, and its word embeddings are the
            student's first ones where the recipe asks for it.
        stage: how log lines call this training.
        report_to: the trainer's integrations; `tensorboard` writes to `tensorboard` beside `folder`.
    """
    if recipe.alpha == 0:
        train, validation = (TrainingRows(r.input_ids, r.labels).labelled() for r in (train, validation))
    embeddings = word_embeddings(teacher_checkpoint)
    inputs = _inputs_digest(recipe, train, validation, labels, teacher_checkpoint, embeddings)
    if (folder / TRAINING_FILE).is_file():
        existing = TrainedStudent.read(folder)
        if existing.inputs == inputs:
            logger.info("%s: unchanged, the student of these inputs is kept", stage)
            return existing
    texts = len(train)
    train = train.with_labelled_repeated(recipe.labelled_repeats)
    # Before the model is built: its random weights are part of what the seed decides.
    transformers.set_seed(recipe.seed)
    student = STUDENTS[recipe.student].from_shape(
        recipe.shape, labels, len(embeddings), embeddings if recipe.shape.embedding == "teacher" else None
    )
    checkpoints = folder.parent / f"training-{inputs}"
    labelled = len(validation.labelled()) > 0
    callbacks: list[TrainerCallback] = [early_stopping(recipe.patience)]
    if "tensorboard" in report_to:
        # The trainer's own writes among the checkpoints, which go when training is done.
        callbacks.append(TensorBoardCallback(SummaryWriter(str(folder.parent / "tensorboard"))))
    trainer = DistillationTrainer(
        recipe,
        model=student,
        args=training_arguments(
            checkpoints,
            best_by="macro_f1" if labelled else "agreement",
            seed=recipe.seed,
            num_train_epochs=recipe.epochs,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            report_to=[each for each in report_to if each != "tensorboard"],
            run_name=stage,
        ),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collate,
        compute_metrics=validation_metrics,
        callbacks=callbacks,
    )
    history = run_training(trainer, stage)
    trained = TrainedStudent(folder, recipe, inputs, history, texts, student.num_parameters())
    with whole_folder(folder) as unfinished:
        with quiet_transformers():
            student.save_pretrained(unfinished)
        shutil.copy(teacher_checkpoint / "tokenizer.json", unfinished)
        write_json(
            unfinished / TRAINING_FILE, {**asdict(trained), "folder": None, "recipe": recipe.model_dump(mode="json")}
        )
    return trained


def _inputs_digest(
    recipe: Recipe,
    train: TrainingRows,
    validation: TrainingRows,
    labels: Sequence[str],
    teacher_checkpoint: Path,
    embeddings: np.ndarray,
) -> str:
    versions = f"finstill {finstill.__version__} torch {torch.__version__} transformers {transformers.__version__}"
    parts: list[bytes | str | Path] = [
        recipe.model_dump_json(),
        versions,
        *labels,
        teacher_checkpoint / "tokenizer.json",
    ]
    if recipe.shape.embedding == "teacher":
        parts.append(embeddings.tobytes())
    return digest(*parts, *train.content(), *validation.content())
