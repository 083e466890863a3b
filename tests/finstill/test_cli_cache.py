"""The command line of the cache, on a real cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from finstill.cache.cache import SoftLabelCache
from finstill.cli import app

FIRST, SECOND = "abc" + "0" * 29, "abd" + "1" * 29

Run = Callable[..., Result]


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
def run(root: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FINSTILL_CACHE", str(root))
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments, **options: CliRunner().invoke(app, ["cache", *arguments], **options)


def test_ls_shows_every_teacher(run: Run) -> None:
    output = run("ls").output
    for word in (FIRST[:12], SECOND[:12], "owner/model", "down, flat, up", "1,110", "never"):
        assert word in output


def test_stats_describes_one_teacher(run: Run) -> None:
    lines = run("stats", "abc").output.splitlines()
    for name, value in (
        ("rows", "1,110"),
        ("duplicates", "10"),
        ("parts", "2"),
        ("truncated", "2"),
        ("source", "owner/model"),
        ("100%", "1,099"),
    ):
        assert any(name in line and value in line for line in lines), name
    assert "no" in run("stats", "abd").output


def test_verify_names_damage_and_sets_it_aside(run: Run, root: Path) -> None:
    assert run("verify").output == "all parts are sound\n"
    damaged = max((root / FIRST).glob("part-*"), key=lambda part: part.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    result = run("verify")
    assert result.exit_code == 1
    assert damaged.name in result.output
    result = run("verify", "abc", "--quarantine")
    assert result.exit_code == 0
    assert (root / FIRST / "quarantine" / damaged.name).is_file()
    assert run("verify").exit_code == 0


def test_compact_says_what_became_of_the_parts(run: Run) -> None:
    result = run("compact")
    assert f"{FIRST[:12]}: 2 parts became 1, 10 repeated rows dropped" in result.output
    assert f"{SECOND[:12]}: 0 parts became 0" in result.output


def test_prune_asks_first(run: Run, root: Path) -> None:
    assert run("prune", FIRST, input="n\n").exit_code == 1
    assert (root / FIRST).is_dir()
    assert "removed 1,110 rows" in run("prune", FIRST, "--yes").output
    assert not (root / FIRST).exists()
    assert (root / SECOND).is_dir()


def test_export_writes_a_table_for_people(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    assert "1,100 rows written" in run("export", "abc", str(path)).output
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
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.splitlines()) == 1
