"""Which labels are doubted, in which order, and that no classifier judged a label that it had learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finstill.config.task import SENTIMENT
from finstill.corpus.build import CORPUS_SCHEMA, build_corpus, write_corpus
from finstill.corpus.corrections import read_corrections
from finstill.corpus.provenance import TableProvenance
from finstill.corpus.rows import Row
from finstill.corpus.text import text_key
from finstill.corpus.tokenizer import load_tokenizer
from finstill.corpus.tokens import tokenize_corpus
from finstill.errors import InputError
from finstill.evaluation.label_review import Opinion, cross_fitted, doubted, opinions_of, review, write_review
from finstill.teacher.checkpoint import resolve_checkpoint
from tests.tables import write_logits_table

LABELS = ("bad", "good")

# Of nine texts the given label, and the probability of `bad`.
GIVEN = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
BAD = np.array([0.9, 0.8, 0.7, 0.1, 0.4, 0.2, 0.2, 0.3, 0.85])


def test_as_many_labels_are_doubted_as_are_estimated_to_be_wrong() -> None:
    """`bad` has a mean probability of 0.58 where it is given, and `good` of 0.6125.

    So one `bad` counts as wrong (the fourth text: `good` has 0.9) beside three right ones, which makes 1.25 of all
    five, and one `good` of four (the last text: `bad` has 0.85). The fifth text is not doubted, though `good` is its
    most probable label. The fourth comes first: its own label has 0.1, and that of the last one 0.15.
    """
    assert doubted(GIVEN, np.stack([BAD, 1 - BAD], axis=1)).tolist() == [3, 8]


def texts() -> pa.Table:
    rows = [
        {"key": text_key(f"Text {i}"), "text": f"Text {i}", "label": LABELS[label], "split": "test", "source": "a.csv"}
        for i, label in enumerate(GIVEN)
    ]
    rows[3] |= {"text": "=Größe, “3”", "id": "-7"}
    return pa.Table.from_pylist(rows, CORPUS_SCHEMA)


def opinion(shift: float, in_sample: bool) -> Opinion:
    bad = BAD + shift
    return Opinion(np.stack([bad, 1 - bad], axis=1), np.full(len(BAD), in_sample))


def test_a_row_says_what_each_classifier_thinks_and_a_mean_decides() -> None:
    opinions = {"teacher": opinion(-0.05, True), "student": opinion(0.05, False), "cross_fitted": opinion(0.05, False)}
    rows = review(texts(), opinions, LABELS)
    assert [row["text"] for row in rows] == ["=Größe, “3”", "Text 8"]
    assert list(rows[0])[:3] == ["label", "given_label", "suggested_label"]
    assert (rows[0]["label"], rows[0]["given_label"], rows[0]["suggested_label"]) == ("", "bad", "good")
    said = {name: rows[0][name] for name in rows[0] if name.startswith(("teacher", "student"))}
    assert said == pytest.approx(
        {
            "teacher_given": 0.05,
            "teacher_suggested": 0.95,
            "teacher_sample": "in sample",
            "student_given": 0.15,
            "student_suggested": 0.85,
            "student_sample": "out of sample",
        }
    )


def test_opinions_are_of_the_labelled_texts_and_say_who_had_learned_the_label(tmp_path: Path) -> None:
    corpus, tokens, logits = (tmp_path / f"{name}.parquet" for name in ("corpus", "tokens", "teacher_logits"))
    source = [
        ("Sales rose", "positive", "train"),
        ("Sales fell", "negative", "test"),
        ("It meets", "neutral", "validation"),
        ("It ends", None, "train"),
    ]
    made, _ = build_corpus(
        [Row("f.csv", i, text, label, None, None, split) for i, (text, label, split) in enumerate(source)],
        SENTIMENT.labels,
        {},
    )
    write_corpus(made, corpus)
    tokenize_corpus(corpus, load_tokenizer(resolve_checkpoint("embedded").folder, 32), tokens)
    keys = {text: text_key(text) for text, *_ in source}
    # The teacher says of each text what it is labelled, and 0.6 for that; it names its classes in another order.
    names = ("positive", "negative", "neutral")
    said = np.log([[0.6 if name == label else 0.2 for name in names] for _, label, _ in source])
    provenance = replace(TableProvenance.read(tokens), teachers=("f" * 32,))
    write_logits_table(logits, list(keys.values()), said, names, provenance)
    (tmp_path / "scores").mkdir()
    scored = {f"probability_{label}": [0.1, 0.2, 0.3, 0.4] for label in SENTIMENT.labels}
    pq.write_table(pa.table({"key": list(keys.values()), **scored}), tmp_path / "scores" / "0.parquet")

    def opinions(scores: Path, learned_from: tuple[str, ...]) -> tuple[list[str], dict[str, Opinion]]:
        texts, found = opinions_of(corpus, tokens, logits, scores, SENTIMENT, teacher_learned_from=learned_from)
        return texts["text"].to_pylist(), found

    texts, found = opinions(tmp_path / "scores", ("train",))
    assert sorted(texts) == ["It meets", "Sales fell", "Sales rose"]
    by_text = {text: i for i, text in enumerate(texts)}
    order = [by_text[text] for text in ("Sales rose", "Sales fell", "It meets")]
    expected = [[0.2, 0.2, 0.6], [0.6, 0.2, 0.2], [0.2, 0.6, 0.2]]
    assert found["teacher"].probabilities[order] == pytest.approx(np.array(expected))
    assert found["student"].probabilities[order, 0].tolist() == [0.1, 0.2, 0.3]
    assert {name: each.in_sample[order].tolist() for name, each in found.items()} == {
        "teacher": [True, False, False],
        "student": [True, False, False],
        "cross_fitted": [False, False, False],
    }
    assert not opinions(tmp_path / "scores", ())[1]["teacher"].in_sample.any()
    with pytest.raises(InputError, match=r"no-scores: it has no probabilities of .*Materialize scores again"):
        opinions(tmp_path / "no-scores", ())


def test_what_is_filled_in_is_read_as_a_correction(tmp_path: Path) -> None:
    path = tmp_path / "label_review.csv"
    write_review(review(texts(), dict.fromkeys(("teacher", "cross_fitted"), opinion(0, False)), LABELS), path)
    assert read_corrections(tmp_path, LABELS) == {}, "nobody has decided anything yet"
    head, first, second = path.read_text(encoding="utf-8-sig").splitlines()
    assert first.startswith(",bad,good,\"'=Größe, “3”\",test,a.csv,'-7,,0.100,0.900,out of sample,")
    path.write_text(f"{head}\ngood{first}\n{second}\n", encoding="utf-8")
    (key,) = read_corrections(tmp_path, LABELS)
    assert key == text_key("Text 3")


def test_a_corpus_without_labels_has_none_to_doubt(tmp_path: Path) -> None:
    nothing = texts()[:0]
    assert review(nothing, {"cross_fitted": cross_fitted([], np.zeros(0, np.int64), 2)}, LABELS) == []
    write_review([], tmp_path / "label_review.csv")
    assert read_corrections(tmp_path, LABELS) == {}


def test_a_cross_fitted_classifier_has_not_learned_the_label_that_it_judges() -> None:
    """A text that shares no word with any other gets the same answer whatever its own label is."""
    many = [f"{'rose' if i % 2 else 'fell'} {'sharply' if i % 3 else 'slowly'}" for i in range(40)]
    many[7] = "unheard-of"
    labels = np.arange(40) % 2
    other = labels.copy()
    other[7] = 0
    other[6] = 1
    many[6] = "unknown"
    ours, theirs = (cross_fitted(many, each, 2) for each in (labels, other))
    assert not ours.in_sample.any()
    assert ours.probabilities[[6, 7]] == pytest.approx(theirs.probabilities[[6, 7]], abs=0.15)
    assert ours.probabilities[[6, 7]] == pytest.approx(np.full((2, 2), 0.5), abs=0.15)
    found = ours.probabilities.argmax(axis=1) == labels
    assert np.delete(found, [6, 7]).all()


def test_a_label_that_too_few_texts_have_is_no_error() -> None:
    labels = np.array([0] * 8 + [2] * 2)
    probabilities = cross_fitted([f"a {i}" for i in range(10)], labels, 3).probabilities
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(10))
    assert (probabilities[:, 1] == 0).all()
    labels[-1] = 0
    assert cross_fitted([f"a {i}" for i in range(10)], labels, 3).probabilities == pytest.approx(
        np.full((10, 3), 1 / 3)
    )
    assert cross_fitted(["a", "b"], np.array([0, 1]), 2).probabilities.tolist() == [[0.5, 0.5]] * 2
