"""A split by date: what is learned from is older than what it is measured on."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finstill.config.profile import CorpusSource, SplitByDate, read_profile
from finstill.corpus.build import build_corpus, read_corpus
from finstill.corpus.report import BadRows, CorpusReport
from finstill.corpus.rows import Row
from finstill.errors import InputError

LABELS = ("negative", "positive")
BY_DATE = SplitByDate(by="date", validation_from=date(2019, 7, 1), test_from=date(2020, 1, 1))

FILLER = [
    Row("filler.csv", i, f"filler sentence {i}", LABELS[i % 2], day, None, None)
    for i, day in enumerate(("2019-06-30", "2019-07-01", "2020-01-01", "2018-01-01"), start=1)
]


def build(*dated: tuple[str, str | None], bad_rows: BadRows = BadRows()) -> tuple[dict[str, dict], CorpusReport]:  # noqa: B008 (it is frozen)
    rows = [Row("news.csv", i, text, None, day, None, None) for i, (text, day) in enumerate(dated, start=1)]
    table, report = build_corpus([*rows, *FILLER], LABELS, {}, bad_rows, split_by_date=BY_DATE)
    return {row["text"]: row for row in table.to_pylist()}, report


@pytest.mark.parametrize(
    ("day", "split"),
    [
        ("2019-06-30", "train"),
        ("2019-06-30T23:59:59", "train"),
        ("2019-07-01", "validation"),
        ("2019-12-31T23:59:59Z", "validation"),
        ("2020-01-01", "test"),
        ("20200101", "test"),
        (" 2020-01-01 00:00:00 ", "test"),
        # In UTC: half past four in the morning of the first, and half past eleven the evening before it.
        ("2019-12-31T23:30:00-05:00", "test"),
        ("2020-01-01T00:30:00+01:00", "validation"),
        (None, "train"),
        ("  ", "train"),
    ],
)
def test_the_first_day_of_a_split_is_in_it(day: str | None, split: str) -> None:
    rows, _ = build(("Profit rose", day))
    assert rows["Profit rose"]["split"] == split


@pytest.mark.parametrize("wrong", ["01.07.2019", "2019-13-01", "2019-07", "2019", "July 1, 2019", "1561939200"])
def test_a_date_that_cannot_be_read_names_file_and_row(wrong: str) -> None:
    with pytest.raises(InputError, match=rf"news\.csv, row 2: the date '{wrong}' is not an ISO 8601 date.*2019-07-01"):
        build(("Profit rose", "2019-01-01"), ("Profit fell", wrong))
    rows, report = build(("Profit rose", "2019-01-01"), ("Profit fell", wrong), bad_rows=BadRows(stop=False))
    assert "Profit fell" not in rows
    assert [(bad.row, bad.content) for bad in report.set_aside] == [(2, "Profit fell")]


def test_rows_without_a_date_are_counted_once_a_text() -> None:
    rows, report = build(
        ("Undated", None), ("Undated", ""), ("Dated elsewhere", None), ("Dated elsewhere", "2020-02-02")
    )
    assert report.reasons["no date, so in train"] == 1
    assert report.examples["no date, so in train"] == [("news.csv, row 1", "Undated")]
    assert rows["Dated elsewhere"]["split"] == "test"


@given(st.permutations(["2020-03-01", "2019-08-01T09:00:00", "2019-08-02", "2021-01-01", ""]))
def test_a_text_takes_the_earliest_of_its_dates_in_whichever_order_they_stand(dates: list[str]) -> None:
    rows, _ = build(*(("Repeated  headline", day) for day in dates))
    assert (rows["Repeated headline"]["split"], rows["Repeated headline"]["date"]) == (
        "validation",
        "2019-08-01T09:00:00",
    )


def test_the_earlier_day_is_not_the_earlier_text() -> None:
    pairs = [
        ("2019-07-02", "20190701", "20190701"),
        ("2020-01-01", "2020-01-01T00:30:00+01:00", "2020-01-01T00:30:00+01:00"),
        ("2019-07-01", "2019-07-01T09:00:00", "2019-07-01"),
    ]
    for first, second, earlier in pairs:
        rows, _ = build(("Profit rose", first), ("Profit rose", second))
        assert rows["Profit rose"]["date"] == earlier


def test_an_unlabelled_train_text_that_is_nearly_a_later_test_text_is_left_out() -> None:
    words = "The group said on Monday that its quarterly operating profit had fallen sharply in all regions"
    rows, report = build((f"{words} again", "2019-01-01"), (words, "2020-05-05"))
    assert rows[words]["split"] == "test"
    assert f"{words} again" not in rows
    assert report.reasons["near-duplicate of a validation or test text"] == 1


def test_a_split_without_a_text_says_which_days_to_move() -> None:
    rows = [row._replace(date="2018-01-01") for row in FILLER]
    with pytest.raises(InputError, match=r"in the split 'validation'.*Move the days under corpus\.split"):
        build_corpus(rows, LABELS, {}, split_by_date=BY_DATE)


def test_a_column_that_is_named_split_does_not_count(tmp_path: Path) -> None:
    lines = [f"text {i},{label},{day},test" for i, (label, day) in enumerate(zip(LABELS * 2, "6790", strict=True))]
    days = {"6": "2019-06-01", "7": "2019-07-15", "9": "2019-09-01", "0": "2020-10-01"}
    content = "\n".join(
        line.replace(f",{key},", f",{day},") for line, (key, day) in zip(lines, days.items(), strict=True)
    )
    (tmp_path / "news.csv").write_text(f"text,label,published,split\n{content}\n")
    source = CorpusSource(path=str(tmp_path / "news.csv"), label="label", date="published", split=BY_DATE)
    read_corpus(source, LABELS, tmp_path / "corpus.parquet")
    table = pq.read_table(tmp_path / "corpus.parquet")
    assert sorted(table["split"].to_pylist()) == ["test", "train", "validation", "validation"]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("{by: date, validation_from: 2019-07-01}", r"line 5: 'corpus\.split\.test_from' is missing"),
        (
            "{by: date, validation_from: 2020-01-01, test_from: 2020-01-01}",
            r"line 5: 'corpus\.split': .*\(2020-01-01\) must be earlier than 'test_from' \(2020-01-01\)",
        ),
        ("{by: hash, validation_from: 2019-07-01, test_from: 2020-01-01}", r"line 5: 'corpus\.split\.by': .*'date'"),
        (
            "{by: date, validation_from: 2019-07-01, test_from: 2020-01-01, tests_from: 2021-01-01}",
            r"line 5: unknown key 'corpus\.split\.tests_from'; did you mean 'test_from'",
        ),
        ("{by: date, validation_from: 07/2019, test_from: 2020-01-01}", r"line 5: 'corpus\.split\.validation_from'"),
        ("2019", r"line 5: 'corpus\.split': name a column, or write \{by: date.*given: 2019"),
    ],
)
def test_what_is_wrong_in_the_profile_is_named_with_its_line(tmp_path: Path, split: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_profile(_profile(tmp_path, f"  date: published\n  split: {split}\n"))


def test_a_split_by_date_needs_the_column(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2: 'corpus': a split by date needs 'date'"):
        read_profile(_profile(tmp_path, "  split: {by: date, validation_from: 2019-07-01, test_from: 2020-01-01}\n"))


def test_the_days_are_read_as_days(tmp_path: Path) -> None:
    split = "  date: published\n  split: {by: date, validation_from: 2019-07-01, test_from: 2020-01-01}\n"
    assert read_profile(_profile(tmp_path, split)).corpus.split == BY_DATE


def _profile(folder: Path, corpus: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(
        f"task: sentiment\ncorpus:\n  path: news.csv\n{corpus}teacher: {{checkpoint: embedded}}\nrecipes: r.yaml\n"
    )
    return file
