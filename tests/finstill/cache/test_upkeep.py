"""Looking after a cache changes its files and never its set of rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from finstill.cache import upkeep
from finstill.cache.cache import DamagedPartError, SoftLabelCache, teachers
from finstill.cache.labelling import label_texts
from finstill.cache.part import encode_part
from finstill.cache.upkeep import compact, export, prune, quarantine, statistics, summarise, verify
from finstill.errors import InputError
from finstill.inference.session import OnnxClassifier

MakeRows = Callable[..., pa.Table]


def rows_of(cache: SoftLabelCache) -> dict[bytes, list[float]]:
    rows = cache.query(lambda cached: cached.to_table())
    return dict(zip(rows["key"].to_pylist(), rows["logits"].to_pylist(), strict=True))


def truncate(cache: SoftLabelCache, rows: pa.Table) -> str:
    part = Path(cache.append(rows))
    os.truncate(part, part.stat().st_size - 30)
    return str(part)


def flip_a_byte(cache: SoftLabelCache, rows: pa.Table) -> str:
    part = Path(cache.append(rows))
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 1
    part.write_bytes(content)
    return str(part)


def change_the_columns(cache: SoftLabelCache, rows: pa.Table) -> str:
    return cache.put(*encode_part(rows.drop_columns("truncated").cast(pa.schema(list(cache.schema)[:3]))))


def break_a_logit(cache: SoftLabelCache, rows: pa.Table) -> str:
    logits = rows["logits"].combine_chunks().flatten().to_numpy().copy()
    logits[7] = np.nan
    broken = rows.set_column(1, "logits", pa.FixedSizeListArray.from_arrays(pa.array(logits), 3))
    return cache.put(*encode_part(broken.cast(cache.schema)))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (truncate, "do not match the digest"),
        (flip_a_byte, "do not match the digest"),
        (change_the_columns, "its columns are key fixed_size_binary.*truncated bool were expected"),
        (break_a_logit, "not finite"),
    ],
)
def test_a_damaged_part_is_found_named_and_set_aside(
    cache: SoftLabelCache, make_rows: MakeRows, damage: Callable[[SoftLabelCache, pa.Table], str], problem: str
) -> None:
    sound, lost = make_rows(50, seed=1), make_rows(50, seed=2)
    cache.append(sound)
    part = damage(cache, lost)

    found = list(verify(cache))
    assert [error.part for error in found] == [part]
    with pytest.raises(DamagedPartError, match=problem):
        raise found[0]
    with pytest.raises(DamagedPartError, match=Path(part).name):
        compact(cache)

    aside = quarantine(cache, part)
    assert Path(aside).parent.name == "quarantine"
    assert list(verify(cache)) == []
    assert cache.unseen(sound["key"]).tolist() == []
    assert len(cache.unseen(lost["key"])) == 50


def test_the_rows_of_a_damaged_part_are_labelled_again(
    cache: SoftLabelCache, graph: Path, write_tokens: Callable[..., pa.Table], tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.parquet"
    write_tokens(tokens, [f"headline {i}" for i in range(100)])
    run = partial(label_texts, tokens, cache, partial(OnnxClassifier, graph), 512)
    run()
    before = rows_of(cache)
    (part,) = map(Path, cache.parts())
    part.write_bytes(part.read_bytes()[:500])
    with pytest.raises(DamagedPartError):
        run()
    quarantine(cache, str(part))
    assert run().labelled == 100
    assert rows_of(cache) == before


def test_compaction_makes_few_parts_of_the_same_rows(cache: SoftLabelCache, make_rows: MakeRows) -> None:
    for seed in range(20):
        cache.append(make_rows(30, seed))
    # Two runs at once label the same texts in other chunks.
    cache.append(make_rows(30, 3).slice(5))
    before = rows_of(cache)
    assert statistics(cache).duplicates == 25

    report = compact(cache)
    assert (report.merged, report.written, report.duplicates) == (21, 1, 25)
    assert len(cache.parts()) == 1
    assert rows_of(cache) == before
    assert statistics(cache).duplicates == 0
    assert list(verify(cache)) == []
    assert compact(cache).merged == 0


def test_full_parts_stay_and_what_they_hold_is_not_merged_again(
    cache: SoftLabelCache, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = cache.append(make_rows(2000, seed=1))
    monkeypatch.setattr(upkeep, "FULL_PART_BYTES", 2 * Path(full).stat().st_size)
    cache.append(make_rows(2000, seed=1).slice(0, 100))
    cache.append(make_rows(100, seed=2))
    before = rows_of(cache)
    report = compact(cache)
    assert (report.merged, report.written, report.duplicates) == (2, 1, 100)
    assert full in cache.parts()
    assert rows_of(cache) == before


def test_large_caches_are_merged_a_part_at_a_time(
    cache: SoftLabelCache, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [Path(cache.append(make_rows(100, seed))).stat().st_size for seed in range(12)]
    monkeypatch.setattr(upkeep, "FULL_PART_BYTES", 3 * sizes[0])
    before = rows_of(cache)
    report = compact(cache)
    assert (report.merged, report.duplicates) == (12, 0)
    assert 3 <= report.written == len(cache.parts()) <= 4
    assert rows_of(cache) == before


@pytest.mark.parametrize("stage", ["put", "_delete"])
def test_a_compaction_that_dies_loses_nothing(
    cache: SoftLabelCache, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    for seed in range(6):
        cache.append(make_rows(30, seed))
    before = rows_of(cache)

    def die(*arguments: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache if stage == "put" else upkeep, stage, die)
        with pytest.raises(KeyboardInterrupt):
            compact(cache)
    assert rows_of(cache) == before
    compact(cache)
    assert rows_of(cache) == before
    assert statistics(cache).duplicates == 0


def test_a_merged_part_never_has_the_name_of_one_it_was_made_from(cache: SoftLabelCache, make_rows: MakeRows) -> None:
    rows = make_rows(30)
    whole = cache.append(rows)
    cache.append(rows.slice(0, 10))
    compact(cache)
    assert len(cache.parts()) == 1
    assert cache.parts() != [whole]


def test_pruning_removes_one_teacher(tmp_path: Path, make_rows: MakeRows) -> None:
    gone, stays = (SoftLabelCache(tmp_path, letter * 32, ["a", "b", "c"]) for letter in "ab")
    for cache in (gone, stays):
        cache.append(make_rows(10))
    prune(gone)
    assert teachers(tmp_path) == ["b" * 32]
    assert not Path(gone.folder).exists()
    assert len(stays.parts()) == 1


def test_statistics_count_texts_and_tokens(cache: SoftLabelCache, make_rows: MakeRows) -> None:
    assert statistics(cache).rows == summarise(cache).rows == 0
    rows = make_rows(1000)
    cache.append(rows.slice(0, 700))
    part = cache.append(rows.slice(600))
    result, summary = statistics(cache), summarise(cache)
    tokens = np.concatenate([rows["n_tokens"].to_numpy()[:700], rows["n_tokens"].to_numpy()[600:]])
    assert (result.rows, result.duplicates) == (1100, 100)
    assert result.tokens[0.5] == np.median(tokens)
    assert result.tokens[1.0] == tokens.max()
    assert summary.rows == 1100
    assert summary.parts == 2
    assert summary.last_written is not None
    assert summary.last_written.timestamp() == pytest.approx(Path(part).stat().st_mtime, abs=1)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_an_export_holds_every_text_once(
    cache: SoftLabelCache, make_rows: MakeRows, tmp_path: Path, suffix: str
) -> None:
    rows = make_rows(100)
    cache.append(rows.slice(0, 60))
    cache.append(rows.slice(40))
    path = tmp_path / f"export{suffix}"
    assert export(cache, path) == 100
    table = pq.read_table(path) if suffix == ".parquet" else pyarrow.csv.read_csv(path)
    assert table.column_names == ["key", "negative", "neutral", "positive", "n_tokens", "truncated"]
    exported = {row["key"]: (row["negative"], row["neutral"], row["positive"]) for row in table.to_pylist()}
    for key, logits in rows_of(cache).items():
        assert exported[key.hex()] == pytest.approx(logits, abs=1e-6)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_an_export_to_a_full_disk_names_the_file_and_looks_for_no_damage(
    cache: SoftLabelCache,
    make_rows: MakeRows,
    file_size_limit: Callable[[int], AbstractContextManager[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    cache.append(make_rows(3000))
    monkeypatch.delattr(SoftLabelCache, "read_part")
    path = tmp_path / f"export{suffix}"
    with file_size_limit(1000), pytest.raises(InputError, match=f"export{suffix}: .* not be written .*File too large"):
        export(cache, path)
    assert not path.exists()


def test_an_export_to_an_unknown_format_says_which_there_are(cache: SoftLabelCache, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'\.xlsx' is no format"):
        export(cache, tmp_path / "export.xlsx")


def test_a_part_is_named_by_its_bytes(cache: SoftLabelCache, make_rows: MakeRows) -> None:
    part = Path(cache.append(make_rows(10)))
    assert part.name == f"part-{hashlib.blake2b(part.read_bytes(), digest_size=16).hexdigest()}.parquet"
