"""The float16 teacher graph, for GPUs: half the bytes, and the units that multiply matrices several times as fast."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16


def halve_teacher(float32_graph: Path, path: Path) -> None:
    """Write the float16 version of the graph `float32_graph` to `path`; its logits stay float32.

    By ONNX Runtime's own converter (its manual, "Float16 and mixed precision models"): a constant beyond float16's
    range, as the one that masks padding, becomes the largest that fits.
    """
    onnx.save(convert_float_to_float16(onnx.load(float32_graph), keep_io_types=True), path)
