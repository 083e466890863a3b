"""Near-duplicates are found as a comparison of all pairs would, and none of a test text is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finstill.augment.build import AUGMENTED_SCHEMA
from finstill.corpus import near_duplicates
from finstill.corpus.build import build_corpus, write_corpus
from finstill.corpus.leakage import find_leaks
from finstill.corpus.near_duplicates import LEAST_SIMILARITY, Match, NearDuplicates, first_shingles
from finstill.corpus.rows import Row
from finstill.corpus.shingles import Shingles
from tests.shingles import shingles

TESTED = "Operating profit of the group rose to 13.1 mn euros from 8.7 mn euros a year earlier"
NEAR = "Operating profit of the group rose to 13.1 mn euros from 8.9 mn euros a year earlier"
SAME_WORDS = "OPERATING profit of the group rose to 13.1 mn euros, from 8.7 mn euros a year earlier."
OTHER = "The company will build a new mill in Tornio next spring"


def corpus(*rows: tuple[str, str | None, str]) -> tuple[pa.Table, dict[str, int]]:
    filler = [("A plain sentence", "neutral", "validation"), ("Another of its kind", "positive", "test")]
    table, report = build_corpus(
        [Row("f.csv", i, text, label, None, None, split) for i, (text, label, split) in enumerate([*rows, *filler], 1)],
        ("negative", "neutral", "positive"),
        {},
    )
    return table, dict(report.reasons)


def nearest(indexed: Sequence[str], asked: Sequence[str]) -> list[Match | None]:
    return NearDuplicates(Shingles.of(indexed)).nearest(Shingles.of(asked))


class TestNearDuplicates:
    def test_the_chunks_of_a_column_need_not_be_one_array(self) -> None:
        # Together they may hold more characters than an offset can count.
        texts = pa.chunked_array([[NEAR, "Größe"], [], [OTHER]], pa.string())
        whole, chunked = Shingles.of([NEAR, "Größe", OTHER]), Shingles.of(texts)
        assert chunked.sizes.tolist() == whole.sizes.tolist()
        assert chunked.hashes.tolist() == whole.hashes.tolist()

    def test_similarity_is_the_jaccard_index_of_runs_of_two_words(self) -> None:
        # a-b b-c c-d against a-b b-c c-e: two shared of four.
        assert shingles("A b, c d") == {"a b", "b c", "c d"}
        (match,) = nearest([NEAR], [TESTED])
        assert match is not None
        shared, all_ = shingles(NEAR) & shingles(TESTED), shingles(NEAR) | shingles(TESTED)
        assert match.similarity == len(shared) / len(all_)
        assert nearest(["a b c e"], ["a b c d"]) == [None]

    @pytest.mark.parametrize(("text", "similarity"), [(SAME_WORDS, 1), ("Rises", None), ("", None), ("?!", None)])
    def test_case_and_punctuation_are_left_out_and_short_texts_do_no_harm(
        self, text: str, similarity: float | None
    ) -> None:
        (match,) = nearest([OTHER, TESTED, "Falls"], [text])
        assert (match and (match.position, match.similarity)) == (similarity and (1, similarity))

    @settings(max_examples=20)
    @given(st.integers(0, 2**32 - 1), st.booleans())
    def test_none_is_missed_that_a_comparison_of_all_pairs_finds(self, seed: int, a_few_at_a_time: bool) -> None:
        random = np.random.default_rng(seed)
        indexed = [random.integers(200, size=random.integers(5, 30)) for _ in range(30)]
        near = [np.where(random.random(len(row)) < 0.08, 7, row) for row in indexed]
        texts, others = ([" ".join(map(str, row)) for row in rows] for rows in (indexed, [*near, *near]))
        with pytest.MonkeyPatch.context() as changed:
            if a_few_at_a_time:
                changed.setattr(near_duplicates, "TEXTS_AT_A_TIME", 7)
                changed.setattr(near_duplicates, "MEETINGS_AT_A_TIME", 3)
                changed.setattr(near_duplicates, "PAIRS_COMPARED", 2)
            index = NearDuplicates(Shingles.of(texts))
            pairs, best = index.pairs(Shingles.of(others)), index.nearest(Shingles.of(others))
        expected = {
            (i, j): similarity
            for i, own in enumerate(map(shingles, others))
            for j, other in enumerate(map(shingles, texts))
            if (similarity := len(own & other) / len(own | other)) >= LEAST_SIMILARITY
        }
        found = zip(pairs.asked.tolist(), pairs.found.tolist(), strict=True)
        assert list(zip(found, pairs.similarity.tolist(), strict=True)) == sorted(expected.items())
        first = [
            [set(text.hashes.tolist()) for text in first_shingles(Shingles.of(each)).slices(1)]
            for each in (others, texts)
        ]
        assert all(first[0][i] & first[1][j] for i, j in expected)
        for i, match in enumerate(best):
            own = [similarity for (asked, _), similarity in expected.items() if asked == i]
            assert (match.similarity if match else None) == max(own, default=None)

    def test_an_empty_index_finds_nothing(self) -> None:
        assert nearest([], [TESTED]) == [None]


class TestCorpus:
    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_an_unlabelled_train_text_near_a_measured_one_is_dropped_and_counted(self, split: str) -> None:
        table, reasons = corpus((TESTED, "positive", split), (NEAR, None, "train"), (OTHER, None, "train"))
        assert NEAR not in table["text"].to_pylist()
        assert OTHER in table["text"].to_pylist()
        assert reasons == {"near-duplicate of a validation or test text": 1}

    def test_a_labelled_one_is_dropped_where_it_is_the_same_words_and_kept_where_it_is_near(self) -> None:
        table, reasons = corpus(
            (TESTED, "positive", "test"),
            (NEAR, "positive", "train"),
            (SAME_WORDS, "positive", "train"),
            (OTHER, "neutral", "train"),
        )
        assert {NEAR, OTHER, TESTED} < set(table["text"].to_pylist())
        assert SAME_WORDS not in table["text"].to_pylist()
        assert reasons == {"near-duplicate of a validation or test text": 1}


def test_leaks_are_found_in_rows_of_every_kind(tmp_path: Path) -> None:
    table, _ = corpus((TESTED, "positive", "test"), (NEAR, "positive", "train"), (OTHER, None, "train"))
    write_corpus(table, tmp_path / "corpus.parquet")
    row = {"key": bytes(16), "input_ids": [], "n_tokens": 0, "truncated": False, "text": NEAR, "origin": bytes(16)}
    pq.write_table(pa.Table.from_pylist([row], AUGMENTED_SCHEMA), tmp_path / "augmented.parquet")
    leaks = find_leaks(tmp_path / "corpus.parquet", tmp_path / "augmented.parquet")
    assert [(leak.rows, leak.split, leak.other, leak.forbidden) for leak in leaks] == [
        ("labelled", "test", TESTED, False),
        ("augmented", "test", TESTED, True),
    ]
