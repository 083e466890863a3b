"""Training a student from cached teacher logits."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.tensorboard import SummaryWriter
from transformers import Trainer, TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import EvalPrediction, get_last_checkpoint

from finstill.config.architectures import BaseConfig, EmbeddingConfig, HintedConfig
from finstill.config.recipe import Recipe
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import TOKENIZER_FILE, tokenizer_identity
from finstill.errors import InputError
from finstill.files import digest, read_json, whole_folder, write_json
from finstill.quiet import quiet_transformers
from finstill.students.base import Student
from finstill.students.registry import STUDENTS
from finstill.students.start import Start
from finstill.students.vocabulary import Vocabulary
from finstill.students.word_vectors import output_vectors
from finstill.teacher.checkpoint import word_embeddings
from finstill.training.averaging import WeightAverage
from finstill.training.epochs import Epoch, EpochSampler
from finstill.training.hints import learn_hints
from finstill.training.loop import (
    MEASURES,
    collate,
    early_stopping,
    gpu_has_bfloat16,
    library_versions,
    one_thread,
    run_training,
    training_arguments,
    validation_metrics,
)
from finstill.training.loss import class_weights, distillation_loss
from finstill.training.rows import NO_LABEL, TrainingRows
from finstill.training.trained import TRAINING_FILE, TrainedStudent
from finstill.training.warm_start import LEARNED_FILE, row_digests, start_from_champion

logger = logging.getLogger(__name__)


DIVERGED = 100.0
"""A loss so many times that of a student that says nothing is not on its way down."""

ROWS_NAMED = 8


class DistillationTrainer(Trainer):
    """transformers' trainer with the distillation loss in place of the model's own.

    A loss that is not finite, or far above that of logits that are all 0, raises `InputError` before it reaches a
    weight; the checkpoints of the epochs before stay in `checkpoints`.

    Args:
        recipe: how to train.
        student: untrained.
        train, validation: the rows; teacher logits are needed unless the recipe's alpha is 0.
        epoch: how many of the train rows an epoch reads.
        checkpoints: the folder that a cut-off training resumes from.
        stage: how logs and errors call this training.
        callbacks, report_to: as transformers takes them.
    """

    def __init__(
        self,
        recipe: Recipe,
        student: Student,
        train: TrainingRows,
        validation: TrainingRows,
        epoch: Epoch,
        checkpoints: Path,
        *,
        stage: str,
        callbacks: Sequence[TrainerCallback] = (),
        report_to: Sequence[str] = (),
    ):
        steps = recipe.epochs * -(-len(epoch) // recipe.batch_size)
        arguments = training_arguments(
            checkpoints,
            # Of a few hundred labels chance decides: an epoch far from the teacher may have most of them right. Labels
            # alone have nothing better: their loss grows while students become too sure, and no worse.
            best_by="loss" if recipe.alpha > 0 else "macro_f1",
            seed=recipe.seed,
            # Not on a processor: a student is to be the same on each.
            bfloat16=gpu_has_bfloat16(),
            num_train_epochs=recipe.epochs,
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            # A first step at the full rate can push an LSTM to where it answers every text alike.
            warmup_steps=steps // 10,
            report_to=list(report_to),
            run_name=stage,
        )
        super().__init__(
            model=student,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=collate,
            compute_metrics=self._validation_metrics,
            callbacks=list(callbacks),
        )
        self._recipe = recipe
        self._train = train
        self._epoch = epoch
        self._stage = stage
        self._class_weights = class_weights(
            recipe.class_weights, train.labels, list((student.config.id2label or {}).values())
        )
        self.label_names = ["labels", "teacher_logits"] if recipe.alpha > 0 else ["labels"]
        # The loss is a mean over the batch: the trainer is not to rescale it by its own count of items.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return EpochSampler(self._train, self._epoch, self._recipe.batch_size, self._recipe.seed)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as `Trainer.train` does, with one thread to a product."""
        with one_thread():
            return super().train(*args, **kwargs)

    @property
    def student(self) -> Student:
        assert isinstance(self.model, Student)
        return self.model

    def validate(self) -> dict[str, float]:
        """Return loss, macro-F1 and agreement of the student as it is, those that the validation rows can tell."""
        rows: Any = self.eval_dataset
        metrics = self.predict(rows, metric_key_prefix="eval").metrics or {}
        return {name: metrics[f"eval_{name}"] for name in MEASURES if f"eval_{name}" in metrics}

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
        loss = self._loss(outputs.logits, inputs, training=model.training)
        if model.training:
            self._stop_if_diverging(loss, outputs.logits, inputs)
        return (loss, outputs) if return_outputs else loss

    def _loss(self, logits: torch.Tensor, inputs: dict[str, Any], *, training: bool) -> torch.Tensor:
        return distillation_loss(
            logits,
            inputs.get("teacher_logits"),
            inputs["labels"],
            alpha=self._recipe.alpha,
            # Evaluated at T = 1, as the student will be used, so that epochs compare while T moves.
            temperature=self.temperature if training else 1.0,
            soft_loss=self._recipe.soft_loss,
            alpha_rule=self._recipe.alpha_rule,
            class_weights=self._class_weights,
        )

    def _validation_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the figures of the validation rows, their loss among them, computed of all rows at once.

        The trainer's own is a mean over batches. It is another where some rows have no label: the hard loss is averaged
        over those that have one, and a batch of a few of them, or of none, would count for as much as any other.
        """
        given = prediction.label_ids if isinstance(prediction.label_ids, tuple) else (prediction.label_ids,)
        inputs = {name: torch.from_numpy(each) for name, each in zip(self.label_names, given, strict=True)}
        loss = self._loss(torch.from_numpy(prediction.predictions), inputs, training=False)
        # Under this name the trainer puts it in place of its own.
        return {**validation_metrics(prediction), "loss": loss.item()}

    def _stop_if_diverging(self, loss: torch.Tensor, logits: torch.Tensor, inputs: dict[str, Any]) -> None:
        value = loss.item()
        if value < DIVERGED:
            return
        says_nothing = self._loss(torch.zeros_like(logits), inputs, training=True).item()
        if value < DIVERGED * (1 + says_nothing):
            return
        finite = torch.stack([x.isfinite().all(dim=-1) for x in (logits, inputs.get("teacher_logits", logits))]).all(0)
        suspects = ~finite if not finite.all() else torch.ones_like(finite)
        positions = self._positions(inputs, suspects)
        rows = f"row{'s' * (len(positions) > 1)} {', '.join(map(str, positions[:ROWS_NAMED]))}"
        more = f" and {len(positions) - ROWS_NAMED} more" if len(positions) > ROWS_NAMED else ""
        last = get_last_checkpoint(str(self.args.output_dir))
        raise InputError(
            f"the loss of step {self.state.global_step + 1} is {value:.4g}, in a batch with {rows}{more} of the train "
            "rows (from 0)" + (f"; the last good checkpoint is {last}" if last else ""),
            where=self._stage,
            remedy="Lower the recipe's learning_rate, or look at these rows and their teacher logits",
        )

    def _positions(self, inputs: dict[str, Any], chosen: torch.Tensor) -> list[int]:
        """Return where the chosen rows of a batch stand among the train rows; a repeated one stands where it is first.

        Looked up when it is asked for, so that no batch need carry it.
        """
        rows, lengths = inputs["input_ids"][chosen].tolist(), inputs["attention_mask"][chosen].sum(dim=1).tolist()
        wanted = {tuple(row[:n]) for row, n in zip(rows, lengths, strict=True)}
        found: dict[tuple[int, ...], int] = {}
        for position, ids in enumerate(self._train.input_ids):
            if (row := tuple(ids.tolist())) in wanted:
                found.setdefault(row, position)
        return sorted(found.values())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._recipe.alpha > 0:
            logs["temperature"] = round(self.temperature, 4)
        super().log(logs, start_time)


def train_student(
    recipe: Recipe,
    train: TrainingRows,
    validation: TrainingRows,
    labels: Sequence[str],
    teacher_checkpoint: Path,
    folder: Path,
    *,
    stage: str,
    starts: Path | None = None,
    champion: Path | None = None,
    report_to: Sequence[str] = (),
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainedStudent:
    """Train the student of `recipe` into `folder`, whole or not at all.

    A run that was cut off goes on from its last epoch. A student that stands there already and was made from the same
    inputs is kept: the seed is part of the recipe, so training again would only make it again.

    Args:
        train, validation: teacher logits over the task's labels; with alpha 0 only labelled rows are read.
        labels: the task's labels, in the order of the logits.
        teacher_checkpoint: the teacher's folder, for a recipe whose student reads by its tokenizer and starts from it.
        stage: how log lines call this training.
        starts: the folder where output vectors, and weights after hints, are kept for other students that start from
            the same.
        champion: the folder of the package in service, for a recipe that starts from it. What the student is then also
            depends on the students before it, and these are no part of its inputs: where rows and recipe are the same,
            it is kept. A training that was cut off begins anew where another champion came meanwhile.
        report_to: the trainer's integrations; `tensorboard` writes to `tensorboard` beside `folder`.
        callbacks: of the trainer; one may raise to end the training.

    Raises:
        InputError: the loss is not finite or diverges, the recipe asks of its checkpoint what it does not have, or its
            alpha is 0 and the rows of one split have no label.
        UnreachableError: the checkpoint is the hub's, which cannot be reached.
    """
    said = train.provenance
    max_length = said.max_length if said else None
    start = Start.open(recipe.architecture.checkpoint, teacher_checkpoint, max_length)
    train, validation = (rows.read_by(start.tokenizer, start.max_length) for rows in (train, validation))
    # Before rows without a label are left out, so that a label-only baseline knows the same words.
    vocabulary = _vocabulary(recipe.architecture, train, start)
    epoch, read = Epoch.of(recipe, train), train.input_ids
    if recipe.alpha == 0:
        said = said and replace(said, teachers=())
        epoch = epoch.of_labels_alone()
        train, validation = (TrainingRows(r.input_ids, r.labels).labelled() for r in (train, validation))
        for split, rows in (("train", train), ("validation", validation)):
            if not len(rows):
                raise InputError(
                    f"no row of the {split} split has a label, and with alpha 0 a student learns from labels alone",
                    where=stage,
                    remedy="Label some rows, or remove the recipe",
                )
    inputs = _inputs_digest(recipe, train, epoch, read, validation, labels, vocabulary, start)
    existing = read_json(folder / TRAINING_FILE) if (folder / TRAINING_FILE).is_file() else None
    # The rest of the file may be another version's.
    if existing is not None and existing["inputs"] == inputs:
        # Another teacher may give the same logits.
        write_json(folder / TRAINING_FILE, {**existing, "provenance": said and asdict(said)})
        logger.info("%s: unchanged, the student of these inputs is kept", stage)
        return TrainedStudent.read(folder)
    whole, learned, warm = train.whole_texts(), row_digests(train), None
    texts, labelled = len(whole), int((whole.labels != NO_LABEL).sum())
    if recipe.start_from == "champion" and champion is not None:
        measured = row_digests(validation)
        warm = start_from_champion(recipe, champion, learned, measured, said, labels, start, stage)
    # Before the model is built: its random weights are part of what the seed decides.
    transformers.set_seed(recipe.seed)
    if warm is not None:
        texts, labelled = warm.count_with(whole, len(labels))
        training, student, train = warm.recipe, warm.student, train.at(warm.rows_to_read(train, recipe.seed))
        learned, epoch = np.union1d(learned, warm.learned), Epoch.of(training, train)
    else:
        if isinstance(recipe.architecture, EmbeddingConfig) and recipe.architecture.embedding == "output":
            start = replace(start, output_vectors=output_vectors(start, read, vocabulary, starts, stage))
        training = recipe
        student = STUDENTS[recipe.student].from_architecture(recipe.architecture, labels, vocabulary, start)
        if isinstance(recipe.architecture, HintedConfig) and recipe.architecture.hint_texts:
            learn_hints(student, start, read, recipe, starts, stage)
    # Of this start: the champion changes, and a checkpoint of another has other weights and rows.
    checkpoints = folder.parent / f"training-{digest(inputs, warm.champion if warm else '')}"
    tokenizer = start.tokenizer
    del start  # A large checkpoint need not stay in memory while its student is trained.
    average = WeightAverage(student, recipe.average_last) if recipe.average_last else None
    callbacks = [early_stopping(recipe.patience), *([average] if average else []), *callbacks]
    if "tensorboard" in report_to:
        # The trainer's own writes among the checkpoints, which go when training is done.
        callbacks.append(TensorBoardCallback(SummaryWriter(str(folder.parent / "tensorboard"))))
    with student.embedding.learning(np.flatnonzero(train.input_ids.counts(vocabulary.size))):
        trainer = DistillationTrainer(
            training,
            student,
            train,
            validation,
            epoch,
            checkpoints,
            stage=stage,
            callbacks=callbacks,
            report_to=[each for each in report_to if each != "tensorboard"],
        )
        history = run_training(trainer, stage)
        validated = _settle(trainer, average, history, stage)
    trained = TrainedStudent(
        folder=folder,
        recipe=recipe,
        inputs=inputs,
        history=history,
        validation=validated,
        rows=len(train),
        texts=texts,
        labelled=labelled,
        steps=trainer.state.global_step,
        parameters=student.num_parameters(),
        started_from=warm.champion if warm else None,
        provenance=said,
    )
    with whole_folder(folder) as unfinished:
        with quiet_transformers():
            student.save_pretrained(unfinished)
        tokenizer.save(str(unfinished / TOKENIZER_FILE))
        np.save(unfinished / LEARNED_FILE, learned)
        write_json(
            unfinished / TRAINING_FILE, {**asdict(trained), "folder": None, "recipe": recipe.model_dump(mode="json")}
        )
    # The checkpoints of this training, and what others left when they were cut off.
    for left in folder.parent.glob("training-*"):
        shutil.rmtree(left)
    return trained


def _settle(
    trainer: DistillationTrainer, average: WeightAverage | None, history: list[dict[str, float]], stage: str
) -> dict[str, float]:
    """Give the student the mean weights where they are no worse on the validation rows, and return its figures there.

    The trainer's student has its best epoch's weights, which were measured when that epoch ended.
    """
    measure, better = str(trainer.args.metric_for_best_model), 1 if trainer.args.greater_is_better else -1
    epochs = [{name: epoch[MEASURES[name]] for name in MEASURES if MEASURES[name] in epoch} for epoch in history]
    figures = max(epochs, key=lambda epoch: better * epoch[measure])
    weights = average.weights() if average else None
    if weights is None:
        return figures
    best = {name: each.clone() for name, each in trainer.student.state_dict().items()}
    trainer.student.load_state_dict(weights)
    averaged = trainer.validate()
    logger.info(
        "%s: %s %.4g of the mean weights, %.4g of the best epoch's", stage, measure, averaged[measure], figures[measure]
    )
    if better * averaged[measure] >= better * figures[measure]:
        return averaged
    trainer.student.load_state_dict(best)
    return figures


def _vocabulary(architecture: BaseConfig, train: TrainingRows, start: Start) -> Vocabulary:
    size = len(word_embeddings(start.encoder))
    if architecture.vocabulary == "full":
        return Vocabulary.full(size)
    return Vocabulary.of_corpus(train.input_ids, size, start.tokenizer, at_most=architecture.vocabulary_size)


def _inputs_digest(
    recipe: Recipe,
    train: TrainingRows,
    epoch: Epoch,
    read: TokenIds,
    validation: TrainingRows,
    labels: Sequence[str],
    vocabulary: Vocabulary,
    start: Start,
) -> str:
    parts: list[bytes | str | Path] = [
        recipe.digest,
        library_versions(),
        *labels,
        vocabulary.token_ids.tobytes(),
        tokenizer_identity(start.tokenizer),
        str(start.max_length),
        str(len(epoch)),
    ]
    if recipe.architecture.starts_from_checkpoint:
        parts += start.weights_digests()
    if recipe.architecture.starts_from_texts:
        parts += read.content()
    return digest(*parts, *train.content(), *validation.content())
