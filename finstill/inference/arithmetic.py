"""What of a machine decides the last bits of a logit."""

from __future__ import annotations

import numpy as np
import onnxruntime

from finstill.errors import InputError


def arithmetic(precision: str) -> str:
    """Return what decides here the bits that move a logit of this precision; nothing does in float32."""
    if precision == "float32":
        return ""
    if precision == "float16":
        return f"onnxruntime {onnxruntime.__version__} {gpu_name()}"
    # numpy leaves empty lists out of its report.
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return f"onnxruntime {onnxruntime.__version__} {' '.join([*simd.get('baseline', []), *simd.get('found', [])])}"


def gpu_name() -> str:
    """Return what the GPU is called that computes here: another GPU may sum float16 in another order.

    Raises:
        InputError: torch sees none.
    """
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            "torch sees no GPU here, and float16 logits are kept under the name of the GPU that gave them",
            where="teacher.precision",
            remedy="Install torch's build for the GPU, or set teacher.precision to float32",
        )
    return torch.cuda.get_device_name()
