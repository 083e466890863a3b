"""Variants of texts as token ids: splices, crops of words, replaced pieces and masks.

Everything random about a variant follows from its text's key, the seed and the variant's number, so that a text's
variants stay as they are when other texts come or go; only a splice looks at another text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finstill.augment.draws import mixed, uniform, whole
from finstill.augment.vocabulary import Vocabulary
from finstill.config.profile import Augmentation

SHORTEST_CROP = 3
"""Words of the shortest crop: fewer seldom say anything that a teacher can judge."""

# Which of a variant's random numbers is drawn.
_FORM, _PARTNER, _HEAD, _TAIL, _LENGTH, _START, _FATE, _NEIGHBOUR = range(8)


@dataclass(frozen=True)
class Texts:
    """Texts as token ids without the tokenizer's frame, laid end to end.

    Attributes:
        keys: uint64, (texts,), ascending: the first 8 bytes of each text's key.
        ids: int64, (tokens,).
        starts: int64, (texts + 1,): where each text begins in `ids`, and the end.
        words: int64: for each text the places in it at which a word begins, and its length.
        word_starts: int64, (texts + 1,): where each text begins in `words`, and the end.
    """

    keys: np.ndarray
    ids: np.ndarray
    starts: np.ndarray
    words: np.ndarray
    word_starts: np.ndarray

    @classmethod
    def from_ids(cls, keys: np.ndarray, ids: np.ndarray, lengths: np.ndarray, vocabulary: Vocabulary) -> Texts:
        """Return texts of which none is empty.

        Args:
            keys: uint64, (texts,), ascending.
            ids: int64, (tokens,), frames left out.
            lengths: int64, (texts,), each at least 1.
        """
        starts = np.concatenate([[0], np.cumsum(lengths)])
        begins = vocabulary.starts_word[ids].copy()
        begins[starts[:-1]] = True
        place = np.arange(len(ids)) - np.repeat(starts[:-1], lengths)
        words_each = np.add.reduceat(begins, starts[:-1], dtype=np.int64)
        # A text's length stands after its last word, as the place at which the next would begin.
        words = np.insert(place[begins], np.cumsum(words_each), lengths)
        return cls(keys, ids, starts, words, np.concatenate([[0], np.cumsum(words_each + 1)]))

    def __len__(self) -> int:
        return len(self.keys)

    def word_count(self, rows: np.ndarray) -> np.ndarray:
        return np.diff(self.word_starts)[rows] - 1

    def place(self, rows: np.ndarray, word: np.ndarray) -> np.ndarray:
        """Return where in `ids` word number `word` of each of `rows` begins."""
        return self.starts[rows] + self.words[self.word_starts[rows] + word]


@dataclass(frozen=True)
class Variants:
    """Variants as token ids, laid end to end.

    Attributes:
        origin: int64, (variants,): the text each was made from.
        ids: int64, (tokens,).
        lengths: int64, (variants,).
    """

    origin: np.ndarray
    ids: np.ndarray
    lengths: np.ndarray


def make_variants(
    texts: Texts, rows: np.ndarray, vocabulary: Vocabulary, neighbours: np.ndarray, settings: Augmentation
) -> Variants:
    """Return `settings.variants_per_text` variants of each of `rows`, a text's variants one after the other.

    First a variant's words are chosen: all of a text's, the head of it with the tail of another, or a crop of it.
    Then each piece is replaced by a near one, masked, or left.

    Args:
        rows: int64, (rows,), positions in `texts`.
        neighbours: int64, (vocabulary, k): for each piece those that may replace it; -1 where none may.
    """
    origin = np.repeat(rows, settings.variants_per_text)
    number = np.tile(np.arange(settings.variants_per_text, dtype=np.uint64), len(rows))
    state = mixed(texts.keys[origin], settings.seed, number)
    begin, end, tail_begin, tail_end = _chosen_words(texts, origin, state, settings)
    head, tail = end - begin, tail_end - tail_begin
    lengths = head + tail
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    place = np.arange(lengths.sum()) - np.repeat(first, lengths)
    in_tail = place - np.repeat(head, lengths)
    source = np.where(in_tail < 0, np.repeat(begin, lengths) + place, np.repeat(tail_begin, lengths) + in_tail)
    ids = _pieces_changed(texts.ids[source], np.repeat(state, lengths), place, vocabulary, neighbours, settings)
    return Variants(origin, ids, lengths)


def _chosen_words(
    texts: Texts, origin: np.ndarray, state: np.ndarray, settings: Augmentation
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return where in `texts.ids` each variant's first part begins and ends, and its second, which may be empty.

    A random crop is n-gram sampling, Tang et al. 2019, "Distilling Task-Specific Knowledge from BERT into Simple
    Neural Networks", section 3.3, here of three words up to all but one.
    """
    form = uniform(state, _FORM)
    spliced = form < settings.spliced
    cropped = ~spliced & (form < settings.spliced + settings.cropped)
    words = texts.word_count(origin)

    length = np.minimum(words, SHORTEST_CROP + whole(uniform(state, _LENGTH), np.maximum(words - SHORTEST_CROP, 0)))
    start = whole(uniform(state, _START), words - length + 1)
    cut = np.minimum(words, 1 + whole(uniform(state, _HEAD), words - 1))
    first = np.where(cropped, start, 0)
    last = np.where(cropped, start + length, np.where(spliced, cut, words))

    # The text whose key follows a draw, the own one passed over: a new text takes over few of the others' partners.
    partner = np.searchsorted(texts.keys, mixed(state, _PARTNER)) % len(texts)
    partner = np.where(partner == origin, (partner + 1) % len(texts), partner)
    partner_words = texts.word_count(partner)
    tail = np.minimum(partner_words - 1, 1 + whole(uniform(state, _TAIL), partner_words - 1))
    tail = np.where(spliced, tail, partner_words)
    return (
        texts.place(origin, first),
        texts.place(origin, last),
        texts.place(partner, tail),
        texts.place(partner, partner_words),
    )


def _pieces_changed(
    ids: np.ndarray,
    state: np.ndarray,
    place: np.ndarray,
    vocabulary: Vocabulary,
    neighbours: np.ndarray,
    settings: Augmentation,
) -> np.ndarray:
    """Return `ids` with some pieces replaced by near ones and some masked (Tang et al. 2019, section 3.3)."""
    fate = uniform(state, _FATE, place)
    near = neighbours[ids, whole(uniform(state, _NEIGHBOUR, place), neighbours.shape[1])]
    changed = np.where((fate < settings.replaced) & (near >= 0), near, ids)
    masked = (fate >= settings.replaced) & (fate < settings.replaced + settings.masked)
    if vocabulary.mask is not None:
        changed[masked] = vocabulary.mask
    return changed
