"""`encoder`: a BERT of some layers of a pretrained one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertModel

from finstill.config.architectures import BaseConfig, EncoderConfig
from finstill.errors import InputError
from finstill.students.base import StudentConfig, TokenStateStudent, masked_softmax
from finstill.students.embedding import TokenEmbedding, pca_to
from finstill.students.start import Start
from finstill.students.vocabulary import Vocabulary
from finstill.teacher.checkpoint import word_embeddings


class PretrainedEncoderConfig(StudentConfig):
    """Of an `Encoder`; its architecture is an `EncoderConfig`, and the other sizes are its checkpoint's.

    Attributes:
        width: of a token's state.
        heads: of each attention.
        inner_width: of each feed-forward block.
        epsilon: of each layer norm.
    """

    model_type = "finstill_encoder"

    width: int = 384
    heads: int = 12
    inner_width: int = 1536
    epsilon: float = 1e-12


class EncoderLayer(nn.TransformerEncoderLayer):
    """torch's layer, with its attention written out: so its weights can be read, and its graph is as short as one
    written by hand."""

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the next states and how much each token attends to each.

        Args:
            states: float, (rows, tokens, width).
            mask: bool, (rows, tokens), false for padding.

        Returns:
            states: float, (rows, tokens, width).
            weights: float, (rows, heads, tokens, tokens), in sum 1 over the last axis.
        """
        attention = self.self_attn
        projected = F.linear(states, attention.in_proj_weight, attention.in_proj_bias)
        queries, keys, values = (
            part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1)
        )
        scores = (queries @ keys.mT) * attention.head_dim**-0.5
        weights = masked_softmax(scores, mask[:, None, None])
        attended = F.dropout(weights, attention.dropout, self.training) @ values
        states = self.norm1(states + self.dropout1(attention.out_proj(attended.transpose(1, 2).flatten(2))))
        inner = self.dropout(F.gelu(self.linear1(states)))
        return self.norm2(states + self.dropout2(self.linear2(inner))), weights


class Encoder(TokenStateStudent):
    """Word and position embeddings, layers of attention and feed-forward, the first token's state, a linear head.

    Devlin et al. 2019, "BERT", started from chosen layers of a larger one as in Sanh et al. 2019, "DistilBERT", and
    where its recipe says so with factorised word vectors as in Lan et al. 2020, "ALBERT". The head is new, since a
    checkpoint's classes need not be the task's.
    """

    config_class = PretrainedEncoderConfig

    def __init__(self, config: PretrainedEncoderConfig):
        super().__init__(config)
        architecture = EncoderConfig(**config.architecture)
        narrow = architecture.embedding_width
        self.embedding = TokenEmbedding(config.known_tokens, config.vocab_size, narrow or config.width)
        self.widening = nn.Linear(narrow, config.width) if narrow else None
        self.positions = nn.Parameter(torch.zeros(config.longest, config.width))
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.dropout = nn.Dropout(architecture.dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(
                config.width,
                config.heads,
                config.inner_width,
                architecture.dropout,
                activation="gelu",
                layer_norm_eps=config.epsilon,
                batch_first=True,
            )
            for _ in architecture.layers
        )
        self.pooler = nn.Linear(config.width, config.width)
        self.head = nn.Linear(config.width, len(config.id2label or ()))
        self.post_init()

    @classmethod
    def from_architecture(
        cls, architecture: BaseConfig, labels: Sequence[str], vocabulary: Vocabulary, start: Start
    ) -> Self:
        assert isinstance(architecture, EncoderConfig)
        bert = start.encoder
        if not isinstance(bert, BertModel) or bert.config.hidden_act != "gelu":
            raise InputError(
                f"an encoder student starts from the layers of a BERT with gelu, and this is a "
                f"{bert.config.model_type} with {getattr(bert.config, 'hidden_act', 'another activation')}",
                where=start.folder,
                remedy="Name another architecture.checkpoint, as `embedded`, or choose another student",
            )
        sizes = bert.config
        if absent := [layer for layer in architecture.layers if not 0 <= layer < sizes.num_hidden_layers]:
            raise InputError(
                f"{start.folder} has no layer {absent[0]}: it has {sizes.num_hidden_layers}, and the first is 0",
                where="architecture.layers",
            )
        student = cls(
            cls.configuration(
                architecture,
                labels,
                vocabulary,
                start.max_length,
                width=sizes.hidden_size,
                heads=sizes.num_attention_heads,
                inner_width=sizes.intermediate_size,
                epsilon=sizes.layer_norm_eps,
            )
        )
        words = word_embeddings(bert)[vocabulary.token_ids]
        if student.widening is not None:
            words = _factorised(words, student.widening)
        student.embedding.start_from(vocabulary, words)
        embeddings = bert.embeddings
        # Every token of a single text is of type 0, so its embedding is a part of the position's.
        both = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        student.positions.data.copy_(both[: start.max_length].detach())
        student.norm.load_state_dict(embeddings.LayerNorm.state_dict())
        for layer, position in zip(student.layers, architecture.layers, strict=True):
            layer.load_state_dict(_layer_weights(bert.encoder.layer[position]))
        if bert.pooler is not None:
            student.pooler.load_state_dict(bert.pooler.dense.state_dict())
        return student

    def classify(self, input_ids: Tensor, mask: Tensor, explain: bool) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and the last layer's attention of the first token, averaged over heads."""
        states, weights = self._read(input_ids, mask)
        pooled = torch.tanh(self.pooler(states[:, 0]))
        return self.head(self.dropout(pooled)), weights[:, :, 0].mean(dim=1)

    def token_states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        return self._read(input_ids, mask)[0]

    def _read(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the last layer returns, see `EncoderLayer.forward`."""
        words = self.embedding(input_ids)
        if self.widening is not None:
            words = self.widening(words)
        states = self.dropout(self.norm(words + self.positions[: input_ids.shape[1]]))
        for layer in self.layers:
            states, weights = layer(states, mask)
        return states, weights


def _factorised(words: np.ndarray, widening: nn.Linear) -> np.ndarray:
    """Return narrow vectors of `words`, float32, (known, width), and set the layer that widens them again.

    By PCA: of all such factors, their product lies nearest `words` (Eckart and Young 1936).

    Raises:
        InputError: the layer is wider than `words`, or they are fewer.
    """
    pca = pca_to(widening.in_features, words).fit(words)
    widening.weight.data.copy_(torch.from_numpy(pca.components_.T))
    widening.bias.data.copy_(torch.from_numpy(pca.mean_))
    return pca.transform(words).astype(np.float32)


def _layer_weights(layer: nn.Module) -> dict[str, Tensor]:
    """Return a BERT layer's weights under the names of torch's own encoder layer, which computes the same."""
    theirs = layer.state_dict()
    ours = {
        "self_attn.in_proj_": [f"attention.self.{name}." for name in ("query", "key", "value")],
        "self_attn.out_proj.": ["attention.output.dense."],
        "linear1.": ["intermediate.dense."],
        "linear2.": ["output.dense."],
        "norm1.": ["attention.output.LayerNorm."],
        "norm2.": ["output.LayerNorm."],
    }
    return {
        f"{name}{kind}": torch.cat([theirs[f"{part}{kind}"] for part in parts])
        for name, parts in ours.items()
        for kind in ("weight", "bias")
    }
