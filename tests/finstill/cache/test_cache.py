"""The cache gives back what was put in, names what is wrong, and is as it was after a write that failed."""

from __future__ import annotations

import json
import shutil
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from finstill.cache import joins
from finstill.cache.cache import DamagedPartError, SoftLabelCache, teachers
from finstill.errors import InputError
from finstill.files import TEMPORARY_PREFIX

FINGERPRINT = "f" * 32


def logits_of(rows: pa.Table) -> np.ndarray:
    return rows["logits"].combine_chunks().flatten().to_numpy().reshape(-1, 3)


def test_rows_come_back_in_the_order_asked_for(cache: SoftLabelCache, make_rows: Callable[..., pa.Table]) -> None:
    rows = make_rows(300)
    cache.append(rows.slice(0, 100))
    cache.append(rows.slice(100))
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_array_equal(cache.lookup(rows["key"].take(pa.array(order))), logits_of(rows)[order])


def test_a_repeated_part_or_row_changes_nothing(cache: SoftLabelCache, make_rows: Callable[..., pa.Table]) -> None:
    rows = make_rows(100)
    first = cache.append(rows)
    assert cache.append(rows) == first
    cache.append(rows.slice(20, 50))
    assert len(cache.unseen(rows["key"])) == 0
    np.testing.assert_array_equal(cache.lookup(rows["key"]), logits_of(rows))


def test_unseen_names_each_new_text_once_at_its_first_position(
    cache: SoftLabelCache, make_rows: Callable[..., pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Repeats must be seen across the joins of one question too.
    monkeypatch.setattr(joins, "JOIN_ROWS", 7)
    rows = make_rows(20)
    cache.append(rows.slice(0, 10))
    keys = rows["key"].take(pa.array([3, 12, 0, 12, 19, 5, 19, 3, 12, 11]))
    assert cache.unseen(keys).tolist() == [1, 4, 9]


def test_an_empty_cache_has_seen_nothing(cache: SoftLabelCache, make_rows: Callable[..., pa.Table]) -> None:
    rows = make_rows(3)
    assert cache.unseen(rows["key"]).tolist() == [0, 1, 2]
    assert cache.unseen(rows["key"].slice(0, 0)).tolist() == []
    with pytest.raises(KeyError, match="3 of 3 texts have no row"):
        cache.lookup(rows["key"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_of_logits_that_are_not_finite_the_texts_are_named_and_the_others_stored(
    cache: SoftLabelCache, make_rows: Callable[..., pa.Table], value: float
) -> None:
    rows = make_rows(2)
    broken = logits_of(rows).copy()
    broken[1, 2] = value
    column = pa.FixedSizeListArray.from_arrays(pa.array(broken.ravel()), 3)
    bad = rows["key"][1].as_py().hex()
    with pytest.raises(InputError, match=f"gave 1 of 2 texts logits that are not finite.*keys {bad}\\..*to float32"):
        cache.append(rows.set_column(1, "logits", column))
    assert cache.unseen(rows["key"]).tolist() == [1]
    np.testing.assert_array_equal(cache.lookup(rows["key"][:1]), logits_of(rows)[:1])
    with pytest.raises(InputError, match="gave 1 of 1 texts"):
        cache.append(rows.set_column(1, "logits", column)[1:])
    assert len(cache.parts()) == 1


def test_the_description_says_whose_rows_these_are(tmp_path: Path) -> None:
    about = {"source": "ProsusAI/finbert", "revision": "4556d13", "max_length": "128", "precision": "float32"}
    SoftLabelCache(tmp_path, FINGERPRINT, ["risk", "no_risk"], about)
    stored = json.loads((tmp_path / FINGERPRINT / "teacher.json").read_text())
    assert stored == {"format": 1, "fingerprint": FINGERPRINT, "labels": ["risk", "no_risk"], "about": about}
    assert SoftLabelCache.open(tmp_path, FINGERPRINT).labels == ("risk", "no_risk")
    assert teachers(tmp_path) == [FINGERPRINT]


def test_another_label_order_or_format_is_refused(tmp_path: Path) -> None:
    SoftLabelCache(tmp_path, FINGERPRINT, ["risk", "no_risk"])
    with pytest.raises(InputError, match="its labels is"):
        SoftLabelCache(tmp_path, FINGERPRINT, ["no_risk", "risk"])
    description = tmp_path / FINGERPRINT / "teacher.json"
    description.write_text(description.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match="its format is 2, and 1 was expected"):
        SoftLabelCache(tmp_path, FINGERPRINT, ["risk", "no_risk"])


def test_a_place_that_is_no_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no teacher\.json"):
        SoftLabelCache.open(tmp_path, FINGERPRINT)
    with pytest.raises(InputError, match="cannot be opened as a cache"):
        SoftLabelCache("nowhere://user:secret@bucket", FINGERPRINT, ["a", "b"])


def test_a_url_that_cannot_be_opened_is_said_without_its_credentials() -> None:
    url = "s3://AKIA:secret/with+slash@bucket/x"
    with pytest.raises(InputError, match=r"'s3://.*: ArrowInvalid") as caught:
        SoftLabelCache(url, FINGERPRINT, ["a", "b"])
    assert "slash" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(InputError, match="Unrecognized filesystem type"):
        SoftLabelCache("nowhere://bucket", FINGERPRINT, ["a", "b"])


def test_temporary_files_are_never_read(cache: SoftLabelCache, make_rows: Callable[..., pa.Table]) -> None:
    rows = make_rows(10)
    part = Path(cache.append(rows))
    (part.parent / f"{TEMPORARY_PREFIX}x").write_bytes(part.read_bytes()[:100])
    (part.parent / f"{TEMPORARY_PREFIX}y.parquet").write_bytes(part.read_bytes()[:100])
    assert cache.parts() == [str(part)]
    assert len(cache.unseen(rows["key"])) == 0


def test_damage_is_named_or_harmless_wherever_it_is(cache: SoftLabelCache, make_rows: Callable[..., pa.Table]) -> None:
    rows = make_rows(50)
    part = Path(cache.append(rows))
    whole = part.read_bytes()
    named = []
    for position in range(0, len(whole), 11):
        part.write_bytes(whole[:position] + bytes([whole[position] ^ 0x5A]) + whole[position + 1 :])
        try:
            np.testing.assert_array_equal(cache.lookup(rows["key"]), logits_of(rows))
        except DamagedPartError as error:
            named.append(str(error))
        except KeyError:
            # A key that is read as null is a text that will be labelled again.
            assert len(cache.unseen(rows["key"])) == len(rows)
    assert len(named) > 50
    assert all(part.name in message and "finstill cache verify --quarantine" in message for message in named)
    part.write_bytes(whole[:-20])
    with pytest.raises(DamagedPartError, match="do not match the digest"):
        cache.unseen(rows["key"])


@pytest.mark.parametrize("size", [0, 1, 1000, 3000])
def test_a_write_that_is_refused_leaves_the_cache_as_it_was(
    cache: SoftLabelCache,
    make_rows: Callable[..., pa.Table],
    file_size_limit: Callable[[int], AbstractContextManager[None]],
    size: int,
) -> None:
    cache.append(make_rows(10, seed=1))
    before = sorted(Path(cache.folder).iterdir())
    with file_size_limit(size), pytest.raises(InputError, match=f"{FINGERPRINT}.*as it was.*Free space"):
        cache.append(make_rows(500, seed=2))
    assert sorted(Path(cache.folder).iterdir()) == before
    cache.append(make_rows(500, seed=2))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_an_error_that_says_so(small_disk: Path, make_rows: Callable[..., pa.Table]) -> None:
    cache = SoftLabelCache(small_disk, FINGERPRINT, ["a", "b", "c"])
    stored = []

    def fill() -> None:
        for seed in range(100):
            rows = make_rows(300, seed)
            cache.append(rows)
            stored.append(rows)

    with pytest.raises(InputError, match="No space left on device"):
        fill()
    assert len(cache.parts()) == len(stored) > 1
    for rows in stored:
        np.testing.assert_array_equal(cache.lookup(rows["key"]), logits_of(rows))
    assert not [path for path in Path(cache.folder).iterdir() if path.name.startswith(TEMPORARY_PREFIX)]
