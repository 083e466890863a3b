"""The int8 graph of a student: smaller, an LSTM's also faster, and batch mates never meet.

ONNX Runtime's dynamic quantisation takes the scale of activations from the whole batch, so that a text's logits would
move with the texts around it. Here

- an LSTM runs in ONNX Runtime's DynamicQuantizeLSTM, with two inputs and two units more that hold the ends of what its
  activations can reach. They are there in every batch and every step, so the scale that is taken "from the batch" is
  always the same, and a product of integers is exact;
- a word embedding keeps a scale a word (vector-wise, as in LLM.int8(), Dettmers et al. 2022), and the words of a text
  are made floats again as they are looked up;
- every other weight is stored as int8 with a scale a channel (Jacob et al. 2018) and made float again once, when the
  graph is loaded: it then computes as the float32 graph does.

docs/runtime.md has the measurements that decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.helper import get_node_attr_value, make_node, make_opsetid

from finstill.teacher.int8 import ONNX_RUNTIME, SMALLEST_MAGNITUDE, quantize_weight

SMALLEST_WEIGHT = 1024
"""Values below which a weight stays float32: it would save nothing."""

SATURATED = 30.0
"""A gate's bias at which its sigmoid is 1, or 0 where it is negative, in float32."""

SATURATED_CELL = 20.0
"""A cell state whose tanh is 1 in float32."""

KEEPS_BOUND = {"Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose"}
"""Operators whose outputs hold values of their first input, or of any where they concatenate."""

WITHIN_ONE = {"LSTM", "Sigmoid", "Softmax", "Tanh"}


@dataclass
class _Graph:
    """A graph under construction.

    Attributes:
        weights: float32 initializers that are constants of it.
        nodes: in topological order.
        added: initializers of the new nodes, by name.
        bounds: by name of a value, the largest magnitude that it can have, where that is known.
    """

    weights: Mapping[str, np.ndarray]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    added: dict[str, np.ndarray] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)

    def add(self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def constant(self, name: str, value: object, dtype: type = np.float32) -> str:
        self.added[name] = np.asarray(value, dtype)
        return name


def quantize_student(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the int8 version of a student's float32 graph, with the same inputs and outputs."""
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    graph = _Graph(weights)
    for node in model.graph.node:
        if _looks_up_words(node, weights):
            _embedding(graph, node)
        elif _is_plain_lstm(node, weights) and node.input[0] in graph.bounds:
            _lstm(graph, node)
        else:
            graph.nodes.append(node)
        _bound(graph, node)
    used = {name for node in graph.nodes for name in node.input}
    stored = [_stored_small(graph, name) for name in weights if name in used]
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    del quantised.graph.node[:], quantised.graph.initializer[:]
    quantised.graph.node.extend([*(node for nodes in stored for node in nodes), *graph.nodes])
    quantised.graph.initializer.extend(
        [tensor for tensor in model.graph.initializer if tensor.name in used and tensor.name not in weights]
    )
    quantised.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in graph.added.items())
    quantised.opset_import.append(make_opsetid(ONNX_RUNTIME, 1))
    onnx.checker.check_model(quantised)
    return quantised


def quantize_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 (..., N) and float32 scales (..., 1) whose product lies nearest `weight` (..., N)."""
    magnitude = np.maximum(np.abs(weight).max(axis=-1, keepdims=True), np.float32(SMALLEST_MAGNITUDE))
    scales = magnitude / np.float32(127)
    return np.rint(weight / scales).astype(np.int8), scales


def _looks_up_words(node: onnx.NodeProto, weights: Mapping[str, np.ndarray]) -> bool:
    return (
        node.op_type == "Gather"
        and node.input[0] in weights
        and weights[node.input[0]].ndim == 2
        and weights[node.input[0]].shape[1] > 1  # One number a word and its scale would be larger than the number.
        and _attribute(node, "axis", 0) == 0
    )


def _embedding(graph: _Graph, node: onnx.NodeProto) -> None:
    name, (output,) = node.input[0], node.output
    integers, scales = quantize_rows(graph.weights[name])
    graph.constant(f"{name}_int8", integers, np.int8)
    graph.constant(f"{name}_scale", scales)
    words = graph.add("Gather", [f"{name}_int8", node.input[1]], f"{output}_int8")
    scale = graph.add("Gather", [f"{name}_scale", node.input[1]], f"{output}_scale")
    words = graph.add("Cast", [words], f"{output}_levels", to=onnx.TensorProto.FLOAT)
    graph.add("Mul", [words, scale], output)
    graph.bounds[output] = float((np.abs(integers) * scales).max())


def _is_plain_lstm(node: onnx.NodeProto, weights: Mapping[str, np.ndarray]) -> bool:
    """Whether this is an LSTM of constant weights and biases that starts from zeros and whose states alone are read."""
    inputs = [*node.input, *[""] * (8 - len(node.input))]
    return (
        node.op_type == "LSTM"
        and all(name in weights for name in inputs[1:4])
        and not any(inputs[5:])
        and len([name for name in node.output if name]) == 1
        and not {attribute.name for attribute in node.attribute} - {"direction", "hidden_size"}
    )


def _lstm(graph: _Graph, node: onnx.NodeProto) -> None:
    """Replace an LSTM over (tokens, rows, width) by the quantised one with its range pinned."""
    states, (output, *_) = node.input[0], node.output
    w, r, biases = (graph.weights[name] for name in node.input[1:4])
    directions, _, units = r.shape
    bound = graph.bounds[states]

    # Input and forget gates, in ONNX's order i, o, f, c, hold the two units' cells where they start.
    pinned = np.repeat(np.array([[-SATURATED, SATURATED, SATURATED, 0.0]]), 2, axis=0).T
    for_input, for_state = np.split(biases.reshape(directions, 8, units), 2, axis=1)
    both = np.concatenate(
        [
            np.concatenate([for_input, np.broadcast_to(pinned, (directions, 4, 2))], axis=2),
            np.pad(for_state, ((0, 0), (0, 0), (0, 2))),
        ],
        axis=1,
    )
    names = [f"{output}_{part}" for part in ("W", "R")]
    for name, weight in zip(names, (w, r), strict=True):
        gates = np.pad(weight.reshape(directions, 4, units, -1), ((0, 0), (0, 0), (0, 2), (0, 2)))
        quantised = [quantize_weight(side.T) for side in gates.reshape(directions, 4 * (units + 2), -1)]
        graph.constant(f"{name}_int8", [integers for integers, _ in quantised], np.int8)
        graph.constant(f"{name}_scale", [scales for _, scales in quantised])
        graph.constant(f"{name}_zero", np.zeros((directions, 4 * (units + 2))), np.int8)
    graph.constant(f"{output}_B", both.reshape(directions, -1))

    one = graph.constant(f"{output}_one", [1], np.int64)
    shape = graph.add("Shape", [states], f"{output}_tokens_rows", start=0, end=2)
    shape = graph.add("Concat", [shape, one], f"{output}_pin_shape", axis=0)
    ends = graph.add("Expand", [graph.constant(f"{output}_ends", [[[bound, -bound]]]), shape], f"{output}_pins")
    pinned_states = graph.add("Concat", [states, ends], f"{output}_pinned_input", axis=2)
    rows = graph.add("Shape", [states], f"{output}_rows", start=1, end=2)
    sides = graph.constant(f"{output}_sides", [directions], np.int64)
    shape = graph.add("Concat", [sides, rows, one], f"{output}_start_shape", axis=0)
    starts = []
    for name, value in (("state", 1.0), ("cell", SATURATED_CELL)):
        start = np.zeros((directions, 1, units + 2))
        start[:, :, units:] = [value, -value]
        start_name = graph.constant(f"{output}_{name}", start)
        starts.append(graph.add("Expand", [start_name, shape], f"{output}_first_{name}"))
    lengths = node.input[4] if len(node.input) > 4 else ""
    parts = [f"{name}_{part}" for name in names for part in ("scale", "zero")]
    wide = graph.add(
        "DynamicQuantizeLSTM",
        [pinned_states, *(f"{name}_int8" for name in names), f"{output}_B", lengths, *starts, "", *parts],
        f"{output}_wide",
        domain=ONNX_RUNTIME,
        direction=_attribute(node, "direction", b"forward"),
        hidden_size=units + 2,
    )
    cuts = [graph.constant(f"{output}_cut_{i}", [cut], np.int64) for i, cut in enumerate((0, units, 3))]
    graph.add("Slice", [wide, *cuts], output)


def _bound(graph: _Graph, node: onnx.NodeProto) -> None:
    """Note how large the output of `node` can be, where that is known."""
    if node.op_type in WITHIN_ONE:
        graph.bounds[node.output[0]] = 1.0
    elif node.op_type in KEEPS_BOUND:
        read = node.input if node.op_type == "Concat" else node.input[:1]
        if all(name in graph.bounds for name in read):
            graph.bounds.setdefault(node.output[0], max(graph.bounds[name] for name in read))


def _stored_small(graph: _Graph, name: str) -> list[onnx.NodeProto]:
    """Keep the weight `name` as int8 where that is smaller, and return the nodes that make it float again.

    Cast and Mul, not DequantizeLinear: ONNX Runtime computes the former once, at load, and turns the latter into
    kernels of its own choice, which round otherwise from version to version.
    """
    weight = graph.weights[name]
    # A scale for what lies along the last axis or along the one before, whichever comes nearer.
    choices = [
        tuple(np.moveaxis(part, -1, axis) for part in quantize_rows(np.moveaxis(weight, axis, -1)))
        for axis in (-1, -2)
        if weight.ndim >= 2 and weight.shape[axis] >= 8
    ]
    if weight.size < SMALLEST_WEIGHT or not choices:
        graph.constant(name, weight)
        return []
    integers, scales = min(choices, key=lambda choice: float(np.square(choice[0] * choice[1] - weight).sum()))
    graph.constant(f"{name}_int8", np.ascontiguousarray(integers), np.int8)
    graph.constant(f"{name}_scale", np.ascontiguousarray(scales))
    return [
        make_node("Cast", [f"{name}_int8"], [f"{name}_levels"], to=onnx.TensorProto.FLOAT),
        make_node("Mul", [f"{name}_levels", f"{name}_scale"], [name]),
    ]


def _attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    present = any(attribute.name == name for attribute in node.attribute)
    return get_node_attr_value(node, name) if present else default
