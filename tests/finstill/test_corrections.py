"""A label that a person corrected wins over the source's, for good, and a bad correction is named."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from finstill.config.profile import CorpusSource
from finstill.corpus.build import read_corpus
from finstill.corpus.corrections import Corrected, Correction, read_corrections
from finstill.corpus.text import text_key
from finstill.errors import InputError

LABELS = ("negative", "neutral", "positive")

ROWS = """\
text,label,split
Profit rose,positive,train
Profit fell,negative,train
Sales fell,positive,test
A meeting,,validation
"""


class Place:
    """A corpus of one file, and the folder of its corrections."""

    def __init__(self, root: Path):
        self.texts, self.folder = root / "texts.csv", root / "mine.corrections"
        self.texts.write_text(ROWS)
        self.folder.mkdir()

    def correct(self, name: str, *rows: tuple[str, str], head: str = "label,note,key", encoding: str = "utf-8") -> Path:
        """Write a file of corrections: of each the text and its label."""
        lines = [head, *(f"{label},für uns,{text_key(text).hex()}" for text, label in rows)]
        (self.folder / name).write_text("\n".join(lines) + "\n", encoding=encoding)
        return self.folder / name

    def read(self) -> tuple[dict[str, str | None], Corrected]:
        """Return the label of each text, and what was corrected."""
        source = CorpusSource(path=str(self.texts), label="label", split="split")
        path = self.folder.parent / "corpus.parquet"
        report = read_corpus(source, LABELS, path, corrections=self.folder)
        table = pq.read_table(path)
        return dict(zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True)), report.corrected


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_corrections_win_and_are_counted_and_what_is_not_decided_stays(place: Place) -> None:
    place.correct("a.csv", ("Sales fell", "Negative"), ("Profit rose", "positive"), ("Profit fell", ""))
    place.correct("b.csv", ("A meeting", "neutral"), ("Sales fell", "negative"))
    labels, corrected = place.read()
    assert labels == {
        "Profit rose": "positive",
        "Profit fell": "negative",
        "Sales fell": "negative",
        "A meeting": "neutral",
    }
    assert corrected == Corrected(
        {("positive", "negative", "test"): 1, (None, "neutral", "validation"): 1}, confirmed=1
    )


def test_without_corrections_the_corpus_is_as_it_was(place: Place) -> None:
    plain, corrected = place.read()
    assert plain["Sales fell"] == "positive"
    place.folder.rmdir()
    assert place.read() == (plain, corrected) == (plain, Corrected())


def test_a_correction_settles_what_the_rows_of_a_text_contradict_each_other_about(place: Place) -> None:
    more = "Sales fell,neutral,test\nProfit rose,negative,train\nOrders rose,positive,train\n"
    place.texts.write_text(f"{ROWS}{more}")
    place.correct("a.csv", ("Sales fell", "negative"))
    labels, corrected = place.read()
    assert labels["Sales fell"] == "negative"
    assert "Profit rose" not in labels, "nobody has said what it is"
    assert corrected.changed == {("positive", "negative", "test"): 1}


KNOWN = "Operating profit of the group rose to 13.1 mn euros from 8.7 mn euros a year earlier"


@pytest.mark.parametrize(
    ("given", "arrives", "stays"),
    [("", KNOWN.replace("8.7", "8.9"), True), ("negative", KNOWN.upper(), False)],
    ids=["near a text that had no label", "the same words in another case"],
)
def test_a_corrected_text_may_be_a_near_duplicate_of_a_new_one(
    place: Place, given: str, arrives: str, stays: bool
) -> None:
    place.texts.write_text(f"{ROWS}{KNOWN},{given},train\n{arrives},positive,test\n")
    place.correct("a.csv", (KNOWN, "positive"))
    labels, corrected = place.read()
    assert labels.get(KNOWN) == ("positive" if stays else None)
    assert corrected.changed == {(given or None, "positive", "train"): 1}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "windows-1252", "utf-16"])
def test_a_file_is_read_as_spreadsheets_save_it(place: Place, delimiter: str, encoding: str) -> None:
    file = place.correct("a.csv", ("Sales fell", "negative"))
    file.write_text(file.read_text().replace(",", delimiter), encoding=encoding)
    assert read_corrections(place.folder, LABELS) == {text_key("Sales fell"): Correction("negative", str(file), 1)}


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_text_may_stand_beside_its_label_however_long_it_is(place: Place, newline: str) -> None:
    csv.field_size_limit(1 << 17)  # As Python begins: another test may have raised it.
    key = text_key("Sales fell").hex()
    file = place.folder / "a.csv"
    file.write_text(f'label,text,key\nnegative,"{40_000 * "long "}",{key}\n', newline=newline)
    assert read_corrections(place.folder, LABELS) == {text_key("Sales fell"): Correction("negative", str(file), 1)}


def test_a_label_that_is_called_as_no_label_is_can_be_given(place: Place) -> None:
    place.correct("a.csv", ("Sales fell", "null"))
    assert read_corrections(place.folder, LABELS) == {}
    assert read_corrections(place.folder, ("null", "risk"))[text_key("Sales fell")].label == "null"


def test_two_corrections_that_disagree_name_both(place: Place) -> None:
    first = place.correct("a.csv", ("Profit rose", "positive"), ("Sales fell", "negative"))
    second = place.correct("b.csv", ("Sales fell", "neutral"))
    key = text_key("Sales fell").hex()
    with pytest.raises(InputError) as error:
        place.read()
    assert str(error.value) == (
        f"{second}, row 1: the text {key} is 'neutral' here, and 'negative' in {first}, row 2. Remove one of the two "
        "rows"
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("key,label\n{key},bullish", r"a\.csv, row 1: the label 'bullish' is not one of the task's labels \['neg"),
        ("key,label\n{key},\n{other},neutral", r"a\.csv, row 2: no text of the corpus has the key 0{32}\. Copy"),
        ("key,label\n{key},\n1.2E+31,neutral", r"a\.csv, row 2: '1\.2E\+31' is no key of a text: 32 hex"),
        ("key,label\n" + 9 * "{key},\n" + "{key},neutral,x", r"a\.csv, row 10: 3 fields, 2 were expected"),
        ("text,label\nSales fell,neutral", r"a\.csv: there is no column 'key'; there are \['text', 'label'\]"),
        ("key,tone\n{key},neutral", r"a\.csv: there is no column 'label'; there are \['key', 'tone'\]"),
    ],
    ids=["label", "absent", "key", "fields", "no key", "no label"],
)
def test_a_bad_correction_is_named(place: Place, lines: str, said: str) -> None:
    text = lines.format(key=text_key("Sales fell").hex(), other="0" * 32)
    (place.folder / "a.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        place.read()


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints/a-checkpoint.csv", "_old/2023/a.csv", "older/.a.csv"])
def test_what_is_hidden_corrects_nothing(tmp_path: Path, hidden: str) -> None:
    """A folder above the corrections may be hidden all the same."""
    (tmp_path / ".home").mkdir()
    place = Place(tmp_path / ".home")
    (place.folder / hidden).parent.mkdir(parents=True)
    place.correct(hidden, ("Sales fell", "negative"))
    shown = place.correct("a.csv", ("Profit rose", "positive"))
    assert read_corrections(place.folder, LABELS) == {text_key("Profit rose"): Correction("positive", str(shown), 1)}


def test_a_file_that_no_reader_knows_is_not_passed_over(place: Place) -> None:
    (place.folder / "review.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"review\.xlsx: no reader knows a file with this ending"):
        place.read()
