"""A teacher that costs next to nothing: an ONNX graph whose logits are the mean of its tokens' embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
mean_embedding (int64[B, T] input_ids, int64[B, T] attention_mask) => (float[B, C] logits)
<int64[1] tokens = {1}, int64[1] width = {2}>
{
    embedded = Gather(embedding, input_ids)
    mask = Cast<to = 1>(attention_mask)
    mask_column = Unsqueeze(mask, width)
    masked = Mul(embedded, mask_column)
    total = ReduceSum<keepdims = 0>(masked, tokens)
    count = ReduceSum<keepdims = 1>(mask, tokens)
    logits = Div(total, count)
}
"""


def write_tiny_teacher(path: Path, vocabulary: int, classes: int, seed: int) -> None:
    """Write the graph with random embeddings of `vocabulary` tokens to `path`."""
    model = parser.parse_model(GRAPH)
    embedding = np.random.default_rng(seed).standard_normal((vocabulary, classes)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(embedding, "embedding"))
    onnx.save(model, path)
