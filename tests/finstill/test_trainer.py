"""Training: what a student learns from, the same student from the same seed, and going on after SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn.functional import kl_div
from transformers import TrainerCallback, TrainerState, TrainingArguments

from finstill.config.architectures import ConvolutionConfig, EncoderConfig, LstmAttentionConfig, StaticConfig
from finstill.config.recipe import Recipe
from finstill.config.temperature import TemperatureSchedule
from finstill.corpus.long_texts import read_windows
from finstill.corpus.provenance import TableProvenance
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import read_tokenizer, tokenizer_identity
from finstill.errors import InputError
from finstill.files import read_json, write_json
from finstill.inference.batching import pad
from finstill.metrics import macro_f1
from finstill.students.embedding import fit_width
from finstill.students.registry import load_student
from finstill.students.start import Start
from finstill.teacher.checkpoint import resolve_checkpoint, word_embeddings
from finstill.training import averaging, distil, loop
from finstill.training.averaging import WeightAverage
from finstill.training.distil import train_student
from finstill.training.epochs import Epoch, EpochSampler
from finstill.training.loss import distillation_loss
from finstill.training.rows import NO_LABEL, TrainingRows
from finstill.training.soft_losses import SOFT_LOSSES
from finstill.training.trained import TrainedStudent

LABELS = ("negative", "neutral", "positive")
SMALL = LstmAttentionConfig(embedding="random", embedding_width=16, hidden_width=16, layers=1, dropout=0.1)
TRAINING = {"epochs": 4, "batch_size": 16, "learning_rate": 0.01}
RECIPE = Recipe(architecture=SMALL, **TRAINING)
OTHER_KINDS = {
    "convolution": Recipe(
        student="convolution",
        architecture=ConvolutionConfig(embedding_width=16, filters=16, vocabulary="corpus"),
        **TRAINING,
    ),
    "encoder": Recipe(
        student="encoder",
        architecture=EncoderConfig(checkpoint="teacher", layers=(1,), vocabulary="corpus"),
        **{**TRAINING, "learning_rate": 0.005},
    ),
    "static": Recipe(
        student="static",
        architecture=StaticConfig(embedding_width=16, hidden_width=16, vocabulary="corpus", vocabulary_size=40),
        **{**TRAINING, "learning_rate": 0.05},
    ),
}

Train = Callable[..., TrainedStudent]


def logits_of(student: TrainedStudent, rows: TrainingRows) -> np.ndarray:
    input_ids, mask = pad(rows.input_ids)
    with torch.inference_mode():
        return load_student(student.folder)(torch.from_numpy(input_ids), torch.from_numpy(mask)).logits.numpy()


@pytest.fixture
def train(tiny_checkpoint: Path, learnable_rows: Callable[..., TrainingRows], tmp_path: Path) -> Train:
    def run(
        recipe: Recipe = RECIPE,
        name: str = "student",
        rows: TrainingRows | None = None,
        validation: TrainingRows | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> TrainedStudent:
        return train_student(
            recipe,
            rows or learnable_rows(160),
            validation or learnable_rows(40, seed=1),
            LABELS,
            tiny_checkpoint,
            tmp_path / name / "checkpoint",
            stage=name,
            callbacks=callbacks,
        )

    return run


def weights(student: TrainedStudent) -> dict[str, torch.Tensor]:
    return load_file(student.folder / "model.safetensors")


def test_a_student_learns_from_the_teacher_alone(train: Train, learnable_rows: Callable[..., TrainingRows]) -> None:
    unlabelled = learnable_rows(160, unlabelled=160)
    student = train(RECIPE.model_copy(update={"epochs": 6}), rows=unlabelled)
    assert student.rows == 160
    assert max(epoch["agreement"] for epoch in student.history) > 0.9


def test_a_directly_trained_twin_reads_labelled_rows_and_no_teacher(
    train: Train, learnable_rows: Callable[..., TrainingRows]
) -> None:
    rows = learnable_rows(160, unlabelled=60)
    misleading = TrainingRows(rows.input_ids, rows.labels, -rows.teacher_logits)  # type: ignore[operator]
    baseline = RECIPE.model_copy(update={"alpha": 0.0, "epochs": 6})
    student = train(baseline, rows=misleading)
    assert student.rows == 100
    assert max(epoch["macro_f1"] for epoch in student.history) > 0.9
    assert "agreement" not in student.history[0]


def test_a_word_that_no_train_text_holds_keeps_its_first_vector_and_is_read(
    train: Train, tiny_checkpoint: Path, learnable_rows: Callable[..., TrainingRows]
) -> None:
    recipe = RECIPE.model_copy(update={"architecture": SMALL.model_copy(update={"embedding": "input"}), "epochs": 1})
    started = Start.open("teacher", tiny_checkpoint, 32)
    first = fit_width(word_embeddings(started.encoder), SMALL.embedding_width)
    learned = weights(train(recipe))["embedding.vectors.weight"].numpy()
    read = np.unique(learnable_rows(160).input_ids.values)
    assert (learned[read] != first[read]).any(axis=1).all()
    unread = np.delete(np.arange(len(first)), read)
    assert np.array_equal(learned[unread], first[unread])


def test_the_history_shows_the_temperature_falling(train: Train) -> None:
    temperatures = [epoch["temperature"] for epoch in train().history]
    assert temperatures == sorted(temperatures, reverse=True)
    assert temperatures[0] < 5
    assert temperatures[-1] == pytest.approx(1, abs=0.2)


def test_the_same_seed_gives_the_same_student_and_another_seed_another(train: Train) -> None:
    first, second = weights(train(name="a")), weights(train(name="b"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = weights(train(RECIPE.model_copy(update={"seed": 1}), name="c"))
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_student_is_the_same_whatever_the_number_of_threads(train: Train) -> None:
    # Of a size at which the sums of a product come out otherwise on two threads.
    recipe = RECIPE.model_copy(update={"architecture": LstmAttentionConfig(layers=2), "epochs": 1})
    students = []
    usual = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            students.append(weights(train(recipe, name=f"{threads} threads")))
    finally:
        torch.set_num_threads(usual)
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])


def test_a_student_of_the_same_inputs_is_kept_and_one_of_others_is_made_again(train: Train) -> None:
    first = train()
    written = (first.folder / "model.safetensors").stat().st_mtime_ns
    assert train().inputs == first.inputs
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == written
    assert train(RECIPE.model_copy(update={"alpha": 0.5})).inputs != first.inputs
    assert (first.folder / "model.safetensors").stat().st_mtime_ns != written


def test_a_student_of_a_version_with_other_settings_is_made_again(train: Train) -> None:
    old = train(RECIPE.model_copy(update={"epochs": 1}))
    described = read_json(old.folder / "training.json")
    described["recipe"]["a_setting_of_old"] = 1
    write_json(old.folder / "training.json", {**described, "inputs": "of old"})
    assert train(RECIPE.model_copy(update={"epochs": 1})).inputs == old.inputs


def test_a_student_of_labels_alone_is_its_epoch_of_the_highest_macro_f1(
    train: Train, learnable_rows: Callable[..., TrainingRows]
) -> None:
    student = train(RECIPE.model_copy(update={"alpha": 0.0, "epochs": 30, "patience": 2}))
    scores = [epoch["macro_f1"] for epoch in student.history]
    assert len(scores) < 30
    validation = learnable_rows(40, seed=1)
    assert macro_f1(validation.labels, logits_of(student, validation)) == pytest.approx(max(scores))


def test_a_student_that_hears_the_teacher_is_its_epoch_of_the_lowest_loss(
    train: Train, learnable_rows: Callable[..., TrainingRows]
) -> None:
    # So fast that it overshoots: neither the first epoch is the best one nor the last.
    student = train(RECIPE.model_copy(update={"alpha": 1.0, "epochs": 30, "patience": 2, "learning_rate": 0.1}))
    losses = [epoch["validation_loss"] for epoch in student.history]
    assert losses[-3] == min(losses)
    assert len(losses) < 30
    assert student.validation["loss"] == min(losses)
    validation = learnable_rows(40, seed=1)
    teacher = validation.teacher_logits
    assert teacher is not None
    logits = [torch.from_numpy(array).log_softmax(-1) for array in (logits_of(student, validation), teacher)]
    assert kl_div(*logits, reduction="batchmean", log_target=True).item() == pytest.approx(min(losses), abs=1e-5)


@pytest.mark.parametrize(
    ("alpha", "unlabelled"),
    [(0.3, 280), (0.3, 0), (1.0, 280), (0.0, 0)],
    ids=["few labels", "all labelled", "teacher alone", "labels alone"],
)
def test_the_validation_loss_is_that_of_the_recipe_over_all_rows(
    train: Train, learnable_rows: Callable[..., TrainingRows], alpha: float, unlabelled: int
) -> None:
    # Three batches of similar length, and labels in the short rows.
    rows = learnable_rows(300, seed=1)
    rows.labels[np.argsort(rows.input_ids.lengths, kind="stable")[300 - unlabelled :]] = NO_LABEL
    rows.teacher_logits[rows.labels != NO_LABEL] *= 0.1  # type: ignore[index]
    student = train(RECIPE.model_copy(update={"alpha": alpha, "epochs": 1}), validation=rows)
    logits, teacher = torch.from_numpy(logits_of(student, rows)), torch.from_numpy(rows.teacher_logits)
    expected = distillation_loss(logits, teacher, torch.from_numpy(rows.labels), alpha=alpha, temperature=1)
    assert (
        student.validation["loss"] == student.history[0]["validation_loss"] == pytest.approx(expected.item(), rel=1e-5)
    )


CUT_OFF = """
import sys, time
import numpy as np
from pathlib import Path
from finstill.training.distil import train_student
from finstill.config.recipe import Recipe
from finstill.corpus.token_ids import TokenIds
from finstill.training.rows import TrainingRows
arrays = np.load(sys.argv[1], allow_pickle=False)
def rows(name):
    ids = [row[:length].tolist() for row, length in zip(arrays[name + "_ids"], arrays[name + "_lengths"])]
    return TrainingRows(TokenIds.of(ids), arrays[name + "_labels"], arrays[name + "_logits"])
recipe = Recipe.model_validate_json(sys.argv[2])
train_student(recipe, rows("train"), rows("validation"), ("negative", "neutral", "positive"), Path(sys.argv[3]),
              Path(sys.argv[4]), stage="cut off")
"""


def test_a_batch_is_as_large_on_a_machine_with_several_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def several(arguments: TrainingArguments) -> torch.device:
        arguments._n_gpu = 4
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(several))
    settings = {"best_by": "loss", "seed": 0, "bfloat16": False}
    arguments = loop.training_arguments(tmp_path, **settings, per_device_train_batch_size=32)
    assert arguments.train_batch_size == 32


def test_a_student_is_trained_in_float32_on_a_processor_that_has_bfloat16(
    train: Train, computed_types: set[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": True})
    train(OTHER_KINDS["static"])
    assert computed_types == {torch.float32}


def test_where_a_gpu_has_bfloat16_steps_run_in_it_and_weights_stay_in_float32(
    train: Train, computed_types: set[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU stands in for the GPU: it computes in bfloat16 too, if slowly."""
    monkeypatch.setattr("finstill.training.distil.gpu_has_bfloat16", lambda: True)
    trained = train(OTHER_KINDS["static"].model_copy(update={"average_last": 0.5}))
    assert torch.bfloat16 in computed_types
    assert trained.validation["macro_f1"] > 0.8
    assert {tensor.dtype for tensor in load_file(trained.folder / "model.safetensors").values()} <= {
        torch.float32,
        torch.int32,
    }


@pytest.mark.parametrize("settings_of_the_pool", [{}, {"rows_per_epoch": 40, "average_last": 1.0}], ids=str)
def test_a_training_cut_off_by_sigkill_ends_as_an_undisturbed_one(
    train: Train,
    learnable_rows: Callable[..., TrainingRows],
    tiny_checkpoint: Path,
    tmp_path: Path,
    settings_of_the_pool: dict,
) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 8, "patience": 8, **settings_of_the_pool})
    arrays: dict[str, np.ndarray] = {}
    train_rows = learnable_rows(160, unlabelled=100)
    for name, rows in (("train", train_rows), ("validation", learnable_rows(40, seed=1))):
        arrays[f"{name}_ids"], _ = pad(rows.input_ids)
        arrays[f"{name}_lengths"] = np.array([len(ids) for ids in rows.input_ids])
        arrays[f"{name}_labels"] = rows.labels
        arrays[f"{name}_logits"] = rows.teacher_logits  # type: ignore[assignment]
    np.savez(tmp_path / "rows.npz", **arrays)
    folder = tmp_path / "cut" / "checkpoint"
    arguments = [str(tmp_path / "rows.npz"), recipe.model_dump_json(), str(tiny_checkpoint), str(folder)]
    process = subprocess.Popen([sys.executable, "-c", CUT_OFF, *arguments], start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(folder.parent.glob("training-*/checkpoint-*"))) < 2:
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not folder.exists(), "the training ended before it was cut off"
    resumed = train(recipe, name="cut", rows=train_rows)
    undisturbed = train(recipe, name="undisturbed", rows=train_rows)
    assert len(resumed.history) == len(undisturbed.history) == 8
    ours, theirs = weights(resumed), weights(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {child.name for child in folder.parent.iterdir()} == {"checkpoint", ".checkpoint.versions"}


def test_a_checkpoint_whose_mean_weights_were_not_written_is_not_gone_on_from(
    train: Train, learnable_rows: Callable[..., TrainingRows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 4, "patience": 4, "average_last": 1.0})
    rows = learnable_rows(160)

    def fail_at_the_third(tensors: dict[str, torch.Tensor], file: Path) -> None:
        if file.parent.name == "checkpoint-30":
            raise InterruptedError
        save_file(tensors, file)

    monkeypatch.setattr(averaging, "save_file", fail_at_the_third)
    with pytest.raises(InterruptedError):
        train(recipe, name="cut", rows=rows)
    monkeypatch.undo()
    assert list(tmp_path.glob("cut/*/checkpoint-30/trainer_state.json"))
    ours, theirs = (weights(train(recipe, name=name, rows=rows)) for name in ("cut", "undisturbed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_labelled_rows_are_read_more_often_among_rows_without_a_label(
    train: Train, learnable_rows: Callable[..., TrainingRows]
) -> None:
    rows = learnable_rows(6, unlabelled=4)
    read = sorted(EpochSampler(rows, Epoch.of(RECIPE, rows), batch_size=2, seed=0))
    assert read == [0, 1, 2, 3, *[4] * 3, *[5] * 3]
    alone = learnable_rows(6)
    assert sorted(EpochSampler(alone, Epoch.of(RECIPE, alone), batch_size=2, seed=0)) == list(range(6))
    assert train(RECIPE.model_copy(update={"epochs": 1}), rows=learnable_rows(160, unlabelled=100)).rows == 160


class Failing(TrainingRows):
    """Rows that can be read only so many times: 160 an epoch."""

    reads = 0
    at_most = 2 * 160 + 40

    def __getitem__(self, position: int) -> dict:
        Failing.reads += 1
        if Failing.reads > self.at_most:
            raise InterruptedError
        return super().__getitem__(position)


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_every_kind_of_student_learns_and_goes_on_where_it_was_cut_off(
    train: Train, learnable_rows: Callable[..., TrainingRows], tmp_path: Path, kind: str
) -> None:
    rows, recipe = learnable_rows(160), OTHER_KINDS[kind].model_copy(update={"epochs": 6})
    Failing.reads = 0
    with pytest.raises(InterruptedError):
        train(recipe, name="cut", rows=Failing(rows.input_ids, rows.labels, rows.teacher_logits))
    assert list(tmp_path.glob("cut/training-*/checkpoint-20"))
    resumed, undisturbed = train(recipe, name="cut", rows=rows), train(recipe, name="undisturbed", rows=rows)
    ours, theirs = weights(resumed), weights(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert max(epoch["agreement"] for epoch in resumed.history) > 0.9


class Unread(TrainingRows):
    """Rows that no training may read."""

    def __getitem__(self, position: int) -> dict:
        raise AssertionError("it is trained again")


@pytest.mark.parametrize(
    ("settings", "stops_early"),
    [({}, False), ({"epochs": 30, "patience": 2, "learning_rate": 0.1}, True)],
    ids=["of all its epochs", "that stopped early"],
)
@pytest.mark.parametrize("average_last", [0.0, 1.0])
def test_a_student_that_could_not_be_saved_is_not_trained_again(
    train: Train,
    learnable_rows: Callable[..., TrainingRows],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict,
    stops_early: bool,
    average_last: float,
) -> None:
    def full_disk(path: Path) -> None:
        raise OSError("no space left on device")

    rows, recipe = learnable_rows(160), RECIPE.model_copy(update={**settings, "average_last": average_last})
    monkeypatch.setattr(distil, "whole_folder", full_disk)
    with pytest.raises(OSError, match="no space left"):
        train(recipe, name="cut", rows=rows)
    monkeypatch.undo()
    saved = train(recipe, name="cut", rows=Unread(rows.input_ids, rows.labels, rows.teacher_logits))
    undisturbed = train(recipe, name="undisturbed", rows=rows)
    assert (len(saved.history) < recipe.epochs) == stops_early
    assert replace(saved, folder=undisturbed.folder) == undisturbed
    ours, theirs = weights(saved), weights(undisturbed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {child.name for child in saved.folder.parent.iterdir()} == {"checkpoint", ".checkpoint.versions"}


@pytest.mark.parametrize("soft_loss", sorted(SOFT_LOSSES))
def test_a_student_learns_by_every_soft_loss(
    train: Train, learnable_rows: Callable[..., TrainingRows], soft_loss: str
) -> None:
    temperature = TemperatureSchedule(schedule="constant", start=2)
    recipe = OTHER_KINDS["static"].model_copy(
        update={"soft_loss": soft_loss, "alpha": 1.0, "temperature": temperature, "epochs": 6}
    )
    student = train(recipe, rows=learnable_rows(160, unlabelled=160))
    assert max(epoch["agreement"] for epoch in student.history) > 0.9


def test_class_weights_let_a_student_find_a_class_that_labels_mostly_miss(
    train: Train, learnable_rows: Callable[..., TrainingRows]
) -> None:
    """Seven in ten positive rows are labelled neutral: with a weight of 20, 3 * 20 stand against 7."""
    rows, unseen = learnable_rows(400), learnable_rows(100, seed=5)
    positive = np.flatnonzero(rows.labels == 2)
    rows.labels[positive[: len(positive) * 7 // 10]] = 1
    input_ids, mask = map(torch.from_numpy, pad(unseen.input_ids))
    recall = {}
    for name, class_weights in (("alike", None), ("weighed", {"positive": 20.0})):
        student = train(RECIPE.model_copy(update={"alpha": 0.0, "class_weights": class_weights}), name, rows)
        with torch.no_grad():
            predicted = load_student(student.folder).eval()(input_ids, mask).logits.argmax(dim=1).numpy()
        recall[name] = (predicted == 2)[unseen.labels == 2].mean()
    assert recall["alike"] < 0.5 < recall["weighed"]


def test_a_twin_knows_the_words_of_rows_that_it_does_not_read(
    train: Train, learnable_rows: Callable[..., TrainingRows]
) -> None:
    rows = learnable_rows(160, unlabelled=120)
    recipe = OTHER_KINDS["convolution"].model_copy(update={"epochs": 1})
    student = weights(train(recipe, rows=rows, name="a"))
    baseline = weights(train(recipe.model_copy(update={"alpha": 0.0}), rows=rows, name="b"))
    assert torch.equal(student["embedding.positions"], baseline["embedding.positions"])


@pytest.mark.parametrize(("embedding", "hint_texts"), [("output", 0), ("random", 8), ("random", 0)])
def test_a_baseline_is_made_again_where_texts_without_a_label_decide_its_start(
    train: Train, learnable_rows: Callable[..., TrainingRows], embedding: str, hint_texts: int
) -> None:
    start = {"embedding": embedding, "embedding_width": 8, "hint_texts": hint_texts, "vocabulary": "full"}
    recipe = RECIPE.model_copy(
        update={"alpha": 0.0, "epochs": 1, "rows_per_epoch": 8, "architecture": SMALL.model_copy(update=start)}
    )
    rows = learnable_rows(80, unlabelled=40)
    unlabelled = np.flatnonzero(rows.labels == NO_LABEL)
    others = rows.at(np.concatenate([np.flatnonzero(rows.labels != NO_LABEL), unlabelled[::2], unlabelled[::2]]))
    assert len(others) == len(rows)
    before, after = (train(recipe, rows=each).inputs for each in (rows, others))
    assert (before != after) == (embedding == "output" or hint_texts > 0)


def test_a_loss_that_is_not_a_number_stops_training_and_names_step_and_row(
    train: Train, learnable_rows: Callable[..., TrainingRows]
) -> None:
    rows = learnable_rows(160)
    rows.teacher_logits[77, 1] = np.nan  # type: ignore[index]
    with pytest.raises(InputError, match=r"student: the loss of step \d+ is nan, in a batch with row 77 of the train"):
        train(rows=rows)


def test_a_diverging_loss_stops_training(train: Train) -> None:
    with pytest.raises(InputError, match=r"student: the loss of step \d+ is [\d.e+]+, .* Lower the recipe's learning"):
        train(OTHER_KINDS["convolution"].model_copy(update={"soft_loss": "mse", "learning_rate": 0.99}))


def test_the_last_good_checkpoint_stays_where_a_loss_stops_training(
    train: Train, learnable_rows: Callable[..., TrainingRows], tmp_path: Path
) -> None:
    class Spoilt(Failing):
        """Whose teacher's logits are lost in the third epoch."""

        def __getitem__(self, position: int) -> dict:
            item = TrainingRows.__getitem__(self, position)
            Failing.reads += 1
            return {**item, "teacher_logits": item["teacher_logits"] * (np.nan if self.reads > self.at_most else 1)}

    Failing.reads = 0
    rows = learnable_rows(160)
    with pytest.raises(InputError, match=r"the loss of step 2\d is nan, .*; the last good checkpoint is .*-20\. "):
        train(rows=Spoilt(rows.input_ids, rows.labels, rows.teacher_logits))
    (last,) = tmp_path.glob("student/training-*/checkpoint-20")
    assert all(torch.isfinite(weight).all() for weight in load_file(last / "model.safetensors").values())
    # The same rows whole again go on from there, and nothing of the stopped training is left.
    student = train(rows=rows)
    assert len(student.history) == 4
    assert {child.name for child in student.folder.parent.iterdir()} == {"checkpoint", ".checkpoint.versions"}


def test_rows_without_a_label_are_marked() -> None:
    rows = TrainingRows(TokenIds.of([[1], [2], [3]]), np.array([0, NO_LABEL, 2]))
    assert rows.labelled().input_ids.tolist() == [[1], [3]]


def test_a_label_only_baseline_takes_as_many_steps_as_the_student_that_hears_the_teacher(
    train: Train, learnable_rows: Callable[..., TrainingRows]
) -> None:
    rows = learnable_rows(160, unlabelled=100)
    distilled = RECIPE.model_copy(update={"epochs": 2})
    student = train(distilled, name="student", rows=rows)
    baseline = train(distilled.model_copy(update={"alpha": 0.0}), name="baseline", rows=rows)
    assert student.steps == baseline.steps > 0
    assert (student.rows, baseline.rows) == (160, 60)
    epoch = Epoch.of(distilled, rows)
    read = list(EpochSampler(rows, epoch.of_labels_alone(), batch_size=16, seed=0))
    assert len(read) == len(epoch)
    assert (rows.labels[read] != NO_LABEL).all()


@given(st.integers(1, 9), st.integers(0, 40))
def test_a_label_only_baseline_reads_each_of_its_rows_equally_often(labelled: int, unlabelled: int) -> None:
    labels = np.array([0] * labelled + [NO_LABEL] * unlabelled)
    rows = TrainingRows(TokenIds.of([[1] * (1 + i % 5) for i in range(len(labels))]), labels)
    sampler = EpochSampler(rows, Epoch.of(RECIPE, rows).of_labels_alone(), batch_size=4, seed=0)
    counts = np.zeros(len(labels), int)
    for number in range(5):
        sampler.set_epoch(number)
        counts += np.bincount(list(sampler), minlength=len(labels))
        assert np.ptp(counts[:labelled]) <= 1
    assert not counts[labelled:].any()


def test_a_label_only_baseline_that_was_cut_off_reads_on_where_it_was(
    train: Train, learnable_rows: Callable[..., TrainingRows], cut_off_after: Callable[[int], TrainerCallback]
) -> None:
    # 67 rows with a label, and an epoch of 294.
    rows, recipe = learnable_rows(160, unlabelled=93), RECIPE.model_copy(update={"alpha": 0.0})
    with pytest.raises(InterruptedError):
        train(recipe, name="cut", rows=rows, callbacks=[cut_off_after(2)])
    ours, theirs = (weights(train(recipe, name=name, rows=rows)) for name in ("cut", "undisturbed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_label_only_baseline_without_a_label_is_said(
    train: Train, learnable_rows: Callable[..., TrainingRows], split: str
) -> None:
    rows = {"train": learnable_rows(160), "validation": learnable_rows(40, seed=1)}
    rows[split].labels[:] = NO_LABEL
    with pytest.raises(InputError, match=f"student: no row of the {split} split has a label, .* Label some rows"):
        train(RECIPE.model_copy(update={"alpha": 0.0}), rows=rows["train"], validation=rows["validation"])


@given(st.integers(0, 9), st.integers(1, 40), st.integers(1, 50), st.integers(0, 3))
def test_no_row_without_a_label_comes_again_before_all_were_read(
    labelled: int, unlabelled: int, rows_per_epoch: int, seed: int
) -> None:
    labels = np.array([0] * labelled + [NO_LABEL] * unlabelled)
    rows = TrainingRows(TokenIds.of([[1] * (1 + i % 5) for i in range(len(labels))]), labels)
    recipe = RECIPE.model_copy(update={"rows_per_epoch": rows_per_epoch})
    sampler = EpochSampler(rows, Epoch.of(recipe, rows), batch_size=4, seed=seed)
    counts = np.zeros(len(labels), int)
    for number in range(5):
        sampler.set_epoch(number)
        read = np.bincount(list(sampler), minlength=len(labels))
        assert read.sum() == len(sampler)
        assert (read[:labelled] == 3).all()
        assert read[labelled:].sum() == min(rows_per_epoch, unlabelled)
        counts += read
    assert np.ptp(counts[labelled:]) <= 1
    assert list(sampler) == list(sampler)


@pytest.mark.parametrize(("learning_rate", "mean_is_better"), [(0.2, True), (0.01, False)])
def test_the_student_is_the_mean_of_its_last_weights_where_that_is_no_worse(
    train: Train, learnable_rows: Callable[..., TrainingRows], learning_rate: float, mean_is_better: bool
) -> None:
    rows, recipe = learnable_rows(160), RECIPE.model_copy(update={"learning_rate": learning_rate})
    averaged = train(recipe.model_copy(update={"average_last": 0.5}), name="averaged", rows=rows)
    plain = train(recipe, name="plain", rows=rows)
    # The same steps: what is averaged does not reach them.
    assert averaged.history == plain.history
    # Steps that are too long end on either side of the best weights, and short ones are on their way still.
    assert (averaged.validation["loss"] < plain.validation["loss"]) == mean_is_better
    ours, theirs = weights(averaged), weights(plain)
    assert torch.equal(ours["head.weight"], theirs["head.weight"]) != mean_is_better


def test_the_mean_of_weights_is_over_the_last_steps_alone() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, last=0.5)
    average.on_init_end(None, None, None)
    state = TrainerState(max_steps=4)
    assert average.weights() is None
    for step, weight in enumerate([100.0, 10.0, 1.0, 3.0], 1):
        module.weight.data.fill_(weight)
        state.global_step = step
        average.on_step_end(None, state, None)
    (mean,) = average.weights().values()  # type: ignore[union-attr]
    assert mean.item() == 2.0


class TestTokenizerOfItsOwn:
    """A student of another checkpoint's tokenizer: `make_checkpoint` gives one of 32 tokens at most."""

    TEXTS = ("profit fell", "sales rose " * 30, "no change")

    def rows(self) -> TrainingRows:
        """What a teacher read as the whole of each text, by a tokenizer of which nothing but its name is known."""
        said = TableProvenance("another", 512, "windows", ("teacher",))
        logits = np.eye(3, dtype=np.float32)
        return TrainingRows(
            TokenIds.of([[1], [2], [3]]), np.arange(3), logits, None, said, pa.array(self.TEXTS, pa.large_string())
        )

    def test_reads_texts_as_its_package_will(self) -> None:
        tokenizer = read_tokenizer(resolve_checkpoint("embedded").folder)
        rows = self.rows().read_by(tokenizer, 32)
        windows = [
            each.ids for each in read_windows(self.TEXTS[1].strip(), tokenizer.encode(self.TEXTS[1]), tokenizer, 32)
        ]
        assert rows.input_ids[1:-1].tolist() == windows
        assert len(windows) > 1
        assert rows.labels.tolist() == [0, *[1] * len(windows), 2]
        # Whatever it is cut into, the text's logits are the teacher's.
        assert rows.whole_texts().teacher_logits.tolist() == self.rows().teacher_logits.tolist()  # type: ignore[union-attr]
        assert rows.read_by(tokenizer, 32) is rows

    def test_goes_with_the_student(self, tiny_checkpoint: Path, tmp_path: Path) -> None:
        recipe = Recipe(student="encoder", architecture=EncoderConfig(layers=(0,), embedding_width=8), epochs=1)
        student = train_student(
            recipe, self.rows(), self.rows(), LABELS, tiny_checkpoint, tmp_path / "student", stage="own"
        )
        own = resolve_checkpoint("embedded").folder
        assert tokenizer_identity(read_tokenizer(student.folder)) == tokenizer_identity(read_tokenizer(own))
        assert load_student(student.folder).config.width == 384

    def test_needs_the_texts(self) -> None:
        tokenizer = read_tokenizer(resolve_checkpoint("embedded").folder)
        with pytest.raises(InputError, match="token ids without their texts"):
            replace(self.rows(), texts=None).read_by(tokenizer, 32)


def test_a_student_that_starts_from_output_vectors_learns(train: Train) -> None:
    recipe = OTHER_KINDS["static"]
    architecture = recipe.architecture.model_copy(update={"embedding": "output"})
    student = train(recipe.model_copy(update={"architecture": architecture, "epochs": 6}))
    assert student.validation["agreement"] > 0.9
