"""A student that goes on from the champion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import TrainerCallback

from finstill.config.architectures import LstmAttentionConfig
from finstill.config.recipe import Recipe
from finstill.corpus.provenance import TableProvenance
from finstill.corpus.token_ids import TokenIds
from finstill.files import read_json, standing_folder, write_json
from finstill.students.base import Student
from finstill.training.distil import train_student
from finstill.training.rows import NO_LABEL, TrainingRows, WindowsOfTexts
from finstill.training.trained import TRAINING_FILE, TrainedStudent
from finstill.training.warm_start import WarmStart, row_digests

LABELS = ("negative", "neutral", "positive")
SMALL = LstmAttentionConfig(embedding="random", embedding_width=16, hidden_width=16, layers=1, dropout=0.1)
WIDER = SMALL.model_copy(update={"hidden_width": 24})
RECIPE = Recipe(architecture=SMALL, epochs=6, batch_size=16, learning_rate=0.01, start_from="champion", warm_epochs=2)

Night = Callable[..., TrainedStudent]


@pytest.fixture
def night(tiny_checkpoint: Path, learnable_rows: Callable[..., TrainingRows], tmp_path: Path) -> Night:
    """Return a function that trains the student of a night, and the next night's champion."""

    def run(
        rows: int,
        recipe: Recipe = RECIPE,
        teacher: str = "a teacher",
        labels: tuple = LABELS,
        validation: range | None = None,
        length: int = 512,
    ) -> TrainedStudent:
        said, every = TableProvenance("a tokenizer", length, "cut", (teacher,)), learnable_rows(400, unlabelled=360)
        train = replace(every.at(np.arange(400 - rows, 400)), provenance=said)
        measured = learnable_rows(40, seed=1) if validation is None else every.at(np.array(validation))
        measured = replace(measured, provenance=said)
        # The tests' rows are token ids of the tokenizer that the student has.
        train, measured = (replace(each, provenance=_read_by(tiny_checkpoint, each)) for each in (train, measured))
        return train_student(
            recipe,
            train,
            measured,
            labels,
            tiny_checkpoint,
            tmp_path / "student",
            champion=tmp_path / "student",
            stage="student",
        )

    return run


def _read_by(checkpoint: Path, rows: TrainingRows) -> TableProvenance:
    from finstill.corpus.tokenizer import read_tokenizer, tokenizer_identity

    assert rows.provenance is not None
    return replace(rows.provenance, tokenizer=tokenizer_identity(read_tokenizer(checkpoint)))


def test_a_night_costs_what_is_new_and_forgets_nothing(night: Night) -> None:
    first = night(300)
    assert first.started_from is None
    assert len(first.history) == 6
    second = night(340)
    assert second.started_from is not None
    # 40 new rows and a fifth of the 300 old ones, those with a label three times. Some texts of the tests are the same
    # by chance.
    assert 70 <= second.rows <= 40 + 60
    assert second.steps <= first.steps / 5
    assert second.validation["macro_f1"] >= first.validation["macro_f1"] - 0.05
    third = night(340)
    assert replace(third, folder=second.folder) == second, "nothing is new, and the student is kept"
    fourth = night(360)
    assert fourth.rows <= 20 + 68, "what the second night learned is old in the next"


def test_a_student_says_from_how_many_texts_it_learned_over_its_nights(
    tiny_checkpoint: Path, learnable_rows: Callable[..., TrainingRows], tmp_path: Path
) -> None:
    """100 texts of two windows each; then 30 of these, 10 with their first label; then 50 others."""

    def texts(numbers: range, labelled: int) -> TrainingRows:
        # Their own number is in each window, so that no two texts are alike.
        ids = [[101, 2000 + number, 3000 + window, 102] for number in numbers for window in range(2)]
        labels = np.repeat([number % 3 if number < labelled else NO_LABEL for number in numbers], 2)
        of = np.repeat(np.arange(len(numbers)), 2)
        logits = np.zeros((len(ids), 3), np.float32)
        return TrainingRows(TokenIds.of(ids), labels, logits, WindowsOfTexts(of, np.ones_like(of)))

    def night(rows: TrainingRows) -> TrainedStudent:
        folder, recipe = tmp_path / "student", RECIPE.model_copy(update={"epochs": 1, "warm_epochs": 1})
        validation = learnable_rows(40, seed=1)
        return train_student(
            recipe, rows, validation, LABELS, tiny_checkpoint, folder, champion=folder, stage="student"
        )

    first = night(texts(range(100), 20))
    assert (first.rows, first.texts, first.labelled) == (200, 100, 20)
    second = night(texts(range(30), 30))
    assert second.started_from is not None
    assert (second.texts, second.labelled) == (100, 30)
    third = night(texts(range(120, 170), 30))
    assert (third.texts, third.labelled) == (150, 30)
    assert TrainedStudent.read(third.folder) == replace(third, folder=standing_folder(third.folder))


def test_a_champion_that_does_not_say_from_how_many_texts_it_learned_is_no_start(night: Night) -> None:
    first = night(300)
    said = read_json(first.folder / TRAINING_FILE)
    write_json(first.folder / TRAINING_FILE, {name: said[name] for name in said if name not in ("texts", "labelled")})
    assert night(300).texts == 0, "the student of these inputs is kept all the same"
    assert night(340).started_from is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"recipe": RECIPE.model_copy(update={"architecture": WIDER})},
            "has another architecture",
        ),
        ({"teacher": "another"}, "learned from another teacher"),
        ({"labels": ("negative", "positive", "neutral")}, "answers another task"),
        ({"length": 256}, "reads texts of another length"),
        ({"rows": 200, "validation": range(100, 200)}, "learned from texts of validation"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_champion_of_another_kind_is_no_start(
    night: Night, caplog: pytest.LogCaptureFixture, change: dict, reason: str
) -> None:
    caplog.set_level("INFO", "finstill")
    night(300)
    assert night(**{"rows": 340, **change}).started_from is None
    assert f"is trained anew: the champion {reason}" in caplog.text


def test_a_champion_of_another_version_is_no_start(night: Night) -> None:
    first = night(300)
    (first.folder / "learned.npy").unlink()
    assert night(340).started_from is None


def test_a_warm_student_begins_with_the_champions_weights(night: Night) -> None:
    first = load_file(night(300).folder / "model.safetensors")
    still = RECIPE.model_copy(update={"learning_rate": 1e-9, "warm_epochs": 1})
    second = load_file(night(340, still).folder / "model.safetensors")
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_a_training_that_was_cut_off_does_not_go_on_from_a_checkpoint_of_another_start(
    tiny_checkpoint: Path,
    learnable_rows: Callable[..., TrainingRows],
    cut_off_after: Callable[[int], TrainerCallback],
    tmp_path: Path,
) -> None:
    def run(name: str, rows: int, **more: Any) -> TrainedStudent:
        train = learnable_rows(200).at(np.arange(rows))
        folder = tmp_path / name / "checkpoint"
        return train_student(
            RECIPE, train, learnable_rows(40, seed=1), LABELS, tiny_checkpoint, folder, stage=name, **more
        )

    with pytest.raises(InterruptedError):
        run("student", 200, callbacks=[cut_off_after(3)])
    assert list(tmp_path.glob("student/training-*/checkpoint-*")), "there was no champion yet, and it was trained anew"
    champion = run("another", 160).folder
    resumed, undisturbed = (run(name, 200, champion=champion) for name in ("student", "undisturbed"))
    assert resumed.started_from == undisturbed.started_from is not None
    assert len(resumed.history) == RECIPE.warm_epochs
    ours, theirs = (load_file(each.folder / "model.safetensors") for each in (resumed, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert {child.name for child in (tmp_path / "student").iterdir()} == {"checkpoint", ".checkpoint.versions"}


def test_a_label_only_baseline_starts_from_no_champion() -> None:
    with pytest.raises(ValidationError, match="alpha: 0 learns from labels alone"):
        Recipe(alpha=0, start_from="champion")
    baseline = Recipe(alpha=0)
    assert baseline.is_baseline_of(Recipe(start_from="champion"))


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 3))
def test_every_new_row_is_read_and_as_many_old_ones_or_a_fifth_of_them(known: list, seed: int) -> None:
    old = np.array(known)
    rows = TrainingRows(TokenIds.of([[i] for i in range(len(old))]), np.full(len(old), NO_LABEL))
    start = WarmStart("", Student.__new__(Student), RECIPE, np.sort(row_digests(rows)[old]), int(old.sum()), 0)
    read = start.rows_to_read(rows, seed)
    assert set(np.flatnonzero(~old)) <= set(read.tolist())
    assert old[read].sum() == max(min((~old).sum(), old.sum()), np.ceil(0.2 * old.sum()))
    assert (np.diff(read) > 0).all()


def test_a_row_whose_label_was_corrected_is_new() -> None:
    rows = TrainingRows(TokenIds.of([[7], [8]]), np.array([0, 1]))
    corrected = TrainingRows(rows.input_ids, np.array([0, 2]))
    assert (row_digests(rows) == row_digests(corrected)).tolist() == [True, False]
