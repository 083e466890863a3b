"""Word vectors of the tokens a student knows, in torch and as a part of its graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from finstill.errors import InputError
from finstill.students.graph import as_array
from finstill.students.vocabulary import Vocabulary


class TokenEmbedding(nn.Module):
    """A vector for each token id.

    The tokenizer's ids stay the input of every student. Where a student knows only some of them, `positions` says for
    each id which vector it has; it is a part of the weights and of the graph.

    Args:
        known: tokens that have a vector.
        size: ids that the tokenizer can give.
        width: of a vector.
    """

    def __init__(self, known: int, size: int, width: int):
        super().__init__()
        self.vectors = nn.Embedding(known, width)
        self.positions: Tensor | None
        self.register_buffer("positions", torch.zeros(size, dtype=torch.int32) if known < size else None)
        # While some vectors alone are learned: all of them, and where each stands among those, -1 where it does not.
        self._all: Tensor | None
        self._places: Tensor | None
        self.register_buffer("_all", None, persistent=False)
        self.register_buffer("_places", None, persistent=False)

    def start_from(self, vocabulary: Vocabulary, vectors: np.ndarray | None = None) -> None:
        """Take the vocabulary's tokens and, where given, their first vectors: float32, (known, width)."""
        if self.positions is not None:
            self.positions.copy_(torch.from_numpy(vocabulary.positions()))
        if vectors is not None:
            self.vectors.weight.data.copy_(torch.from_numpy(vectors))

    @contextmanager
    def learning(self, token_ids: np.ndarray) -> Iterator[None]:
        """Let training change the vectors of these tokens alone while the block runs.

        The other tokens' vectors stay what they are. No gradient would reach them; but the decay of weights would, and
        to step through all of a tokenizer's vectors takes a quarter of a small student's time.

        Args:
            token_ids: int64, (tokens,), of all texts that are trained on.
        """
        learned = torch.unique(self.known(torch.from_numpy(token_ids)).long())
        vectors = self.vectors.weight.detach()
        if len(learned) == len(vectors):
            yield
            return
        places = torch.full((len(vectors),), -1)
        places[learned] = torch.arange(len(learned))
        self._all, self._places = vectors, places
        self.vectors = nn.Embedding.from_pretrained(vectors[learned], freeze=False)
        try:
            yield
        finally:
            vectors = self._all.index_copy(0, learned.to(self._all.device), self.vectors.weight.detach())
            self.vectors = nn.Embedding.from_pretrained(vectors, freeze=False)
            self._all = self._places = None

    def known(self, input_ids: Tensor) -> Tensor:
        """Return the positions of token ids among the vectors, of the same shape."""
        return input_ids if self.positions is None else self.positions[input_ids]

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the vectors of token ids (rows, tokens): float, (rows, tokens, width)."""
        return self.look_up(self.known(input_ids))

    def look_up(self, known: Tensor) -> Tensor:
        """Return the vectors at positions that `known` gave: float, (..., width)."""
        if self._all is None or self._places is None:
            return self.vectors(known)
        places = self._places[known]
        vectors = self.vectors(places.clamp(min=0))
        if self.training:
            # Only padding has another token.
            return vectors
        return torch.where((places >= 0).unsqueeze(-1), vectors, functional.embedding(known, self._all))

    def onnx_nodes(self, ids: str) -> tuple[str, dict[str, np.ndarray]]:
        """Return nodes that make `embedded` from the value `ids`, and the weights that they name."""
        weights = {"embedding": as_array(self.vectors.weight)}
        if self.positions is None:
            return f"embedded = Gather (embedding, {ids})", weights
        nodes = f"known = Gather (token_positions, {ids})\nembedded = Gather (embedding, known)"
        return nodes, {**weights, "token_positions": self.positions.cpu().numpy()}


def pca_to(width: int, vectors: np.ndarray) -> PCA:
    """Return the PCA to `width`, which is not fitted yet, of word vectors (tokens, their width).

    Raises:
        InputError: they have fewer components.
    """
    if width > (largest := min(vectors.shape)):
        tokens, own = vectors.shape
        raise InputError(
            f"word vectors of width {width} cannot be made of those of {tokens:,} tokens that are {own} wide",
            where="architecture.embedding_width",
            remedy=f"The largest width is {largest}",
        )
    return PCA(width, svd_solver="covariance_eigh")


def fit_width(embeddings: np.ndarray, width: int) -> np.ndarray:
    """Return word embeddings (tokens, width), by PCA where that is narrower, at the scale of random ones.

    The teacher's are some twenty times smaller than what an LSTM's gates are made for; scaled to unit variance, as
    `nn.Embedding` starts, the same learning rate serves both.

    Raises:
        InputError: there are fewer tokens than `width`, and PCA needs as many.
    """
    if width < embeddings.shape[1]:
        embeddings = pca_to(width, embeddings).fit_transform(embeddings)
    elif width > embeddings.shape[1]:
        embeddings = np.pad(embeddings, ((0, 0), (0, width - embeddings.shape[1])))
    return (embeddings / embeddings.std()).astype(np.float32)
