"""The merge by columns is what a dictionary of rows would be, and what was read or compared once is not done again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finstill.config.profile import CorpusSource
from finstill.corpus import merge, nearest, parts
from finstill.corpus.build import distinct_texts, read_corpus
from finstill.corpus.near_duplicates import NearDuplicates
from finstill.corpus.report import CorpusReport
from finstill.corpus.rows import Row
from finstill.corpus.shingles import Shingles, ShingleSet
from finstill.corpus.splits import split_of
from finstill.corpus.text import normalise, text_key
from tests.shingles import shingles

LABELS = ("negative", "neutral", "positive")
SPLITS_THAT_GO_FIRST = ("test", "validation", "train")

ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b ", "ｂ", "c\t\u00a0d", "é", ""]),
        st.sampled_from([None, "", "neutral", "Positive"]),
        st.sampled_from([None, "", "2024", "2025"]),
        st.sampled_from([None, "", "1", "2"]),
        st.sampled_from([None, " ", "train", "dev", "test"]),
    ),
    max_size=14,
)


def by_dictionary(rows: list[Row]) -> tuple[dict[bytes, list[str | None]], dict[str, int]]:
    """Merge rows one by one, and return each text's columns by key with the counts of what happened."""
    texts: dict[bytes, list[str | None]] = {}
    counts = dict.fromkeys(["text is empty", "duplicate merged", "in two splits", "contradictory labels"], 0)
    contradicted = set()
    for row in rows:
        text = normalise(row.text or "")
        key = text_key(text)
        label = (row.label or "").lower() or None
        split = {"dev": "validation"}.get(given := (row.split or "").strip(), given) or None
        if not text:
            counts["text is empty"] += 1
            continue
        if key not in texts:
            texts[key] = [text, label, split, row.source, row.date, row.id]
            continue
        counts["duplicate merged"] += 1
        held = texts[key]
        if label and held[1] and label != held[1]:
            contradicted.add(key)
        if split and held[2] and split != held[2]:
            counts["in two splits"] += 1
            split = min(split, held[2], key=SPLITS_THAT_GO_FIRST.index)
            held[2] = split
        held[1], held[2], held[4], held[5] = held[1] or label, held[2] or split, held[4] or row.date, held[5] or row.id
    counts["contradictory labels"] = len(contradicted)
    merged = {key: [*held[:2], held[2] or split_of(key), *held[3:]] for key, held in texts.items()}
    return {key: merged[key] for key in sorted(merged.keys() - contradicted)}, counts


@pytest.mark.parametrize("engine", ["arrow", "duckdb"])
@settings(max_examples=60)
@given(values=ROWS)
def test_the_merge_by_columns_is_the_merge_by_a_dictionary(values: list, engine: str) -> None:
    rows = [
        Row(f"{i % 2}.csv", i, text, label, date, name, split)
        for i, (text, label, date, name, split) in enumerate(values, 1)
    ]
    with pytest.MonkeyPatch.context() as patch:
        if engine == "duckdb":
            patch.setattr(merge, "ROWS_SORTED_BY_ARROW", 0)
            # Rows of one text then lie across batches too.
            patch.setattr(merge, "ROWS_PER_BATCH", 3)
        table, report = distinct_texts(rows, LABELS, {})
    expected, counts = by_dictionary(rows)
    assert {row.pop("key"): list(row.values()) for row in table.to_pylist()} == expected
    assert table["key"].to_pylist() == list(expected)
    assert report.reasons == {reason: count for reason, count in counts.items() if count}


@settings(max_examples=60)
@given(
    rows_of_parts=st.lists(st.lists(st.integers(0, 5), max_size=9), max_size=4),
    kept_sorted=st.lists(st.booleans(), min_size=4, max_size=4),
    batch=st.integers(1, 4),
    sorted_by_arrow=st.sampled_from([0, 100]),
    runs_merged=st.sampled_from([1, 100]),
)
def test_sorted_parts_are_merged_into_the_order_that_sorting_all_rows_gives(
    rows_of_parts: list[list[int]],
    kept_sorted: list[bool],
    batch: int,
    sorted_by_arrow: int,
    runs_merged: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder, expected, paths = tmp_path_factory.mktemp("parts"), [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "ROWS_PER_BATCH", batch)
        patch.setattr(merge, "RUNS_MERGED", runs_merged)
        patch.setattr(merge, "ROWS_SORTED_BY_ARROW", 0)
        for number, (texts, large) in enumerate(zip(rows_of_parts, kept_sorted, strict=False)):
            rows = [
                {"key": bytes([text]) * 16, "text": str(text), "source": f"{number}.csv", "number": i}
                for i, text in enumerate(texts, 1)
            ]
            expected += [(row["key"], number, row["number"]) for row in rows]
            paths.append(folder / f"{number}.parquet")
            schema = parts.PART_SCHEMA.with_metadata({parts.REPORT_KEY: b"{}"})
            pq.write_table(pa.Table.from_pylist(rows, schema), paths[-1])
            if large:
                merge.keep_sorted(paths[-1])
                assert pq.read_metadata(paths[-1]).metadata[parts.REPORT_KEY] == b"{}"
        patch.setattr(merge, "ROWS_SORTED_BY_ARROW", sorted_by_arrow)
        found = pa.concat_tables([merge.PLACED_SCHEMA.empty_table(), *merge.sorted_rows(paths, folder)])
    assert [(row["key"], int(row["source"][0]), row["number"]) for row in found.to_pylist()] == sorted(expected)
    assert len(set(found["position"].to_pylist())) == len(expected)


def test_examples_are_the_rows_that_were_read_first() -> None:
    rows = [Row("x.csv", i, f"text {i % 40}", None, None, None, None) for i in range(1, 121)]
    _, report = distinct_texts(rows, LABELS, {})
    assert report.examples["duplicate merged"] == [(f"x.csv, row {i}", f"text {i % 40}") for i in (41, 42, 43)]


class Nights:
    """A corpus of several files, made again each night."""

    def __init__(self, folder: Path):
        self.data, self.root = folder / "data", folder / "made"
        self.data.mkdir()

    def write(self, name: str, *texts: str, split: str = "") -> None:
        lines = "".join(f"{text},{split}\n" for text in texts)
        (self.data / name).write_text(f"text,split\n{lines}")

    def read(self, path: Path, kept: bool = True) -> CorpusReport:
        source = CorpusSource(path=str(self.data), split="split", on_bad_rows="set_aside", bad_rows_at_most=0.5)
        return read_corpus(source, LABELS, path, self.root / "parts" if kept else None)

    def make(self, kept: bool = True) -> tuple[pa.Table, dict[str, int]]:
        path = self.root / ("corpus.parquet" if kept else "anew.parquet")
        report = self.read(path, kept)
        return pq.read_table(path), {"read": report.read, "kept": report.kept, **report.reasons}


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    nights = Nights(tmp_path)
    nights.write("a.csv", *(f"the plain sentence number {i} of a long list of them" for i in range(40)))
    nights.write("b.csv", "profit of the group rose by 3 mn euros this year", split="test")
    return nights


def test_a_file_that_stays_is_not_read_again_and_its_rows_count(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.write("c.csv", "one, field too many", "fine")
    before = nights.make()
    read = []
    monkeypatch.setattr(
        parts, "read_file", lambda file, *rest, real=parts.read_file: read.append(file.name) or real(file, *rest)
    )
    assert nights.make() == before
    assert read == []
    nights.write("d.csv", "a new one")
    assert nights.make()[1] == {**before[1], "read": before[1]["read"] + 1, "kept": before[1]["kept"] + 1}
    nights.write("b.csv", "profit of the group fell by 3 mn euros this year", split="test")
    assert nights.make() == nights.make(kept=False)
    assert read[:2] == ["d.csv", "b.csv"]


def test_a_large_file_is_sorted_once(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "ROWS_SORTED_BY_ARROW", 10)
    first = nights.make()
    sorted_again = []
    monkeypatch.setattr(
        merge,
        "_sorted_by_engine",
        lambda given, *rest, real=merge._sorted_by_engine: sorted_again.append(given) or real(given, *rest),
    )
    assert nights.make() == first
    # One that is new, one that "a.csv" has too, and one that "a.csv" has in another split.
    again = [f"the plain sentence number {i} of a long list of them" for i in (7, 9)]
    nights.write("0.csv", "a new one", again[0])
    nights.write("c.csv", again[1], split="test")
    made = nights.make()
    assert sorted_again == []
    assert made[1]["duplicate merged"] == 2
    assert made == nights.make(kept=False)


def test_rows_set_aside_are_kept_beside_a_part_and_not_in_its_footer(nights: Nights) -> None:
    nights.write("c.csv", *(f"{i} {300 * 'word '}" for i in range(30)), split="fine")
    first, again = (nights.read(nights.root / "corpus.parquet") for _ in range(2))
    assert again.set_aside == first.set_aside
    assert [bad.row for bad in again.set_aside] == list(range(1, 31))
    for part in (nights.root / "parts").glob("*.parquet"):
        assert pq.read_metadata(part).serialized_size < 10_000


def test_what_is_left_out_as_near_does_not_depend_on_the_nights_before(nights: Nights) -> None:
    near = "profit of the group rose by 3 mn euros this year again"
    nights.make()
    for name, text, split in (
        ("train.csv", near, "train"),
        ("other.csv", f"{near} today", "train"),
        # The first near text leaves, and the other one comes.
        ("b.csv", "nothing like it is measured on any more", "test"),
        ("late.csv", f"{near} and again", "validation"),
        ("train.csv", near, "validation"),
    ):
        nights.write(name, text, split=split)
        table, counts = nights.make()
        assert (table, counts) == nights.make(kept=False)


def test_only_new_texts_are_compared(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    nights.make()
    indexed: list[list[int]] = []

    class Watched(NearDuplicates):
        def __init__(self, texts: Shingles):
            indexed.append(texts.hashes.tolist())
            super().__init__(texts)

    monkeypatch.setattr(nearest, "NearDuplicates", Watched)
    nights.make()
    assert indexed == []
    new = "profit of the group rose by 3 mn euros this year again"
    nights.write("c.csv", new, split="train")
    assert nights.make()[1]["near-duplicate of a validation or test text"] == 1
    assert indexed == [Shingles.of([new]).hashes.tolist()]


@pytest.mark.parametrize("split", ["train", "test"])
def test_known_texts_are_read_again_only_where_a_new_one_may_be_near(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    nights.make()
    read: set[str] = set()

    class Watched(Shingles):
        @classmethod
        def of(cls, texts: Sequence[str] | pa.StringArray) -> Shingles:
            read.update(pa.array(texts).to_pylist())
            return super().of(texts)

    monkeypatch.setattr(nearest, "Shingles", Watched)
    new = "nothing that was ever said"
    nights.write("c.csv", new, split=split)
    nights.make()
    assert read == {new}


def test_what_a_night_kept_and_cannot_be_read_is_made_anew(nights: Nights) -> None:
    before = nights.make()
    kept = nights.root / "parts" / "compared.arrow"
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    assert nights.make() == before
    assert kept.read_bytes() == whole


def test_a_part_that_nothing_has_read_for_a_day_goes(nights: Nights) -> None:
    nights.make()
    old = [part for part in (nights.root / "parts").iterdir() if part.stem != "compared"]
    for part in old:
        os.utime(part, (0, 0))
    nights.write("a.csv", *(f"another sentence {i}" for i in range(40)))
    nights.make()
    assert [part.exists() for part in old].count(True) == 1, "that of the file which stays"


@given(st.lists(st.text("aB_1, .ßéดี中文-É…İ", max_size=12), min_size=1, max_size=8))
def test_hashes_of_shingles_are_equal_where_shingles_are(texts: list[str]) -> None:
    hashed = Shingles.of(texts)
    found = [set(one.hashes.tolist()) for one in hashed.slices(1)]
    expected = [shingles(text) for text in texts]
    assert hashed.sizes.tolist() == [len(own) for own in expected]
    for own, of_own in zip(found, expected, strict=True):
        for other, of_other in zip(found, expected, strict=True):
            assert len(own & other) == len(of_own & of_other)
    assert ShingleSet(hashed).shares(hashed).tolist() == [1.0] * len(texts)
