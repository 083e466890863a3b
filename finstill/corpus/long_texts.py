"""Reading a text that is longer than a classifier reads at once: the one rule of teacher, students and runtime.

A long text is cut into windows, and each window is a text of its own: it is tokenized alone, and a teacher's logits of
it are cached under its own key. So a report that grows by a paragraph costs that paragraph. The logits of the whole
text are the mean of its windows', each weighed by its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from finstill.corpus.windows import cut_windows


class Encoding(Protocol):
    """The tokens of a text, as the library tokenizers and `finstill.corpus.wordpiece` give them."""

    @property
    def ids(self) -> list[int]:
        """Of the tokens, special ones included."""

    @property
    def special_tokens_mask(self) -> list[int]:
        """1 for each token that was put around the text, 0 for the others."""

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """The characters of the text from and to (not included) that each token stands for."""

    @property
    def word_ids(self) -> list[int | None]:
        """The number of each token's word; None for tokens around the text."""

    def truncate(self, max_length: int) -> None:
        """Leave out all tokens after so many."""


class Tokenizer(Protocol):
    """What makes an `Encoding` of a text; it neither pads nor cuts."""

    def encode(self, text: str, /) -> Any:
        """Return the `Encoding` of a text."""

    def encode_batch(self, texts: Any, /) -> list[Any]:
        """Return the `Encoding` of each text, in order."""


class Window(NamedTuple):
    """A part of a text that is read at once, or a whole text where that fits.

    Attributes:
        text: the window as a text of its own, in normal form.
        start: position of its first character in the whole text.
        encoding: its tokens, special ones included; at most as many as the classifier reads.
    """

    text: str
    start: int
    encoding: Encoding

    @property
    def ids(self) -> list[int]:
        """Its token ids. A tokenizer without special tokens has none for an empty text: padding stands for it."""
        return self.encoding.ids or [0]

    @property
    def size(self) -> int:
        """Number of its tokens, special ones left out: its weight in the whole text's logits."""
        special = self.encoding.special_tokens_mask
        return len(special) - sum(special)


def read_windows(text: str, encoding: Encoding, tokenizer: Tokenizer, max_length: int) -> list[Window]:
    """Return the windows of a text in their order; a text that fits is its own only window.

    Args:
        text: in normal form.
        encoding: the whole text's.
        tokenizer: neither pads nor cuts.
        max_length: tokens of a window at most, special ones included.
    """
    # What a tokenizer says of each token is made when it is asked for, and most texts fit.
    if len(encoding.ids) <= max_length:
        return [Window(text, 0, encoding)]
    special = encoding.special_tokens_mask
    first, last = special.index(0), len(special) - special[::-1].index(0)
    room = max(1, max_length - (len(special) - (last - first)))
    offsets, words = encoding.offsets[first:last], encoding.word_ids[first:last]
    windows: list[Window] = []
    for begin, end in cut_windows(text, offsets, words, room):
        start, stop = offsets[begin][0], offsets[end - 1][1]
        start += len(text[start:stop]) - len(text[start:stop].lstrip())
        piece = text[start:stop].strip()
        own = tokenizer.encode(piece)
        if len(piece) == len(text):
            own.truncate(max_length)
        # A word that was cut in two may have more tokens than it had in one.
        for part in read_windows(piece, own, tokenizer, max_length):
            windows.append(Window(part.text, start + part.start, part.encoding))
    return windows


def windows_and_owners(
    texts: Sequence[str], encodings: Sequence[Encoding], tokenizer: Tokenizer, max_length: int
) -> tuple[list[Window], list[int]]:
    """Return the windows of all texts, and for each the position of its text; see `read_windows`."""
    windows, owners = [], []
    for i, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
        own = read_windows(text, encoding, tokenizer, max_length)
        windows += own
        owners += [i] * len(own)
    return windows, owners


def mean_over_windows(
    logits: np.ndarray, texts: Sequence[int] | np.ndarray, sizes: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Return each text's logits: the mean of its windows', weighed by their tokens.

    The windows of a text are added in their order, so that a text's logits do not depend on other texts.

    Args:
        logits: float32, (windows, classes).
        texts: int64, (windows,), ascending from 0: the text that each window belongs to; each text has one at least.
        sizes: int64, (windows,): tokens of each window, special ones left out.

    Returns:
        float32, (texts, classes).
    """
    owners = np.asarray(texts)
    counts = np.bincount(owners)
    if len(counts) == len(owners):
        return logits
    tokens = np.bincount(owners, weights=sizes)
    shares = np.where(counts[owners] > 1, np.asarray(sizes) / np.maximum(tokens[owners], 1), 1).astype(np.float32)
    total = np.zeros((len(counts), logits.shape[1]), np.float32)
    # Not np.add.reduceat, which may add pairwise.
    np.add.at(total, owners, shares[:, None] * logits)
    return total
