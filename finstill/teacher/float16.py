"""The float16 teacher graph, for GPUs: half the bytes, and the units that multiply matrices several times as fast."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16

from finstill.errors import InputError


def halve_teacher(float32_graph: Path, path: Path) -> None:
    """Write the float16 version of the graph `float32_graph` to `path`; its logits stay float32.

    By ONNX Runtime's own converter (its manual, "Float16 and mixed precision models"): a constant beyond float16's
    range, as the one that masks padding, becomes the largest that fits.
    """
    onnx.save(convert_float_to_float16(onnx.load(float32_graph), keep_io_types=True), path)


def card_name() -> str:
    """Return what the card is called that computes here: another card may sum float16 in another order.

    Raises:
        InputError: torch sees none.
    """
    if not torch.cuda.is_available():
        raise InputError(
            "torch sees no card here, and float16 logits are kept under the name of the card that gave them",
            where="teacher.precision",
            remedy="Install torch's build for the card, or set teacher.precision to float32",
        )
    return torch.cuda.get_device_name()
