"""BERT's tokenizer without the library tokenizers: ids, offsets and words as that library gives them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from finstill.files import read_json

TOKENIZER_FILE = "tokenizer.json"

MOST_REMEMBERED = 1 << 15
LONGEST_REMEMBERED = 40
"""Strings whose tokens are kept, and their characters at most: most of a text stood in the texts before it."""

CHINESE = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf"
    "\U0002f800-\U0002fa1f]"
)
"""What BERT takes for a Chinese character."""

REMOVED = {"Cc", "Cf", "Co", "Cs"}
"""Unicode's categories of characters that BERT removes."""


Pieces = tuple[tuple[int, int], ...]
"""The pieces of a word, each as its id and the number of its characters."""

T = TypeVar("T")


class WordPieceTokenizer:
    """A BERT tokenizer, as the library tokenizers reads it from a `tokenizer.json`.

    Words end at white space, and punctuation and Chinese characters are words of their own. Each word is cut into the
    longest pieces of the vocabulary from its left (Schuster and Nakajima 2012, "Japanese and Korean Voice Search").
    The library has Unicode 8's categories and this class has Python's: marks, punctuation and format characters that
    are newer, some 500 in all, are letters to the library alone.

    Args:
        description: the content of `tokenizer.json`, one that this class `describes`.
    """

    def __init__(self, description: dict[str, Any]):
        model = description["model"]
        self._vocabulary: dict[str, int] = model["vocab"]
        self._unknown = self._vocabulary[model["unk_token"]]
        self._prefix: str = model["continuing_subword_prefix"]
        self._longest_word: int = model["max_input_chars_per_word"]
        self._characters = _Characters(description["normalizer"])
        self._added = {token["content"]: token["id"] for token in description["added_tokens"]}
        longest_first = sorted(map(re.escape, self._added), key=len, reverse=True)
        self._added_token = re.compile(f"({'|'.join(longest_first) or '(?!)'})")
        self.before, self.after = _frame(description["post_processor"])
        self._pieces = _Remembered(self._pieces_of)
        self._ids = _Remembered(self._ids_of)

    @classmethod
    def read(cls, folder: Path) -> WordPieceTokenizer:
        """Return the tokenizer in `folder`, whose `tokenizer.json` this class `describes`."""
        return cls(read_json(folder / TOKENIZER_FILE))

    @staticmethod
    def describes(description: dict[str, Any]) -> bool:
        """Whether the content of a `tokenizer.json` is of a tokenizer that this class is."""
        kinds = [
            (description.get(part) or {}).get("type")
            for part in ("normalizer", "pre_tokenizer", "model", "post_processor")
        ]
        return (
            kinds[:3] == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]
            and kinds[3] in (None, "BertProcessing", "TemplateProcessing")
            and description["model"]["unk_token"] in description["model"]["vocab"]
            and not any(
                token[flag] or " " in token["content"]
                for token in description["added_tokens"]
                for flag in ("single_word", "lstrip", "rstrip", "normalized")
            )
        )

    def encode(self, text: str) -> WordPieceEncoding:
        """Return the tokens of a text in normal form, special ones included."""
        ids = chain.from_iterable(map(self._ids.__getitem__, text.split(" ")))
        return WordPieceEncoding(self, text, [*self.before, *ids, *self.after])

    def encode_batch(self, texts: Sequence[str]) -> list[WordPieceEncoding]:
        """Return the tokens of each text; see `encode`."""
        return [self.encode(text) for text in texts]

    def words_and_places(self, text: str) -> Iterator[tuple[Pieces, list[int]]]:
        """Yield the pieces of each word of a text, and for each character of the word its place in the text."""
        start = 0
        for i, part in enumerate(self._added_token.split(text)):
            if i % 2:
                yield ((self._added[part], len(part)),), list(range(start, start + len(part)))
            else:
                word, places = "", []
                for place, character in enumerate(f"{part} ", start):
                    for normalised in self._characters[ord(character)]:
                        if normalised != " ":
                            word += normalised
                            places.append(place)
                        elif word:
                            yield self._pieces[word], places
                            word, places = "", []
            start += len(part)

    def _ids_of(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        for i, part in enumerate(self._added_token.split(text)):
            if i % 2:
                ids.append(self._added[part])
            else:
                for word in part.translate(self._characters).split():
                    ids += [id for id, _ in self._pieces[word]]
        return tuple(ids)

    def _pieces_of(self, word: str) -> Pieces:
        pieces: list[tuple[int, int]] = []
        start, prefix = 0, ""
        while start < len(word) <= self._longest_word:
            for end in range(len(word), start, -1):
                piece = self._vocabulary.get(prefix + word[start:end])
                if piece is not None:
                    pieces.append((piece, end - start))
                    start, prefix = end, self._prefix
                    break
            else:
                break
        return tuple(pieces) if start == len(word) else ((self._unknown, len(word)),)


class WordPieceEncoding:
    """The tokens of a text. Where they stand in it is computed when it is asked for, which is seldom.

    Attributes:
        ids: of the tokens, special ones included.
    """

    def __init__(self, tokenizer: WordPieceTokenizer, text: str, ids: list[int]):
        self.ids = ids
        self._whole = len(ids)
        self._tokenizer = tokenizer
        self._text = text

    @property
    def special_tokens_mask(self) -> list[int]:
        """1 for each token that stands around the text, 0 for the others."""
        before, after = len(self._tokenizer.before), len(self._tokenizer.after)
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
        """Leave out all tokens after so many, those after the text among them, as the library does."""
        self.ids = self.ids[:max_length]

    @cached_property
    def _places(self) -> tuple[list[tuple[int, int]], list[int | None]]:
        tokenizer = self._tokenizer
        offsets: list[tuple[int, int]] = [(0, 0)] * len(tokenizer.before)
        words: list[int | None] = [None] * len(tokenizer.before)
        for number, (pieces, places) in enumerate(tokenizer.words_and_places(self._text)):
            start = 0
            for _, length in pieces:
                offsets.append((places[start], places[start + length - 1] + 1))
                words.append(number)
                start += length
        return offsets + [(0, 0)] * len(tokenizer.after), words + [None] * len(tokenizer.after)


class _Remembered(dict[str, T]):
    """Values of a function of strings. The commonest strings are met, and kept, first."""

    def __init__(self, function: Callable[[str], T]):
        self._function = function

    def __missing__(self, text: str) -> T:
        value = self._function(text)
        if len(text) <= LONGEST_REMEMBERED and len(self) < MOST_REMEMBERED:
            self[text] = value
        return value


class _Characters(dict[int, str]):
    """What BERT's normaliser makes of each character, by code point; spaces stand around what is a word of its own."""

    def __init__(self, normalizer: dict[str, Any]):
        self._clean: bool = normalizer["clean_text"]
        self._chinese_apart: bool = normalizer["handle_chinese_chars"]
        self._lowercase: bool = normalizer["lowercase"]
        accents = normalizer["strip_accents"]
        self._strip_accents: bool = self._lowercase if accents is None else accents

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = made = self._normalised(character)
        return made

    def _normalised(self, character: str) -> str:
        if character.isspace():
            return " "
        if self._clean and (character == "\ufffd" or unicodedata.category(character) in REMOVED):
            return ""
        made = character
        if self._strip_accents:
            decomposed = unicodedata.normalize("NFD", character)
            made = "".join(each for each in decomposed if unicodedata.category(each) != "Mn")
        if self._lowercase:
            made = "".join(map(str.lower, made))
        if self._chinese_apart and CHINESE.match(character):
            return f" {made} "
        return "".join(f" {each} " if _is_punctuation(each) else each for each in made)


def _is_punctuation(character: str) -> bool:
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")


def _frame(processor: dict[str, Any] | None) -> tuple[list[int], list[int]]:
    """Return the ids that stand before and after a text."""
    if processor is None:
        return [], []
    if processor["type"] == "BertProcessing":
        return [processor["cls"][1]], [processor["sep"][1]]
    sides: tuple[list[int], list[int]] = ([], [])
    side = 0
    for part in processor["single"]:
        if "Sequence" in part:
            side = 1
        else:
            sides[side].extend(processor["special_tokens"][part["SpecialToken"]["id"]]["ids"])
    return sides
