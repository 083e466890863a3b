"""`finstill new` proposes what a person would write for a file, and says where it guessed."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finstill.cli import main
from finstill.config.profile import Profile, read_profile
from finstill.config.recipe import read_recipes
from tests.published_data_sets import PROFILES, PUBLISHED

WORDS = ("Bearish", "Neutral", "Bullish")


def propose(folder: Path, *files: str | Path, options: tuple[str, ...] = ()) -> tuple[Profile, str]:
    """Run the command in `folder`; return the profile that it wrote, read back, and its text."""
    written = folder / "mine.yaml"
    assert main(["new", *map(str, files), "--profile", str(written), *options]) == 0
    profile = read_profile(written)
    read_recipes(profile.recipes)
    return profile, written.read_text()


def table(path: Path, header: str, row: str, *, rows: int = 12, encoding: str = "utf-8", newline: str = "\n") -> Path:
    lines = [header] if header else []
    lines += [row.format(i=i, word=WORDS[i % 3], number=i % 3) for i in range(rows)]
    path.write_bytes((newline.join(lines) + newline).encode(encoding))
    return path


def test_an_export_by_excel(tmp_path: Path) -> None:
    row = "2020-01-{i:02};Gewinn fällt um £{i};{word}"
    file = table(tmp_path / "x.csv", "Date;Headline;Mood", row, encoding="windows-1252", newline="\r\n")
    profile, text = propose(tmp_path, file)
    corpus = profile.corpus
    assert (corpus.encoding, corpus.delimiter) == ("windows-1252", ";")
    assert (corpus.text, corpus.label, corpus.date) == ("Headline", "Mood", "Date")
    assert corpus.label_names == {"Bearish": "negative", "Bullish": "positive"}
    assert profile.task.name == "sentiment"
    assert "# guessed: it is not UTF-8" in text
    assert profile.corpus.path == str(tmp_path / "x.csv")


@pytest.mark.parametrize("name", ["x.csv.gz", "x.jsonl.gz", "x.txt.zst", "x.zip"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(b"text\nplain\n")
    assert main(["new", str(tmp_path / name), "--profile", str(tmp_path / "mine.yaml")]) != 0
    assert re.search(rf"{name}: (the file cannot be read to its end|not readable as zip)", capsys.readouterr().err)
    assert not (tmp_path / "mine.yaml").exists()


def test_a_byte_order_mark_and_a_tab_separated_file_need_no_setting(tmp_path: Path) -> None:
    file = table(tmp_path / "x.tsv", "text\tlabel", "News, number {i}\t{word}", encoding="utf-8-sig")
    profile, _ = propose(tmp_path, file)
    assert (profile.corpus.encoding, profile.corpus.delimiter) == (None, None)
    assert (profile.corpus.text, profile.corpus.label) == ("text", "label")


def test_a_file_without_a_header(tmp_path: Path) -> None:
    file = table(tmp_path / "x.csv", "", "{word},Profit rose {i} percent in the year")
    profile, text = propose(tmp_path, file)
    assert profile.corpus.columns == ("label", "text")
    assert (profile.corpus.text, profile.corpus.label) == ("text", "label")
    assert "# guessed: the first line is no header" in text


def test_rows_as_in_kaggles_phrasebank_are_not_taken_for_it_under_another_name(tmp_path: Path) -> None:
    lines = [f"{label},Größe {i} stieg" for label in ("negative", "neutral", "positive") for i in range(3)]
    (tmp_path / "mine.csv").write_text("\n".join(lines), encoding="utf-8")
    corpus = propose(tmp_path, tmp_path / "mine.csv")[0].corpus
    assert (corpus.known, corpus.encoding, corpus.licence, corpus.name) == (None, None, None, None)
    assert corpus.columns == ("label", "text")


def test_numbers_for_names_are_a_guess_that_is_marked(tmp_path: Path) -> None:
    profile, text = propose(tmp_path, table(tmp_path / "x.csv", "text,label", "News {i},{number}.0"))
    assert profile.corpus.label_names == {"0": "negative", "1": "neutral", "2": "positive"}
    assert "# guessed: see what `finstill check` says of the teacher" in text


def test_scores_become_classes_by_thresholds(tmp_path: Path) -> None:
    profile, _ = propose(tmp_path, table(tmp_path / "x.csv", "sentence,sentiment", "News {i},0.{i}"))
    assert profile.corpus.thresholds == (-0.1, 0.1)


def test_other_classes_are_a_task_of_ones_own_with_a_teacher_that_learns_them(tmp_path: Path) -> None:
    lines = "".join(
        json.dumps({"body": f"News {i}", "category": ("merger", "earnings")[i % 2]}) + "\n" for i in range(9)
    )
    (tmp_path / "x.jsonl").write_text(lines)
    profile, _ = propose(tmp_path, tmp_path / "x.jsonl")
    assert profile.task.labels == ("earnings", "merger")
    assert profile.teacher.fine_tune is not None


@pytest.mark.parametrize("rows", [600, 1500])
def test_a_file_that_is_sorted_by_label_has_all_of_its_labels(rows: int, tmp_path: Path) -> None:
    lines = [f"News {i},{label}" for label in ("negative", "neutral", "positive") for i in range(rows)]
    (tmp_path / "x.csv").write_text("\n".join(["text,label", *lines]))
    profile, text = propose(tmp_path, tmp_path / "x.csv")
    assert (profile.task.name, profile.teacher.checkpoint) == ("sentiment", "ProsusAI/finbert")
    assert "no row that was read is labelled" not in text


def test_labels_of_other_files_count_and_a_file_that_cannot_be_read_is_left_to_the_check(tmp_path: Path) -> None:
    for name, content in {"a": "text,label\nx,a\n", "b": "text,label\ny,b\n", "c": "text,class\nz,c\n"}.items():
        (tmp_path / f"{name}.csv").write_text(content)
    profile, text = propose(tmp_path, *(tmp_path / f"{name}.csv" for name in "abc"))
    assert profile.task.labels == ("a", "b")
    assert "`finstill check` says why" in text


@pytest.mark.parametrize(
    ("found", "task", "missing"),
    [
        (("Bullish",), "sentiment", "negative or neutral"),
        (("risk",), "risk", "no_risk"),
    ],
)
def test_one_label_of_a_built_in_task_keeps_the_task_and_says_so(
    found: tuple[str, ...], task: str, missing: str, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text("text,label\n" + "".join(f"News {i},{label}\n" for i, label in enumerate(found)))
    profile, text = propose(tmp_path, tmp_path / "x.csv")
    assert profile.task.name == task
    assert f"# no row that was read is labelled {missing}\n" in text


def test_two_labels_of_three_are_a_task_of_ones_own_where_all_rows_were_read(tmp_path: Path) -> None:
    rows = "text,label\n" + "".join(f"News {i},{('negative', 'Positive')[i % 2]}\n" for i in range(4))
    (tmp_path / "a.csv").write_text(rows)
    profile, _ = propose(tmp_path, tmp_path / "a.csv")
    assert profile.task.labels == ("Positive", "negative")
    (tmp_path / "b.csv").write_text("text,class\nNews,neutral\n")
    (tmp_path / "other").mkdir()
    profile, text = propose(tmp_path / "other", tmp_path / "a.csv", tmp_path / "b.csv")
    assert profile.task.name == "sentiment"
    assert "# no row that was read is labelled neutral\n" in text


def test_one_value_is_no_task(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label\nNews,merger\nNo news,merger\n")
    profile, text = propose(tmp_path, tmp_path / "x.csv")
    assert (profile.task.name, profile.corpus.label) == ("sentiment", None)
    assert "# 'label' has one value and is not taken for the label" in text


def test_case_makes_no_other_class(tmp_path: Path) -> None:
    labels = ["POSITIVE", "negative", "Negative", "Neutral", "positive", "neutral"]
    (tmp_path / "x.csv").write_text("text,label\n" + "".join(f"News {i},{label}\n" for i, label in enumerate(labels)))
    assert propose(tmp_path, tmp_path / "x.csv")[0].task.name == "sentiment"
    (tmp_path / "y.csv").write_text("text,label\na,merger\nb,Merger\nc,merger\nd,Earnings\n")
    (tmp_path / "mine.yaml").unlink()
    (tmp_path / "mine.students.yaml").unlink()
    assert propose(tmp_path, tmp_path / "y.csv")[0].task.labels == ("Earnings", "merger")


@pytest.mark.parametrize("word", ["N/A", "na", "None", "#N/A", "-"])
def test_a_word_for_no_label_is_none_beside_a_known_task(word: str, tmp_path: Path) -> None:
    file = table(tmp_path / "x.csv", "text,label", "News {i},{word}")
    file.write_text(f"{file.read_text()}News,{word}\n")
    profile, text = propose(tmp_path, file)
    assert profile.task.name == "sentiment"
    assert profile.corpus.label_names == {"Bearish": "negative", "Bullish": "positive", word: None}
    assert "# guessed: null stands for no label" in text


def test_a_word_for_no_label_may_be_a_class_beside_others(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label\na,merger\nb,none\nc,merger\n")
    profile, _ = propose(tmp_path, tmp_path / "x.csv")
    assert profile.task.labels == ("merger", "none")


@pytest.mark.parametrize("label", [["negative"], {"name": "negative"}])
def test_lists_and_objects_are_no_labels(label: object, tmp_path: Path) -> None:
    rows = [{"text": f"News {i}", "label": label} for i in range(6)]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    profile, text = propose(tmp_path, tmp_path / "x.json")
    assert profile.corpus.label is None
    assert "# 'label' holds lists or objects, which are no labels" in text


def test_texts_without_labels_have_no_student_that_learns_from_labels_alone(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("Profit rose, it said\nShares fell\n")
    profile, text = propose(tmp_path, tmp_path / "x.txt")
    assert profile.corpus.label is None
    assert all(recipe.alpha > 0 for recipe in read_recipes(profile.recipes).values())
    assert "No column of labels was found" in text


def test_class_names_of_a_hub_parquet_are_read(tmp_path: Path) -> None:
    names = {"info": {"features": {"label": {"names": ["bearish", "bullish", "neutral"], "_type": "ClassLabel"}}}}
    columns = {"sentence": [f"News {i}" for i in range(6)], "label": [0, 1, 2, -1, 0, 1]}
    data = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(data, tmp_path / "train.parquet")
    profile, _ = propose(tmp_path, tmp_path / "train.parquet")
    assert profile.corpus.label_names == {"bearish": "negative", "bullish": "positive"}


@pytest.mark.parametrize(
    "name", ["financial_phrasebank.csv", "FinancialPhraseBank-v1.0/train.csv", "takala/financial-phrasebank_test.csv"]
)
def test_a_data_set_that_the_teacher_was_trained_on_is_named_after_its_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    file = table(tmp_path / name, "text,label", "News {i},{word}")
    profile, text = propose(tmp_path, file if file.parent == tmp_path else file.parent)
    assert profile.is_contaminated(profile.corpus)
    assert "# guessed: a file or folder is named after this data set" in text


def test_another_file_has_no_name_of_a_known_data_set(tmp_path: Path) -> None:
    profile, _ = propose(tmp_path, table(tmp_path / "sentfinal.csv", "text,label", "News {i},{word}"))
    assert profile.corpus.name is None


def test_a_lake_whose_folders_are_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "lake" / f"split={split}").mkdir(parents=True)
        table(tmp_path / "lake" / f"split={split}" / "part.csv", "text,label", "News {i},{word}")
    profile, _ = propose(tmp_path, tmp_path / "lake")
    assert profile.corpus.split == "split"


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("name", [name for name, said in PROFILES.items() if said.startswith("known: ")])
def test_a_known_data_set_is_recognised_in_a_folder_and_in_a_zip(name: str, form: str, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    PUBLISHED[name](given)
    for archive in given.glob("*.zip"):
        shutil.unpack_archive(archive, given)
        archive.unlink()
    (given / "dataset_info.json").write_text('{"builder_name": "csv"}')
    if form == "zip":
        given = Path(shutil.make_archive(str(given), "zip", given))
    profile, _ = propose(tmp_path, given)
    assert f"known: {profile.corpus.known}" == PROFILES[name]


def test_another_zip_is_looked_into_as_a_folder_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("README.txt", "Headlines of a year\n")
        archive.writestr("dataset_info.json", '{"builder_name": "csv"}')
        archive.writestr("split=train/x.csv", "Headline;Mood\nGröße 1;Bullish\nGröße 2;Bearish\nGröße 3;Neutral\n")
    profile, _ = propose(tmp_path, tmp_path / "x.zip")
    assert (profile.corpus.text, profile.corpus.label, profile.corpus.delimiter) == ("Headline", "Mood", ";")
    assert profile.corpus.split == "split"


def test_several_files_are_one_corpus(tmp_path: Path) -> None:
    files = [table(tmp_path / f"{name}.csv", "text,label", "News {i},{word}") for name in ("a", "b")]
    profile, _ = propose(tmp_path, *files)
    assert profile.corpus.path == (str(files[0]), str(files[1]))


def test_a_teacher_of_ones_own_that_is_an_encoder_is_fine_tuned(tmp_path: Path) -> None:
    file = table(tmp_path / "x.csv", "text,label", "News {i},{word}")
    (tmp_path / "mpnet").mkdir()
    (tmp_path / "mpnet" / "config.json").write_text('{"architectures": ["MPNetForMaskedLM"]}')
    profile, _ = propose(tmp_path, file, options=("--teacher", str(tmp_path / "mpnet")))
    assert Path(profile.teacher.checkpoint) == tmp_path / "mpnet"
    assert profile.teacher.fine_tune is not None


@pytest.mark.parametrize("column", ["a: b", "#", "no", "it's", '"', "Größe", "{x}", "a, b"])
def test_any_name_of_a_column_is_read_back(column: str, tmp_path: Path) -> None:
    rows = [{column: f"A long sentence of news, number {i}", "label": WORDS[i % 3]} for i in range(6)]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    profile, _ = propose(tmp_path, tmp_path / "x.json")
    assert profile.corpus.text == column


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = table(tmp_path / "x.csv", "text,label", "News {i},{word}")
    propose(tmp_path, file)
    before = (tmp_path / "mine.yaml").read_text()
    assert main(["new", str(file), "--profile", str(tmp_path / "mine.yaml")]) == 1
    assert "this file exists already" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == before


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.docx", "x", "no reader knows a file with this ending"),
        ("x.csv", "", "the file is empty"),
        ("x.csv", "\n \n\n", "x.csv: the file has no row"),
        ("x.csv", 300_000 * "word ", "x.csv: its first megabyte has no line break"),
        ("missing.csv", None, "there is no such file"),
    ],
)
def test_what_cannot_be_looked_at_is_said(
    name: str, content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert main(["new", str(tmp_path / name)]) == 1
    assert words in capsys.readouterr().err
