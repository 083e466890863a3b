"""Scoring with a package: the same answer however a text is given, long texts in windows, nothing heavy needed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finstill.corpus.tokenizer import load_tokenizer
from finstill.corpus.windows import cut_windows
from finstill.errors import InputError
from finstill.files import standing_folder
from finstill.inference.session import OnnxClassifier
from finstill.serving import Score, StudentClassifier
from finstill.serving.classifier import TEXTS_PER_CHUNK, softmax
from finstill.serving.package import PACKAGE_FILE, Package

ROOT = Path(__file__).parents[2]

TEXTS = [
    "Shares fell after the warning",
    "Profit rose",
    "",
    "The bank, whose chief left in May, said that it expects no loss",
    "Ünïcode ｆｕｌｌ　width €5bn",
]
LONG = " ".join(f"Company {i} reported a profit of {i} million." for i in range(30))


@pytest.fixture(scope="module")
def student(package: Package) -> StudentClassifier:
    return StudentClassifier(package.folder)


def probabilities(scores: list[Score]) -> np.ndarray:
    return np.array([list(score.probabilities.values()) for score in scores])


class TestScores:
    def test_they_are_the_graphs_own(self, package: Package) -> None:
        ids = [
            encoding.ids for encoding in load_tokenizer(package.folder, 32).encode_batch(["profit rose", "shares fell"])
        ]
        expected = softmax(OnnxClassifier(package.graph, threads=1).batch_logits(ids))
        scores = list(StudentClassifier(package.folder).score(["Profit  rose", "Shares fell\n"]))
        assert probabilities(scores) == pytest.approx(expected, abs=1e-6)
        assert [score.label for score in scores] == [package.labels[i] for i in expected.argmax(axis=1)]
        assert [score.windows for score in scores] == [1, 1]

    def test_calibrated_ones_are_at_the_packages_temperature(
        self, package: Package, student: StudentClassifier
    ) -> None:
        (score,) = student.score(["Shares fell"])
        assert package.temperature is not None
        assert score.calibrated is not None
        powers = np.array(list(score.probabilities.values())) ** (1 / package.temperature)
        assert list(score.calibrated.values()) == pytest.approx((powers / powers.sum()).tolist(), abs=1e-6)

    @settings(max_examples=6)
    @given(st.permutations([*TEXTS, LONG]), st.sampled_from(["int8", "float32"]), st.sampled_from([1, 3]))
    def test_neither_neighbours_nor_threads_move_them(
        self, package: Package, order: list[str], precision: str, threads: int
    ) -> None:
        together = StudentClassifier(package.folder, precision=precision, threads=threads)  # type: ignore[arg-type]
        alone = StudentClassifier(package.folder, precision=precision)  # type: ignore[arg-type]
        expected = [next(alone.score([text])) for text in order]
        assert probabilities(list(together.score(order))) == pytest.approx(probabilities(expected), abs=1e-5)

    def test_no_text_gives_no_score(self, student: StudentClassifier) -> None:
        assert list(student.score([])) == []

    def test_empty_texts_get_one_each(self, student: StudentClassifier) -> None:
        scores = list(student.score(["", "  ", "\u3000"]))
        assert len({tuple(score.probabilities.values()) for score in scores}) == 1
        assert sum(scores[0].probabilities.values()) == pytest.approx(1)

    def test_a_stream_is_read_no_further_than_it_is_needed(self, student: StudentClassifier) -> None:
        numbers = count()
        next(student.score(f"Profit rose {number} percent" for number in numbers))
        assert next(numbers) <= TEXTS_PER_CHUNK


class TestEntities:
    def test_they_are_decoded_where_those_of_the_corpus_were(
        self, package: Package, student: StudentClassifier, trained_on_cut_texts: Callable[..., Package]
    ) -> None:
        decoding = StudentClassifier(trained_on_cut_texts(package, unescape=True).folder, threads=2)
        written, meant = "AT&amp;T profit falls &gt; 5&#37;", "AT&T profit falls > 5%"
        (expected,) = student.score([meant], explain=True)
        scores = list(decoding.score([written, meant, "&nbsp;" + written], explain=True))
        assert probabilities(scores) == pytest.approx(probabilities([expected] * 3), abs=1e-6)
        assert [word for word, _ in scores[0].attention or ()] == [word for word, _ in expected.attention or ()]
        assert decoding.tokens(written) == student.tokens(meant) < student.tokens(written)
        (as_written,) = student.score([written])
        assert as_written.probabilities != expected.probabilities

    def test_those_of_a_corpus_are_not_decoded_again(
        self, package: Package, student: StudentClassifier, trained_on_cut_texts: Callable[..., Package]
    ) -> None:
        decoding = StudentClassifier(trained_on_cut_texts(package, unescape=True).folder)
        (expected,) = student.score(["the code says &lt; twice"])
        assert list(decoding.score(["the code says &lt; twice"], of_corpus=True)) == [expected]
        assert list(decoding.score(["the code says &amp;lt; twice"])) == [expected]


class TestLongTexts:
    def test_they_are_marked_and_are_the_mean_of_their_windows(self, student: StudentClassifier) -> None:
        (score,) = student.score([LONG])
        assert score.windows > 5
        assert sum(score.probabilities.values()) == pytest.approx(1)

    def test_a_text_of_two_windows_is_the_mean_of_their_logits_by_their_tokens(self, package: Package) -> None:
        student = StudentClassifier(package.folder)
        first, second = "Profit rose in every division of the firm this year.", "Shares fell after the chief left."
        text = f"{first} {first} {second} {second}"
        (score,) = student.score([text])
        assert score.windows == 2
        ids = student._tokenizer.encode(text)
        spans = cut_windows(text, ids.offsets[1:-1], ids.word_ids[1:-1], 30)
        rows = [[101, *ids.ids[1:-1][start:end], 102] for start, end in spans]
        each = OnnxClassifier(package.graph, threads=1).batch_logits(rows)
        logits = np.average(each, axis=0, weights=[end - start for start, end in spans])
        assert list(score.probabilities.values()) == pytest.approx(softmax(logits[None])[0].tolist(), abs=1e-6)

    @pytest.mark.parametrize("reader", ["tokie", "tokenizers"])
    def test_a_student_that_was_trained_on_cut_texts_reads_their_beginning(
        self, package: Package, trained_on_cut_texts: Callable[..., Package], reader: str
    ) -> None:
        cut = trained_on_cut_texts(package, tokenizer=reader)
        texts = ["short", LONG, "", LONG.replace("profit", "loss")]
        ids = [encoding.ids for encoding in load_tokenizer(package.folder, 32).encode_batch(texts)]
        expected = softmax(OnnxClassifier(package.graph, threads=1).batch_logits(ids))
        scores = list(StudentClassifier(cut.folder, threads=2).score(texts, explain=True))
        assert probabilities(scores) == pytest.approx(expected, abs=1e-6)
        assert {score.windows for score in scores} == {1}
        attention = scores[1].attention
        assert attention is not None
        words = " ".join(word for word, _ in attention).replace(" .", ".")
        assert LONG.startswith(words)
        assert len(attention) == 30
        alone = [next(StudentClassifier(cut.folder).score([text])) for text in texts]
        assert probabilities(alone) == pytest.approx(expected, abs=1e-6)

    def test_it_reads_all_of_them_where_asked(
        self, package: Package, trained_on_cut_texts: Callable[..., Package]
    ) -> None:
        in_windows = StudentClassifier(trained_on_cut_texts(package).folder, long_texts="windows")
        assert list(in_windows.score([LONG])) == list(StudentClassifier(package.folder).score([LONG]))

    def test_they_are_refused_where_asked(self, package: Package) -> None:
        student = StudentClassifier(package.folder, long_texts="refuse")
        with pytest.raises(InputError, match=r"row 2: the text has \d+ tokens, and the student reads 32"):
            list(student.score(["short", LONG]))

    def test_windows_end_with_sentences(self) -> None:
        text = "One two three. Four five six seven. Eight nine. Ten eleven twelve thirteen"
        words = text.split()
        offsets = [(text.index(word), text.index(word) + len(word)) for word in words]
        windows = cut_windows(text, offsets, list(range(len(words))), 8)
        assert [" ".join(words[start:end]) for start, end in windows] == [
            "One two three. Four five six seven.",
            "six seven. Eight nine. Ten eleven twelve thirteen",
        ]

    @given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 2**32 - 1))
    def test_windows_cover_every_token_in_order_and_fit(self, sizes: list[int], room: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        pieces = [
            ("A" if random.random() < 0.3 else "b") * size + ("." if random.random() < 0.3 else "") for size in sizes
        ]
        starts = np.cumsum([0] + [len(piece) + 1 for piece in pieces])[:-1]
        offsets = [(int(start), int(start) + len(piece)) for start, piece in zip(starts, pieces, strict=True)]
        words = np.cumsum(random.random(len(pieces)) < 0.7).tolist()
        windows = cut_windows(" ".join(pieces), offsets, words, room)
        assert windows[0][0] == 0
        assert windows[-1][1] == len(pieces)
        for (start, end), (next_start, next_end) in pairwise(windows):
            assert start < next_start <= end < next_end
        assert all(0 < end - start <= room for start, end in windows)
        # No word that the last of several could still have begun with.
        begins = [i for i in range(1, len(words)) if words[i] != words[i - 1]]
        earliest = len(pieces) - room
        assert not [i for i in begins if earliest <= i < windows[-1][0] and len(windows) > 1]


class TestExplanation:
    def test_words_are_the_texts_and_weights_are_shares(self, student: StudentClassifier) -> None:
        (score,) = student.score(["Unfavourable re-pricing, said S&P"], explain=True)
        assert score.attention is not None
        words = [word for word, _ in score.attention]
        assert words == ["Unfavourable", "re", "-", "pricing", ",", "said", "S", "&", "P"]
        assert 0 < sum(weight for _, weight in score.attention) < 1

    def test_a_long_text_has_each_of_its_words_once(self, student: StudentClassifier) -> None:
        (score,) = student.score([LONG], explain=True)
        assert score.attention is not None
        assert " ".join(word for word, _ in score.attention).replace(" .", ".") == LONG
        assert 0 < sum(weight for _, weight in score.attention) < 1

    def test_it_changes_no_score_and_is_absent_where_not_asked_for(self, student: StudentClassifier) -> None:
        plain, explained = list(student.score(TEXTS)), list(student.score(TEXTS, explain=True))
        assert probabilities(plain) == pytest.approx(probabilities(explained), abs=1e-6)
        assert all(score.attention is None for score in plain)


class TestArguments:
    @pytest.mark.parametrize("wrong", [{"threads": 0}, {"long_texts": "cut"}, {"precision": "int4"}])
    def test_wrong_ones_are_said(self, package: Package, wrong: dict) -> None:
        with pytest.raises(InputError, match=str(next(iter(wrong.values())))):
            StudentClassifier(package.folder, **wrong)


PROGRAM = """
import json, sys
from finstill.serving import StudentClassifier
print(json.dumps([score.probabilities for score in StudentClassifier(sys.argv[1]).score(["Shares fell"])]))
"""


def test_it_runs_where_only_the_base_dependencies_are(
    package: Package, student: StudentClassifier, run_alone: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    alone = run_alone("-c", PROGRAM, str(package.folder))
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout) == [score.probabilities for score in student.score(["Shares fell"])]


@pytest.mark.parametrize("module", ["torch", "transformers", "tokenizers", "pyarrow", "pydantic", "onnx", "dagster"])
def test_that_place_has_nothing_of_the_pipeline(
    module: str, run_alone: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    assert f"No module named '{module}'".encode() in run_alone("-c", f"import {module}").stderr


def test_the_base_dependencies_are_three() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(re.split(r"[^a-z]", each)[0] for each in project["dependencies"]) == ["numpy", "onnxruntime", "tokie"]


def test_a_tokenizer_that_only_the_library_reads_is_said(
    package: Package, tmp_path: Path, run_alone: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    folder = tmp_path / "package"
    shutil.copytree(standing_folder(package.folder), folder)
    described = json.loads((folder / PACKAGE_FILE).read_text())
    (folder / PACKAGE_FILE).write_text(json.dumps({**described, "tokenizer": "tokenizers"}))
    alone = run_alone("-c", PROGRAM, str(folder))
    assert b"only the library tokenizers reads this tokenizer" in alone.stderr
    assert b"pip install tokenizers" in alone.stderr
