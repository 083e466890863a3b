"""The labelled set is a function of the texts and the teacher: nothing about the run is in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from finstill.cache import labelling
from finstill.cache.cache import SoftLabelCache
from finstill.cache.labelling import LabellingReport, label_texts, write_logits
from finstill.corpus.provenance import TableProvenance
from finstill.corpus.text import normalise
from finstill.inference.session import OnnxClassifier

WriteTokens = Callable[[Path, Sequence[str]], pa.Table]

SCRIPTS = [
    "净利润同比增长 12.5%",
    "ارتفعت الأرباح بنسبة 20٪ في الربع الثالث",
    "📈🚀 to the moon 💎🙌🏽",
    "zero\u200bwidth\u200djoiner\ufeffmarks",
    "1,234.56",
    "0",
    "１２３",
    "Ｆｕｌｌ width and half",
    "profit",
    "a" * 500,
]

TEXTS = st.lists(
    st.one_of(st.sampled_from(SCRIPTS), st.text(min_size=1, max_size=90).filter(normalise)), min_size=1, max_size=60
)


def no_teacher() -> OnnxClassifier:
    raise AssertionError("the teacher was opened")


def labelled_set(cache: SoftLabelCache) -> dict[bytes, list[float]]:
    """Return the cached rows by key; every key must stand once."""
    rows = cache.query(lambda cached: cached.to_table())
    keys = rows["key"].to_pylist()
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, rows["logits"].to_pylist(), strict=True))


def assert_same_set(ours: dict[bytes, list[float]], theirs: dict[bytes, list[float]]) -> None:
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([ours[key] for key in theirs], list(theirs.values()), rtol=0, atol=1e-4)


@pytest.fixture(params=["mean embedding", "fused", "int8"])
def any_graph(request: pytest.FixtureRequest) -> Path:
    """A teacher of each kind: one of a few nodes, and a BERT in float32 and int8."""
    if request.param == "mean embedding":
        return request.getfixturevalue("graph")
    return request.getfixturevalue("graphs")[request.param]


@given(
    texts=TEXTS,
    seed=st.integers(0, 1000),
    budget=st.integers(8, 2048),
    chunk=st.integers(1, 64),
    cuts=st.lists(st.integers(0, 60), max_size=3),
    threads=st.integers(1, 3),
)
@example(texts=SCRIPTS, seed=1, budget=8, chunk=3, cuts=[2, 5], threads=2)
@settings(
    max_examples=40,
    # Every example makes its own folder below tmp_path.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_labelled_set_depends_on_texts_and_teacher_alone(
    texts: list[str],
    seed: int,
    budget: int,
    chunk: int,
    cuts: list[int],
    threads: int,
    any_graph: Path,
    write_tokens: WriteTokens,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("example")
    write_tokens(folder / "tokens.parquet", texts)
    plain = SoftLabelCache(folder / "plain", "0" * 32, ["a", "b", "c"])
    label_texts(folder / "tokens.parquet", plain, partial(OnnxClassifier, any_graph, threads=1), 512)

    other = SoftLabelCache(folder / "other", "0" * 32, ["a", "b", "c"])
    order = random.Random(seed).sample(texts, len(texts))
    # A corpus that grows from run to run.
    runs = [order[:end] for end in (*sorted(cuts), len(order)) if end]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labelling, "CHUNK_ROWS", chunk)
        for run in runs:
            write_tokens(folder / "run.parquet", run)
            label_texts(folder / "run.parquet", other, partial(OnnxClassifier, any_graph, threads=threads), budget)
    assert_same_set(labelled_set(other), labelled_set(plain))


def test_where_nothing_is_new_the_teacher_is_not_even_opened(
    cache: SoftLabelCache, graph: Path, write_tokens: WriteTokens, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.parquet"
    write_tokens(tokens, SCRIPTS)
    assert label_texts(tokens, cache, partial(OnnxClassifier, graph), 512) == LabellingReport(10, 10)
    report = label_texts(tokens, cache, no_teacher, 512)
    assert report == LabellingReport(10, 0)
    assert report.hit_rate == 1


def test_of_many_texts_only_the_new_one_reaches_the_teacher(
    cache: SoftLabelCache, graph: Path, write_tokens: WriteTokens, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.parquet"
    texts = [f"headline {i}" for i in range(3000)]
    write_tokens(tokens, texts)
    label_texts(tokens, cache, partial(OnnxClassifier, graph), 512)
    reached: list[int] = []

    class Watched(OnnxClassifier):
        def logits(self, rows: Sequence[Sequence[int]], *arguments: Any) -> np.ndarray:
            reached.append(len(rows))
            return super().logits(rows, *arguments)

    write_tokens(tokens, [*texts[:1500], "new", *texts[1500:]])
    label_texts(tokens, cache, partial(Watched, graph), 512)
    assert reached == [1]


def test_of_a_table_only_what_the_teacher_reads_is_decoded(
    cache: SoftLabelCache,
    graph: Path,
    write_tokens: WriteTokens,
    add_unreadable_windows: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    tokens = tmp_path / "tokens.parquet"
    write_tokens(tokens, SCRIPTS)
    add_unreadable_windows(tokens)
    with pytest.raises(OSError, match="thrift"):
        pq.read_table(tokens)
    assert label_texts(tokens, cache, partial(OnnxClassifier, graph), 512) == LabellingReport(10, 10)


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 129])
def test_each_chunk_is_one_part(
    cache: SoftLabelCache,
    graph: Path,
    write_tokens: WriteTokens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
) -> None:
    monkeypatch.setattr(labelling, "CHUNK_ROWS", 32)
    write_tokens(tmp_path / "tokens.parquet", [f"headline {i}" for i in range(rows)])
    label_texts(tmp_path / "tokens.parquet", cache, partial(OnnxClassifier, graph), 512)
    sizes = sorted(pq.read_metadata(part).num_rows for part in cache.parts())
    assert sum(sizes) == rows
    assert len(sizes) == -(-rows // 32)


def test_each_text_of_two_tables_gets_its_logits_once_in_their_order(
    cache: SoftLabelCache, graph: Path, write_tokens: WriteTokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "LOOKUP_ROWS", 3)
    paths = [tmp_path / "tokens.parquet", tmp_path / "augmented.parquet"]
    tokens = write_tokens(paths[0], [*SCRIPTS, *reversed(SCRIPTS)])
    augmented = write_tokens(paths[1], ["one more", SCRIPTS[0]])
    for path in paths:
        label_texts(path, cache, partial(OnnxClassifier, graph), 512)
    write_logits(paths, cache, tmp_path / "logits.parquet")
    written = pq.read_table(tmp_path / "logits.parquet")
    assert written["key"].to_pylist() == [*tokens["key"].to_pylist()[: len(SCRIPTS)], augmented["key"][0].as_py()]
    assert written.schema.metadata[b"labels"] == b"negative\nneutral\npositive"
    assert TableProvenance.read(tmp_path / "logits.parquet").teachers == (cache.fingerprint,)
    alone = [OnnxClassifier(graph).batch_logits([row])[0] for row in tokens["input_ids"].to_pylist()[: len(SCRIPTS)]]
    np.testing.assert_allclose(written["logits"].to_pylist()[:-1], alone, rtol=0, atol=1e-4)


def test_a_text_without_a_row_is_an_error_and_no_file(
    cache: SoftLabelCache, write_tokens: WriteTokens, tmp_path: Path
) -> None:
    write_tokens(tmp_path / "tokens.parquet", SCRIPTS)
    with pytest.raises(KeyError):
        write_logits([tmp_path / "tokens.parquet"], cache, tmp_path / "logits.parquet")
    assert not (tmp_path / "logits.parquet").exists()
