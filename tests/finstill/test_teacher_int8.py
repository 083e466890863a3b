"""The int8 teacher graph: what a text gets depends on that text alone and lies near float32."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finstill.errors import InputError
from finstill.inference.session import OnnxClassifier
from finstill.teacher.int8 import WEIGHT_LIMIT, quantize_teacher, quantize_weight

TEXTS = [
    [101, *np.random.default_rng(length).integers(1000, 20000, length).tolist(), 102]
    for length in (1, 2, 3, 5, 8, 13, 14, 15, 16, 17, 31, 33, 60)
]


@pytest.fixture(scope="module")
def alone(graphs: dict[str, Path]) -> dict[str, np.ndarray]:
    """The logits of each text in a batch of its own."""
    classifiers = {name: OnnxClassifier(graph) for name, graph in graphs.items()}
    return {
        name: np.concatenate([classifier.batch_logits([text]) for text in TEXTS])
        for name, classifier in classifiers.items()
    }


@pytest.fixture(scope="module")
def int8(graphs: dict[str, Path]) -> OnnxClassifier:
    return OnnxClassifier(graphs["int8"])


@settings(max_examples=60)
@given(batch=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=24))
def test_no_batch_moves_a_texts_logits(int8: OnnxClassifier, alone: dict[str, np.ndarray], batch: list[int]) -> None:
    together = int8.batch_logits([TEXTS[i] for i in batch])
    np.testing.assert_allclose(together, alone["int8"][batch], rtol=0, atol=1e-4)


def test_a_fused_graph_equals_the_exported_one(alone: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(alone["fused"], alone["exported"], rtol=0, atol=1e-5)


def test_int8_lies_near_float32(alone: dict[str, np.ndarray]) -> None:
    error = np.abs(alone["int8"] - alone["exported"]).max()
    assert 0 < error < 0.05 * np.ptp(alone["exported"])


def test_int8_is_smaller_and_no_layer_stays_float32(graphs: dict[str, Path]) -> None:
    # The embeddings, which stay float32, are most of so small a teacher: only what is quantised is compared.
    layers = {name: _layer_bytes(onnx.load(graphs[name])) for name in ("exported", "int8")}
    assert layers["int8"] < 0.3 * layers["exported"]
    assert graphs["int8"].stat().st_size < graphs["exported"].stat().st_size


@pytest.mark.parametrize("name", ["fused", "int8"])
def test_one_token_is_followed_after_the_last_attention_and_not_into_it(graphs: dict[str, Path], name: str) -> None:
    nodes = onnx.load(graphs[name]).graph.node
    attentions = [i for i, node in enumerate(nodes) if node.op_type == "MultiHeadAttention"]
    slices = [i for i, node in enumerate(nodes) if node.op_type == "Slice"]
    assert len(slices) == 3, "position embeddings, and the last layer's attention and residual"
    # For a single query, ONNX Runtime sums in an order that depends on the padding.
    assert [i for i in slices if i in _read_by(nodes, attentions)] == slices[:1]


def test_weights_never_leave_seven_bits() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    weight[:, 3] = 0
    integers, scales = quantize_weight(weight)
    assert np.abs(integers).max() == WEIGHT_LIMIT
    assert np.abs(integers * scales - weight).max() <= scales.max() * 0.501


def test_a_graph_without_layers_is_refused(tmp_path: Path) -> None:
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 20]> mean (float[B, T] x) => (float[B, T] y) { y = Abs(x) }'
    )
    onnx.save(graph, tmp_path / "none.onnx")
    with pytest.raises(InputError, match="cannot be quantised"):
        quantize_teacher(tmp_path / "none.onnx", tmp_path / "int8.onnx")


def _read_by(nodes: Sequence[onnx.NodeProto], readers: Iterable[int]) -> set[int]:
    """Return the positions of all nodes whose outputs reach one of `readers`."""
    made = {name: i for i, node in enumerate(nodes) for name in node.output}
    found: set[int] = set()
    pending = list(readers)
    while pending:
        inputs = {made[name] for name in nodes[pending.pop()].input if name in made} - found
        found |= inputs
        pending += inputs
    return found


def _layer_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of the constants that matrix products of tokens read."""
    products = {"MatMul", "MatMulIntegerToFloat"}
    weights = {name for node in model.graph.node if node.op_type in products for name in node.input}
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer if tensor.name in weights)
