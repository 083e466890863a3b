"""A corpus of another origin: every row is for measuring, and none is a text that was learned from."""

from __future__ import annotations

from pathlib import Path

import pytest

from finstill.config.profile import ProfileFile, read_profile
from finstill.config.settings import read_settings
from finstill.corpus.build import build_corpus, write_corpus
from finstill.corpus.other_origin import build_other_origin
from finstill.corpus.sources import Row
from finstill.errors import InputError

LABELS = ("negative", "neutral", "positive")
LEARNED = "Operating profit of the group rose to 13.1 mn euros from 8.7 mn euros a year earlier"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [(LEARNED, "positive", "train"), ("It meets", "neutral", "validation"), ("Sales fell", "negative", "test")]
    table, _ = build_corpus([Row("f.csv", i, *row[:2], None, None, row[2]) for i, row in enumerate(rows)], LABELS, {})
    write_corpus(table, tmp_path / "corpus.parquet")
    return tmp_path / "corpus.parquet"


def other(*rows: tuple[str, str | None]) -> list[Row]:
    return [Row("other.csv", i, text, label, None, None, "train") for i, (text, label) in enumerate(rows, 1)]


def test_labels_are_mapped_by_name_and_every_row_is_a_test_row(corpus: Path) -> None:
    rows = other(("$AAPL to the moon", "Bullish"), ("Sales fell", "bearish"), ("It is Tuesday", None))
    table, report = build_other_origin(rows, LABELS, {"Bullish": "positive", "Bearish": "negative"}, corpus)
    assert {(row["text"], row["label"], row["split"]) for row in table.to_pylist()} == {
        ("$AAPL to the moon", "positive", "test"),
        ("Sales fell", "negative", "test"),
    }
    assert dict(report.reasons) == {"no label": 1}


def test_texts_near_those_that_were_learned_from_are_left_out(corpus: Path) -> None:
    rows = other((LEARNED.upper(), "positive"), (LEARNED.replace("8.7", "8.9"), "positive"), ("Up it goes", "positive"))
    table, report = build_other_origin(rows, LABELS, {}, corpus)
    assert table["text"].to_pylist() == ["Up it goes"]
    assert dict(report.reasons) == {"near-duplicate of a train text": 2}


def test_an_origin_without_a_usable_text_is_said(corpus: Path) -> None:
    with pytest.raises(InputError, match="no text of the other origin is usable"):
        build_other_origin(other((LEARNED, "positive"), ("It is Tuesday", None)), LABELS, {}, corpus)


PROFILE = """\
task: sentiment
corpus: {path: a.csv, name: PhraseBank}
teacher: {checkpoint: embedded, seen: [phrasebank]}
other_origin: {path: b.csv, label: tone, name: tweets}
recipes: r.yaml
"""


def test_a_profile_knows_what_its_teacher_has_seen(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(PROFILE)
    profile = read_profile(tmp_path / "mine.yaml")
    assert profile.other_origin is not None
    assert profile.other_origin.path == str(tmp_path / "b.csv")
    assert profile.seen_by_teacher(profile.corpus)
    assert not profile.seen_by_teacher(profile.other_origin)


def test_an_other_origin_needs_labels_and_a_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(PROFILE.replace(", name: tweets", ""))
    with pytest.raises(InputError, match=r"line 4: 'other_origin': it needs a 'label'.*and a 'name'"):
        read_settings(tmp_path / "mine.yaml", ProfileFile)
