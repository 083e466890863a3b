"""The embedded corpus: size, labels, variety."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections import Counter, defaultdict

import pytest

from finstill.corpus.text import normalise

LARGEST_SHARE_OF_TRIPLES = 0.2


@pytest.fixture(scope="module")
def all_rows() -> list[dict[str, str]]:
    file = importlib.resources.files("finstill.data") / "corpus.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def rows(all_rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [row for row in all_rows if "sentiment" in row]


def test_size_and_columns(all_rows: list[dict[str, str]], rows: list[dict[str, str]]) -> None:
    assert len(rows) >= 2500
    assert all(set(row) - {"split"} == {"text", "sentiment", "risk", "kind"} for row in rows)
    assert Counter(row.get("split") for row in rows) == {None: 1800, "test": 700}
    others = [row for row in all_rows if "sentiment" not in row]
    assert len(others) >= 15_400
    assert all(set(row) == {"text", "split"} and row["split"] == "train" for row in others)
    assert all(row["text"] == normalise(row["text"]) for row in all_rows)
    assert all(3 <= len(row["text"].split()) <= 60 for row in all_rows)


@pytest.mark.parametrize(
    ("column", "values", "least"),
    [
        ("sentiment", {"negative", "neutral", "positive"}, 0.25),
        ("risk", {"risk", "no_risk"}, 0.25),
        ("kind", {"news", "filing", "broker_note", "message"}, 0.15),
    ],
)
def test_no_label_is_rare(rows: list[dict[str, str]], column: str, values: set[str], least: float) -> None:
    counts = Counter(row[column] for row in rows)
    assert set(counts) == values
    assert min(counts.values()) / len(rows) >= least


def test_risk_is_not_another_word_for_negative(rows: list[dict[str, str]]) -> None:
    both = Counter((row["sentiment"], row["risk"]) for row in rows)
    assert both["negative", "no_risk"] >= 50
    assert both["neutral", "risk"] + both["positive", "risk"] >= 50


def test_no_two_texts_are_near_duplicates(all_rows: list[dict[str, str]]) -> None:
    """The Jaccard similarity of the sets of word triples, over every pair that shares one."""
    words = [re.findall(r"\w+", row["text"].lower()) for row in all_rows]
    triples = [{tuple(text[i : i + 3]) for i in range(len(text) - 2)} for text in words]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for i, found in enumerate(triples):
        for triple in found:
            holders[triple].append(i)
    shared = Counter((a, b) for texts in holders.values() for i, a in enumerate(texts) for b in texts[i + 1 :])
    near = [
        (all_rows[a]["text"], all_rows[b]["text"])
        for (a, b), common in shared.items()
        if common / len(triples[a] | triples[b]) > LARGEST_SHARE_OF_TRIPLES
    ]
    assert near == []


def test_no_opening_is_used_often(all_rows: list[dict[str, str]]) -> None:
    openings = Counter(" ".join(row["text"].lower().split()[:4]) for row in all_rows)
    assert max(openings.values()) <= 4


def test_risk_words_do_not_decide(rows: list[dict[str, str]]) -> None:
    worded = [row for row in rows if re.search(r"\b(risk|default|loss|crisis|hedg)", row["text"].lower())]
    assert sum(row["risk"] == "no_risk" for row in worded) >= 40
    unworded_risk = [row for row in rows if row["risk"] == "risk" and row not in worded]
    assert len(unworded_risk) >= 200
