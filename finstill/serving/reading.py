"""Texts as a packaged student runs them, and the teacher that it asks: long ones are cut, or read in windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from finstill.corpus.long_texts import Encoding, Tokenizer, Window, windows_and_owners

if TYPE_CHECKING:
    from finstill.corpus.provenance import LongTexts


class Reading(NamedTuple):
    """What is run of some texts.

    Attributes:
        windows: of all texts, in their order; of a text that is cut the one window has its beginning, and not the
            special tokens after it.
        owners: for each window the position of its text.
        ids: for each window the token ids that are run, special ones included.
    """

    windows: list[Window]
    owners: list[int]
    ids: list[list[int]]


def read_texts(
    texts: Sequence[str], encodings: Sequence[Encoding], tokenizer: Tokenizer, max_length: int, long: LongTexts
) -> Reading:
    """Return how texts are read.

    Args:
        texts: in normal form.
        encodings: of the whole texts; those of texts that are cut lose the tokens that are not read.
        tokenizer: neither pads nor cuts.
        max_length: tokens that are run at once, special ones included.
        long: a longer text is cut, or read in windows.
    """
    if long == "windows":
        windows, owners = windows_and_owners(texts, encodings, tokenizer, max_length)
        return Reading(windows, owners, [window.ids for window in windows])
    windows = [Window(text, 0, encoding) for text, encoding in zip(texts, encodings, strict=True)]
    return Reading(windows, list(range(len(windows))), [_cut(window, max_length) for window in windows])


def _cut(window: Window, max_length: int) -> list[int]:
    """Return the ids that a tokenizer gives which is set to cut: the special tokens after a text stay."""
    ids = window.ids
    if len(ids) <= max_length:
        return ids
    after = window.encoding.special_tokens_mask[::-1].index(0)
    window.encoding.truncate(max_length - after)
    return window.encoding.ids + ids[len(ids) - after :]
