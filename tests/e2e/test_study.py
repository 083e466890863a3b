"""Tuning's study on a PostgreSQL server: machines search it together, and it goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from finstill.config.recipe import Recipe
from finstill.config.task import SENTIMENT
from finstill.training.rows import TrainingRows
from finstill.tuning.search import Search, _study, search

if TYPE_CHECKING:
    from tests.e2e.deployment import Postgres

pytestmark = pytest.mark.timeout(300)

BASE = Recipe.model_validate(
    {"student": "static", "architecture": {"embedding": "random", "embedding_width": 8, "hidden_width": 8}, "epochs": 2}
)


def machine(
    rows: tuple[TrainingRows, TrainingRows], checkpoint: Path, folder: Path, storage: str, trials: int, seed: int
) -> Search:
    """Search as one machine does, in a process of its own."""
    return search(BASE, *rows, SENTIMENT.labels, checkpoint, folder, storage=storage, trials=trials, seed=seed)


def test_machines_search_one_study_together_and_it_goes_on(
    postgres: Postgres, learnable_rows: Callable[..., TrainingRows], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    storage = postgres.create_database("studies")
    rows = learnable_rows(96), learnable_rows(48, seed=1)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as machines:
        # Both find an empty database, and one makes the tables.
        searches = [
            machines.submit(machine, rows, tiny_checkpoint, tmp_path / str(i), storage, trials=6, seed=i)
            for i in range(2)
        ]
        found = [each.result() for each in searches]
        # Whoever begins the sixth trial may find another machine in the middle of one.
        last = max(len(search.trials) for search in found)
        assert 6 <= last <= 7
        assert all({trial["number"] for trial in search.trials} <= set(range(last)) for search in found)
        more = machines.submit(machine, rows, tiny_checkpoint, tmp_path / "more", storage, trials=9, seed=9).result()
    assert len(more.trials) == 9
    assert more.trials[:6] == found[0].trials[:6] == found[1].trials[:6]
    assert more.divergence <= min(search.divergence for search in found)


def test_machines_that_find_an_empty_database_at_the_same_moment_all_open_the_study(postgres: Postgres) -> None:
    for database in ("empty_1", "empty_2", "empty_3"):
        storage, start = postgres.create_database(database), Barrier(6)

        def open_study(seed: int, storage: str = storage, start: Barrier = start) -> int:
            start.wait()
            return _study(storage, "study", seed)._study_id

        with ThreadPoolExecutor(start.parties) as machines:
            assert len(set(machines.map(open_study, range(start.parties)))) == 1
