"""Word vectors of the tokens a student knows, in torch and as a part of its graph."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from finstill.students.graph import GraphPart, as_array
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

    def start_from(self, vocabulary: Vocabulary, vectors: np.ndarray | None = None) -> None:
        """Take the vocabulary's tokens and, where given, their first vectors: float32, (known, width)."""
        if self.positions is not None:
            self.positions.copy_(torch.from_numpy(vocabulary.positions()))
        if vectors is not None:
            self.vectors.weight.data.copy_(torch.from_numpy(vectors))

    def known(self, input_ids: Tensor) -> Tensor:
        """Return the positions of token ids among the vectors, of the same shape."""
        return input_ids if self.positions is None else self.positions[input_ids]

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the vectors of token ids (rows, tokens): float, (rows, tokens, width)."""
        return self.vectors(self.known(input_ids))

    def graph_part(self, ids: str = "input_ids") -> GraphPart:
        """Return nodes that make `known` and `embedded` from the value `ids`."""
        vectors = {"embedding": as_array(self.vectors.weight)}
        if self.positions is None:
            return GraphPart(f"known = Identity ({ids})\nembedded = Gather (embedding, known)", vectors)
        nodes = f"known = Gather (token_positions, {ids})\nembedded = Gather (embedding, known)"
        return GraphPart(nodes, {**vectors, "token_positions": self.positions.cpu().numpy()})


def fit_width(embeddings: np.ndarray, width: int) -> np.ndarray:
    """Return word embeddings (tokens, width), by PCA where that is narrower, at the scale of random ones.

    The teacher's are some twenty times smaller than what an LSTM's gates are made for; scaled to unit variance, as
    `nn.Embedding` starts, the same learning rate serves both.
    """
    if width < embeddings.shape[1]:
        embeddings = PCA(width, svd_solver="covariance_eigh").fit_transform(embeddings)
    elif width > embeddings.shape[1]:
        embeddings = np.pad(embeddings, ((0, 0), (0, width - embeddings.shape[1])))
    return (embeddings / embeddings.std()).astype(np.float32)
