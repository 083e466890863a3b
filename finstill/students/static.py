"""`static`: a weighted bag of word vectors and of pairs of words, the fastest student."""

from __future__ import annotations

import copy

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finstill.config.architectures import StaticConfig
from finstill.students.base import Student, StudentConfig, masked_softmax
from finstill.students.embedding import TokenEmbedding
from finstill.students.graph import exported_graph


class PretrainedStaticConfig(StudentConfig):
    """Of a `Static`; its architecture is a `StaticConfig`."""

    model_type = "finstill_static"


class Pairs(nn.Module):
    """The weighted mean of the products of neighbours: each word is projected once as a first and once as a second.

    Args:
        width: of a word vector.
        pair_width: of a product.
    """

    def __init__(self, width: int, pair_width: int):
        super().__init__()
        self.projection = nn.Linear(width, 2 * pair_width)
        self.score = nn.Linear(pair_width, 1)

    def forward(self, projected: Tensor, mask: Tensor) -> Tensor:
        """Return one vector a row.

        Args:
            projected: float, (rows, tokens, 2 * pair_width).
            mask: bool, (rows, tokens), false for padding.

        Returns:
            float, (rows, pair_width).
        """
        first, second = projected.chunk(2, dim=-1)
        # The last word is followed by zeros, whether padding stands there or nothing does.
        products = first * F.pad((second * mask[:, :, None])[:, 1:], (0, 0, 0, 1))
        weights = masked_softmax(self.score(products).squeeze(-1), mask)
        return (weights[:, None] @ products).squeeze(1)


class Static(Student):
    """Word vectors and products of neighbours, averaged by learned weights, and a head with a hidden layer or none.

    The deep averaging network of Iyyer et al. 2015, "Deep Unordered Composition Rivals Syntactic Methods for Text
    Classification", with a weight a word as in Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for Sentence
    Embeddings", here learned. A token's weight is exp(score) over the sum of a row's; all scores start at 0, which is
    the plain mean.

    All that it knows of the order of words is which stand side by side, from the products of their projected vectors:
    the multiplicative composition of Mitchell and Lapata 2010, "Composition in Distributional Models of Semantics",
    learned as factorisation machines learn interactions (Rendle 2010), so that it tells pairs that it has not seen.
    """

    config_class = PretrainedStaticConfig

    def __init__(self, config: PretrainedStaticConfig):
        super().__init__(config)
        architecture = StaticConfig.from_stored(config.architecture)
        self.embedding = TokenEmbedding(config.known_tokens, config.vocab_size, architecture.embedding_width)
        self.scores = nn.Embedding(config.known_tokens, 1)
        nn.init.zeros_(self.scores.weight)
        width = architecture.embedding_width + architecture.pair_width
        self.pairs = Pairs(architecture.embedding_width, architecture.pair_width) if architecture.pair_width else None
        # In a graph alone: each known word's projections, float, (known, 2 * pair_width).
        self.projected: Tensor | None
        self.register_buffer("projected", None, persistent=False)
        self.dropout = nn.Dropout(architecture.dropout)
        self.hidden = nn.Linear(width, architecture.hidden_width) if architecture.hidden_width else None
        self.head = nn.Linear(architecture.hidden_width or width, len(config.id2label or ()))
        self.post_init()

    def classify(self, input_ids: Tensor, mask: Tensor, explain: bool) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and the tokens' weights."""
        known = self.embedding.known(input_ids)
        words = self.embedding.look_up(known)
        weights = masked_softmax(self.scores(known).squeeze(-1), mask)
        pooled = (weights[:, None] @ words).squeeze(1)
        if self.pairs is not None:
            projected = self.pairs.projection(words) if self.projected is None else F.embedding(known, self.projected)
            pooled = torch.cat([pooled, self.pairs(projected, mask)], dim=-1)
        pooled = self.dropout(pooled)
        if self.hidden is not None:
            pooled = self.dropout(torch.relu(self.hidden(pooled)))
        return self.head(pooled), weights

    def onnx_graph(self) -> onnx.ModelProto:
        """Return this student as a graph, in which each known word was projected once and for all."""
        student = copy.deepcopy(self)
        if student.pairs is not None:
            student.projected = student.pairs.projection(student.embedding.vectors.weight).detach()
        return exported_graph(student)
