"""What students' hand-written ONNX graphs share: signature, masked softmax, weights, and the check."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
from torch import Tensor

MASKED_SOFTMAX = """
    mask = Cast <to = 9> (attention_mask)
    excluded = Constant <value_float = -inf> ()
    masked = Where (mask, scores, excluded)
    attention = Softmax <axis = -1> (masked)
"""
"""Makes `attention` from `scores` (rows, tokens): padding gets 0."""


@dataclass(frozen=True)
class GraphPart:
    """Nodes in ONNX's text form, and the weights they name."""

    nodes: str
    weights: dict[str, np.ndarray] = field(default_factory=dict)


def build_graph(name: str, *parts: GraphPart) -> onnx.ModelProto:
    """Return the checked graph of a student: its parts' nodes in order.

    Inputs are `input_ids` and `attention_mask`, int64, (rows, tokens), padded at the end. Outputs are `logits`, float,
    (rows, classes), and `attention`, float, (rows, tokens): how much of the answer each token had, in sum 1 a row.
    """
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["": 20]>
        {name} (int64[rows, tokens] input_ids, int64[rows, tokens] attention_mask)
            => (float[rows, classes] logits, float[rows, tokens] attention)
        {{
            {chr(10).join(part.nodes for part in parts)}
        }}
        """
    )
    for part in parts:
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.ascontiguousarray(array), weight) for weight, array in part.weights.items()
        )
    onnx.checker.check_model(model, full_check=True)
    return model


def as_array(weight: Tensor) -> np.ndarray:
    """Return a weight as a float32 array."""
    return weight.detach().float().cpu().numpy()
