"""The command line of the cache, on a real cache."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finstill.cache.cache import SoftLabelCache
from finstill.cli import main

FIRST, SECOND = "abc" + "0" * 29, "abd" + "1" * 29

Run = Callable[..., tuple[int, str]]


def rows(count: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "key": pa.array([random.bytes(16) for _ in range(count)], pa.binary(16)),
            "logits": pa.FixedSizeListArray.from_arrays(pa.array(random.random(3 * count, np.float32)), 3),
            "n_tokens": pa.array(range(count), pa.int32()),
            "truncated": pa.array([True] + [False] * (count - 1)),
        }
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two teachers: one with two parts and ten repeated rows, one with nothing."""
    cache = SoftLabelCache(tmp_path / "cache", FIRST, ["down", "flat", "up"], {"source": "owner/model"})
    cache.append(rows(1100, 1))
    cache.append(rows(1100, 1).slice(0, 10))
    SoftLabelCache(tmp_path / "cache", SECOND, ["no", "yes"])
    return tmp_path / "cache"


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command of the cache and returns its exit status and all that it printed."""
    monkeypatch.setenv("FINSTILL_CACHE", str(root))
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments: (main(["cache", *arguments]), "".join(capsys.readouterr()))


def test_ls_shows_every_teacher(run: Run) -> None:
    _, output = run("ls")
    for word in (FIRST[:12], SECOND[:12], "owner/model", "down, flat, up", "1,110", "never"):
        assert word in output


def test_stats_describes_one_teacher(run: Run) -> None:
    lines = run("stats", "abc")[1].splitlines()
    for name, value in (
        ("rows", "1,110"),
        ("duplicates", "10"),
        ("parts", "2"),
        ("truncated", "2"),
        ("source", "owner/model"),
        ("100%", "1,099"),
    ):
        assert any(name in line and value in line for line in lines), name
    assert "no" in run("stats", "abd")[1]


def test_verify_names_damage_and_sets_it_aside(run: Run, root: Path) -> None:
    assert run("verify") == (0, "all parts are sound\n")
    damaged = max((root / FIRST).glob("part-*"), key=lambda part: part.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    status, output = run("verify")
    assert status == 1
    assert damaged.name in output
    assert run("verify", "abc", "--quarantine")[0] == 0
    assert (root / FIRST / "quarantine" / damaged.name).is_file()
    assert run("verify")[0] == 0


def test_compact_says_what_became_of_the_parts(run: Run) -> None:
    _, output = run("compact")
    assert f"{FIRST[:12]}: 2 parts became 1, 10 repeated rows dropped" in output
    assert f"{SECOND[:12]}: 0 parts became 0" in output


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_prune_asks_first(answer: str, run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", StringIO(answer))
    assert run("prune", FIRST)[0] == 1
    assert (root / FIRST).is_dir()
    assert "removed 1,110 rows" in run("prune", FIRST, "--yes")[1]
    assert not (root / FIRST).exists()
    assert (root / SECOND).is_dir()


def test_export_writes_a_table_for_people(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    assert "1,100 rows written" in run("export", "abc", str(path))[1]
    assert pq.read_schema(path).names == ["key", "down", "flat", "up", "n_tokens", "truncated"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stats", "zzz"), "no teacher's fingerprint starts with 'zzz'; there are abc000000000, abd111111111"),
        (("stats", "ab"), "'ab' begins 2 fingerprints"),
        (("export", "abc", "labels.xlsx"), "'.xlsx' is no format to export to"),
        (("verify", "--root", "nowhere"), "no teacher is cached here"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_no_traceback(run: Run, arguments: tuple[str, ...], message: str) -> None:
    status, output = run(*arguments)
    assert status == 1
    assert message in output
    assert len(output.splitlines()) == 1
