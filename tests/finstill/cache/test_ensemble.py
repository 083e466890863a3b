"""Several teachers as one: the mean of what each says, classes by name, whatever constant one adds to its logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import log_softmax, softmax

from finstill.cache.ensemble import write_average_logits
from finstill.config.task import SENTIMENT
from finstill.corpus.provenance import TableProvenance
from finstill.errors import InputError
from tests.tables import write_logits_table

KEYS = [bytes([i]) * 16 for i in range(40)]


def table(path: Path, logits: np.ndarray, labels: tuple[str, ...], keys: list[bytes] = KEYS) -> Path:
    provenance = TableProvenance(f"tokenizer of {path.stem}", 64, "cut", (f"teacher {path.stem}",))
    return write_logits_table(path, keys, logits, labels, provenance)


def average(folder: Path, *tables: Path) -> np.ndarray:
    write_average_logits(tables, SENTIMENT, folder / "mean.parquet")
    mean = pq.read_table(folder / "mean.parquet")
    assert mean["key"].to_pylist() == KEYS
    assert mean.schema.metadata[b"labels"].decode().split("\n") == list(SENTIMENT.labels)
    return np.array(mean["logits"].to_pylist())


def test_it_is_the_mean_of_log_probabilities_with_classes_matched_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finstill.cache.ensemble.ROWS_PER_CHUNK", 7)
    one, other = np.random.default_rng(0).normal(size=(2, 40, 3))
    first = table(tmp_path / "a.parquet", one, SENTIMENT.labels)
    # The same numbers in another order of classes, under their names.
    second = table(tmp_path / "b.parquet", other[:, [2, 0, 1]], ("Positive", "Negative", "Neutral"))
    expected = (log_softmax(one, axis=1) + log_softmax(other, axis=1)) / 2
    assert average(tmp_path, first, second) == pytest.approx(expected, abs=1e-6)
    said = TableProvenance.read(tmp_path / "mean.parquet")
    assert said == TableProvenance("tokenizer of a", 64, "cut", ("teacher a", "teacher b"))


def test_a_constant_that_a_teacher_adds_to_its_logits_changes_nothing(tmp_path: Path) -> None:
    one, other = np.random.default_rng(1).normal(size=(2, 40, 3))
    shift = np.random.default_rng(2).normal(scale=20, size=(40, 1))
    first = table(tmp_path / "a.parquet", one, SENTIMENT.labels)
    plain = average(tmp_path, first, table(tmp_path / "b.parquet", other, SENTIMENT.labels))
    shifted = average(tmp_path, first, table(tmp_path / "c.parquet", other + shift, SENTIMENT.labels))
    assert shifted == pytest.approx(plain, abs=1e-5)
    for temperature in (1, 4):
        raw = softmax((one + other) / 2 / temperature, axis=1)
        assert softmax(plain / temperature, axis=1) == pytest.approx(raw, abs=1e-5)


def test_tables_of_other_texts_and_classes_that_match_nothing_are_refused(tmp_path: Path) -> None:
    logits = np.zeros((40, 3))
    first = table(tmp_path / "a.parquet", logits, SENTIMENT.labels)
    with pytest.raises(ValueError, match="not of the same texts"):
        average(tmp_path, first, table(tmp_path / "b.parquet", logits, SENTIMENT.labels, KEYS[::-1]))
    with pytest.raises(InputError, match="do not match the labels"):
        average(tmp_path, first, table(tmp_path / "c.parquet", logits, ("good", "bad", "ugly")))
    assert not (tmp_path / "mean.parquet").exists()
