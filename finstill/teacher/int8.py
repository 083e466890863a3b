"""The int8 teacher graph: the processor's integer units do the matrix products, and batch mates never meet.

Dynamic quantisation as ONNX Runtime ships it takes one activation scale for a whole batch, so that a text's logits
move with the texts around it, and such logits cannot be kept. Here each token has its own scale, as in the vector-wise
quantisation of LLM.int8() (Dettmers et al. 2022), and each output channel of a weight has one (Jacob et al. 2018). The
product of integers is exact, so a token's result depends on that token alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes import common as passes
from onnxscript.optimizer import optimize
from onnxscript.rewriter.ort_fusions.mha import fuse_mha2
from onnxscript.rewriter.ort_fusions.mha_scale import fuse_mha_scale
from onnxscript.rewriter.ort_fusions.sdpa import fuse_sdpa
from onnxscript.rewriter.ort_fusions.sdpa_via_mha import replace_sdpa_by_mha
from onnxscript.rewriter.ort_fusions.shape_optimization import rules as shape_rules
from onnxscript.rewriter.pattern import MatchResult, RewriteRuleClassBase, RewriteRuleSet

from finstill.errors import InputError
from finstill.quiet import errors_alone

ZERO_POINT = 128
"""Activations are uint8 around this: int8 ones are several times slower on AVX2."""

ACTIVATION_LIMIT = 127

WEIGHT_LIMIT = 64
"""Seven bits. Without VNNI, x86 adds two uint8 x int8 products in 16 bits and saturates (vpmaddubsw): 2 * 255 * 64
fits, so that the product is exact on every processor."""

SMALLEST_MAGNITUDE = 1e-20
"""Stands for the scale of a token whose activations are all zero."""

CALIBRATION_SHAPE = (64, 16)
"""Rows and tokens of the random ids on which rounding's mean effect is measured."""

ONNX_RUNTIME = "com.microsoft"


def quantize_teacher(float32_graph: Path, path: Path) -> None:
    """Write the int8 version of the exported classifier `float32_graph` to `path`; embeddings and head stay float32.

    Raises:
        InputError: the graph has no linear layer to quantise.
    """
    model = fuse(ir.load(float32_graph))
    layers = [node for node in model.graph if node.op_type == "MatMul" and _is_matrix(node.inputs[1])]
    if not layers:
        raise InputError("the graph multiplies by no constant weight: it cannot be quantised", where=float32_graph)
    correct_biases(model, layers)
    RewriteRuleSet([Int8Linear.rule()]).apply_to_model(model)
    # Layers that read the same activations, as queries, keys and values do, then quantise them once.
    passes.CommonSubexpressionEliminationPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.DeduplicateInitializersPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    ir.save(model, path)


def fuse_teacher(float32_graph: Path, path: Path) -> None:
    """Write the exported classifier `float32_graph` to `path` with the nodes that ONNX Runtime is fastest with."""
    ir.save(fuse(ir.load(float32_graph)), path)


class Int8Linear(RewriteRuleClassBase):
    """Computes x W, x of float32 (..., tokens, K) and W constant (K, N), with uint8 activations and int8 weights."""

    def pattern(self, op: Any, x: ir.Value, weight: Any) -> ir.Value:
        return op.MatMul(x, weight)

    def check(self, context: Any, x: ir.Value, weight: Any) -> MatchResult:
        result = MatchResult()
        if not _is_matrix(weight):
            result.fail("not a linear layer")
        return result

    def rewrite(self, op: Any, x: ir.Value, weight: Any) -> ir.Value:
        integers, scales = quantize_weight(weight.const_value.numpy())
        magnitude = op.ReduceMax(op.Abs(x), op.Constant(value_ints=[-1]))
        magnitude = op.Max(magnitude, op.Constant(value_float=SMALLEST_MAGNITUDE))
        levels = op.Mul(x, op.Div(op.Constant(value_float=float(ACTIVATION_LIMIT)), magnitude))
        one = op.Constant(value_float=1.0)
        zero_point = op.Constant(value=ir.tensor(np.uint8(ZERO_POINT)))
        # MatMulIntegerToFloat takes one activation scale alone; 1, and the tokens' own follow.
        product = op.MatMulIntegerToFloat(
            op.QuantizeLinear(levels, one, zero_point),
            op.Constant(value=ir.tensor(integers)),
            one,
            op.Constant(value=ir.tensor(scales / ACTIVATION_LIMIT)),
            zero_point,
            _domain=ONNX_RUNTIME,
        )
        return op.Mul(product, magnitude)


def quantize_weight(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 (K, N) within `WEIGHT_LIMIT` and float32 scales (N,) whose product lies nearest `weight` (K, N)."""
    magnitude = np.maximum(np.abs(weight).max(axis=0), np.float32(SMALLEST_MAGNITUDE))
    scales = magnitude / np.float32(WEIGHT_LIMIT)
    return np.rint(weight / scales).astype(np.int8), scales


def correct_biases(model: ir.Model, layers: list[Any]) -> None:
    """Take from the bias of each linear layer what rounding its weight adds to its output on average.

    Section 4.2 of Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction". What
    a layer reads on average hardly depends on the texts, and so random ids will do.
    """
    means = _token_means(model, list(dict.fromkeys(node.inputs[0] for node in layers)))
    for node in layers:
        weight = node.inputs[1].const_value.numpy()
        integers, scales = quantize_weight(weight)
        shift = means[node.inputs[0]] @ (weight - integers * scales)
        for add in node.outputs[0].consumers():
            for i, bias in enumerate(add.inputs):
                if add.op_type == "Add" and bias.const_value is not None:
                    corrected = ir.tensor((bias.const_value.numpy() + shift).astype(np.float32))
                    value = ir.Value(name=f"{node.name}_bias", const_value=corrected)
                    model.graph.register_initializer(value)
                    add.replace_input_with(i, value)


def _token_means(model: ir.Model, values: list[ir.Value]) -> dict[ir.Value, np.ndarray]:
    """Return the mean over the tokens of random ids of each of `values`, (batch, tokens, width): float32, (width,)."""
    for value in values:
        value.dtype = ir.DataType.FLOAT
    outputs = len(model.graph.outputs)
    model.graph.outputs.extend(values)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    del model.graph.outputs[outputs:]
    words: Any = next(node for node in model.graph.inputs[0].consumers() if node.op_type == "Gather").inputs[0]
    ids = np.random.default_rng(0).integers(words.shape[0], size=CALIBRATION_SHAPE)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    arrays = session.run([value.name for value in values], feed)
    return {value: array.mean(axis=(0, 1)) for value, array in zip(values, arrays, strict=True)}


def _is_matrix(value: Any) -> bool:
    return value.const_value is not None and value.const_value.shape.rank() == 2


def fuse(model: ir.Model) -> ir.Model:
    """Return `model` with one attention node a layer, and its last layer computed for the token that the head reads."""
    # The optimiser tells of each node that it leaves as it is; what matters, that the graph is right, is proved after.
    with errors_alone("onnxscript"):
        passes.ShapeInferencePass()(model)
        optimize(model)
        shape_rules.apply_to_model(model)
        optimize(model)
        passes.CommonSubexpressionEliminationPass()(model)
        fuse_sdpa(model, apply_shape_inference=True)
        for fuse_more in (fuse_mha2, fuse_mha_scale, replace_sdpa_by_mha):
            fuse_more(model)
        optimize(model)
    keep_first_token(model)
    return model


TOKENWISE = {"Add", "Gelu", "LayerNormalization", "MatMul"}
"""What computes each token alone, from constants and operands with the same tokens."""


def keep_first_token(model: ir.Model) -> None:
    """Where the head reads the first token alone, drop the other tokens after the last layer's attention.

    Attention itself stays whole: for a single query ONNX Runtime sums in an order that depends on the padding.
    """
    # Any: onnx_ir calls every input optional, and those read here are not.
    nodes: list[Any] = list(model.graph)
    attention = max((i for i, node in enumerate(nodes) if node.op_type == "MultiHeadAttention"), default=len(nodes))
    head = next((i for i, node in enumerate(nodes) if i > attention and _takes_first_token(node)), None)
    if head is None:
        return
    layer = nodes[attention + 1 : head]
    readers = {*layer, nodes[head]}
    if any(node.op_type not in TOKENWISE or not readers.issuperset(node.outputs[0].consumers()) for node in layer):
        return
    computed = {node.outputs[0] for node in layer}
    first: dict[ir.Value, ir.Value] = {}
    for node in layer:
        # The exporter's shape, with all tokens, would mislead ONNX Runtime's memory planning.
        node.outputs[0].shape = None
        for i, value in enumerate(node.inputs):
            if value.const_value is None and value not in computed:
                if value not in first:
                    first[value] = _first_token(model.graph, value)
                node.replace_input_with(i, first[value])


def _takes_first_token(node: Any) -> bool:
    if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 1:
        return False
    index = node.inputs[1].const_value
    return index is not None and index.numpy().tolist() == 0


def _first_token(graph: ir.Graph, value: Any) -> ir.Value:
    """Return (batch, 1, width) of `value`, (batch, tokens, width)."""
    tape = ir.tape.Tape()
    bounds = [tape.op("Constant", [], {"value_ints": [bound]}) for bound in (0, 1, 1)]
    first = tape.op("Slice", [value, *bounds])
    graph.insert_after(value.producer(), tape.nodes)
    return first
