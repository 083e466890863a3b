"""Tables say what made them, and what does not belong together is not joined."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import softmax
from tokenizers import Tokenizer

from finstill.augment.build import augment_corpus
from finstill.cache.ensemble import write_average_logits
from finstill.config.profile import Augmentation
from finstill.config.recipe import Recipe
from finstill.config.task import SENTIMENT
from finstill.config.workspace import Workspace
from finstill.corpus.build import build_corpus, write_corpus
from finstill.corpus.provenance import TableProvenance, made_by, require_tokens_of
from finstill.corpus.rows import Row
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import load_tokenizer
from finstill.corpus.tokens import text_positions, tokenize_corpus
from finstill.errors import InputError
from finstill.files import read_json, write_json
from finstill.teacher.checkpoint import resolve_checkpoint
from finstill.teacher.export import TeacherGraph, require_answers_of
from finstill.training.distil import train_student
from finstill.training.rows import TrainingRows, training_rows, with_augmented
from finstill.training.trained import TRAINING_FILE, TrainedStudent
from tests.tables import forget_provenance, write_logits_table

ROWS = {"train": ("Sales rose", "positive"), "validation": ("It meets", "neutral"), "test": ("Sales fell", "negative")}


class Tables:
    """A corpus of a text a split, its tokens, and what a teacher says of them."""

    def __init__(self, root: Path):
        self.root = root
        self.corpus, self.tokens, self.logits = (root / f"{n}.parquet" for n in ("corpus", "tokens", "teacher_logits"))
        rows = [
            Row("f.csv", i, text, label, None, None, split) for i, (split, (text, label)) in enumerate(ROWS.items())
        ]
        texts, _ = build_corpus(rows, SENTIMENT.labels, {})
        write_corpus(texts, self.corpus)
        self.keys = texts["key"].to_pylist()
        self.numbers = np.random.default_rng(0).normal(size=(len(self.keys), 3)).astype(np.float32)
        self.tokenize()
        self.provenance = replace(TableProvenance.read(self.tokens), teachers=("f" * 32,))
        self.write_logits()

    @staticmethod
    def tokenizer(max_length: int = 32) -> Tokenizer:
        return load_tokenizer(resolve_checkpoint("embedded").folder, max_length)

    def tokenize(self, max_length: int = 32) -> None:
        tokenize_corpus(self.corpus, self.tokenizer(max_length), self.tokens)

    def write_logits(self, order: list[int] | None = None) -> None:
        order = list(range(len(self.keys))) if order is None else order
        keys = [self.keys[i] for i in order]
        write_logits_table(self.logits, keys, self.numbers[order], SENTIMENT.labels, self.provenance)

    def rows(self) -> dict[str, TrainingRows]:
        return training_rows(self.corpus, self.tokens, SENTIMENT, self.logits)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def test_a_table_of_tokens_says_how_its_texts_were_read(tables: Tables) -> None:
    said = TableProvenance.read(tables.tokens)
    assert (said.max_length, said.long, said.teachers) == (32, "cut", ())
    tokenize_corpus(tables.corpus, tables.tokenizer(16), tables.tokens, "windows")
    assert TableProvenance.read(tables.tokens) == replace(said, max_length=16, long="windows")


def test_rows_know_what_made_their_tables(tables: Tables) -> None:
    assert {rows.provenance for rows in tables.rows().values()} == {tables.provenance}
    assert tables.rows()["train"].labelled().whole_texts().provenance == tables.provenance


def test_logits_of_texts_that_were_read_up_to_another_length_are_refused(tables: Tables) -> None:
    tables.tokenize(max_length=16)
    with pytest.raises(InputError, match=r"max_length 32.*max_length 16.*Materialize teacher_logits again") as refused:
        tables.rows()
    assert str(tables.logits) in str(refused.value)
    assert str(tables.tokens) in str(refused.value)


@pytest.mark.parametrize(("name", "asset"), [("tokens", "tokens"), ("logits", "teacher_logits")])
def test_a_table_of_an_older_version_is_refused(tables: Tables, name: str, asset: str) -> None:
    path = getattr(tables, name)
    forget_provenance(path)
    with pytest.raises(InputError, match=f"{path.name}: it does not say .*Materialize {asset} again"):
        tables.rows()


def test_rows_and_logits_meet_by_key(tables: Tables) -> None:
    before = tables.rows()
    tables.write_logits([2, 0, 1])
    for split, rows in tables.rows().items():
        assert rows.input_ids.tolist() == before[split].input_ids.tolist()
        assert np.array_equal(rows.teacher_logits, before[split].teacher_logits)  # type: ignore[arg-type]


def test_a_correction_of_the_classes_reaches_a_teachers_logits_once(tables: Tables) -> None:
    turned = {"negative": ("neutral",), "neutral": ("positive",), "positive": ("negative",)}
    task = SENTIMENT.model_copy(update={"teacher_classes": turned})
    one = training_rows(tables.corpus, tables.tokens, task, tables.logits)["train"].teacher_logits
    other = replace(tables.provenance, teachers=("g" * 32,))
    further = write_logits_table(tables.root / "g.parquet", tables.keys, tables.numbers, SENTIMENT.labels, other)
    write_average_logits([tables.logits, further], task, tables.root / "mean.parquet")
    mean = training_rows(tables.corpus, tables.tokens, task, tables.root / "mean.parquet")["train"].teacher_logits
    plain = tables.rows()["train"].teacher_logits
    assert plain is not None
    assert one is not None
    assert np.array_equal(one, plain[:, [1, 2, 0]])
    assert softmax(mean, axis=1) == pytest.approx(softmax(one, axis=1), abs=1e-6)


def test_a_text_without_logits_is_named(tables: Tables) -> None:
    tables.write_logits([2, 0])
    with pytest.raises(InputError, match=f"no row for the key {tables.keys[1].hex()}.*Materialize teacher_logits"):
        tables.rows()


def test_a_text_with_two_rows_of_logits_is_named(tables: Tables) -> None:
    tables.write_logits([0, 1, 2, 1])
    with pytest.raises(InputError, match=f"the key {tables.keys[1].hex()} stands in it twice"):
        tables.rows()


def test_a_table_of_other_texts_names_the_asset_that_makes_it(tables: Tables) -> None:
    shorter, _ = build_corpus(
        [
            Row("f.csv", i, f"Another {text}", label, None, None, split)
            for i, (split, (text, label)) in enumerate(ROWS.items())
        ],
        SENTIMENT.labels,
        {},
    )
    write_corpus(shorter, tables.corpus)
    with pytest.raises(InputError, match=r"it is not of these texts\. Materialize tokens again"):
        tables.rows()


def test_augmented_texts_are_read_as_the_corpus_is(tables: Tables) -> None:
    tokenizer = tables.tokenizer()
    path = tables.root / "augmented.parquet"
    embeddings = np.zeros((tokenizer.get_vocab_size(), 4), np.float32)
    augment_corpus(tables.corpus, tables.tokens, tokenizer, embeddings, Augmentation(), path)
    assert TableProvenance.read(path) == TableProvenance.read(tables.tokens)
    assert len(with_augmented(tables.rows()["train"], path, tables.logits, SENTIMENT)) == 1
    with pytest.raises(InputError, match=r"max_length 32.*max_length 16.*Materialize tokens again"):
        augment_corpus(tables.corpus, tables.tokens, tables.tokenizer(16), embeddings, Augmentation(), path)
    tables.tokenize(max_length=16)
    augment_corpus(tables.corpus, tables.tokens, tables.tokenizer(16), embeddings, Augmentation(), path)
    rows = TrainingRows(TokenIds.of([[1]]), np.zeros(1, np.int64), np.zeros((1, 3), np.float32))
    with pytest.raises(InputError, match="Materialize augmented_corpus and teacher_logits again"):
        with_augmented(rows, path, tables.logits, SENTIMENT)


def test_a_model_reads_tokens_of_its_own_tokenizer_and_length_alone(tables: Tables, tiny_checkpoint: Path) -> None:
    require_tokens_of(tables.tokens, tiny_checkpoint, 32, "")
    other = tables.root / "teacher"
    other.mkdir()
    changed = Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    changed.add_tokens(["ebitda"])
    changed.save(str(other / "tokenizer.json"))
    for folder, max_length in ((tiny_checkpoint, 64), (other, 32)):
        with pytest.raises(InputError, match=f"tokens.parquet: .*belong to {re.escape(str(folder))}: .*Do this"):
            require_tokens_of(tables.tokens, folder, max_length, "Do this")


def test_logits_are_of_the_teachers_that_they_are_measured_beside(tables: Tables, tiny_checkpoint: Path) -> None:
    teacher = TeacherGraph(tiny_checkpoint, "f" * 32, SENTIMENT.labels, 32, "float32", "me/finbert", None, (), 1)
    require_answers_of([teacher], tables.logits)
    for other in ([replace(teacher, fingerprint="0" * 32)], [replace(teacher, max_length=16)], [teacher, teacher]):
        with pytest.raises(InputError, match="Materialize teacher_logits again"):
            require_answers_of(other, tables.logits)


def test_the_out_of_domain_corpus_has_one_asset_for_its_tables(tmp_path: Path) -> None:
    of_domain, outside = Workspace(tmp_path), Workspace(tmp_path).out_of_domain
    assert [made_by(each) for each in (of_domain.tokens, of_domain.augmented, of_domain.teacher_logits)] == [
        "tokens",
        "augmented_corpus",
        "teacher_logits",
    ]
    assert {made_by(each) for each in (outside.tokens, outside.teacher_logits)} == {"out_of_domain"}


Train = Callable[..., TrainedStudent]


@pytest.fixture
def train(tables: Tables, tiny_checkpoint: Path, learnable_rows: Callable[..., TrainingRows]) -> Train:
    """Return a function that trains a student for an epoch on rows that come from tables like these."""

    def run(provenance: TableProvenance | None = None, alpha: float = 1.0) -> TrainedStudent:
        rows = replace(learnable_rows(32), provenance=provenance or tables.provenance)
        small = {"embedding": "random", "embedding_width": 8, "hidden_width": 8, "layers": 1}
        recipe = Recipe.model_validate({"architecture": small, "alpha": alpha, "epochs": 1})
        folder = tables.root / "student"
        return train_student(recipe, rows, rows, SENTIMENT.labels, tiny_checkpoint, folder, stage="student")

    return run


def test_a_student_says_what_it_learned_from(tables: Tables, train: Train) -> None:
    trained = train()
    assert TrainedStudent.read(trained.folder).provenance == trained.provenance == tables.provenance
    trained.require_taught_by(tables.logits)
    tables.provenance = replace(tables.provenance, teachers=("0" * 32,))
    tables.write_logits()
    with pytest.raises(InputError, match=r"training\.json: .*teacher ffff.*teacher 0000.*Materialize student again"):
        trained.require_taught_by(tables.logits)
    # The same logits of another teacher make the same student, and it says so.
    moment = (trained.folder / "model.safetensors").stat().st_mtime_ns
    train().require_taught_by(tables.logits)
    assert (trained.folder / "model.safetensors").stat().st_mtime_ns == moment


def test_a_student_of_labels_alone_has_heard_no_teacher(tables: Tables, train: Train) -> None:
    trained = train(alpha=0)
    assert trained.provenance == replace(tables.provenance, teachers=())
    tables.provenance = replace(tables.provenance, teachers=("0" * 32,))
    tables.write_logits()
    trained.require_taught_by(tables.logits)
    tables.provenance = replace(tables.provenance, max_length=16)
    tables.write_logits()
    with pytest.raises(InputError, match="Materialize student again"):
        trained.require_taught_by(tables.logits)


def test_a_student_of_an_older_version_is_read_and_not_packaged(tables: Tables, train: Train) -> None:
    trained = train()
    values = read_json(trained.folder / TRAINING_FILE)
    del values["provenance"]
    write_json(trained.folder / TRAINING_FILE, values)
    old = TrainedStudent.read(trained.folder)
    assert old.history == trained.history
    with pytest.raises(InputError, match=r"training\.json: it does not say .*Materialize student again"):
        old.require_taught_by(tables.logits)
    train().require_taught_by(tables.logits)


@pytest.mark.parametrize(
    "windows",
    ["", "aabb", "bcc", "abbca", "aacbbc", "abcd", "xabc"],
    ids=["none", "last", "first", "again", "order", "more", "foreign"],
)
def test_windows_belong_to_each_text_of_the_corpus_in_its_order(windows: str) -> None:
    corpus = pa.chunked_array([list("abc")])
    assert text_positions(corpus, pa.chunked_array([list("aabccc")]), Path("tokens")).tolist() == [0, 0, 1, 2, 2, 2]
    with pytest.raises(InputError, match="it is not of these texts"):
        text_positions(corpus, pa.chunked_array([list(windows)], pa.string()), Path("tokens"))
