"""Files that are mixed up or of another kind: no row is lost or misread in silence, and each fault has a name."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finstill.cli import main
from finstill.config.profile import CorpusSource
from finstill.corpus import readers
from finstill.corpus.build import distinct_texts
from finstill.corpus.look import look
from finstill.corpus.readers import BYTES_LOOKED_AT, Delimited, Form
from finstill.corpus.report import BadRows, write_bad_rows
from finstill.corpus.sources import SourceReport, read_rows
from finstill.errors import InputError
from finstill.serving import StudentClassifier
from finstill.serving.formats import open_table
from finstill.serving.package import Package

LABELS = ("negative", "neutral", "positive")


def texts(path: Path, **settings: object) -> list[str | None]:
    return [row.text for row in read_rows(CorpusSource(path=str(path), **settings)) if row.fault is None]


def scored(path: Path) -> list[str | None]:
    table = open_table(path, None, "text")
    with table.raw:
        return [text for chunk in table.chunks() for text in chunk.texts]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestQuotes:
    @pytest.mark.parametrize("read", [texts, scored], ids=["corpus", "score"])
    def test_one_that_is_never_closed_is_named_and_takes_no_rows_with_it(
        self, read: Callable[..., list], tmp_path: Path
    ) -> None:
        lines = ["neutral,a", 'neutral,"b', *(f"neutral,c{i}" for i in range(20))]
        path = write(tmp_path / "x.csv", "label,text\n" + "\n".join(lines))
        with pytest.raises(InputError, match=r"x\.csv, row 2: a quote is opened in this row and not closed\. Close it"):
            read(path)

    def test_nor_is_it_one_bad_row_among_many(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.csv", 'text\n"a\n' + "b\n" * 3000 + '"c"\n' + "d\n" * 10)
        rows = read_rows(CorpusSource(path=str(path), on_bad_rows="set_aside", bad_rows_at_most=1))
        with pytest.raises(InputError, match=r"x\.csv, row 1: a quote .* not closed in 1,000 lines"):
            distinct_texts(rows, LABELS, {}, BadRows(stop=False))

    def test_the_rest_of_the_file_is_not_read_first(self) -> None:
        content = io.BytesIO(b'text\n"a\n' + b"b\n" * 4_000_000)
        table = Delimited(content, "x.csv", Form(), ["text"])
        with pytest.raises(InputError, match=r"x\.csv, row 1: a quote .* not closed in 1,000 lines"):
            list(table)
        assert content.tell() <= 2 * BYTES_LOOKED_AT

    def test_a_header_with_one_is_named(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.csv", '"text\n' + "b\n" * 3000 + '"\n')
        with pytest.raises(InputError, match=r"x\.csv: a quote is opened in the first line .* in 1,000 lines"):
            texts(path)

    def test_a_row_of_a_thousand_lines_is_read_and_blank_lines_are_no_part_of_one(self, tmp_path: Path) -> None:
        cell = "\n".join(["a"] * 1000)
        assert texts(write(tmp_path / "x.csv", "\n" * 2000 + "text\n" + "\n" * 2000 + f'"{cell}"\nb\n')) == [cell, "b"]

    def test_a_file_with_one_can_be_looked_at(self, tmp_path: Path) -> None:
        csv.field_size_limit(1 << 17)  # As Python begins: another test may have raised it.
        path = write(tmp_path / "x.csv", 'label,text\nneutral,a\nneutral,"b\n' + "neutral,c\n" * 20_000)
        assert look(path).columns == ["label", "text"]

    @given(cells=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1))
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_cells_in_quotes_are_read_back(self, cells: list[str], tmp_path: Path) -> None:
        quoted = "".join('"' + cell.replace('"', '""') + '"\r\n' for cell in cells)
        assert texts(write(tmp_path / "x.csv", "text\r\n" + quoted)) == cells


class TestLongRows:
    """A small compressed file may hold a line that fills the memory."""

    @pytest.mark.parametrize(
        ("name", "start"),
        [
            ("x.csv.gz", "text\n\na\n"),
            ("x.txt.gz", "\na\n"),
            ("x.jsonl.gz", '{"text": "a"}\n\n{"text": "'),
        ],
    )
    def test_a_line_without_end_is_named(
        self, name: str, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(readers, "ROW_CHARACTERS", 1 << 20)
        path = write(tmp_path / name, gzip.compress((start + "x" * (3 << 20)).encode(), 1))
        with pytest.raises(InputError, match=rf"{name}, row 2: the row is longer than 1,048,576 characters"):
            texts(path)

    def test_no_more_of_it_is_read(self) -> None:
        content = io.BytesIO(b"x" * (readers.ROW_CHARACTERS + (16 << 20)))
        table = Delimited(content, "x.csv", Form(columns=("text",)), ["text"])
        with pytest.raises(InputError, match=r"x\.csv, row 1: the row is longer than 67,108,864 characters"):
            list(table)
        assert content.tell() <= readers.ROW_CHARACTERS + 2 * BYTES_LOOKED_AT

    def test_a_row_of_many_long_lines_is_named_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(readers, "ROW_CHARACTERS", 1 << 20)
        path = write(tmp_path / "x.csv", 'text\na\n"' + ("x" * 100_000 + "\n") * 20 + '"\n')
        with pytest.raises(InputError, match=r"x\.csv, row 2: the row is longer than"):
            texts(path)


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["windows-1252", "iso-8859-1"])
    @pytest.mark.parametrize("name", ["x.csv", "x.txt", "x.csv.gz"])
    def test_utf_8_is_not_read_as_an_encoding_in_which_every_byte_is_a_character(
        self, name: str, encoding: str, tmp_path: Path
    ) -> None:
        content = ("text\n" + "plain\n" * 2000 + "Männer\n").encode()
        path = write(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
        message = rf"it is UTF-8: as {encoding}, “Männer” reads “MÃ¤nner”\. Write corpus\.encoding: 'utf-8'"
        with pytest.raises(InputError, match=message):
            texts(path, encoding=encoding)
        assert texts(path, encoding="utf-8")[-1] == "Männer"

    def test_of_files_in_two_encodings_one_is_to_be_saved_in_the_others(self, tmp_path: Path) -> None:
        write(tmp_path / "2022.csv", "text\nMänner\n".encode("windows-1252"))
        write(tmp_path / "2023.csv", "text\nGröße\n")
        with pytest.raises(InputError, match=r"2023\.csv.*'utf-8', which holds for all files: save as UTF-8 those"):
            texts(tmp_path, encoding="windows-1252")
        for encoding in (None, "utf-8"):
            rows = read_rows(CorpusSource(path=str(tmp_path), encoding=encoding))
            (fault,) = [row.fault for row in rows if row.fault]
            assert fault.remedy == (
                "Write corpus.encoding: 'windows-1252', which holds for all files: where the others are UTF-8, save "
                "this one as UTF-8 instead"
            )

    def test_a_file_in_that_encoding_may_hold_a_row_that_looks_like_utf_8(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.csv", "text\nMÃ¤nner\nGröße\n".encode("windows-1252"))
        assert texts(path, encoding="windows-1252") == ["MÃ¤nner", "Größe"]


class TestFolders:
    def test_what_holds_no_rows_is_passed_over_and_named(self, tmp_path: Path) -> None:
        write(tmp_path / "a.csv", "text\na\n")
        write(tmp_path / "b.csv.gz", gzip.compress(b""))
        write(tmp_path / "dataset_info.json", '{"builder_name": "csv", "features": {"text": {}}}')
        report = SourceReport()
        assert [row.text for row in read_rows(CorpusSource(path=str(tmp_path)), report)] == ["a"]
        assert (report.empty, report.unknown) == (["b.csv.gz"], ["dataset_info.json"])
        assert [file["file"] for file in report.files] == ["a.csv"]

    def test_the_same_files_named_by_the_profile_are_errors(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"b\.csv\.gz: the file is empty"):
            texts(write(tmp_path / "b.csv.gz", gzip.compress(b"")))
        with pytest.raises(InputError, match=r"a JSON array of objects was expected"):
            texts(write(tmp_path / "info.json", '{"builder_name": "csv"}'))

    def test_files_of_one_name_in_two_folders_are_told_apart(self, tmp_path: Path) -> None:
        paths = [write(tmp_path / year / "news.csv", "text\na\n") for year in ("2023", "2024")]
        rows = read_rows(CorpusSource(path=tuple(map(str, paths))))
        assert [row.source for row in rows] == ["2023/news.csv", "2024/news.csv"]
        rows = read_rows(CorpusSource(path=tuple(str(path.parent) for path in paths)))
        assert [row.source for row in rows] == ["2023/news.csv", "2024/news.csv"]


class TestColumnsInJson:
    """As `DataFrame.to_json` writes them: an object of columns, each an object of its values by row."""

    @pytest.mark.parametrize("read", [texts, scored], ids=["corpus", "score"])
    def test_they_are_read_as_rows(self, read: Callable[..., list], tmp_path: Path) -> None:
        content = {"label": {"7": "neutral", "2": None}, "text": {"2": "b", "7": "a"}}
        path = write(tmp_path / "x.json", json.dumps(content))
        assert read(path) == ["b", "a"]
        rows = read_rows(CorpusSource(path=str(path), label="label"))
        assert [(row.text, row.label) for row in rows] == [("b", None), ("a", "neutral")]

    def test_notes_on_columns_are_no_rows(self, tmp_path: Path) -> None:
        path = write(tmp_path / "features.json", '{"text": {"dtype": "string"}, "label": {"dtype": "int64"}}')
        with pytest.raises(InputError, match=r"features\.json: there is no column 'text'"):
            texts(path)

    def test_objects_by_id_may_have_a_columns_name_as_their_id(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.json", json.dumps({"text": {"text": "a"}, "label": {"text": "b"}}))
        assert [(row.text, row.id) for row in read_rows(CorpusSource(path=str(path), id="id"))] == [
            ("a", "text"),
            ("b", "label"),
        ]

    def test_where_none_is_the_one_that_was_wanted_a_few_are_shown(self, tmp_path: Path) -> None:
        cells = {str(row): f"text {row}" for row in range(20_000)}
        path = write(tmp_path / "x.json", json.dumps({"body": cells, "label": cells}))
        with pytest.raises(InputError, match=r"no column 'text'.*'0', '1',.*'18'\] and 19,981 more\. Set") as refused:
            texts(path)
        assert len(str(refused.value)) < 500


class TestRows:
    def test_a_line_of_spaces_is_blank(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.csv", "text,label\na,neutral\n  \n\nb,neutral\n")
        rows = read_rows(CorpusSource(path=str(path), label="label"))
        assert [(row.number, row.text, row.fault) for row in rows] == [(1, "a", None), (2, "b", None)]

    def test_a_header_where_the_profile_says_that_there_is_none(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.csv", "\ufeffText,Label\na,neutral\n")
        with pytest.raises(InputError, match=r"first line is the header .*Leave corpus\.columns out"):
            texts(path, columns=("text", "label"))

    @pytest.mark.parametrize("column", ["label", "id", "date", "split"])
    def test_half_a_character_in_any_column_is_a_bad_row_that_can_be_written_down(
        self, column: str, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "x.jsonl", f'{{"text": "a", "{column}": "\\ud800"}}\n"\\ud800"\n{{"text": "b"}}\n')
        rows = read_rows(CorpusSource(path=str(path), **{column: column}))
        _, report = distinct_texts(rows, LABELS, {}, BadRows(stop=False))
        write_bad_rows(report.set_aside, tmp_path / "bad.jsonl")
        written = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
        assert [bad["row"] for bad in written] == [1, 2]
        assert written[0]["reason"].startswith(f"column '{column}': character 1 is a lone surrogate (U+D800)")

    def test_only_a_row_of_too_many_fields_is_told_to_quote_its_text(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.csv", "text,label\na\nb, c,neutral\n")
        faults = [row.fault for row in read_rows(CorpusSource(path=str(path), label="label"))]
        assert faults == [
            ("1 fields, 2 were expected", None),
            ("3 fields, 2 were expected", "Put a text that holds ',' in double quotes"),
        ]

    def test_a_score_of_minus_nothing_is_nothing(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.csv", "text,label\na,-0.0\n")
        assert [row.label for row in read_rows(CorpusSource(path=str(path), label="label"))] == ["0"]


def test_a_column_that_parquet_has_twice_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet: there are 2 columns 'text'"):
        texts(tmp_path / "x.parquet")


class TestClassNamesOfParquet:
    def table(self, path: Path, metadata: str) -> Path:
        table = pa.table({"text": ["a", "b", "c"], "label": [0, 1, -1]})
        pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)
        return path

    def labels(self, path: Path, **names: str) -> list[str | None]:
        return [row.label for row in read_rows(CorpusSource(path=str(path), label="label", label_names=names))]

    def test_a_profile_that_maps_the_numbers_still_works(self, tmp_path: Path) -> None:
        names = {"info": {"features": {"label": {"names": ["Bearish", "Bullish"], "_type": "ClassLabel"}}}}
        path = self.table(tmp_path / "x.parquet", json.dumps(names))
        assert self.labels(path) == ["Bearish", "Bullish", None]
        assert self.labels(path, Bearish="negative", Bullish="positive") == ["Bearish", "Bullish", None]
        assert self.labels(path, **{"0": "negative", "1": "positive"}) == ["0", "1", None]

    @pytest.mark.parametrize("metadata", ["not json", "[]", '{"info": null}', '{"info": {"features": null}}'])
    def test_metadata_that_says_nothing_is_passed_over(self, metadata: str, tmp_path: Path) -> None:
        assert self.labels(self.table(tmp_path / "x.parquet", metadata)) == ["0", "1", "-1"]


class TestScoring:
    def test_a_delimiter_is_one_character(
        self, package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write(tmp_path / "x.csv", "text\na\n")
        with pytest.raises(SystemExit):
            main(["score", str(package.folder), str(path), "--delimiter", "ab"])
        assert "one character was expected, not 'ab'" in capsys.readouterr().err

    def test_a_student_reads_a_text_as_the_corpus_did_that_it_learned_from(self, package: Package) -> None:
        student = StudentClassifier(package.folder)
        dirty, clean = student.score(["\ufeffProfit\0rose 12 percent", "Profit rose 12 percent"])
        assert dirty.probabilities == clean.probabilities
        assert student.tokens("\ufeffProfit\0rose") == student.tokens("Profit rose")

    def test_half_a_character_beside_the_text_is_written_as_it_was_read(self, package: Package, tmp_path: Path) -> None:
        path = write(tmp_path / "x.jsonl", '{"text": "a", "id": "\\ud800"}\n')
        assert main(["score", str(package.folder), str(path), str(tmp_path / "out.jsonl")]) == 0
        assert json.loads((tmp_path / "out.jsonl").read_text())["id"] == "\ud800"
