"""Tuning on small students: it goes on where it was cut off, gives up what falls behind, and finds what is better."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from transformers import TrainerCallback

from finstill.config.architectures import EncoderConfig, LstmAttentionConfig, StaticConfig
from finstill.config.recipe import Recipe
from finstill.config.temperature import TemperatureSchedule
from finstill.errors import InputError
from finstill.training.rows import TrainingRows
from finstill.tuning.plots import search_history, search_slices
from finstill.tuning.search import FAILED_IN_A_ROW, Search, _study, search
from finstill.tuning.space import settings_of, suggest

LABELS = ("negative", "neutral", "positive")
ARCHITECTURE = LstmAttentionConfig(embedding="random", embedding_width=8, hidden_width=8, layers=1)
BASE = Recipe(architecture=ARCHITECTURE, epochs=3, batch_size=32, learning_rate=0.01)

Run = Callable[..., Search]


@pytest.fixture
def run(learnable_rows: Callable[..., TrainingRows], tiny_checkpoint: Path, tmp_path: Path) -> Run:
    def tune(trials: int = 3, base: Recipe = BASE, rows: int = 96, **settings: object) -> Search:
        given = {"storage": f"sqlite:///{tmp_path / 'study.db'}", "seed": 1, **settings}
        train, validation = learnable_rows(rows), learnable_rows(48, seed=1)
        return search(base, train, validation, LABELS, tiny_checkpoint, tmp_path / "trial", trials=trials, **given)  # type: ignore[arg-type]

    return tune


def test_the_best_trials_recipe_is_one_to_train_a_student_by(run: Run, tmp_path: Path) -> None:
    found = run()
    best = min((trial for trial in found.trials if trial["state"] == "complete"), key=lambda trial: trial["value"])
    assert found.divergence == best["value"]
    assert found.recipe.alpha == best["alpha"]
    assert found.recipe.learning_rate == best["learning_rate"]
    assert found.recipe.temperature.start == best["temperature"]
    assert found.recipe.architecture.hidden_width == best["hidden_width"]
    assert (found.recipe.epochs, found.recipe.seed, found.recipe.student) == (3, BASE.seed, BASE.student)
    assert not list((tmp_path / "trial").iterdir())


def test_the_first_trial_is_the_base_recipe_itself(run: Run) -> None:
    temperature = TemperatureSchedule(schedule="cosine", start=4.0)
    base = BASE.model_copy(update={"temperature": temperature, "soft_loss": "mse"})
    found = run(trials=1, base=base)
    assert found.recipe == base
    more = run(trials=3, base=base)
    assert more.trials[:1] == found.trials
    assert more.divergence <= found.divergence


def test_of_a_base_recipe_outside_of_what_is_searched_the_first_trial_is_the_nearest_inside(run: Run) -> None:
    base = BASE.model_copy(update={"alpha": 0.1, "soft_loss": "kl_inverse_square"})
    (first,) = run(trials=1, base=base).trials
    assert first["alpha"] == 0.3
    assert first["learning_rate"] == base.learning_rate
    assert first["soft_loss"] != "kl_inverse_square"


def test_a_trial_that_was_killed_is_run_again_once(run: Run, tmp_path: Path) -> None:
    run(trials=1)
    database = tmp_path / "study.db"
    (name,) = optuna.get_all_study_names(f"sqlite:///{database}")

    def kill_the_next_trial() -> None:
        killed = _study(f"sqlite:///{database}", name, seed=1).ask()
        suggest(killed, BASE, classes=3)
        with closing(sqlite3.connect(database)) as connection, connection:
            heartbeat = (killed.number + 1, "2020-01-01 00:00:00")
            connection.execute("INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES (?, ?)", heartbeat)
        optuna.storages.fail_stale_trials(_study(f"sqlite:///{database}", name, seed=1))

    kill_the_next_trial()
    kill_the_next_trial()
    _, first, second, other = run(trials=2).trials
    assert [trial["state"] for trial in (first, second, other)] == ["fail", "fail", "complete"]
    assert {**second, "number": 1} == first
    assert other["alpha"] != first["alpha"]


def test_a_search_goes_on_and_tries_nothing_twice(run: Run) -> None:
    first = run(trials=2)
    assert run(trials=2).trials == first.trials
    more = run(trials=4)
    assert more.trials[:2] == first.trials
    assert len(more.trials) == 4
    assert len({trial["alpha"] for trial in more.trials}) == 4


def test_other_rows_are_another_search(run: Run) -> None:
    run(trials=2)
    assert len(run(trials=1, rows=64).trials) == 1


def test_a_trial_that_falls_behind_is_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.pruners.MedianPruner, "prune", lambda self, study, trial: trial.number == 1)
    found = run(trials=3)
    assert [trial["state"] for trial in found.trials] == ["complete", "pruned", "complete"]


def test_a_trial_that_cannot_train_does_not_end_the_search(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import finstill.tuning.search as module

    train, calls = module.train_student, []

    def diverging(*args: object, **kwargs: object) -> object:
        calls.append(kwargs)
        if len(calls) == 1:
            raise InputError("the loss is not finite")
        return train(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "train_student", diverging)
    states = [trial["state"] for trial in run(trials=2).trials]
    assert states == ["fail", "complete", "complete"], "a failed one is not counted"


def test_a_search_in_which_all_fails_ends(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def diverging(*args: object, **kwargs: object) -> object:
        calls.append(kwargs)
        raise InputError("the loss is not finite")

    monkeypatch.setattr("finstill.tuning.search.train_student", diverging)
    with pytest.raises(InputError, match=f"no trial came to its end: {FAILED_IN_A_ROW} failed in a row"):
        run(trials=30)
    assert len(calls) == FAILED_IN_A_ROW


def test_a_width_that_a_checkpoint_cannot_give_is_a_trial_that_failed(run: Run) -> None:
    """The checkpoint's word vectors are 32 wide: of the widths tried, 48 and 64 are too much."""
    architecture = EncoderConfig(checkpoint="teacher", layers=(1,), embedding_width=32)
    found = run(trials=3, base=Recipe(student="encoder", architecture=architecture, epochs=1))
    states = {trial["embedding_width"] <= 32: trial["state"] for trial in found.trials}
    assert states == {True: "complete", False: "fail"}
    assert [trial["state"] for trial in found.trials].count("complete") == 3


def test_a_part_that_the_base_recipe_leaves_out_stays_out() -> None:
    def widths(base: Recipe) -> set[tuple[int | None, int | None]]:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        tried = [suggest(study.ask(), base, classes=3).architecture.model_dump() for _ in range(20)]
        return {(each["embedding_width"], each.get("hidden_width")) for each in tried}

    assert widths(Recipe(student="encoder")) == {(None, None)}
    static = Recipe.model_validate({"student": "static", "architecture": {"embedding_width": 8, "hidden_width": 0}})
    assert widths(static) == {(4, 0), (8, 0), (12, 0), (16, 0)}


def test_two_classes_are_not_tried_with_a_loss_that_needs_three() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    tried = {suggest(study.ask(), BASE, classes=2).soft_loss for _ in range(50)}
    assert tried == {"kl", "mse", "dkd", "dist"}
    base = BASE.model_copy(update={"soft_loss": "standardised_kl"})
    study.enqueue_trial(settings_of(base, classes=2))
    assert suggest(study.ask(), base, classes=2).soft_loss in tried


def test_searches_that_begin_at_once_do_not_try_the_same(tmp_path: Path) -> None:
    def tried(database: str) -> list[Recipe]:
        machines = [_study(f"sqlite:///{tmp_path / database}", "study", seed=1) for _ in range(2)]
        return [suggest(machine.ask(), BASE, classes=3) for machine in machines]

    first, second = tried("a.db")
    assert first != second
    assert tried("b.db") == [first, second], "what is tried follows from the seed"


def test_a_search_leaves_the_trial_of_another_in_the_same_folder_alone(run: Run, tmp_path: Path) -> None:
    class Beside(TrainerCallback):
        """Runs another search while the first trial is in the middle of its training."""

        searches = 0

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if round(state.epoch) == 2 and not self.searches:
                self.searches += 1
                before = sorted(Path(args.output_dir).rglob("*"))
                run(trials=1, storage=f"sqlite:///{tmp_path / 'other.db'}")
                assert sorted(Path(args.output_dir).rglob("*")) == before != []

    beside = Beside()
    assert len(run(trials=2, callbacks=[beside]).trials) == 2
    assert beside.searches == 1
    assert not list((tmp_path / "trial").iterdir())


def test_every_setting_that_is_searched_is_within_what_a_recipe_allows() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    recipes = [suggest(study.ask(), BASE, classes=3) for _ in range(50)]
    assert all(0.3 <= recipe.alpha <= 1 and 0.002 <= recipe.learning_rate <= 0.05 for recipe in recipes)
    assert {recipe.architecture.hidden_width for recipe in recipes} == {4, 8, 12, 16}
    assert {recipe.temperature.schedule for recipe in recipes} >= {"constant", "linear"}
    # Not the one that is there to be compared with.
    assert {recipe.soft_loss for recipe in recipes} == {"kl", "mse", "dkd", "dist", "standardised_kl"}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    static = [suggest(study.ask(), Recipe(student="static"), classes=3) for _ in range(5)]
    assert all(isinstance(recipe.architecture, StaticConfig) for recipe in static)


def test_a_recipe_without_a_teacher_is_not_tuned(run: Run) -> None:
    with pytest.raises(InputError, match="learns from no teacher"):
        run(base=BASE.model_copy(update={"alpha": 0.0}))


def test_a_database_out_of_reach_is_said_without_its_password(run: Run) -> None:
    with pytest.raises(InputError, match="database cannot be opened") as stopped:
        run(storage="sqlite:////nowhere/secret/study.db")
    assert "secret" not in str(stopped.value)


def test_the_plots_take_pruned_and_failed_trials(run: Run) -> None:
    trials = [
        {"number": 0, "state": "complete", "value": 0.5, "alpha": 0.3, "schedule": "linear"},
        {"number": 1, "state": "fail", "value": None},
        {"number": 2, "state": "pruned", "value": 0.2, "alpha": 0.4, "schedule": "linear"},
        {"number": 3, "state": "complete", "value": 0.6, "alpha": 0.5, "schedule": "constant"},
    ]
    for plot in (search_history, search_slices):
        assert plot(trials).startswith(b"\x89PNG")
