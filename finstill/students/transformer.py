"""`transformer`: a BERT of some of its teacher's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from finstill.config.architectures import BaseConfig, TransformerConfig
from finstill.errors import InputError
from finstill.students.base import Student, StudentConfig
from finstill.students.embedding import TokenEmbedding
from finstill.students.graph import GraphPart, as_array, build_graph
from finstill.students.vocabulary import Vocabulary
from finstill.teacher.checkpoint import word_embeddings


class PretrainedTransformerConfig(StudentConfig):
    """Of a `Transformer`; its architecture is a `TransformerConfig`, and the other sizes are its teacher's.

    Attributes:
        width: of a token's state.
        heads: of each attention.
        inner_width: of each feed-forward block.
        longest: tokens of the longest text it can read.
        epsilon: of each layer norm.
    """

    model_type = "finstill_transformer"

    def __init__(
        self,
        width: int = 384,
        heads: int = 12,
        inner_width: int = 1536,
        longest: int = 512,
        epsilon: float = 1e-12,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.width = width
        self.heads = heads
        self.inner_width = inner_width
        self.longest = longest
        self.epsilon = epsilon


class Transformer(Student):
    """Word and position embeddings, layers of attention and feed-forward, the first token's state, a linear head.

    Devlin et al. 2019, "BERT", started from chosen layers of the teacher as in Sanh et al. 2019, "DistilBERT"; the head
    is new, since the teacher's classes need not be the task's.
    """

    config_class = PretrainedTransformerConfig

    def __init__(self, config: PretrainedTransformerConfig):
        super().__init__(config)
        architecture = TransformerConfig(**config.architecture)
        self.embedding = TokenEmbedding(config.known_tokens, config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.zeros(config.longest, config.width))
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.dropout = nn.Dropout(architecture.dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
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
        cls, architecture: BaseConfig, labels: Sequence[str], vocabulary: Vocabulary, teacher: PreTrainedModel
    ) -> Self:
        assert isinstance(architecture, TransformerConfig)
        if not isinstance(teacher, BertForSequenceClassification) or teacher.config.hidden_act != "gelu":
            raise InputError(
                f"a transformer student starts from the layers of a BERT with gelu, and the teacher is a "
                f"{teacher.config.model_type} with {getattr(teacher.config, 'hidden_act', 'another activation')}",
                where="student",
                remedy="Choose another student for this teacher",
            )
        bert, sizes = teacher.bert, teacher.config
        if absent := [layer for layer in architecture.layers if not 0 <= layer < sizes.num_hidden_layers]:
            raise InputError(
                f"the teacher has no layer {absent[0]}: it has {sizes.num_hidden_layers}, and the first is 0",
                where="architecture.layers",
            )
        student = cls(
            cls.configuration(
                architecture,
                labels,
                vocabulary,
                width=sizes.hidden_size,
                heads=sizes.num_attention_heads,
                inner_width=sizes.intermediate_size,
                longest=sizes.max_position_embeddings,
                epsilon=sizes.layer_norm_eps,
            )
        )
        student.embedding.start_from(vocabulary, word_embeddings(teacher)[vocabulary.token_ids])
        embeddings = bert.embeddings
        # Every token of a single text is of type 0, so its embedding is a part of the position's.
        both = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        student.positions.data.copy_(both.detach())
        student.norm.load_state_dict(embeddings.LayerNorm.state_dict())
        for layer, position in zip(student.layers, architecture.layers, strict=True):
            layer.load_state_dict(_layer_weights(bert.encoder.layer[position]))
        assert bert.pooler is not None
        student.pooler.load_state_dict(bert.pooler.dense.state_dict())
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
            output_attentions: also return the last layer's attention of the first token, averaged over heads, (rows,
                tokens).

        Returns:
            logits: float, (rows, classes).
        """
        padding = torch.zeros_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask == 0
        states = self.embedding(input_ids) + self.positions[: input_ids.shape[1]]
        states = self.dropout(self.norm(states))
        for layer in self.layers:
            before, states = states, layer(states, src_key_padding_mask=padding)
        pooled = torch.tanh(self.pooler(states[:, 0]))
        logits = self.head(self.dropout(pooled))
        if not output_attentions:
            return SequenceClassifierOutput(logits=logits)
        assert isinstance(layer, nn.TransformerEncoderLayer)
        _, weights = layer.self_attn(before[:, :1], before, before, key_padding_mask=padding)
        return SequenceClassifierOutput(logits=logits, attentions=(weights[:, 0],))

    def onnx_graph(self) -> onnx.ModelProto:
        config = self.config
        head_width = config.width // config.heads
        norm = f"LayerNormalization <axis = -1, epsilon = {config.epsilon:.3e}>"
        nodes = f"""
            mask = Cast <to = 9> (attention_mask)
            head_and_query_axes = Constant <value_ints = [1, 2]> ()
            readable = Unsqueeze (mask, head_and_query_axes)
            excluded = Constant <value_float = -inf> ()
            start = Constant <value_ints = [0]> ()
            length = Shape <start = 1, end = 2> (input_ids)
            placed = Slice (positions, start, length)
            summed = Add (embedded, placed)
            states_0 = {norm} (summed, norm, norm_bias)
            apart = Constant <value_ints = [0, 0, {config.heads}, {head_width}]> ()
            together = Constant <value_ints = [0, 0, {config.width}]> ()
            scale = Constant <value_float = {head_width**-0.5}> ()
        """
        weights = {"positions": as_array(self.positions), **_onnx_norm("norm", self.norm)}
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, nn.TransformerEncoderLayer)
            nodes += f"""
                projected_{i} = MatMul (states_{i}, qkv_{i})
                shifted_{i} = Add (projected_{i}, qkv_{i}_bias)
                q_{i}, k_{i}, v_{i} = Split <axis = -1, num_outputs = 3> (shifted_{i})
                q_apart_{i} = Reshape (q_{i}, apart)
                k_apart_{i} = Reshape (k_{i}, apart)
                v_apart_{i} = Reshape (v_{i}, apart)
                queries_{i} = Transpose <perm = [0, 2, 1, 3]> (q_apart_{i})
                keys_{i} = Transpose <perm = [0, 2, 3, 1]> (k_apart_{i})
                values_{i} = Transpose <perm = [0, 2, 1, 3]> (v_apart_{i})
                products_{i} = MatMul (queries_{i}, keys_{i})
                scaled_{i} = Mul (products_{i}, scale)
                masked_{i} = Where (readable, scaled_{i}, excluded)
                attention_{i} = Softmax <axis = -1> (masked_{i})
                weighed_{i} = MatMul (attention_{i}, values_{i})
                by_token_{i} = Transpose <perm = [0, 2, 1, 3]> (weighed_{i})
                joined_{i} = Reshape (by_token_{i}, together)
                {_onnx_linear(f"joined_{i}", f"out_{i}", f"attended_{i}")}
                with_input_{i} = Add (states_{i}, attended_{i})
                middle_{i} = {norm} (with_input_{i}, norm_{i}_1, norm_{i}_1_bias)
                {_onnx_linear(f"middle_{i}", f"widen_{i}", f"wide_{i}")}
                bent_{i} = Gelu (wide_{i})
                {_onnx_linear(f"bent_{i}", f"narrow_{i}", f"fed_{i}")}
                with_middle_{i} = Add (middle_{i}, fed_{i})
                states_{i + 1} = {norm} (with_middle_{i}, norm_{i}_2, norm_{i}_2_bias)
            """
            attention = layer.self_attn
            weights |= {
                f"qkv_{i}": as_array(attention.in_proj_weight).T,
                f"qkv_{i}_bias": as_array(attention.in_proj_bias),
                f"out_{i}": as_array(attention.out_proj.weight).T,
                f"out_{i}_bias": as_array(attention.out_proj.bias),
                f"widen_{i}": as_array(layer.linear1.weight).T,
                f"widen_{i}_bias": as_array(layer.linear1.bias),
                f"narrow_{i}": as_array(layer.linear2.weight).T,
                f"narrow_{i}_bias": as_array(layer.linear2.bias),
                **_onnx_norm(f"norm_{i}_1", layer.norm1),
                **_onnx_norm(f"norm_{i}_2", layer.norm2),
            }
        last = len(self.layers)
        nodes += f"""
            first = Constant <value_int = 0> ()
            first_state = Gather <axis = 1> (states_{last}, first)
            pooler_input = Gemm <transB = 1> (first_state, pooler, pooler_bias)
            pooled = Tanh (pooler_input)
            logits = Gemm <transB = 1> (pooled, head, head_bias)
            of_first = Gather <axis = 2> (attention_{last - 1}, first)
            head_axis = Constant <value_ints = [1]> ()
            attention = ReduceMean <keepdims = 0> (of_first, head_axis)
        """
        weights |= {
            "pooler": as_array(self.pooler.weight),
            "pooler_bias": as_array(self.pooler.bias),
            "head": as_array(self.head.weight),
            "head_bias": as_array(self.head.bias),
        }
        return build_graph("transformer", self.embedding.graph_part(), GraphPart(nodes, weights))


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


def _onnx_linear(states: str, weight: str, result: str) -> str:
    return f"{result}_product = MatMul ({states}, {weight})\n{result} = Add ({result}_product, {weight}_bias)"


def _onnx_norm(name: str, norm: nn.LayerNorm) -> dict[str, np.ndarray]:
    return {name: as_array(norm.weight), f"{name}_bias": as_array(norm.bias)}
