"""An out-of-domain corpus: every row is for measuring, and none is a text that was learned from."""

from __future__ import annotations

from pathlib import Path

import pytest

from finstill.config.profile import ProfileFile, read_profile
from finstill.config.settings import read_settings
from finstill.corpus.build import build_corpus, write_corpus
from finstill.corpus.out_of_domain import build_out_of_domain
from finstill.corpus.report import BadRows
from finstill.corpus.rows import Row
from finstill.corpus.sources import read_rows
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
    table, report = build_out_of_domain(rows, LABELS, {"Bullish": "positive", "Bearish": "negative"}, corpus)
    assert {(row["text"], row["label"], row["split"]) for row in table.to_pylist()} == {
        ("$AAPL to the moon", "positive", "test"),
        ("Sales fell", "negative", "test"),
    }
    assert dict(report.reasons) == {"no label": 1}


def test_texts_near_those_that_were_learned_from_are_left_out(corpus: Path) -> None:
    rows = other((LEARNED.upper(), "positive"), (LEARNED.replace("8.7", "8.9"), "positive"), ("Up it goes", "positive"))
    table, report = build_out_of_domain(rows, LABELS, {}, corpus)
    assert table["text"].to_pylist() == ["Up it goes"]
    assert dict(report.reasons) == {"near-duplicate of a train text": 2}


def test_an_origin_without_a_usable_text_is_said(corpus: Path) -> None:
    with pytest.raises(InputError, match="no out-of-domain text is usable"):
        build_out_of_domain(other((LEARNED, "positive"), ("It is Tuesday", None)), LABELS, {}, corpus)


PROFILE = """\
task: sentiment
corpus: {path: a.csv, name: PhraseBank}
teacher: {checkpoint: embedded, trained_on: [phrasebank]}
out_of_domain: {path: b.csv, label: tone, name: tweets}
recipes: r.yaml
"""


def test_a_profile_knows_what_its_teacher_has_seen(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(PROFILE)
    profile = read_profile(tmp_path / "mine.yaml")
    assert profile.out_of_domain is not None
    assert profile.out_of_domain.path == str(tmp_path / "b.csv")
    assert profile.is_contaminated(profile.corpus)
    assert not profile.is_contaminated(profile.out_of_domain)


@pytest.mark.parametrize(
    ("corpus", "contaminated"),
    [
        ("hub: owner/PhraseBank", True),
        ("hub: owner/phrasebank, name: mine", False),
        ("hub: owner/other", False),
        ("hub: phrasebank, known: sentfin", False),
        ("path: a.csv", False),
    ],
)
def test_a_data_set_of_the_hub_is_called_as_there(tmp_path: Path, corpus: str, contaminated: bool) -> None:
    (tmp_path / "owner" / "PhraseBank").mkdir(parents=True)
    (tmp_path / "mine.yaml").write_text(PROFILE.replace("path: a.csv, name: PhraseBank", corpus))
    profile = read_profile(tmp_path / "mine.yaml")
    assert profile.is_contaminated(profile.corpus) == contaminated


def test_an_out_of_domain_corpus_needs_labels_and_a_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(PROFILE.replace(", name: tweets", ""))
    with pytest.raises(InputError, match=r"line 4: 'out_of_domain': it needs a 'label'.*and a 'name'"):
        read_settings(tmp_path / "mine.yaml", ProfileFile)


@pytest.mark.parametrize(
    ("content", "extra", "remedy"),
    [
        ("tweet,mood\nTo the moon,bullish\n", "", r"as out_of_domain\.label_names: .*write out_of_domain\.on_bad_rows"),
        ("tweet,mood\nZur\xfcck,positive\n", "", r"Write out_of_domain\.encoding: 'windows-1252'"),
        ("tweet;mood\nUp,positive\n", "", r"Write out_of_domain\.delimiter: ';'"),
        ("tweet,mood\nUp\n", ", on_bad_rows: set_aside", r"out_of_domain\.bad_rows_at_most: 1 of 1 rows"),
    ],
)
def test_remedies_name_the_settings_of_its_own_section(
    content: str, extra: str, remedy: str, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "tweets.csv").write_bytes(content.encode("latin-1"))
    (tmp_path / "mine.yaml").write_text(
        "task: sentiment\ncorpus: {path: embedded}\nteacher: {checkpoint: embedded}\nrecipes: recipes.yaml\n"
        f"out_of_domain: {{path: tweets.csv, text: tweet, label: mood, name: tweets{extra}}}\n"
    )
    source = read_profile(tmp_path / "mine.yaml").out_of_domain
    assert source is not None
    with pytest.raises(InputError, match=remedy):
        build_out_of_domain(read_rows(source), LABELS, source.label_names, corpus, BadRows.of(source))
