"""Soft labels from elsewhere: tables that come in whole, and tables that are refused with a row and a reason."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finstill.cache.cache import SoftLabelCache, teachers
from finstill.cache.imported import find_imported
from finstill.cache.upkeep import export
from finstill.cli import main
from finstill.corpus.text import normalise, text_key
from finstill.errors import InputError
from finstill.teacher.imported import missing_keys

CLASSES = ("negative", "neutral", "positive")
PROBABILITIES = ["--values", "probabilities"]

Import = Callable[..., tuple[int, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def load(root: Path, capsys: pytest.CaptureFixture[str]) -> Import:
    """Return a function that imports a table as the teacher `votes` and returns the exit status and all output."""

    def load(table: Path, *options: str, teacher: str = "votes") -> tuple[int, str]:
        command = ["cache", "import", str(table), "--root", str(root), "--teacher", teacher]
        status = main([*command, "--classes", ",".join(CLASSES), *options])
        return status, "".join(capsys.readouterr())

    return load


def write_csv(path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = ("text", *CLASSES)) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def softmax_of(root: Path, text: str, name: str = "votes") -> list[float]:
    """Return the probabilities that the cache holds for a text."""
    keys = pa.chunked_array([pa.array([text_key(normalise(text))], pa.binary(16))])
    logits = find_imported(root, name).lookup(keys)[0].astype(float)
    return (np.exp(logits) / np.exp(logits).sum()).tolist()


ROWS: list[tuple[str, float | None, float | None, float | None]] = [
    ("Shares fell", 0.75, 0.125, 0.125),
    ("The  meeting was held", 0.25, 0.5, 0.25),
    ("Profit rose", 0.0625, 0.0625, 0.875),
]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_softmax_of_what_is_stored_are_the_probabilities(
    load: Import, root: Path, tmp_path: Path, ending: str
) -> None:
    table = tmp_path / f"votes.{ending}"
    frame = pl.DataFrame(ROWS, schema=["text", *CLASSES], orient="row")
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[ending](table)
    status, output = load(table, *PROBABILITIES)
    assert status == 0, output
    assert "3 rows read: 3 texts are new" in output
    assert softmax_of(root, "The meeting was held") == pytest.approx([0.25, 0.5, 0.25])
    assert softmax_of(root, "Profit rose") == pytest.approx([0.0625, 0.0625, 0.875])


def test_a_top_k_list_leaves_classes_to_the_floor(load: Import, root: Path, tmp_path: Path) -> None:
    """Label tokens with 0.6 and 0.2 of the probability, a third that the list leaves out, and one below the floor."""
    table = tmp_path / "answers.jsonl"
    rows = [
        {"text": "Shares fell", "negative": math.log(0.6), "neutral": math.log(0.2)},
        {"text": "Profit rose", "positive": math.log(0.8), "neutral": math.log(0.001), "negative": None},
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, output = load(table, "--values", "log-probabilities", "--floor", "0.01")
    assert status == 0, output
    assert "80.0% of the probability" in output
    assert softmax_of(root, "Shares fell") == pytest.approx([0.6 / 0.81, 0.2 / 0.81, 0.01 / 0.81])
    assert softmax_of(root, "Profit rose") == pytest.approx([0.01 / 0.82, 0.01 / 0.82, 0.8 / 0.82])


def test_a_table_is_read_again_without_harm_and_one_that_grew_adds_what_is_new(
    load: Import, root: Path, tmp_path: Path
) -> None:
    table = write_csv(tmp_path / "votes.csv", [*ROWS, ROWS[0]])
    assert (
        "4 rows read: 3 texts are new, 0 were in the cache and 1 rows repeat another" in load(table, *PROBABILITIES)[1]
    )
    parts = find_imported(root, "votes").parts()
    write_csv(table, [*ROWS, ("Sales fell", 1, 0, 0)])
    assert load(table, *PROBABILITIES, "--floor", "0.001")[0] == 1, "a floor that the teacher did not have"
    write_csv(table, [*ROWS, ("Sales fell", 0.5, 0.25, 0.25)])
    assert "1 texts are new, 3 were in the cache" in load(table, *PROBABILITIES)[1]
    assert len(find_imported(root, "votes").parts()) == len(parts) + 1


BAD_TABLES = {
    "no number": ([("A", "much", 0.5, 0.5)], [], "row 1: column 'negative' holds 'much', and a number was expected"),
    "not a distribution": ([ROWS[0], ("A", 0.5, 0.5, 0.5)], [], "row 2: its probabilities add up to 1.5, and 1 was"),
    "too little": ([("A", 0.2, 0.2, 0.2)], [], "row 1: its probabilities add up to 0.6, and 1 was expected"),
    "negative": ([("A", -0.5, 0.75, 0.75)], [], "row 1: 'negative' is -0.5, and a probability lies from 0 to 1"),
    "infinite": ([("A", "inf", 0, 1)], [], "row 1: 'negative' is infinite"),
    "zero": ([("A", 0, 0.5, 0.5)], [], "row 1: 'negative' has no probability. Declare the probability"),
    "left out": ([("A", "", 0.5, 0.5)], [], "row 1: 'negative' has no probability"),
    "nothing": ([("A", "", "", "")], ["--floor", "0.1"], "row 1: its probabilities add up to 0, and more than 0"),
    "no text": ([ROWS[0], ("  ", 0.5, 0.25, 0.25)], [], "row 2: the text is empty"),
    "contradiction": (
        [ROWS[0], ROWS[1], ("Shares  fell", 0.5, 0.25, 0.25)],
        [],
        "row 3: it gives the text of row 1 another answer",
    ),
    "floor": (ROWS, ["--floor", "0.5"], "--floor: it is 0.5, and must lie between 0 and 1/3"),
    "fields": ([("A", 1, 0)], [], "row 1: 3 fields, 4 were expected"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_table_that_cannot_be_used_is_named_with_row_and_reason_and_nothing_is_written(
    load: Import, root: Path, tmp_path: Path, case: str
) -> None:
    rows, options, message = BAD_TABLES[case]
    status, output = load(write_csv(tmp_path / "votes.csv", rows), *PROBABILITIES, *options)
    assert status == 1
    assert message in output
    assert len(output.splitlines()) == 1
    assert not root.exists()


@pytest.mark.parametrize(
    ("values", "row", "message"),
    [
        ("logits", ("A", 0.2, 0.3, 0.5), "its rows add up to 1: they are probabilities"),
        ("logits", ("A", "nan", 0, 0), "row 1: 'negative' is nan, and a logit was expected"),
        ("logits", ("A", "1e39", 0, 0), "row 1: 'negative' is 1e+39, which is beyond float32"),
        ("log-probabilities", ("A", -1, 2, -1), "row 1: 'neutral' is 2, and a log-probability is at most 0"),
        ("log-probabilities", ("A", -0.1, -0.1, -0.1), "row 1: its probabilities add up to 2.71"),
    ],
)
def test_values_of_another_kind_than_was_said_are_refused(
    load: Import, root: Path, tmp_path: Path, values: str, row: tuple, message: str
) -> None:
    status, output = load(write_csv(tmp_path / "votes.csv", [row]), "--values", values)
    assert status == 1
    assert message in output
    assert not root.exists()


def test_columns_and_files_that_are_not_there_are_named(load: Import, root: Path, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "votes.csv", ROWS, header=("text", "negative", "neutral", "bullish"))
    assert "there is no column 'positive'" in load(table, *PROBABILITIES)[1]
    assert "there is no column 'body'" in load(table, *PROBABILITIES, "--text", "body")[1]
    assert "there is no such file" in load(tmp_path / "none.csv", *PROBABILITIES)[1]
    assert "is .parquet, .jsonl" in load(write_csv(tmp_path / "votes.txt", ROWS), *PROBABILITIES)[1]
    assert "there is no such file" in load(table, *PROBABILITIES, "--settings", "prompt.txt")[1]
    assert not root.exists()


def test_what_is_stored_does_not_change_under_a_name(load: Import, root: Path, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "votes.csv", ROWS)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Is it good news?")
    load(table, *PROBABILITIES, "--settings", str(prompt))
    before = sorted(root.rglob("*"))
    assert "knows the teacher 'votes' with settings" in load(table, *PROBABILITIES)[1]
    changed = write_csv(tmp_path / "later.csv", [ROWS[0], ("Profit rose", 0.5, 0.25, 0.25)])
    status, output = load(changed, *PROBABILITIES, "--settings", str(prompt))
    assert status == 1
    assert f"{changed}, row 2: the cache has another answer for this text" in output
    assert sorted(root.rglob("*")) == before
    assert load(changed, *PROBABILITIES, teacher="votes@2")[0] == 0
    assert len(teachers(root)) == 2


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8).map(normalise),
        st.lists(st.floats(-80, 80, width=32), min_size=3, max_size=3),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from(["csv", "parquet"]),
)
def test_out_and_in_again_is_the_same_set(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, list[float]], ending: str
) -> None:
    folder = tmp_path_factory.mktemp("round")
    table = folder / "logits.jsonl"
    # One that is no probability, so that the table cannot be taken for such.
    rows = {**rows, "a text of its own": [9.0, -9.0, 0.0]}
    table.write_text(
        "".join(
            json.dumps({"text": text, **dict(zip(CLASSES, each, strict=True))}) + "\n" for text, each in rows.items()
        )
    )
    names = ["--teacher", "votes", "--classes", ",".join(CLASSES), "--values", "logits"]
    assert main(["cache", "import", str(table), "--root", str(folder / "one"), *names]) == 0
    first = find_imported(folder / "one", "votes")
    exported = folder / f"export.{ending}"
    assert export(first, exported) == len(rows)
    assert main(["cache", "import", str(exported), "--root", str(folder / "two"), "--key", "key", *names]) == 0
    second = find_imported(folder / "two", "votes")
    assert second.fingerprint == first.fingerprint
    # A part is named by its bytes.
    assert [Path(part).name for part in second.parts()] == [Path(part).name for part in first.parts()]


def test_a_checkpoints_logits_come_back_from_their_export(root: Path, tmp_path: Path, load: Import) -> None:
    random = np.random.default_rng(1)
    import pyarrow as pa

    cache = SoftLabelCache(root, "f" * 32, CLASSES, {"source": "owner/model"})
    keys = pa.array([random.bytes(16) for _ in range(50)], pa.binary(16))
    logits = random.normal(size=(50, 3)).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), 3)
    cache.append(pa.table([keys, flat, pa.array([7] * 50, pa.int32()), [False] * 50], schema=cache.schema))
    export(cache, tmp_path / "export.csv")
    assert load(tmp_path / "export.csv", "--key", "key", "--values", "logits")[0] == 0
    assert np.array_equal(find_imported(root, "votes").lookup(pa.chunked_array([keys])), logits)


def test_texts_that_one_of_several_teachers_lacks_must_leave_some_of_each_split(
    load: Import, root: Path, tmp_path: Path
) -> None:
    parts = {"Profit rose": "train", "Sales grew": "train", "Shares fell": "test", "Costs rose": "test"}
    corpus, tokens = tmp_path / "corpus.parquet", tmp_path / "tokens.parquet"
    keys = pa.array([text_key(normalise(text)) for text in parts], pa.binary(16))
    pq.write_table(pa.table({"key": keys, "text": list(parts), "split": list(parts.values())}), corpus)
    pq.write_table(pa.table({"key": keys}), tokens)
    imported = {}
    for name, lacking in (("votes", "Shares fell"), ("model", "Costs rose")):
        rows = [(text, 0.25, 0.5, 0.25) for text in parts if text != lacking]
        assert load(write_csv(tmp_path / f"{name}.csv", rows), *PROBABILITIES, teacher=name)[0] == 0
        imported[name] = find_imported(root, name)
        assert len(missing_keys({tokens: corpus}, {name: imported[name]}, "leave_out")) == 1
    with pytest.raises(InputError, match=r"each of the 2 test texts lacks a row of one of .*'votes', 'model'"):
        missing_keys({tokens: corpus}, imported, "leave_out")
