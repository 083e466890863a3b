"""The growing table: each text once by each champion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finstill.corpus.text import text_key
from finstill.serving import StudentClassifier
from finstill.serving.growing_table import grow_scores
from finstill.serving.package import Package


def write_corpus(path: Path, numbers: range) -> list[str]:
    texts = [f"Profit rose {number} percent" for number in numbers]
    keys = pa.array([text_key(text) for text in texts], pa.binary(16))
    empty = pa.nulls(len(texts), pa.string())
    pq.write_table(pa.table({"key": keys, "text": texts, "date": empty, "id": empty, "split": empty}), path)
    return texts


def test_only_new_texts_are_scored(package: Package, tmp_path: Path) -> None:
    corpus, folder = tmp_path / "corpus.parquet", tmp_path / "scores"
    write_corpus(corpus, range(20))
    first = grow_scores(corpus, package.folder, folder)
    assert (first.rows, first.added) == (20, 20)
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert grow_scores(corpus, package.folder, folder).added == 0
    texts = write_corpus(corpus, range(-5, 22))
    grown = grow_scores(corpus, package.folder, folder)
    assert (grown.rows, grown.added, sum(grown.labels.values())) == (27, 7, 7)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in grown.folder.iterdir()}.items()
    table = pl.read_parquet(grown.folder)
    assert sorted(table["text"].to_list()) == sorted(texts)
    student = StudentClassifier(package.folder)
    assert table["label"].to_list() == [score.label for score in student.score(table["text"].to_list())]


def test_entities_that_a_corpus_holds_are_not_decoded_again(
    package: Package, trained_on_cut_texts: Callable[..., Package], tmp_path: Path
) -> None:
    text = "the code says &lt; twice"
    columns = {"key": pa.array([text_key(text)], pa.binary(16)), "text": [text], "date": [""], "id": [""]}
    pq.write_table(pa.table(columns), tmp_path / "corpus.parquet")
    decoding = trained_on_cut_texts(package, unescape=True)
    report = grow_scores(tmp_path / "corpus.parquet", decoding.folder, tmp_path / "scores")
    (expected,) = StudentClassifier(package.folder).score([text])
    (row,) = pl.read_parquet(report.folder).to_dicts()
    assert {name: row[f"probability_{name}"] for name in package.labels} == expected.probabilities


def test_a_new_champion_scores_all_and_then_the_old_ones_rows_go(
    package: Package, make_package: Callable[..., Package], tmp_path: Path
) -> None:
    corpus, folder = tmp_path / "corpus.parquet", tmp_path / "scores"
    write_corpus(corpus, range(20))
    old = grow_scores(corpus, package.folder, folder).folder
    report = grow_scores(corpus, make_package("new", seed=7).folder, folder)
    assert report.added == 20
    assert not old.exists()
    assert list(folder.iterdir()) == [report.folder]


def test_a_run_cut_off_is_made_up_for(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finstill.serving import growing_table

    corpus, folder = tmp_path / "corpus.parquet", tmp_path / "scores"
    monkeypatch.setattr(growing_table, "ROWS_PER_CHUNK", 8)
    write_corpus(corpus, range(20))
    scored, calls = growing_table._scored, []

    def failing(batch: pa.Table, student: StudentClassifier) -> pa.Table:
        calls.append(batch.num_rows)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return scored(batch, student)

    with monkeypatch.context() as patched:
        patched.setattr(growing_table, "_scored", failing)
        with pytest.raises(KeyboardInterrupt):
            grow_scores(corpus, package.folder, folder)
    report = grow_scores(corpus, package.folder, folder)
    assert (report.rows, report.added) == (20, 12)
    assert pl.read_parquet(report.folder)["key"].n_unique() == 20
