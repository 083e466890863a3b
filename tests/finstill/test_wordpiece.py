"""The tokenizer that students in service read by: ids, words and windows as the library tokenizers gives them."""

from __future__ import annotations

import json
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from finstill.corpus.long_texts import read_windows
from finstill.corpus.text import cleaned, normalise
from finstill.corpus.tokenizer import read_tokenizer
from finstill.corpus.wordpiece import LONGEST_REMEMBERED, WordPieceTokenizer
from finstill.packaging.proof import own_reader_holds
from finstill.teacher.checkpoint import resolve_checkpoint

WORDS = ["profit", "Unfavourable", "xyzzyq", "[MASK]", "[SEP]", "a[UNK]b", "[mask]", "don't", "x" * 101, "9.5%", "."]

RECLASSIFIED = "\u166d\u1734\u1885\u1886"
"""Signs of Unicode 3.2 that a later version put into another category."""

# Unicode 3.2 has none of the characters that are newer than the library's tables. U+302E and U+302F are marks whose
# order changes when an accent is taken off: ids stay, offsets differ.
CHARACTERS = st.characters(exclude_categories=["Cs"]).filter(
    lambda character: (
        unicodedata.ucd_3_2_0.category(character) != "Cn" and character not in f"{RECLASSIFIED}\u302e\u302f"
    )
)
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(WORDS),
        st.text(
            st.sampled_from("abcXYZ0189éßİΣς.,-'$€%&[]#\u0301\u0e01\u0e48\u0e47利株カﾞ한\u200b\u00ad\ufffd\x07\x7f🙂 "),
            max_size=8,
        ),
        st.text(CHARACTERS, max_size=8),
    ),
    max_size=30,
).map(lambda parts: normalise(cleaned(" ".join(parts))))

NORMALIZERS = [
    normalizers.BertNormalizer(),
    normalizers.BertNormalizer(lowercase=False),
    normalizers.BertNormalizer(strip_accents=False),
    normalizers.BertNormalizer(lowercase=False, strip_accents=True, handle_chinese_chars=False, clean_text=False),
]


@pytest.fixture(scope="module", params=NORMALIZERS, ids=["uncased", "cased", "accents", "as it is"])
def library(request: pytest.FixtureRequest) -> Tokenizer:
    tokenizer = read_tokenizer(resolve_checkpoint("embedded").folder)
    tokenizer.normalizer = request.param
    return tokenizer


@pytest.fixture(scope="module")
def ours(library: Tokenizer) -> WordPieceTokenizer:
    return WordPieceTokenizer(json.loads(library.to_str()))


@settings(max_examples=60)
@given(text=TEXTS)
def test_a_text_has_the_same_ids_places_and_words(library: Tokenizer, ours: WordPieceTokenizer, text: str) -> None:
    own, theirs = ours.encode(text), library.encode(text)
    assert own.ids == theirs.ids
    assert own.offsets == theirs.offsets
    assert own.word_ids == theirs.word_ids
    assert own.special_tokens_mask == theirs.special_tokens_mask


@settings(max_examples=60)
@given(text=TEXTS, max_length=st.integers(2, 40))
def test_a_long_text_has_the_same_windows(
    library: Tokenizer, ours: WordPieceTokenizer, text: str, max_length: int
) -> None:
    own = read_windows(text, ours.encode(text), ours, max_length)
    theirs = read_windows(text, library.encode(text), library, max_length)
    assert [(each.text, each.start, each.ids, each.size) for each in own] == [
        (each.text, each.start, each.ids, each.size) for each in theirs
    ]


def test_all_characters_but_some_newer_marks_and_signs_are_read_alike() -> None:
    library = read_tokenizer(resolve_checkpoint("embedded").folder)
    ours = WordPieceTokenizer(json.loads(library.to_str()))
    assigned = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")]
    texts = [normalise(cleaned(f"a{character}1")) for character in assigned]
    both = zip(assigned, ours.encode_batch(texts), library.encode_batch(texts), strict=True)
    others = [character for character, own, theirs in both if own.ids != theirs.ids]
    assert len(others) < 0.005 * len(assigned)
    older = {each for each in others if unicodedata.ucd_3_2_0.category(each) != "Cn"}
    assert older <= set(RECLASSIFIED)


def test_what_is_remembered_is_short(ours: WordPieceTokenizer) -> None:
    ours.encode(f"{'profit' * LONGEST_REMEMBERED} profit")
    assert max(map(len, ours._ids)) <= LONGEST_REMEMBERED


class TestProof:
    def test_it_holds_on_real_texts(self, library: Tokenizer) -> None:
        assert own_reader_holds(library, [None, pa.array(["Profit rose 5%, said S&P [SEP]", "Ünïcode €5bn"])])

    def test_one_text_that_is_read_otherwise_is_enough(self, library: Tokenizer) -> None:
        # The oblique hyphen is of Unicode 14: a letter to the library.
        assert not own_reader_holds(library, [pa.array(["Profit rose", "pro\u2e5dfit", "Shares fell"])])

    def test_it_fails_for_other_kinds(self) -> None:
        other = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
        other.pre_tokenizer = pre_tokenizers.Whitespace()
        assert not own_reader_holds(other, [])
        other.normalizer, other.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        assert own_reader_holds(other, [])
        other.add_tokens(["two words"])
        assert not own_reader_holds(other, [])
