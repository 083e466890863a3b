"""What augmentation needs to know of a tokenizer's pieces."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from finstill.corpus.text import UNSPACED_CHARACTER

# WordPiece marks a piece that continues a word; byte-level BPE and SentencePiece one that starts it.
_MARKERS = ("##", "Ġ", "▁")
_MASKS = ("[MASK]", "<mask>")


@dataclass(frozen=True)
class Vocabulary:
    """The pieces of a tokenizer, by id.

    Attributes:
        frame: ids that the tokenizer puts around each text.
        mask: id of the mask token, or None where there is none.
        marker: int8, (pieces,): which marker of its place in a word the piece carries, 0 for none.
        starts_word: bool, (pieces,): pieces that a text may be cut before. In scripts that are written without spaces
            between words these are all that can stand alone.
        replaceable: bool, (pieces,): pieces of text, neither special nor a vocabulary's spare places.
    """

    frame: tuple[int, ...]
    mask: int | None
    marker: np.ndarray
    starts_word: np.ndarray
    replaceable: np.ndarray


def read_vocabulary(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """Return the vocabulary of `tokenizer` over `size` ids, as many as the teacher has word embeddings."""
    pieces = [tokenizer.id_to_token(i) or "" for i in range(size)]
    marker = np.array([next((n for n, m in enumerate(_MARKERS, 1) if p.startswith(m)), 0) for p in pieces], np.int8)
    # WordPiece marks what continues a word, and the others what starts one; RoBERTa too has pieces that begin with ##.
    starts_word = marker != 1 if isinstance(tokenizer.model, WordPiece) else marker > 1
    starts_word |= np.array([_stands_alone(piece, tokenizer) for piece in pieces])
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    replaceable = np.array(
        [bool(p) and i not in special and not re.fullmatch(r"\[.+\]|<.+>", p) for i, p in enumerate(pieces)]
    )
    frame = tuple(sorted(set(tokenizer.encode("").ids)))
    mask = next((i for name in _MASKS if (i := tokenizer.token_to_id(name)) is not None), None)
    return Vocabulary(frame, mask, marker, starts_word, replaceable)


def _stands_alone(piece: str, tokenizer: Tokenizer) -> bool:
    """Return whether `piece` begins with a whole letter of a script that is written without spaces between words.

    One that continues a WordPiece word does not, for its text then begins with `##`; nor does a piece that begins in
    the middle of a character's bytes, or with a combining mark.
    """
    if piece.isascii():
        return False
    text = tokenizer.decoder.decode([piece]) if tokenizer.decoder else piece
    return text[:1].isalnum() and UNSPACED_CHARACTER.match(text) is not None
