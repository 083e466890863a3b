"""`static`: a weighted bag of word vectors, the fastest student."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from finstill.config.architectures import StaticConfig
from finstill.students.base import Student, StudentConfig
from finstill.students.embedding import TokenEmbedding


class PretrainedStaticConfig(StudentConfig):
    """Of a `Static`; its architecture is a `StaticConfig`."""

    model_type = "finstill_static"


class Static(Student):
    """Word vectors averaged by a learned weight a token, and a head with a hidden layer or none.

    The deep averaging network of Iyyer et al. 2015, "Deep Unordered Composition Rivals Syntactic Methods for Text
    Classification", with a weight a word as in Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for Sentence
    Embeddings", here learned. It knows nothing of the order of words. A token's weight is exp(score) over the sum of a
    row's; all scores start at 0, which is the plain mean.
    """

    config_class = PretrainedStaticConfig

    def __init__(self, config: PretrainedStaticConfig):
        super().__init__(config)
        architecture = StaticConfig(**config.architecture)
        self.embedding = TokenEmbedding(config.known_tokens, config.vocab_size, architecture.embedding_width)
        self.scores = nn.Embedding(config.known_tokens, 1)
        nn.init.zeros_(self.scores.weight)
        self.dropout = nn.Dropout(architecture.dropout)
        self.hidden = (
            nn.Linear(architecture.embedding_width, architecture.hidden_width) if architecture.hidden_width else None
        )
        self.head = nn.Linear(architecture.hidden_width or architecture.embedding_width, len(config.id2label or ()))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Classify token ids.

        Args:
            input_ids, attention_mask: int64, (rows, tokens); rows are padded at the end.
            output_attentions: also return the tokens' weights, (rows, tokens).

        Returns:
            logits: float, (rows, classes).
        """
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        known = self.embedding.known(input_ids)
        scores = self.scores(known).squeeze(-1)
        weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1)
        pooled = self.dropout((weights[:, None] @ self.embedding.look_up(known)).squeeze(1))
        if self.hidden is not None:
            pooled = self.dropout(torch.relu(self.hidden(pooled)))
        return SequenceClassifierOutput(logits=self.head(pooled), attentions=(weights,) if output_attentions else None)
