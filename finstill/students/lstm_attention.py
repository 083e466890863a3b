"""`lstm_attention`: a bidirectional LSTM with additive attention over its states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from finstill.students.base import Student, arrays, label_maps
from finstill.students.recipe import LstmAttentionShape


class LstmAttentionConfig(PretrainedConfig):
    """Sizes of an `LstmAttention`; see `LstmAttentionShape`."""

    model_type = "finstill_lstm_attention"

    def __init__(
        self,
        vocab_size: int = 30522,
        embedding_width: int = 128,
        hidden_width: int = 128,
        layers: int = 3,
        dropout: float = 0.3,
        pad_token_id: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.pad_token_id = pad_token_id
        self.vocab_size = vocab_size
        self.embedding_width = embedding_width
        self.hidden_width = hidden_width
        self.layers = layers
        self.dropout = dropout


class BidirectionalLayer(nn.Module):
    """One LSTM layer read in both directions, padding never read before a token.

    The backward direction reads each row reversed within its own length. So padding stands at the end for both, where
    it cannot reach a token's state, and a row's states are those it has alone. It equals a packed bidirectional
    `nn.LSTM` at half the time of a step on CPU, since the rows stay one dense tensor.
    """

    def __init__(self, width: int, hidden_width: int):
        super().__init__()
        self.forwards = nn.LSTM(width, hidden_width, batch_first=True)
        self.backwards = nn.LSTM(width, hidden_width, batch_first=True)

    def forward(self, states: Tensor, reversal: Tensor) -> Tensor:
        """Return the states of both directions side by side.

        Args:
            states: float, (rows, tokens, width).
            reversal: int64, (rows, tokens): for each position the one that it changes places with.

        Returns:
            float, (rows, tokens, 2 * hidden_width).
        """
        forwards, _ = self.forwards(states)
        backwards, _ = self.backwards(_exchange(states, reversal))
        return torch.cat([forwards, _exchange(backwards, reversal)], dim=-1)


class AdditiveAttention(nn.Module):
    """Weights over a row's tokens: softmax of v . tanh(W h + b), padding left out.

    Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and Translate", with a learned query
    as in Yang et al. 2016, "Hierarchical Attention Networks for Document Classification".
    """

    def __init__(self, width: int):
        super().__init__()
        self.projection = nn.Linear(width, width // 2)
        self.query = nn.Linear(width // 2, 1, bias=False)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the weights of `states` (rows, tokens, width) where `mask` (rows, tokens) is true: (rows, tokens)."""
        scores = self.query(torch.tanh(self.projection(states))).squeeze(-1)
        return torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1)


class LstmAttention(Student):
    """Embedding, LSTM layers, additive attention pooling, a linear head."""

    config_class = LstmAttentionConfig

    def __init__(self, config: LstmAttentionConfig):
        super().__init__(config)
        width = 2 * config.hidden_width
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_width, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(
            BidirectionalLayer(config.embedding_width if i == 0 else width, config.hidden_width)
            for i in range(config.layers)
        )
        self.attention = AdditiveAttention(width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, len(config.id2label or ()))
        self.post_init()

    @classmethod
    def from_shape(  # type: ignore[override]
        cls,
        shape: LstmAttentionShape,
        labels: Sequence[str],
        vocabulary: int,
        teacher_embeddings: np.ndarray | None,
    ) -> Self:
        sizes = shape.model_dump(exclude={"embedding"})
        student = cls(LstmAttentionConfig(vocab_size=vocabulary, **sizes, **label_maps(labels)))
        if teacher_embeddings is not None:
            start = _fit_width(teacher_embeddings, shape.embedding_width)
            student.embedding.weight.data.copy_(torch.from_numpy(start))
        return student

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
            output_attentions: also return the attention over tokens, (rows, tokens).

        Returns:
            logits: float, (rows, classes).
        """
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        reversal = _reversal(mask)
        states = self.dropout(self.embedding(input_ids))
        for layer in self.layers:
            states = self.dropout(layer(states, reversal))
        weights = self.attention(states, mask)
        pooled = torch.einsum("rt,rtw->rw", weights, states)
        logits = self.head(self.dropout(pooled))
        return SequenceClassifierOutput(logits=logits, attentions=(weights,) if output_attentions else None)

    def onnx_graph(self) -> onnx.ModelProto:
        weights = arrays(self)
        layers, initializers = [], {"embedding": weights["embedding.weight"]}
        for i in range(self.config.layers):
            layers.append(
                f'both_{i} = LSTM <direction = "bidirectional", hidden_size = {self.config.hidden_width}>'
                f" (states_{i}, W_{i}, R_{i}, B_{i}, lengths)\n"
                f"apart_{i} = Transpose <perm = [0, 2, 1, 3]> (both_{i})\n"
                f"states_{i + 1} = Reshape (apart_{i}, side_by_side)"
            )
            initializers |= _onnx_lstm(weights, i)
        last = f"states_{self.config.layers}"
        model = onnx.parser.parse_model(
            f"""
            <ir_version: 10, opset_import: ["": 20]>
            lstm_attention (int64[rows, tokens] input_ids, int64[rows, tokens] attention_mask)
                => (float[rows, classes] logits, float[rows, tokens] attention)
            {{
                last_axis = Constant <value_ints = [-1]> ()
                side_by_side = Constant <value_ints = [0, 0, -1]> ()
                excluded = Constant <value_float = -inf> ()
                count = ReduceSum <keepdims = 0> (attention_mask, last_axis)
                lengths = Cast <to = 6> (count)
                embedded = Gather (embedding, input_ids)
                states_0 = Transpose <perm = [1, 0, 2]> (embedded)
                {chr(10).join(layers)}
                states = Transpose <perm = [1, 0, 2]> ({last})
                projected = MatMul (states, projection)
                shifted = Add (projected, projection_bias)
                bent = Tanh (shifted)
                scored = MatMul (bent, query)
                scores = Squeeze (scored, last_axis)
                mask = Cast <to = 9> (attention_mask)
                masked = Where (mask, scores, excluded)
                attention = Softmax <axis = -1> (masked)
                column = Unsqueeze (attention, last_axis)
                weighed = Mul (states, column)
                token_axis = Constant <value_ints = [1]> ()
                pooled = ReduceSum <keepdims = 0> (weighed, token_axis)
                logits = Gemm <transB = 1> (pooled, head, head_bias)
            }}
            """
        )
        initializers |= {
            "projection": weights["attention.projection.weight"].T,
            "projection_bias": weights["attention.projection.bias"],
            "query": weights["attention.query.weight"].T,
            "head": weights["head.weight"],
            "head_bias": weights["head.bias"],
        }
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in initializers.items()
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def _reversal(mask: Tensor) -> Tensor:
    """Return for each position of a row the one it takes when the row is reversed within its length; padding stays."""
    positions = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    return torch.where(mask, mask.sum(dim=1, keepdim=True) - 1 - positions, positions)


def _exchange(states: Tensor, reversal: Tensor) -> Tensor:
    return states.gather(1, reversal[:, :, None].expand(-1, -1, states.shape[2]))


def _fit_width(embeddings: np.ndarray, width: int) -> np.ndarray:
    """Return word embeddings (vocabulary, width), by PCA where that is narrower, at the scale of random ones.

    The teacher's are some twenty times smaller than what an LSTM's gates are made for; scaled to unit variance, as
    `nn.Embedding` starts, the same learning rate serves both.
    """
    if width < embeddings.shape[1]:
        embeddings = PCA(width, svd_solver="covariance_eigh").fit_transform(embeddings)
    elif width > embeddings.shape[1]:
        embeddings = np.pad(embeddings, ((0, 0), (0, width - embeddings.shape[1])))
    return (embeddings / embeddings.std()).astype(np.float32)


def _onnx_lstm(weights: dict[str, np.ndarray], layer: int) -> dict[str, np.ndarray]:
    """Return one layer's weights as ONNX's LSTM takes them: directions stacked, gates in the order i, o, f, c."""

    def reorder(name: str) -> np.ndarray:
        both = []
        for direction in ("forwards", "backwards"):
            # torch's order is i, f, c, o.
            i, f, c, o = np.split(weights[f"layers.{layer}.{direction}.{name}"], 4)
            both.append(np.concatenate([i, o, f, c]))
        return np.stack(both)

    return {
        f"W_{layer}": reorder("weight_ih_l0"),
        f"R_{layer}": reorder("weight_hh_l0"),
        f"B_{layer}": np.concatenate([reorder("bias_ih_l0"), reorder("bias_hh_l0")], axis=1),
    }
