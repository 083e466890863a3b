"""Runs that are killed, and runs and compactions at the same time, end with the same set."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from finstill.cache.cache import SoftLabelCache
from finstill.cache.upkeep import compact, verify
from finstill.files import TEMPORARY_PREFIX

FINGERPRINT = "e" * 32
LABELS = ("negative", "neutral", "positive")
TEXTS = [f"headline {i} of a long day on the markets" for i in range(6400)]
CHUNK_ROWS = 32
KILLS = 20

StartRun = Callable[[Path, Path], BaseProcess]


@pytest.fixture
def start_run(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StartRun:
    """Start a process that labels a token table into a cache root; the texts it labels are lines of `record`."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import counting_teacher

    # The server imports once, so that each process starts in milliseconds and dies at work and not at imports.
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["finstill.cache.labelling", "finstill.cache.upkeep"])

    def start(tokens: Path, root: Path) -> BaseProcess:
        arguments = (tokens, root, FINGERPRINT, LABELS, graph, tmp_path / "record")
        process = context.Process(target=counting_teacher.label, args=arguments)
        process.start()
        return process

    return start


def finish(process: BaseProcess) -> None:
    process.join(60)
    assert process.exitcode == 0


def rows_of(root: Path) -> dict[bytes, list[float]]:
    rows = SoftLabelCache(root, FINGERPRINT, LABELS).query(lambda cached: cached.to_table())
    return dict(zip(rows["key"].to_pylist(), rows["logits"].to_pylist(), strict=True))


def seconds_per_chunk(root: Path) -> float:
    times = sorted(part.stat().st_mtime for part in (root / FINGERPRINT).glob("part-*"))
    return (times[-1] - times[0]) / (len(times) - 1)


def assert_same_rows(root: Path, undisturbed: Path) -> None:
    ours, theirs = rows_of(root), rows_of(undisturbed)
    assert ours.keys() == theirs.keys()
    assert len(ours) == len(TEXTS)
    np.testing.assert_allclose([ours[key] for key in theirs], list(theirs.values()), rtol=0, atol=1e-4)


def test_twenty_kills_cost_a_chunk_each_and_change_nothing(
    start_run: StartRun, write_tokens: Callable[[Path, Sequence[str]], pa.Table], tmp_path: Path
) -> None:
    tokens, record = tmp_path / "tokens.parquet", tmp_path / "record"
    write_tokens(tokens, TEXTS)
    finish(start_run(tokens, tmp_path / "undisturbed"))
    record.unlink()

    root = tmp_path / "killed"
    folder = root / FINGERPRINT
    moments = random.Random(11)
    chunk = seconds_per_chunk(tmp_path / "undisturbed")
    for kill in range(KILLS):
        stored = len(list(folder.glob("part-*")))
        process = start_run(tokens, root)
        # Every fourth run may die before its first chunk, the others at any moment of one of the next three.
        while kill % 4 and len(list(folder.glob("part-*"))) == stored and process.is_alive():
            time.sleep(0.0005)
        time.sleep(moments.uniform(0, 3 * chunk))
        process.kill()
        process.join()
        assert process.exitcode == -9, "the run was over before it was killed"
        assert not list(verify(SoftLabelCache(root, FINGERPRINT, LABELS)))
    finish(start_run(tokens, root))

    assert_same_rows(root, tmp_path / "undisturbed")
    repeated = len(record.read_text().splitlines()) - len(TEXTS)
    assert 0 <= repeated <= KILLS * CHUNK_ROWS


def test_two_runs_and_compactions_in_the_middle_of_both_make_the_same_set(
    start_run: StartRun, write_tokens: Callable[[Path, Sequence[str]], pa.Table], tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.parquet"
    write_tokens(tokens, TEXTS)
    finish(start_run(tokens, tmp_path / "undisturbed"))

    root = tmp_path / "shared"
    cache = SoftLabelCache(root, FINGERPRINT, LABELS)
    runs = [start_run(tokens, root), start_run(tokens, root)]
    compactions = 0
    while any(run.is_alive() for run in runs):
        compactions += compact(cache).merged > 0
    for run in runs:
        finish(run)
    assert compactions > 2
    assert_same_rows(root, tmp_path / "undisturbed")
    compact(cache)
    assert cache.query(lambda cached: cached.count_rows()) == len(TEXTS)


def test_readers_and_two_compactions_never_miss_a_row(
    cache: SoftLabelCache, make_rows: Callable[..., pa.Table]
) -> None:
    known = [make_rows(20, seed) for seed in range(40)]
    for rows in known:
        cache.append(rows)
    keys = pa.chunked_array([rows["key"].combine_chunks() for rows in known])
    expected = np.concatenate([rows["logits"].combine_chunks().flatten() for rows in known]).reshape(-1, 3)
    stop = threading.Event()
    errors: list[Exception] = []

    def disturb(first_seed: int) -> None:
        seed = first_seed
        try:
            while not stop.is_set():
                cache.append(make_rows(5, seed))
                cache.append(known[seed % len(known)].slice(3, 9))
                compact(cache)
                seed += 1
        except Exception as error:
            errors.append(error)

    disturbers = [threading.Thread(target=disturb, args=(seed,)) for seed in (1_000, 2_000)]
    for thread in disturbers:
        thread.start()
    end = time.monotonic() + 2
    try:
        while time.monotonic() < end:
            assert len(cache.unseen(keys)) == 0
            np.testing.assert_array_equal(cache.lookup(keys), expected)
    finally:
        stop.set()
        for thread in disturbers:
            thread.join()
    assert errors == []


def test_a_part_that_was_merged_away_and_written_again_while_it_was_read_is_read_again(
    cache: SoftLabelCache, make_rows: Callable[..., pa.Table]
) -> None:
    part = Path(cache.append(make_rows(5)))
    content = part.read_bytes()
    answers = []

    def ask(cached: ds.Dataset) -> int:
        if not answers:
            part.unlink()
        try:
            answers.append(cached.to_table().num_rows)
        except FileNotFoundError:
            answers.append(0)
            raise
        finally:
            part.write_bytes(content)
        return answers[-1]

    assert cache.query(ask) == 5
    assert answers == [0, 5]


def test_a_listing_made_while_parts_are_swapped_is_made_again(
    cache: SoftLabelCache, make_rows: Callable[..., pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    part = cache.append(make_rows(5))
    complete = cache._list()
    # The old parts are gone already and the merged one came too late to be seen.
    listings = iter([{}, complete, complete])
    monkeypatch.setattr(cache, "_list", lambda: next(listings))
    assert cache.parts() == [part]


def test_a_killed_run_leaves_a_temporary_file_that_the_next_compaction_removes_when_it_is_old(
    cache: SoftLabelCache, make_rows: Callable[..., pa.Table]
) -> None:
    cache.append(make_rows(5))
    young, old = (Path(cache.folder) / f"{TEMPORARY_PREFIX}{name}" for name in ("young", "old"))
    for path in (young, old):
        path.write_bytes(b"half a part")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    compact(cache)
    assert young.exists()
    assert not old.exists()
