"""How students in service read BERT's tokenizers: ids, words and windows as the library tokenizers gives them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from finstill.corpus.long_texts import read_windows
from finstill.corpus.text import cleaned, normalise
from finstill.corpus.tokenizer import read_tokenizer
from finstill.corpus.wordpiece import TOKENIZER_FILE, WordPieceTokenizer
from finstill.packaging.proof import reads_alike
from finstill.teacher.checkpoint import resolve_checkpoint

WORDS = ["profit", "Unfavourable", "xyzzyq", "[MASK]", "[SEP]", "a[UNK]b", "[mask]", "don't", "x" * 101, "9.5%", "."]

OLDER = "\x7f\u166d\u1734\u1885\u1886"
"""A control, and signs of Unicode 3.2 that a later version put into another category."""

# What feeds hold, odd characters among them.
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(WORDS),
        st.text(
            st.sampled_from("abcXYZ0189éßΣς.,-'$€%&[]#\u0301\u0e01\u0e48\u0e47利株カﾞ한\u200b\u00ad\ufffd\x07🙂 "),
            max_size=8,
        ),
    ),
    max_size=30,
).map(lambda parts: normalise(cleaned(" ".join(parts))))


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = read_tokenizer(resolve_checkpoint("embedded").folder)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=request.param)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / TOKENIZER_FILE))
    return folder


@pytest.fixture(scope="module")
def library(folder: Path) -> Tokenizer:
    return read_tokenizer(folder)


@pytest.fixture(scope="module")
def in_service(folder: Path) -> WordPieceTokenizer:
    return WordPieceTokenizer(folder)


@settings(max_examples=100)
@given(text=TEXTS)
def test_a_text_has_the_same_ids_places_and_words(
    library: Tokenizer, in_service: WordPieceTokenizer, text: str
) -> None:
    own, theirs = in_service.encode(text), library.encode(text)
    assert own.ids == theirs.ids
    assert own.special_tokens_mask == theirs.special_tokens_mask
    assert own.word_ids == theirs.word_ids
    assert own.offsets == theirs.offsets


@settings(max_examples=100)
@given(text=TEXTS, max_length=st.integers(2, 40))
def test_a_long_text_has_the_same_windows(
    library: Tokenizer, in_service: WordPieceTokenizer, text: str, max_length: int
) -> None:
    own = read_windows(text, in_service.encode(text), in_service, max_length)
    theirs = read_windows(text, library.encode(text), library, max_length)
    assert [(each.text, each.start, each.ids, each.size) for each in own] == [
        (each.text, each.start, each.ids, each.size) for each in theirs
    ]


def test_all_characters_but_newer_marks_and_signs_are_read_alike(
    library: Tokenizer, in_service: WordPieceTokenizer
) -> None:
    assigned = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")]
    texts = [normalise(cleaned(f"a{character}1")) for character in assigned]
    both = zip(assigned, in_service.encode_batch(texts), library.encode_batch(texts), strict=True)
    others = [character for character, own, theirs in both if own.ids != theirs.ids]
    assert len(others) < 0.006 * len(assigned)
    assert not [each for each in others if unicodedata.ucd_3_2_0.category(each) != "Cn" and each not in OLDER]


class TestProof:
    def test_it_holds_on_real_texts(self, library: Tokenizer, folder: Path) -> None:
        assert reads_alike(library, folder, [None, pa.array(["Profit rose 5%, said S&P", "Ünïcode €5bn"])])

    def test_one_text_that_is_read_otherwise_is_enough(self, library: Tokenizer, folder: Path) -> None:
        # The oblique hyphen is of Unicode 14: a letter to the library.
        assert not reads_alike(library, folder, [pa.array(["Profit rose", "pro\u2e5dfit", "Shares fell"])])

    def test_it_fails_for_other_kinds(self, tmp_path: Path) -> None:
        other = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
        other.pre_tokenizer = pre_tokenizers.Whitespace()
        other.save(str(tmp_path / TOKENIZER_FILE))
        assert not reads_alike(other, tmp_path, [])
