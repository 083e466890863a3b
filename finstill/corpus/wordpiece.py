"""BERT's tokenizers, read by the compiled library tokie: the ids of the library tokenizers, many times faster."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokie import Tokenizer

from finstill.files import read_json

TOKENIZER_FILE = "tokenizer.json"

BERT = {"model": "WordPiece", "normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}


def kinds(description: dict[str, Any]) -> dict[str, str | None]:
    """Return of which kind the parts of a `tokenizer.json` are, of BERT's tokenizers `BERT`."""
    found = {part: (description.get(part) or {}).get("type") for part in BERT}
    # Files of earlier versions of tokenizers leave the model's kind out.
    if found["model"] is None and "continuing_subword_prefix" in description.get("model", {}):
        found["model"] = "WordPiece"
    return found


def is_wordpiece(description: dict[str, Any]) -> bool:
    """Whether the content of a `tokenizer.json` is of a tokenizer of BERT's kind."""
    # An added token of several words would be cut apart where words are looked for.
    return kinds(description) == BERT and not any(" " in token["content"] for token in description["added_tokens"])


class WordPieceTokenizer:
    """The tokenizer in `folder`, which `is_wordpiece`; it neither pads nor cuts.

    tokie says which tokens a text has. Where they stand, which it does not say, follows from BERT's rule that words are
    tokenized apart (Devlin et al. 2019): each word is encoded alone.
    """

    def __init__(self, folder: Path):
        self._tokenizer = Tokenizer.from_json(str(folder / TOKENIZER_FILE))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._folder = folder

    def encode(self, text: str) -> WordPieceEncoding:
        """Return the tokens of a text in normal form, special ones included."""
        return WordPieceEncoding(self, text, self._tokenizer.encode(text).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[WordPieceEncoding]:
        """Return the tokens of each text, in order."""
        return [self.encode(text) for text in texts]

    def pieces(self, text: str) -> list[int]:
        """Return the ids of a text without special tokens."""
        return self._tokenizer.encode(text, False).ids

    def words(self, text: str) -> Iterator[tuple[int, int, list[int]]]:
        """Yield the beginning and end of each word of a text, and the ids of its pieces."""
        start = 0
        for part in text.split(" "):
            words, at = [], start
            for i, run in enumerate(self._added_token.split(part)):
                for begin, end in [(0, len(run))] if i % 2 else _words(run):
                    if pieces := self.pieces(run[begin:end]):
                        words.append((at + begin, at + end, pieces))
                at += len(run)
            ids = self.pieces(part)
            # Of characters that are newer than what tells words apart here.
            if [each for *_, pieces in words for each in pieces] != ids:
                words = [(start, start + len(part), ids)]
            yield from words
            start += len(part) + 1

    def length(self, piece: int) -> int:
        """Return how many characters of a normalised word a piece stands for."""
        token = self._tokenizer.id_to_token(piece)
        assert token is not None
        return len(token.removeprefix("##"))

    @cached_property
    def frame(self) -> tuple[int, int]:
        """How many special tokens stand before and after a text."""
        framed, bare = self._tokenizer.encode("a").ids, self.pieces("a")
        before = framed.index(bare[0])
        return before, len(framed) - before - len(bare)

    @cached_property
    def _description(self) -> dict[str, Any]:
        # Read when a place in a text is first asked for: a student that scores short texts never does.
        return read_json(self._folder / TOKENIZER_FILE)

    @cached_property
    def _added_token(self) -> re.Pattern[str]:
        added = "|".join(re.escape(token["content"]) for token in self._description["added_tokens"])
        return re.compile(f"({added or '(?!)'})")

    @cached_property
    def _strips_accents(self) -> bool:
        normalizer = self._description["normalizer"]
        accents = normalizer["strip_accents"]
        return normalizer["lowercase"] if accents is None else accents

    def normalised(self, character: str) -> str:
        """Return the characters that BERT's normaliser leaves of one, in whichever case."""
        if not self._strips_accents:
            return "" if _is_invisible(character) else character
        decomposed = unicodedata.normalize("NFD", character)
        return "".join(each for each in decomposed if not _is_invisible(each) and unicodedata.category(each) != "Mn")


class WordPieceEncoding:
    """The tokens of a text. Where they stand in it is computed when it is asked for, which is seldom.

    Attributes:
        ids: of the tokens, special ones included.
    """

    def __init__(self, tokenizer: WordPieceTokenizer, text: str, ids: list[int]):
        self.ids = ids
        self._tokenizer, self._text, self._whole = tokenizer, text, len(ids)

    @property
    def special_tokens_mask(self) -> list[int]:
        """1 for each token that stands around the text, 0 for the others."""
        before, after = self._tokenizer.frame
        return ([1] * before + [0] * (self._whole - before - after) + [1] * after)[: len(self.ids)]

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """The characters of the text from and to (not included) that each token stands for."""
        return self._places[0][: len(self.ids)]

    @property
    def word_ids(self) -> list[int | None]:
        """The number of each token's word; None for special tokens."""
        return self._places[1][: len(self.ids)]

    def truncate(self, max_length: int) -> None:
        """Leave out all tokens after so many, those after the text among them."""
        self.ids = self.ids[:max_length]

    @cached_property
    def _places(self) -> tuple[list[tuple[int, int]], list[int | None]]:
        tokenizer = self._tokenizer
        before, after = tokenizer.frame
        offsets: list[tuple[int, int]] = [(0, 0)] * before
        words: list[int | None] = [None] * before
        for number, (start, end, pieces) in enumerate(tokenizer.words(self._text)):
            kept = [i for i in range(start, end) for _ in tokenizer.normalised(self._text[i])] or [start]
            read = 0
            for piece in pieces:
                first = kept[min(read, len(kept) - 1)]
                read += tokenizer.length(piece) if len(pieces) > 1 else len(kept)
                offsets.append((first, kept[min(read, len(kept)) - 1] + 1))
            words += [number] * len(pieces)
        return offsets + [(0, 0)] * after, words + [None] * after


def _is_invisible(character: str) -> bool:
    """Whether BERT leaves a character out since nobody sees it."""
    return character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf")


def _words(text: str) -> Iterator[tuple[int, int]]:
    """Yield the beginning and end of each of BERT's words in a text without spaces."""
    start = 0
    for i, character in enumerate(text):
        if _stands_alone(character):
            if start < i:
                yield start, i
            yield i, i + 1
            start = i + 1
    if start < len(text):
        yield start, len(text)


def _stands_alone(character: str) -> bool:
    """Whether a character is punctuation, to BERT any of ASCII's symbols too, or a Chinese one."""
    if character.isascii():
        return character in string.punctuation
    return unicodedata.category(character).startswith("P") or unicodedata.name(character, "").startswith("CJK ")
