"""Which of the tokenizer's tokens a student knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import unknown_id
from finstill.errors import InputError


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a student.

    Attributes:
        token_ids: int64, (tokens,), ascending: the tokenizer's ids that the student has a vector for.
        size: ids that the tokenizer can give.
        unknown: the id that every other one is read as.
    """

    token_ids: np.ndarray
    size: int
    unknown: int = 0

    @classmethod
    def full(cls, size: int) -> Vocabulary:
        """Return the vocabulary of all tokens."""
        return cls(np.arange(size), size)

    @classmethod
    def of_corpus(cls, rows: TokenIds, size: int, tokenizer: Tokenizer, at_most: int | None) -> Vocabulary:
        """Return the tokens that occur at least twice in `rows`, the unknown token among them.

        What occurs once is left to the unknown token, whose vector is learned from it.

        Args:
            rows: token ids of each text.
            size: ids that the tokenizer can give.
            at_most: keep so many of them, the commonest; None keeps all.

        Raises:
            InputError: the tokenizer has no unknown token.
        """
        unknown = unknown_id(tokenizer)
        if unknown is None:
            raise InputError(
                "the tokenizer has no token for what is unknown, so a student must know all its tokens",
                where="architecture.vocabulary",
                remedy="Leave out `vocabulary: corpus`",
            )
        counts = rows.counts(size)
        counts[unknown] = counts.max() + 1
        commonest = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts >= 2)][:at_most]
        return cls(np.sort(commonest), size, unknown)

    def positions(self) -> np.ndarray:
        """Return for each id of the tokenizer its position in `token_ids`, the unknown token's where it has none.

        Returns:
            int32, (size,).
        """
        positions = np.full(self.size, np.searchsorted(self.token_ids, self.unknown), dtype=np.int32)
        positions[self.token_ids] = np.arange(len(self.token_ids))
        return positions
