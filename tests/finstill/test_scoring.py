"""`finstill score`: the same table with answers, bad rows aside, and what was cut off goes on."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finstill.cli import main
from finstill.corpus.readers import Form
from finstill.errors import InputError
from finstill.serving import StudentClassifier, score, tables
from finstill.serving.formats import COMMAND_LINE, open_table
from finstill.serving.package import Package
from finstill.serving.score import TableScorer

ROOT = Path(__file__).parents[2]
LONG = "profit rose " * 40
TEXTS = [f"Profit rose {i} percent, said the chief" for i in range(50)]


def expected(package: Package, texts: list[str]) -> list[tuple[str, dict[str, float]]]:
    return [(score.label, score.probabilities) for score in StudentClassifier(package.folder).score(texts)]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_CHUNK", 8)


@pytest.mark.usefixtures("small_chunks")
class TestFormats:
    def test_csv(self, package: Package, tmp_path: Path) -> None:
        rows = [("1", 'a "quoted", text\nof two lines'), ("2", "Ünïcode")]
        with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows([("id", "text"), *rows])
        assert main(["score", str(package.folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv")]) == 0
        written = read_csv(tmp_path / "out.csv")
        assert [(row["id"], row["text"]) for row in written] == rows
        for row, (label, probabilities) in zip(written, expected(package, [text for _, text in rows]), strict=True):
            assert row["label"] == label
            assert {name: float(row[f"probability_{name}"]) for name in package.labels} == pytest.approx(probabilities)
            assert row["windows"] == "1"
            assert sum(float(row[f"calibrated_{name}"]) for name in package.labels) == pytest.approx(1)

    def test_html_entities_that_the_corpus_has_decoded(
        self, package: Package, trained_on_cut_texts: Callable[..., Package], tmp_path: Path
    ) -> None:
        decoding = trained_on_cut_texts(package, unescape=True)
        (tmp_path / "in.csv").write_text("text\n&nbsp;\nAT&amp;T profit &lt; 5\n")
        assert main(["score", str(decoding.folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv")]) == 0
        (written,) = read_csv(tmp_path / "out.csv")
        ((label, probabilities),) = expected(package, ["AT&T profit < 5"])
        assert (written["text"], written["label"]) == ("AT&amp;T profit &lt; 5", label)
        assert {name: float(written[f"probability_{name}"]) for name in package.labels} == pytest.approx(probabilities)
        (rejected,) = read_jsonl(tmp_path / "out.csv.rejects.jsonl")
        assert (rejected["row"], rejected["reason"]) == (1, "the text is empty")

    def test_jsonl(self, package: Package, tmp_path: Path) -> None:
        rows = [{"text": text, "n": i, "nested": {"a": [i]}} for i, text in enumerate(TEXTS)]
        (tmp_path / "in.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
        assert main(["score", str(package.folder), str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 0
        written = read_jsonl(tmp_path / "out.jsonl")
        assert [{name: row[name] for name in rows[0]} for row in written] == rows
        assert [row["label"] for row in written] == [label for label, _ in expected(package, TEXTS)]

    def test_parquet_keeps_types(self, package: Package, tmp_path: Path) -> None:
        table = pa.table(
            {"n": pa.array(range(50), pa.int16()), "news": pa.array(TEXTS).dictionary_encode(), "t": [b"\xff"] * 50}
        )
        pq.write_table(table, tmp_path / "in.parquet")
        command = ["score", str(package.folder), str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet")]
        assert main([*command, "--text", "news", "--explain"]) == 0
        written = pq.read_table(tmp_path / "out.parquet")
        assert written.select(["n", "news", "t"]).schema.types == table.schema.types
        assert written["news"].to_pylist() == TEXTS
        assert written["label"].to_pylist() == [label for label, _ in expected(package, TEXTS)]
        words = written["attention"][0].as_py()
        assert [each["word"] for each in words] == ["Profit", "rose", "0", "percent", ",", "said", "the", "chief"]

    def test_a_header_without_rows_is_a_table_without_rows(self, package: Package, tmp_path: Path) -> None:
        (tmp_path / "in.csv").write_text("text,id\n")
        assert main(["score", str(package.folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv")]) == 0
        assert (tmp_path / "out.csv").read_text().startswith("text,id,label,probability_negative")


@pytest.mark.usefixtures("small_chunks")
class TestBadRows:
    def test_of_csv_go_to_a_side_file_and_the_rest_are_scored(self, package: Package, tmp_path: Path) -> None:
        lines = [b"text,id", b"good,1", b"one field", b"caf\xe9,3", b",4", b"good,5", b"a,b,c", *[b"good,7"] * 10]
        (tmp_path / "in.csv").write_bytes(b"\n".join(lines))
        assert main(["score", str(package.folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv")]) == 0
        assert [row["id"] for row in read_csv(tmp_path / "out.csv")] == ["1", "5", *["7"] * 10]
        rejects = read_jsonl(tmp_path / "out.csv.rejects.jsonl")
        assert [(each["row"], each["reason"]) for each in rejects] == [
            (2, "1 fields, 2 were expected"),
            (3, "not valid UTF-8: a byte is 0xe9; as Windows-1252 it reads “café,3”"),
            (4, "the text is empty"),
            (6, "3 fields, 2 were expected"),
        ]
        assert rejects[1]["content"] == ["caf\ufffd", "3"]

    def test_of_jsonl(self, package: Package, tmp_path: Path) -> None:
        lines = [b'{"text": "good"}', b"{", b"[1]", b'{"text": 3}', b'{"text": null}', b'{"id": 1}', b'"\xff"']
        (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
        assert main(["score", str(package.folder), str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 0
        assert len(read_jsonl(tmp_path / "out.jsonl")) == 1
        reasons = [each["reason"] for each in read_jsonl(tmp_path / "out.jsonl.rejects.jsonl")]
        assert reasons[0].startswith("not a JSON object: ")
        assert reasons[1:] == [
            "a JSON object was expected",
            "'text' holds int, text was expected",
            "the text is missing",
            "there is no 'text'",
            'not valid UTF-8: a byte is 0xff; as Windows-1252 it reads “"ÿ"”',
        ]

    def test_of_parquet(self, package: Package, tmp_path: Path) -> None:
        binary = pa.array([b"good", None, b"  ", b"\xff", b"good"], pa.binary())
        broken = pa.Array.from_buffers(pa.string(), 5, binary.buffers())
        pq.write_table(pa.table({"text": broken}), tmp_path / "in.parquet")
        assert main(["score", str(package.folder), str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet")]) == 0
        assert pq.read_table(tmp_path / "out.parquet")["text"].to_pylist() == ["good", "good"]
        assert [each["row"] for each in read_jsonl(tmp_path / "out.parquet.rejects.jsonl")] == [2, 3, 4]

    def test_long_texts_are_marked_or_set_aside(self, package: Package, tmp_path: Path) -> None:
        (tmp_path / "in.csv").write_text(f"text\nshort\n{LONG}\nshort\n")
        command = ["score", str(package.folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv")]
        assert main(command) == 0
        assert [int(row["windows"]) > 1 for row in read_csv(tmp_path / "out.csv")] == [False, True, False]
        assert main([*command, "--long", "refuse"]) == 0
        assert len(read_csv(tmp_path / "out.csv")) == 2
        (reject,) = read_jsonl(tmp_path / "out.csv.rejects.jsonl")
        assert (reject["row"], reject["reason"]) == (2, "the text has 82 tokens, and the student reads 32")

    def test_all_of_a_long_text_is_read_where_asked(
        self, package: Package, trained_on_cut_texts: Callable[..., Package], tmp_path: Path
    ) -> None:
        (tmp_path / "in.csv").write_text(f"text\n{LONG}\n")
        cut = str(trained_on_cut_texts(package).folder)
        command = ["score", cut, str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), "--long", "windows"]
        assert main(command) == 0
        (row,) = read_csv(tmp_path / "out.csv")
        assert int(row["windows"]) > 1

    def test_deeply_nested_ones_are_set_aside_as_others_are(self, package: Package, tmp_path: Path) -> None:
        deep = '{"id": ' + "[" * 500 + "]" * 500 + "}"
        (tmp_path / "in.jsonl").write_text(f'{{"text": "good"}}\n{deep}\n{{"text": "good"}}\n')
        assert main(["score", str(package.folder), str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 0
        assert len(read_jsonl(tmp_path / "out.jsonl")) == 2
        (reject,) = read_jsonl(tmp_path / "out.jsonl.rejects.jsonl")
        assert reject["row"] == 2

    def test_what_json_cannot_hold_is_cut_short(self) -> None:
        content: list = []
        for _ in range(100_000):
            content = [content]
        written = json.loads(score._line(tables.Fault(3, "the text is missing", content)))
        assert written == {"row": 3, "reason": "the text is missing", "content": "[[[[[[[...]]]]]]]"}

    def test_a_table_without_bad_rows_leaves_no_side_file(self, package: Package, tmp_path: Path) -> None:
        (tmp_path / "in.csv").write_text("text\ngood\n")
        (tmp_path / "out.csv.rejects.jsonl").write_text("of an earlier run\n")
        assert main(["score", str(package.folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv")]) == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


@pytest.mark.usefixtures("small_chunks")
class TestResume:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        path = tmp_path / "in.csv"
        path.write_text("text\n" + "".join(f'"{text}"\n' for text in TEXTS))
        return path

    def cut_off(self, package: Package, source: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        """Score until `after` chunks stand, then fail as a full disk would."""
        write = score._write

        def failing(path: Path, content: bytes) -> None:
            if path.name == f"{after:08}.rows":
                raise OSError("No space left on device")
            write(path, content)

        with monkeypatch.context() as patched:
            patched.setattr(score, "_write", failing)
            assert main(["score", str(package.folder), str(source), str(source.with_name("out.csv"))]) == 1
        assert not source.with_name("out.csv").exists()

    def score(self, folder: Path, source: Path, form: Form = COMMAND_LINE) -> tuple[int, list[str]]:
        """Score to the end and return the texts that reached the student, and what was said."""
        said: list[str] = []
        student = StudentClassifier(folder)
        reached = 0
        score = student.score

        def counting(texts, *, explain=False):  # type: ignore[no-untyped-def]
            nonlocal reached
            texts = list(texts)
            reached += len(texts)
            return score(texts, explain=explain)

        student.score = counting  # type: ignore[method-assign]
        output = source.with_name("out.csv")
        scorer = TableScorer(student, say=said.append)
        scorer.to_file(open_table(source, None, "text", form), source, output, output.with_name("rejects"))
        return reached, said

    def test_it_goes_on_where_it_was(self, package: Package, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cut_off(package, source, monkeypatch, after=4)
        reached, said = self.score(package.folder, source)
        assert reached == len(TEXTS) - 4 * 8
        assert said == ["goes on where it was cut off"]
        assert [row["text"] for row in read_csv(source.with_name("out.csv"))] == TEXTS
        assert not source.with_name("out.csv.unfinished").exists()

    def test_it_starts_anew_where_the_input_changed(
        self, package: Package, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.cut_off(package, source, monkeypatch, after=4)
        source.write_text(source.read_text().replace("percent", "pct"))
        reached, said = self.score(package.folder, source)
        assert reached == len(TEXTS)
        assert "starts anew" in said[0]

    def test_or_its_encoding(self, package: Package, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cut_off(package, source, monkeypatch, after=4)
        reached, said = self.score(package.folder, source, Form("windows-1252", settings="--"))
        assert reached == len(TEXTS)
        assert "starts anew" in said[0]

    def test_or_the_student(
        self,
        package: Package,
        make_package: Callable[..., Package],
        source: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.cut_off(package, source, monkeypatch, after=4)
        reached, _ = self.score(make_package("another", seed=4).folder, source)
        assert reached == len(TEXTS)

    def test_or_what_becomes_of_long_texts(
        self,
        package: Package,
        trained_on_cut_texts: Callable[..., Package],
        source: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.cut_off(package, source, monkeypatch, after=4)
        reached, said = self.score(trained_on_cut_texts(package).folder, source)
        assert reached == len(TEXTS)
        assert "starts anew" in said[0]


class TestTwoRunsToOneOutput:
    @pytest.mark.usefixtures("small_chunks")
    def test_the_second_is_refused_while_the_first_is_at_work(
        self,
        package: Package,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        first, second = tmp_path / "first.csv", tmp_path / "second.csv"
        first.write_text("text\n" + "".join(f'"{text}"\n' for text in TEXTS))
        second.write_text("text\n" + "another\n" * len(TEXTS))
        output, statuses = tmp_path / "out.csv", []

        def start_second(line: str) -> None:
            if not statuses:
                statuses.append(main(["score", str(package.folder), str(second), str(output)]))

        # A line after each chunk, so that the second starts after the first chunk of the first.
        monkeypatch.setattr(score, "SECONDS_BETWEEN_LINES", 0)
        table, scorer = (
            open_table(first, None, "text"),
            TableScorer(StudentClassifier(package.folder), say=start_second),
        )
        scorer.to_file(table, first, output, tmp_path / "rejects")
        assert statuses == [1]
        assert f"error: {output}: another run of finstill score writes there." in capsys.readouterr().err
        assert [row["text"] for row in read_csv(output)] == TEXTS
        assert sorted(path.name for path in tmp_path.iterdir()) == ["first.csv", "out.csv", "second.csv"]

    def test_a_lock_that_was_removed_before_it_was_got_keeps_others_out_all_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (path,) = removed = [tmp_path / "out.csv.unfinished.lock"]
        lock = fcntl.flock

        def after_another_has_ended(file: int, operation: int) -> None:
            while removed:
                removed.pop().unlink()
            lock(file, operation)

        monkeypatch.setattr(fcntl, "flock", after_another_has_ended)
        with score._only_run(tmp_path / "out.csv"):
            assert path.exists()
            with pytest.raises(InputError, match="another run"), score._only_run(tmp_path / "out.csv"):
                pass
        assert not path.exists()


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "content", "options", "message"),
        [
            ("in.csv", "body\nx\n", [], "there is no column 'text'; the columns are ['body']. Give --text"),
            ("in.jsonl", '{"body": "x"}\n', [], "there is no column 'text'; the columns are ['body']"),
            ("in.csv", "", [], "the file is empty"),
            ("in.csv", "text,label\nx,y\n", [], "there is a column 'label' already. Give --prefix"),
            ("in.jsonl", '{"text": "x", "label": 1}\n', [], "row 1: there is a column 'label' already. Give --prefix"),
            ("in.docx", "x\n", [], "ends in none of .csv, .tsv, .txt, .jsonl, .ndjson, .json, .parquet"),
            ("in.csv", "text;id\nx;1\n", [], "`text;id`; is `;` the delimiter? Write --delimiter ';'"),
            ("in.csv", "text\nx\n", ["--encoding", "klingon"], "there is no encoding 'klingon'"),
            ("in.parquet", "PAR1 no", [], "not readable as Parquet"),
            ("in.csv", "text\nx\n", ["--threads", "0"], "0 threads cannot run"),
        ],
    )
    def test_each_names_what_is_wrong(
        self,
        package: Package,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        name: str,
        content: str,
        options: list[str],
        message: str,
    ) -> None:
        (tmp_path / name).write_text(content)
        output = tmp_path / name.replace("in", "out")
        assert main(["score", str(package.folder), str(tmp_path / name), str(output), *options]) == 1
        assert message in capsys.readouterr().err
        assert not output.exists()

    @pytest.mark.usefixtures("small_chunks")
    def test_the_one_row_that_has_a_column_of_such_a_name_is_named(
        self, package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [{"text": text, **({"label": 1} if i == 20 else {})} for i, text in enumerate(TEXTS, start=1)]
        (tmp_path / "in.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
        assert main(["score", str(package.folder), str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 1
        assert f"{tmp_path / 'in.jsonl'}, row 20: there is a column 'label' already" in capsys.readouterr().err

    def test_a_prefix_makes_room(self, package: Package, tmp_path: Path) -> None:
        (tmp_path / "in.csv").write_text("text,label\nx,y\n")
        command = ["score", str(package.folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv")]
        assert main([*command, "--prefix", "s_"]) == 0
        (row,) = read_csv(tmp_path / "out.csv")
        assert row["label"] == "y"
        assert row["s_label"] in package.labels

    def test_another_kind_of_output_is_refused(
        self, package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "in.csv").write_text("text\nx\n")
        assert main(["score", str(package.folder), str(tmp_path / "in.csv"), str(tmp_path / "out.jsonl")]) == 1
        assert "the input is csv, and so is the output" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("source", "output", "rejects", "message"),
        [
            ("out.csv.rejects.jsonl", "out.csv", None, "out.csv.rejects.jsonl: input and rejects are the same file"),
            ("in.csv", "out.csv", "folder/../in.csv", "in.csv: input and rejects are the same file"),
            ("in.csv", "out.csv", "link", "link: input and rejects are the same file"),
            ("in.csv", "-", "in.csv", "in.csv: input and rejects are the same file"),
            ("in.csv", "out.csv", "out.csv", "out.csv: output and rejects are the same file"),
            ("in.csv", "link.csv", None, "link.csv: input and output are the same file"),
        ],
    )
    def test_no_file_is_written_over_another(
        self,
        package: Package,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        source: str,
        output: str,
        rejects: str | None,
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path(source).write_text("text\nx\n")
        Path("folder").mkdir()
        for link in ("link", "link.csv"):
            Path(link).symlink_to(source)
        options = ["--format", "csv", *(["--rejects", rejects] if rejects else [])]
        assert main(["score", str(package.folder), source, output, *options]) == 1
        assert message in capsys.readouterr().err
        assert Path(source).read_text() == "text\nx\n"

    def test_an_input_that_is_missing_is_named_also_where_the_output_exists(
        self, package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "existing.csv").write_text("text\nx\n")
        assert main(["score", str(package.folder), str(tmp_path / "missing.csv"), str(tmp_path / "existing.csv")]) == 1
        assert f"{tmp_path / 'missing.csv'}: there is no such file" in capsys.readouterr().err
        assert (tmp_path / "existing.csv").read_text() == "text\nx\n"

    @pytest.mark.parametrize("output", ["out.csv", "out.docx", "out", "-"])
    def test_a_standard_input_of_no_told_format_asks_for_it(
        self, package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
    ) -> None:
        path = output if output == "-" else str(tmp_path / output)
        assert main(["score", str(package.folder), "-", path]) == 1
        assert capsys.readouterr().err == (
            "error: the standard input: its format is not told. Give --format csv, tsv or jsonl\n"
        )

    @pytest.mark.parametrize("output", ["folder.csv", "file/out.csv"])
    def test_an_output_that_cannot_be_written_is_named(
        self, package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
    ) -> None:
        (tmp_path / "in.csv").write_text("text\nx\n")
        (tmp_path / "folder.csv").mkdir()
        (tmp_path / "file").write_text("")
        assert main(["score", str(package.folder), str(tmp_path / "in.csv"), str(tmp_path / output)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path / output.partition('/')[0]}")


SCORE = "-m", "finstill", "score"


class TestWithTheBaseDependenciesAlone:
    def test_streams(self, package: Package, run_alone: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
        content = "text\n" + "".join(f'"{text}"\n' for text in TEXTS) + '""\n'
        scored = run_alone(*SCORE, str(package.folder), "-", "--format", "csv", input=content.encode())
        assert scored.returncode == 0, scored.stderr
        rows = list(csv.DictReader(scored.stdout.decode().splitlines()))
        assert [row["label"] for row in rows] == [label for label, _ in expected(package, TEXTS)]
        assert b"row 51: the text is empty" in scored.stderr
        assert b"50 rows scored" in scored.stderr

    def test_parquet_names_what_to_install(
        self, package: Package, tmp_path: Path, run_alone: Callable[..., subprocess.CompletedProcess[bytes]]
    ) -> None:
        pq.write_table(pa.table({"text": ["x"]}), tmp_path / "in.parquet")
        refused = run_alone(*SCORE, str(package.folder), str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"))
        assert refused.returncode == 1
        assert b"pip install 'finstill[pipeline]' (or pyarrow alone), or give CSV or JSONL" in refused.stderr

    def test_other_commands_name_the_extra(self, run_alone: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
        refused = run_alone("-m", "finstill", "cache", "ls")
        assert refused.returncode == 1
        assert b"pip install 'finstill[pipeline]'" in refused.stderr
        told = run_alone("-m", "finstill", "--help")
        assert told.returncode == 0
        assert all(name in told.stdout for name in (b"score", b"new", b"check", b"cache"))


def test_a_reader_that_has_enough_is_no_error(package: Package, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": f"t {i}"}) + "\n" for i in range(9000)))
    command = [sys.executable, "-m", "finstill", "score", str(package.folder), str(tmp_path / "in.jsonl")]
    reading, writing = os.pipe()
    process = subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(writing)
    os.close(reading)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
