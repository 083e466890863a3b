"""From files of every kind to one table; bad input named by file, row and reason."""

from __future__ import annotations

import json
import time
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finstill.config.profile import CorpusSource
from finstill.corpus.build import build_corpus, write_corpus
from finstill.corpus.report import CorpusReport
from finstill.corpus.rows import Row
from finstill.corpus.sources import read_rows
from finstill.corpus.splits import split_of
from finstill.errors import InputError

LABELS = ("negative", "neutral", "positive")


def build(source: CorpusSource, label_names: dict[str, str] | None = None) -> tuple[pa.Table, CorpusReport]:
    return build_corpus(read_rows(source), LABELS, label_names or {})


def rows(*texts: str | None, label: str | None = None, split: str | None = None) -> list[Row]:
    return [Row("f.csv", i, text, label, None, None, split) for i, text in enumerate(texts, start=1)]


FILLER = [
    Row("filler.csv", i, f"filler sentence {i}", LABELS[i % 3], None, None, ("train", "validation", "test")[i % 3])
    for i in range(6)
]


def test_csv_jsonl_and_parquet_give_the_same_corpus(tmp_path: Path) -> None:
    values = [(f"Text number {i}, with a comma\nand a second line", LABELS[i % 3]) for i in range(60)]
    quoted = "".join(f'"{text}",{label}\n' for text, label in values)
    (tmp_path / "a.csv").write_text(f"body,tone\n{quoted}", encoding="utf-8")
    lines = "".join(json.dumps({"body": text, "tone": label}) + "\n" for text, label in values)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    table = pa.table({"body": [text for text, _ in values], "tone": [label for _, label in values]})
    pq.write_table(table, tmp_path / "a.parquet")
    kinds = [
        build(CorpusSource(path=str(tmp_path / f"a.{kind}"), text="body", label="tone"))[0].drop_columns("source")
        for kind in ("csv", "jsonl", "parquet")
    ]
    assert kinds[0].num_rows == 60
    assert kinds[0].equals(kinds[1])
    assert kinds[0].equals(kinds[2])


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        body = "".join(f"{name} {i},{LABELS[i % 3]}\n" for i in range(40))
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{body}")
    (tmp_path / "notes.txt").write_text("not a corpus")
    table, report = build(CorpusSource(path=str(tmp_path), label="label"))
    assert report.read == report.kept == 80
    assert set(table["source"].to_pylist()) == {"one.csv", "two.csv"}


def test_a_hub_data_set_keeps_its_splits_and_label_names(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        table = pa.table({"sentence": [f"{split} {i}" for i in range(3)], "label": LABELS})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    table, _ = build(CorpusSource(hub=str(tmp_path), text="sentence", label="label"))
    assert all(row["text"].startswith(row["split"]) for row in table.to_pylist())
    assert table.num_rows == 9


@pytest.mark.parametrize("missing", [("validation",), ("test",), ("validation", "test")])
def test_a_split_that_no_row_is_in_is_cut_from_train(tmp_path: Path, missing: tuple[str, ...]) -> None:
    given = [split for split in ("train", "validation", "test") if split not in missing]
    texts = {f"{split} sentence number {i}": split for split in given for i in range(60)}
    for split in given:
        mine = [text for text in texts if texts[text] == split]
        pq.write_table(pa.table({"sentence": mine, "label": [*LABELS] * 20}), tmp_path / f"{split}.parquet")
    (tmp_path / "all.csv").write_text(
        "sentence,label,split\n" + "".join(f"{text},{LABELS[i % 3]},{texts[text]}\n" for i, text in enumerate(texts))
    )
    in_file = CorpusSource(path=str(tmp_path / "all.csv"), text="sentence", label="label", split="split")
    table, report = build(in_file)
    for row in table.to_pylist():
        own, was = split_of(row["key"]), texts[row["text"]]
        assert row["split"] == (own if was == "train" and own in missing else was)
    for split in missing:
        assert report.reasons[f"cut from train for {split}, which no row is in"] == table["split"].to_pylist().count(
            split
        )
    assert len(report.reasons) == len(missing)
    # Whatever the order of the rows.
    again, _ = build_corpus(list(read_rows(in_file))[::-1], LABELS, {})
    assert again.drop_columns("source").equals(table.drop_columns("source"))
    (tmp_path / "all.csv").unlink()
    if len(given) > 1:
        hub, _ = build(CorpusSource(hub=str(tmp_path), text="sentence", label="label"))
        assert hub.drop_columns("source").equals(table.drop_columns("source"))


def test_rows_without_a_split_leave_train_whole_but_move_no_text_of_a_data_set_in_two_splits() -> None:
    train = rows(*(f"sentence number {i}" for i in range(60)), split="train")
    # Enough that their keys fill all splits.
    others = rows(*(f"of no split {i}" for i in range(60)))
    table, report = build_corpus([*train, *others], LABELS, {})
    assert {row["split"] for row in table.to_pylist() if row["text"].startswith("sentence")} == {"train"}
    assert report.reasons == {}
    labelled = [row for label in LABELS for row in rows(f"{label} in a test", label=label, split="test")]
    published = [*train, *labelled]
    before, _ = build_corpus(published, LABELS, {})
    after, _ = build_corpus([*published, *others], LABELS, {})
    splits = dict(zip(after["key"].to_pylist(), after["split"].to_pylist(), strict=True))
    assert "validation" in before["split"].to_pylist()
    assert all(splits[row["key"]] == row["split"] for row in before.to_pylist())
    # Labelled rows without a split fill validation.
    own, report = build_corpus(
        [*published, *rows(*(f"of no split {i}" for i in range(60)), label=LABELS[0])], LABELS, {}
    )
    assert {row["split"] for row in own.to_pylist() if row["text"].startswith("sentence")} == {"train"}
    assert report.reasons == {}


def test_no_text_of_the_embedded_corpus_is_moved() -> None:
    table, report = build(CorpusSource(path="embedded", label="sentiment", split="split"))
    rows_of = table.group_by(["split", "label"]).aggregate([("key", "count")]).to_pylist()
    assert sum(row["key_count"] for row in rows_of if row["label"] is None and row["split"] == "train") == 15_478
    assert report.reasons == {}


def test_a_hub_out_of_reach_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    # The hub's client waits longer and longer between its attempts.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(InputError, match=r"nobody/nothing.*cannot be loaded"):
        build(CorpusSource(hub="nobody/nothing"))


def test_duplicates_are_merged_and_a_label_found_on_any_of_them_is_kept() -> None:
    table, report = build_corpus([*rows("Profit  rose"), *rows("Profit rose", label="positive"), *FILLER], LABELS, {})
    merged = [row for row in table.to_pylist() if row["text"] == "Profit rose"]
    assert [row["label"] for row in merged] == ["positive"]
    assert report.reasons["duplicate merged"] == 1


def test_a_text_with_contradictory_labels_is_dropped_and_counted() -> None:
    contradiction = [*rows("Up and down", label="positive"), *rows("Up and down", label="negative")]
    table, report = build_corpus([*contradiction, *FILLER], LABELS, {})
    assert "Up and down" not in table["text"].to_pylist()
    assert report.reasons["contradictory labels"] == 1


def test_empty_and_null_texts_are_dropped_and_counted_with_their_place() -> None:
    table, report = build_corpus([*rows("", "  \u00a0 ", None), *FILLER], LABELS, {})
    assert table.num_rows == len(FILLER)
    assert report.reasons == {"text is empty": 2, "text is null": 1}
    assert report.examples["text is null"] == [("f.csv, row 3", "")]


@given(st.text(st.characters(exclude_categories=()), max_size=12))
def test_any_text_is_in_the_corpus_or_counted_or_named_with_file_and_row(text: str) -> None:
    """Lone surrogates included."""
    try:
        table, report = build_corpus([*rows(text), *FILLER], LABELS, {})
    except InputError as error:
        assert str(error).startswith("f.csv, row 1: ")  # noqa: PT017
        assert any(unicodedata.category(character) == "Cs" for character in text)
    else:
        assert report.read == report.kept + sum(report.reasons.values())
        assert table.num_rows == report.kept


@settings(max_examples=50)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=30), st.randoms())
def test_no_text_moves_between_splits_as_the_corpus_grows(texts: list[str], random: object) -> None:
    before, _ = build_corpus([*rows(*texts), *FILLER], LABELS, {})
    more = rows(*texts, *(f"new text {i}" for i in range(50)))
    random.shuffle(more)  # type: ignore[attr-defined]
    after, _ = build_corpus([*more, *FILLER], LABELS, {})
    splits = dict(zip(after["key"].to_pylist(), after["split"].to_pylist(), strict=True))
    assert all(splits[row["key"]] == row["split"] for row in before.to_pylist())
    assert len(splits) == after.num_rows


def test_a_text_that_two_splits_claim_goes_to_the_test_split() -> None:
    claimed = [*rows("Both", split="train"), *rows("Both", split="test")]
    table, report = build_corpus([*claimed, *FILLER], LABELS, {})
    assert [row["split"] for row in table.to_pylist() if row["text"] == "Both"] == ["test"]
    assert report.reasons["in two splits"] == 1


def test_labels_of_another_name_are_mapped() -> None:
    table, _ = build_corpus([*rows("Mapped", label="BAD"), *FILLER], LABELS, {"bad": "negative"})
    assert [row["label"] for row in table.to_pylist() if row["text"] == "Mapped"] == ["negative"]


def test_a_text_of_a_megabyte_is_kept() -> None:
    table, _ = build_corpus([*rows("loss " * 200_000), *FILLER], LABELS, {})
    assert max(len(text) for text in table["text"].to_pylist()) == 999_999


class TestBadInput:
    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"missing\.csv: there is no such file"):
            build(CorpusSource(path=str(tmp_path / "missing.csv")))

    def test_folder_without_a_known_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no file that ends in \.csv, \.tsv.*\.parquet"):
            build(CorpusSource(path=str(tmp_path)))

    @pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
    def test_missing_column_names_those_there_are(self, tmp_path: Path, kind: str) -> None:
        file = tmp_path / f"a.{kind}"
        if kind == "csv":
            file.write_text("headline\nProfit rose\n")
        elif kind == "jsonl":
            file.write_text('{"headline": "Profit rose"}\n')
        else:
            pq.write_table(pa.table({"headline": ["Profit rose"]}), file)
        with pytest.raises(InputError, match=r"no column 'text'; the columns are \['headline'\]"):
            build(CorpusSource(path=str(file)))

    def test_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("")
        with pytest.raises(InputError, match=r"a\.csv: the file is empty"):
            build(CorpusSource(path=str(tmp_path / "a.csv")))

    def test_header_alone(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("text,label\n")
        with pytest.raises(InputError, match="no row of the corpus is usable"):
            build(CorpusSource(path=str(tmp_path / "a.csv"), label="label"))

    @pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
    def test_invalid_utf8_names_the_row_and_the_byte(self, tmp_path: Path, kind: str) -> None:
        file, bad = tmp_path / f"a.{kind}", b"Caf\xe9 profit"
        if kind == "csv":
            file.write_bytes(b"text\nfine\nfine too\n" + bad + b"\n")
        elif kind == "jsonl":
            file.write_bytes(b'{"text": "fine"}\n{"text": "fine too"}\n{"text": "' + bad + b'"}\n')
        else:
            column = pa.array([b"fine", b"fine too", bad]).view(pa.string())
            pq.write_table(pa.table({"text": column}), file)
        with pytest.raises(InputError, match=rf"a\.{kind}, row 3: .*not valid UTF-8.*0xe9"):
            build(CorpusSource(path=str(file)))

    def test_csv_row_with_too_many_fields(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("text,label\nfine,neutral\nProfit, which rose,positive\n")
        with pytest.raises(InputError, match=r"a\.csv, row 2: 3 fields, 2 were expected"):
            build(CorpusSource(path=str(tmp_path / "a.csv"), label="label"))

    def test_broken_json(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": \n')
        with pytest.raises(InputError, match=r"a\.jsonl, row 2: not a JSON object"):
            build(CorpusSource(path=str(tmp_path / "a.jsonl")))

    def test_file_that_is_not_parquet(self, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_text("text\n")
        with pytest.raises(InputError, match=r"a\.parquet: not readable as Parquet"):
            build(CorpusSource(path=str(tmp_path / "a.parquet")))

    def test_label_outside_the_task(self) -> None:
        with pytest.raises(InputError, match=r"f\.csv, row 1: the label 'bullish'.*label_names"):
            build_corpus(rows("x", label="bullish"), LABELS, {})

    def test_one_class_only(self) -> None:
        with pytest.raises(InputError, match="every labelled row of the corpus is 'neutral'"):
            build_corpus(rows("a", "b", label="neutral"), LABELS, {})

    def test_no_train_rows(self) -> None:
        others = [row for row in FILLER if row.split != "train"]
        with pytest.raises(InputError, match="none of the 4 texts is in the split 'train'"):
            build_corpus(others, LABELS, {})

    def test_no_test_rows(self) -> None:
        # Too few for a test split to be cut from them.
        train = [Row("f.csv", i, f"{i}", LABELS[i % 3], None, None, "train") for i in range(3)]
        with pytest.raises(InputError, match="none of the 4 texts is in the split 'test'"):
            build_corpus([*train, *rows("v", split="dev")], LABELS, {})

    def test_unknown_split(self) -> None:
        with pytest.raises(InputError, match=r"row 1: the split 'holdout' is not one of"):
            build_corpus(rows("x", split="holdout"), LABELS, {})

    def test_a_refused_corpus_leaves_the_one_before(self, tmp_path: Path) -> None:
        table, _ = build_corpus(FILLER, LABELS, {})
        write_corpus(table, tmp_path / "corpus.parquet")
        before = (tmp_path / "corpus.parquet").read_bytes()
        with pytest.raises(InputError):
            write_corpus(build_corpus(rows("x", label="bullish"), LABELS, {})[0], tmp_path / "corpus.parquet")
        assert (tmp_path / "corpus.parquet").read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["corpus.parquet"]
