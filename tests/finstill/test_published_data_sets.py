"""Each data set is read as it is published, to exactly its texts and labels."""

from __future__ import annotations

import gzip
import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from finstill.config.profile import CorpusSource
from finstill.config.task import SENTIMENT
from finstill.corpus.arrivals import take
from finstill.corpus.build import build_corpus, read_corpus
from finstill.corpus.readers import Form
from finstill.corpus.report import CorpusReport, write_bad_rows
from finstill.corpus.rows import Row
from finstill.corpus.sources import SourceReport, read_file, read_rows, source_files
from finstill.corpus.state import source_state
from finstill.corpus.text import normalise
from finstill.errors import InputError
from finstill.serving.formats import open_table
from tests.published_data_sets import LATIN, PROFILES, PUBLISHED, UNLABELLED, lake, phrasebank_file, rows

LABELS = SENTIMENT.labels

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
"""Lone surrogates too."""

PIECES = [
    b"text", b"label", b",", b"\t", b'"', b"\n", b"\r", b"\0", b"\xff", b"\xe9", b"\xc3\xa9", b"\xef\xbb\xbf",
    b"\xff\xfe", b"{", b"}", b"[",
    b"]", b":", b'{"text": "a"}', b'{"text": 1}', b"\\ud83d", b"NaN", b"9" * 5000, b"\xe2\x80\xa8",
]  # fmt: skip

ANY_FILE = st.builds(
    lambda start, pieces: start + b"".join(pieces),
    st.sampled_from([b"", b"text\n", b"text,label\n", b'{"text": "x"}\n']),
    st.lists(st.sampled_from(PIECES), max_size=20),
) | st.binary(max_size=40)
"""Bytes of which some are nearly a file that a reader knows."""

NAMES_THE_FILE = "the error names the file"

FILLER = [
    Row("filler.csv", i, f"filler sentence {i}", LABELS[i % 3], None, None, ("train", "validation", "test")[i % 3])
    for i in range(9)
]


def source_of(name: str, path: Path, **more: object) -> CorpusSource:
    said = YAML(typ="safe").load(f"{{{PROFILES[name]}}}")
    return CorpusSource(path=str(path), **{**said, **more})


def read(source: CorpusSource) -> tuple[pa.Table, CorpusReport]:
    with tempfile.TemporaryDirectory() as folder:
        report = read_corpus(source, LABELS, Path(folder) / "corpus.parquet")
        return pq.read_table(Path(folder) / "corpus.parquet"), report


def labels_of(table: pa.Table) -> dict[str, str | None]:
    return dict(zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True))


def expected(name: str) -> dict[str, str]:
    latin = name.startswith("phrasebank")
    form = "$AAPL - {} https://t.co/x" if name == "twitter_financial_news" else "{}"
    return {normalise(form.format(text)): label for text, label in rows(sentences=LATIN if latin else None)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_text_has_the_label_that_was_published(name: str, tmp_path: Path) -> None:
    table, report = read(source_of(name, PUBLISHED[name](tmp_path)))
    found = labels_of(table)
    assert {text: label for text, label in found.items() if label is not None} == expected(name)
    assert len(found) - len(expected(name)) == UNLABELLED.get(name, 0)
    assert report.read == report.kept == 240 + UNLABELLED.get(name, 0)


def test_a_lake_counts_what_it_passes_over_and_its_folders_are_splits(tmp_path: Path) -> None:
    table, report = read(source_of("lake", lake(tmp_path)))
    assert report.source.unknown == ["notes.docx"]
    assert report.source.empty == [f"split={split}/part-3.csv" for split in ("test", "train", "validation")]
    splits = dict(zip(table["text"].to_pylist(), table["split"].to_pylist(), strict=True))
    assert [splits[normalise(text)] for text, _ in rows()] == ["train"] * 160 + ["validation"] * 40 + ["test"] * 40
    assert set(table["source"].to_pylist()) == {
        f"split={split}/{part}"
        for split in ("train", "validation", "test")
        for part in ("part-0.parquet", "part-1.jsonl.zst", "part-2.csv.gz")
    }


def test_what_was_understood_is_told_of_each_file(tmp_path: Path) -> None:
    _, report = read(source_of("phrasebank_file", phrasebank_file(tmp_path)))
    assert report.source.files == [
        {
            "file": "Sentences_50Agree.txt",
            "encoding": "iso-8859-1",
            "delimiter": "'@'",
            "columns": "sentence, label",
        }
    ]


def test_a_known_data_set_names_itself_and_the_profile_goes_first(tmp_path: Path) -> None:
    path = str(phrasebank_file(tmp_path))
    assert CorpusSource(path=path, known="financial_phrasebank").name == "financial_phrasebank"
    assert CorpusSource(path=path, known="financial_phrasebank", name="mine").name == "mine"
    with pytest.raises(ValueError, match=r"no known data set 'phrasebank'; there are .*financial_phrasebank"):
        CorpusSource(path=path, known="phrasebank")


def test_thresholds_of_the_profile_make_other_classes_of_the_same_scores(tmp_path: Path) -> None:
    table, _ = read(source_of("fiqa", PUBLISHED["fiqa"](tmp_path), thresholds=(-0.9, 0.01)))
    assert set(labels_of(table).values()) == {"neutral", "positive", None}


def test_several_files_and_folders_are_one_corpus_and_their_state_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"one {i},{LABELS[i % 3]}\n" for i in range(60)))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b.jsonl").write_text('{"text": "two"}\n')
    source = CorpusSource(path=(str(tmp_path / "a.csv"), str(tmp_path / "b")), label="label")
    before = source_state(source)
    with pytest.raises(InputError, match="there is no column 'label'"):
        read(source)
    (tmp_path / "b" / "b.jsonl").write_text('{"text": "two"}\n{"text": "three", "label": "positive"}\n')
    assert read(source)[1].kept == 62
    assert source_state(source) != before


class TestLabels:
    def build(
        self, tmp_path: Path, *labels: object, filler: tuple[str, ...] = LABELS, **more: object
    ) -> list[str | None]:
        lines = [json.dumps({"text": f"text {i}", "label": label}) for i, label in enumerate(labels)]
        lines += [
            json.dumps({"text": row.text, "label": filler[i % 3], "split": row.split}) for i, row in enumerate(FILLER)
        ]
        (tmp_path / "x.jsonl").write_text("\n".join(lines))
        source = CorpusSource(path=str(tmp_path / "x.jsonl"), label="label", split="split", **more)
        found = labels_of(read(source)[0])
        return [found[f"text {i}"] for i in range(len(labels))]

    def test_space_case_and_a_fraction_of_zero_do_not_count(self, tmp_path: Path) -> None:
        names = {"0": "negative", "1": "neutral"}
        assert self.build(tmp_path, " Positive ", 0.0, "1.0", 1, label_names=names) == [
            "positive", "negative", "neutral", "neutral",
        ]  # fmt: skip

    def test_nothing_nan_and_what_the_profile_calls_so_are_no_label(self, tmp_path: Path) -> None:
        assert self.build(tmp_path, None, "", "NaN", "N/A", label_names={"n/a": None}) == [None] * 4

    def test_a_key_of_label_names_may_be_written_as_a_fraction_too(self, tmp_path: Path) -> None:
        assert self.build(tmp_path, "2", label_names={"2.0": "positive"}) == ["positive"]

    def test_minus_one_is_a_label_where_no_class_names_say_otherwise(self, tmp_path: Path) -> None:
        assert self.build(tmp_path, -1, label_names={"-1": "negative"}) == ["negative"]

    def test_a_score_that_is_missing_is_no_label_and_not_neutral(self, tmp_path: Path) -> None:
        names = {"n/a": None}
        assert self.build(
            tmp_path, "NaN", "", "n/a", 0.7, thresholds=(-0.1, 0.1), label_names=names, filler=("-1", "0", "1")
        ) == [None, None, None, "positive"]

    def test_a_folder_that_stands_for_null_makes_rows_unlabelled(self, tmp_path: Path) -> None:
        for i, folder in enumerate([*(f"label={label}" for label in LABELS), "label=__HIVE_DEFAULT_PARTITION__"]):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "a.csv").write_text("text\n" + "".join(f"t {i} {j}\n" for j in range(40)))
        table, _ = read(CorpusSource(path=str(tmp_path), label="label"))
        assert Counter(table["label"].to_pylist()) == {**dict.fromkeys(LABELS, 40), None: 40}

    def test_a_row_without_the_key_is_unlabelled(self, tmp_path: Path) -> None:
        (tmp_path / "x.jsonl").write_text(
            "\n".join(json.dumps({"text": f"t {i}"} | ({"label": LABELS[i % 3]} if i % 2 else {})) for i in range(120))
        )
        table, _ = read(CorpusSource(path=str(tmp_path / "x.jsonl"), label="label"))
        assert table["label"].null_count == 60


class TestMessages:
    """Each says what the file looks like, and what to write."""

    def refused(self, path: Path, content: bytes, **settings: object) -> str:
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            read(CorpusSource(path=str(path), **settings))
        return str(error.value)

    def test_another_delimiter(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path / "x.csv", b"headline;sentiment\nx;y\n", text="headline")
        assert message == (
            "x.csv: there is no column 'headline': it has one column, `headline;sentiment`; is `;` the delimiter? "
            "Write corpus.delimiter: ';'"
        )

    def test_another_encoding(self, tmp_path: Path) -> None:
        content = "text\nprofit rose\nUmsatz der Größe nach\n".encode("windows-1252")
        message = self.refused(tmp_path / "x.csv", content)
        assert message.startswith(
            "x.csv, row 2: not valid UTF-8: a byte is 0xf6; as Windows-1252 it reads “Umsatz der Größe nach”. "
            "Write corpus.encoding: 'windows-1252'"
        )

    def test_utf_16(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path / "x.csv", "text\nx\n".encode("utf-16"))
        assert message.endswith("it is UTF-16 by its first bytes, not UTF-8. Write corpus.encoding: 'utf-16'")
        (tmp_path / "y.csv").write_bytes(
            ("text,label\n" + "".join(f"Größe {i},{LABELS[i % 3]}\n" for i in range(90))).encode("utf-16")
        )
        source = CorpusSource(path=str(tmp_path / "y.csv"), label="label", encoding="utf-16")
        assert read(source)[1].kept == 90

    def test_no_header(self, tmp_path: Path) -> None:
        content = b"neutral,The annual meeting takes place in the usual room\n"
        message = self.refused(tmp_path / "x.csv", content, text="sentence")
        assert "the file has no header, name its columns, as corpus.columns: [column1, text]" in message

    def test_a_column_that_no_row_of_jsonl_has(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path / "x.jsonl", b'{"body": "x"}\n{"body": "y"}\n')
        assert "there is no column 'text'; the columns are ['body']" in message

    def test_jsonl_in_a_file_that_is_called_json(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path / "x.json", b'{"text": "x"}\n{"text": "y"}\n')
        assert "its name would end in .jsonl" in message

    def test_a_lone_surrogate(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path / "x.jsonl", b'{"text": "fine"}\n{"text": "half \\ud83d"}\n')
        assert message.startswith("x.jsonl, row 2: character 6 is a lone surrogate (U+D83D), half of a character")

    def test_a_quote_that_is_not_closed(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path / "x.csv", b'text\n"opened here\n' + b"a line\n" * 2000)
        assert message.startswith("x.csv, row 1: a quote is opened in this row and not closed in 1,000 lines")

    def test_a_gzip_file_that_is_cut_off(self, tmp_path: Path) -> None:
        whole = gzip.compress(b"text\n" + b"".join(b"row %d\n" % i for i in range(20000)))
        message = self.refused(tmp_path / "x.csv.gz", whole[: len(whole) // 2])
        assert message.startswith("x.csv.gz: the file cannot be read to its end")

    def test_a_label_outside_the_task(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path / "x.csv", b"text,label\nx,bullish\n", label="label")
        assert "row 1: the label 'bullish' is not one of the task's labels" in message
        assert "corpus.label_names: {'bullish': negative}; to null where it is no label" in message

    def test_a_data_set_with_a_loading_script(self, tmp_path: Path) -> None:
        (tmp_path / "financial_phrasebank").mkdir()
        (tmp_path / "financial_phrasebank" / "financial_phrasebank.py").write_text("import datasets\n")
        with pytest.raises(InputError, match=r"loading script.*known: financial_phrasebank"):
            read(CorpusSource(hub=str(tmp_path / "financial_phrasebank" / "financial_phrasebank.py")))

    def test_contradictory_texts_are_listed_with_both_places(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("text,label\nBoth,positive\n" + "".join(f"t {i},neutral\n" for i in range(50)))
        (tmp_path / "b.csv").write_text("text,label\nother,negative\nBoth,negative\n")
        _, report = read(CorpusSource(path=str(tmp_path), label="label"))
        assert report.examples["contradictory labels"] == [("a.csv, row 1, and b.csv, row 2", "Both")]

    @pytest.mark.parametrize("name", ["x.csv.gz", "x.jsonl.zst"])
    def test_a_file_that_is_not_compressed_as_its_name_says(self, name: str, tmp_path: Path) -> None:
        message = self.refused(tmp_path / name, b"text\nplain\n")
        assert message.startswith(f"{name}: the file cannot be read to its end")

    def test_utf_16_that_breaks_off_stops_the_run_since_the_rest_would_be_lost(self, tmp_path: Path) -> None:
        content = "text\nfirst\nsecond".encode("utf-16")[:-1]
        message = self.refused(tmp_path / "x.csv", content, encoding="utf-16", on_bad_rows="set_aside")
        assert message.startswith("x.csv: not readable as utf-16: ")
        assert message.endswith("truncated data. Correct corpus.encoding, or the file")

    def test_an_encoding_that_does_not_exist_or_is_none_of_text(self, tmp_path: Path) -> None:
        for encoding in ("latin-99", "base64"):
            message = self.refused(tmp_path / "x.csv", b"text\nx\n", encoding=encoding)
            assert message == f"corpus.encoding: there is no encoding '{encoding}'"

    def test_json_of_another_encoding_shows_what_it_would_read(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path / "x.json", '[{"text": "Größe"}]'.encode("windows-1252"))
        assert message.startswith(
            'x.json: not valid UTF-8: a byte is 0xf6; as Windows-1252 it reads “[{"text": "Größe"}]”. '
            "Write corpus.encoding: 'windows-1252'"
        )

    def test_tabs_are_written_as_yaml_reads_them(self, tmp_path: Path) -> None:
        message = self.refused(tmp_path / "x.csv", b"text\tlabel\nx\tpositive\n", label="label")
        written = YAML(typ="safe").load(message.split("Write corpus.")[1])
        assert written == {"delimiter": "\t"}
        source = CorpusSource(path=str(tmp_path / "x.csv"), label="label", **written)
        assert [(row.text, row.label) for row in read_rows(source)] == [("x", "positive")]

    def test_a_file_that_cannot_be_opened_names_itself(self, tmp_path: Path) -> None:
        (tmp_path / "x.csv").write_text("text\nProfit rose\n")
        source = CorpusSource(path=str(tmp_path))
        (file,) = source_files(source)
        (tmp_path / "x.csv").unlink()
        with pytest.raises(InputError, match=r"^x\.csv: the file cannot be read.*No such file"):
            list(read_file(file, source, SourceReport()))

    def test_a_damaged_zip_names_its_file(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.csv", "text\n" + "hello\n" * 1000)
        content = bytearray((tmp_path / "x.zip").read_bytes())
        content[50] ^= 0xFF
        assert self.refused(tmp_path / "x.zip", bytes(content)).startswith("a.csv: it cannot be read from x.zip: ")

    def test_a_folder_in_the_hubs_layout_that_cannot_be_read_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "train.csv").write_bytes(b"text,label\ncaf\xe9,1\n")
        with pytest.raises(InputError, match=r"cannot be loaded \(DatasetGenerationError: 'utf-8' codec can't decode"):
            read(CorpusSource(hub=str(tmp_path / "data")))


class TestBadRows:
    def source(self, tmp_path: Path, **settings: object) -> CorpusSource:
        lines = [f"text {i},{LABELS[i % 3]}" for i in range(96)]
        lines[10:10] = ["one field", "a,b,c", "x,marvellous"]
        content = "text,label\n" + "\n".join(lines) + "\ncaf\udce9,neutral\n"
        (tmp_path / "x.csv").write_bytes(content.encode(errors="surrogateescape"))
        return CorpusSource(path=str(tmp_path / "x.csv"), label="label", on_bad_rows="set_aside", **settings)

    def test_they_are_set_aside_with_file_row_and_reason(self, tmp_path: Path) -> None:
        _, report = read(self.source(tmp_path, bad_rows_at_most=0.05))
        assert (report.read, report.kept, report.reasons["set aside"]) == (100, 96, 4)
        write_bad_rows(report.set_aside, tmp_path / "bad.jsonl")
        written = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
        assert [(bad["file"], bad["row"]) for bad in written] == [("x.csv", row) for row in (11, 12, 13, 100)]
        assert written[0]["reason"] == "1 fields, 2 were expected"
        assert written[0]["content"] == '["one field"]'
        assert "'marvellous' is not one of the task's labels" in written[2]["reason"]

    def test_more_than_the_profile_allows_stop_the_run(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"bad_rows_at_most: 4 of 100 rows .* allows 1\.0% \(x\.csv, row 11: 1 fields"
        ):
            read(self.source(tmp_path))

    def test_one_stops_the_run_where_the_profile_says_nothing(self, tmp_path: Path) -> None:
        source = self.source(tmp_path).model_copy(update={"on_bad_rows": "stop"})
        with pytest.raises(InputError, match=r"x\.csv, row 11: 1 fields, 2 were expected.*on_bad_rows: set_aside"):
            read(source)


class TestText:
    def test_what_files_leave_in_texts_is_cleaned_and_counted(self) -> None:
        texts = ["\ufeffA text", "nul\0inside", "\u200b\u200d", "zero\u200bwidth"]
        some = [Row("f.csv", i, text, None, None, None, None) for i, text in enumerate(texts, 1)]
        table, report = build_corpus([*some, *FILLER], LABELS, {})
        assert {"A text", "nul inside", "zero\u200bwidth"} <= set(table["text"].to_pylist())
        assert report.cleaned == {"NUL or byte-order mark removed": 2}
        assert report.reasons == {"text is empty": 1}

    def test_entities_are_read_as_characters_where_the_profile_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "x.csv").write_text("text,label\nS&amp;P &gt; 4000,positive\n")
        unescaped = next(read_rows(CorpusSource(path=str(tmp_path / "x.csv"), unescape=True)))
        assert unescaped.text == "S&P > 4000"
        assert next(read_rows(CorpusSource(path=str(tmp_path / "x.csv")))).text == "S&amp;P &gt; 4000"

    @settings(deadline=None)
    @given(ANY_TEXT)
    def test_any_string_is_a_text_or_a_named_bad_row(self, text: str) -> None:
        row = Row("f.csv", 7, text, None, None, None, None)
        try:
            _, report = build_corpus([row, *FILLER], LABELS, {})
        except InputError as error:
            named = "f.csv, row 7: character" in str(error)
            assert named and any("\ud800" <= character <= "\udfff" for character in text)  # noqa: PT018
        else:
            assert report.kept + sum(report.reasons.values()) == report.read

    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(texts=st.lists(ANY_TEXT, min_size=1, max_size=6))
    def test_the_corpus_and_the_scorer_see_the_same_rows_of_the_same_file(
        self, texts: list[str], tmp_path: Path
    ) -> None:
        path = tmp_path / "x.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        corpus = [row.text for row in read_rows(CorpusSource(path=str(path))) if row.fault is None]
        scored = _scored_texts(path, Form(settings="--"))
        assert [text for text in scored if text is not None] == [
            text for text in corpus if text is not None and normalise(text) and not _invisible(text)
        ]

    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @example(content=b"\0\xc2", ending=".csv", encoding="windows-1252", columns=None)
    @given(
        content=ANY_FILE,
        ending=st.sampled_from([".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet", ".csv.gz", ".jsonl.zst"]),
        encoding=st.sampled_from([None, "windows-1252", "utf-16", "utf-16-le", "utf-32", "shift_jis", "ascii"]),
        columns=st.sampled_from([None, ("text", "label")]),
    )
    def test_any_bytes_are_rows_or_an_error_that_names_the_file_and_the_scorer_sees_the_same(
        self, content: bytes, ending: str, encoding: str | None, columns: tuple[str, ...] | None, tmp_path: Path
    ) -> None:
        path = tmp_path / f"x{ending}"
        path.write_bytes(content or b" ")
        source = CorpusSource(path=str(path), encoding=encoding, columns=columns)
        form = Form(encoding, columns=columns, settings="--")
        corpus = _texts_or_refusal(path, lambda: [row.text if row.fault is None else None for row in read_rows(source)])
        scored = _texts_or_refusal(path, lambda: _scored_texts(path, form))
        if isinstance(corpus, list):
            corpus = [None if text is None or _invisible(text) else text for text in corpus]
        assert scored == corpus
        assert isinstance(corpus, list) or corpus == NAMES_THE_FILE

    @pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_line_ends_marks_blank_lines_and_compression_change_nothing(
        self, ending: str, newline: str, mark: str, tmp_path: Path
    ) -> None:
        lines = ["text,label", *(f"Größe {i},{LABELS[i % 3]}" for i in range(90))]
        content = (mark + newline.join(lines) + newline).encode()
        compress = {"": bytes, ".gz": gzip.compress, ".zst": lambda c: pa.compress(c, "zstd", asbytes=True)}[ending]
        (tmp_path / f"x.csv{ending}").write_bytes(compress(content))
        table, report = read(CorpusSource(path=str(tmp_path / f"x.csv{ending}"), label="label"))
        assert labels_of(table) == {f"Größe {i}": LABELS[i % 3] for i in range(90)}
        assert report.read == 90


def _texts_or_refusal(path: Path, texts: Callable[[], list[str | None]]) -> list[str | None] | str:
    try:
        return texts()
    except InputError as error:
        return NAMES_THE_FILE if path.name in str(error) else str(error)


def _scored_texts(path: Path, form: Form) -> list[str | None]:
    table = open_table(path, None, "text", form)
    with table.raw:
        return [text for chunk in table.chunks() for text in chunk.texts]


def _invisible(text: str) -> bool:
    from finstill.corpus.text import cleaned

    return not normalise(cleaned(text))


def test_a_million_cells_long_and_short_are_one_row_each(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('text\n"' + "word " * 400_000 + '"\nshort\n')
    assert [len(row.text or "") for row in read_rows(CorpusSource(path=str(tmp_path / "x.csv")))] == [2_000_000, 5]


def test_a_text_file_is_a_text_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("Profit rose, it said\n\nShares fell\n")
    report = SourceReport()
    texts = [row.text for row in read_rows(CorpusSource(path=str(tmp_path / "x.txt")), report)]
    assert texts == ["Profit rose, it said", "Shares fell"]
    assert report.files[0]["read as"] == "a text a line"


def test_text_files_beside_a_table_are_never_lost_in_silence(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "x.txt").write_text("Profit rose\nShares fell\n")
    assert len(list(read_rows(CorpusSource(path=str(tmp_path / "texts"))))) == 2
    (tmp_path / "texts" / "README.txt").write_text("These are texts\n")
    (tmp_path / "texts" / "y.jsonl").write_text('{"text": "Sales grew"}\n')
    with pytest.raises(InputError, match=r"x\.txt: this text file stands beside tables.*list both folders"):
        source_state(CorpusSource(path=str(tmp_path / "texts")))
    (tmp_path / "lines").mkdir()
    (tmp_path / "texts" / "x.txt").rename(tmp_path / "lines" / "x.txt")
    report = SourceReport()
    both = CorpusSource(path=(str(tmp_path / "lines"), str(tmp_path / "texts")))
    assert len(list(read_rows(both, report))) == 3
    assert report.unknown == ["README.txt"]
    assert report.reasons == {"README.txt": "it is called as notes are"}


def test_a_text_file_beside_tables_with_labels_is_passed_over_for_its_true_reason(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label\nProfit rose,positive\n")
    (tmp_path / "about.txt").write_text("Sentences of last year\n")
    report = SourceReport()
    assert len(list(read_rows(CorpusSource(path=str(tmp_path), label="label"), report))) == 1
    assert report.reasons == {"about.txt": "a text file has no column ['label']"}


def test_dictionaries_of_parquet_are_texts(tmp_path: Path) -> None:
    column = pa.array(["a", "b", "a"]).dictionary_encode()
    pq.write_table(pa.table({"text": column}), tmp_path / "x.parquet")
    assert [row.text for row in read_rows(CorpusSource(path=str(tmp_path / "x.parquet")))] == ["a", "b", "a"]


def test_a_compressed_file_that_is_dropped_keeps_its_whole_ending(tmp_path: Path) -> None:
    drop, corpus = tmp_path / "drop", tmp_path / "corpus"
    drop.mkdir()
    corpus.mkdir()
    (drop / "news.csv.gz").write_bytes(gzip.compress(b"text\nProfit rose\n"))
    (copy,) = take(
        str(drop), {"news.csv.gz": ""}, CorpusSource(path=str(corpus)), tmp_path / "taken.json", tmp_path / "c"
    ).copies
    assert copy.name.endswith(".csv.gz")
    assert [row.text for row in read_rows(CorpusSource(path=str(corpus)))] == ["Profit rose"]
