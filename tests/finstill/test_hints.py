"""Hints: what a student's layers learn of its checkpoint's before they learn classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LinearRegression

from finstill.config.architectures import EncoderConfig, LstmAttentionConfig
from finstill.config.recipe import Recipe
from finstill.corpus.token_ids import TokenIds
from finstill.errors import InputError
from finstill.inference.batching import pad
from finstill.students.base import TokenStateStudent
from finstill.students.registry import STUDENTS
from finstill.students.start import Start
from finstill.students.vocabulary import Vocabulary
from finstill.students.word_vectors import last_states
from finstill.training.distil import train_student
from finstill.training.hints import learn_hints
from finstill.training.rows import TrainingRows
from finstill.training.trained import TrainedStudent

LABELS = ("negative", "neutral", "positive")
LSTM = Recipe(
    architecture=LstmAttentionConfig(embedding_width=32, hidden_width=32, layers=1, dropout=0, hint_texts=800),
    batch_size=8,
    learning_rate=0.01,
    epochs=1,
)
ENCODER = Recipe(
    student="encoder",
    architecture=EncoderConfig(checkpoint="teacher", layers=(0,), embedding_width=8, dropout=0, hint_texts=800),
    batch_size=8,
    learning_rate=0.02,
    epochs=1,
)
VOCABULARY = 100


@pytest.fixture
def start(tiny_checkpoint: Path) -> Start:
    return Start.open("teacher", tiny_checkpoint, 128)


def texts(count: int, seed: int = 0) -> TokenIds:
    random = np.random.default_rng(seed)
    return TokenIds.of([random.integers(1, VOCABULARY, random.integers(2, 12)).tolist() for _ in range(count)])


def untrained(start: Start, recipe: Recipe = LSTM) -> TokenStateStudent:
    torch.manual_seed(0)
    known = Vocabulary.full(start.encoder.config.vocab_size)
    student = STUDENTS[recipe.student].from_architecture(recipe.architecture, LABELS, known, start)
    assert isinstance(student, TokenStateStudent)
    return student


def learned(start: Start, rows: TokenIds, folder: Path | None = None, recipe: Recipe = LSTM) -> TokenStateStudent:
    student = untrained(start, recipe)
    learn_hints(student, start, rows, recipe, folder, "student")
    return student


def explained(student: TokenStateStudent, start: Start) -> float:
    """Return which share of the checkpoint's states, on texts that nobody learned from, is linear in the student's."""

    def both(rows: TokenIds) -> tuple[np.ndarray, np.ndarray]:
        ids, mask = map(torch.from_numpy, pad(list(rows)))
        with torch.inference_mode():
            states = student.eval().token_states(ids, mask.bool())[mask.bool()].numpy()
        return states, last_states(start.encoder, list(rows))

    return LinearRegression().fit(*both(texts(300, seed=1))).score(*both(texts(100, seed=2)))


@pytest.mark.parametrize("recipe", [LSTM, ENCODER], ids=lambda recipe: recipe.student)
def test_the_layers_learn_what_the_checkpoint_says_of_each_token(start: Start, recipe: Recipe) -> None:
    before = explained(untrained(start, recipe), start)
    assert explained(learned(start, texts(800), None, recipe), start) > before + (1 - before) / 5


def test_a_student_of_the_same_beginning_finds_them(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="finstill.training.hints")
    alone, *kept = learned(start, texts(80)), learned(start, texts(80), tmp_path), learned(start, texts(80), tmp_path)
    for each in kept:
        assert all(torch.equal(each.state_dict()[name], weight) for name, weight in alone.state_dict().items())
    assert sum("hints: 80 of 80 texts" in line for line in caplog.messages) == 2
    others = (
        learned(start, texts(79), tmp_path),
        learned(start, texts(80), tmp_path, LSTM.model_copy(update={"seed": 2})),
    )
    for other in others:
        assert not torch.equal(other.embedding.vectors.weight, alone.embedding.vectors.weight)


def test_they_are_the_same_whatever_the_number_of_threads(start: Start) -> None:
    usual, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(learned(start, texts(80)).state_dict())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(usual)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_checkpoint_that_says_no_number_stops_the_training(start: Start) -> None:
    next(start.encoder.parameters()).data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"student: the loss of the hints is not finite. Lower the recipe's learning"):
        learned(start, texts(80))


class TestTraining:
    @pytest.fixture
    def train(
        self, tiny_checkpoint: Path, learnable_rows: Callable[..., TrainingRows], tmp_path: Path
    ) -> Callable[..., TrainedStudent]:
        def run(recipe: Recipe, name: str) -> TrainedStudent:
            return train_student(
                recipe,
                learnable_rows(160, unlabelled=60),
                learnable_rows(40, seed=1),
                LABELS,
                tiny_checkpoint,
                tmp_path / name / "checkpoint",
                stage=name,
                starts=tmp_path / "starts",
            )

        return run

    def test_a_baseline_starts_where_its_student_does(
        self, train: Callable[..., TrainedStudent], caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        caplog.set_level("INFO", logger="finstill")
        train(LSTM, "student")
        train(LSTM.model_copy(update={"alpha": 0.0}), "baseline")
        stages = {line.split(":")[0] for line in caplog.messages if ": hints: " in line}
        assert stages == {"student"}
        assert any(line.startswith("baseline: epoch 1") for line in caplog.messages)
        assert len(list((tmp_path / "starts").glob("*.safetensors"))) == 1

    def test_a_student_without_them_is_another(self, train: Callable[..., TrainedStudent]) -> None:
        without = LSTM.model_copy(update={"architecture": LSTM.architecture.model_copy(update={"hint_texts": 0})})
        one, other = (
            load_file(train(recipe, name).folder / "model.safetensors")
            for recipe, name in ((LSTM, "with"), (without, "without"))
        )
        assert not torch.equal(one["head.weight"], other["head.weight"])
