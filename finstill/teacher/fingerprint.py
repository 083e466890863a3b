"""What identifies a teacher: everything that can change one of its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from finstill.files import digest

if TYPE_CHECKING:
    from torch import Tensor


def teacher_fingerprint(
    weights: Mapping[str, Tensor],
    tokenizer_file: Path,
    *,
    max_length: int,
    precision: str,
    variant: str,
    labels: Sequence[str],
) -> str:
    """Return 32 hexadecimal digits that change when any of a teacher's logits could.

    The tensors count and not the file they came in: a checkpoint saved again, or as another kind of file, keeps its
    fingerprint and so its cache. With int8, ONNX Runtime's version and the processor's instruction sets count too: a
    float whose last bit differs there can move an activation by a whole level, and so a logit by more than 1e-4. A
    float32 teacher's logits agree.

    Args:
        weights: the state dict.
        tokenizer_file: `tokenizer.json`, which holds vocabulary, normaliser and special tokens.
        precision: `float32` or `int8`.
        variant: names the way the graph was made from the weights.
        labels: class names in the order of the logits.
    """
    parts: list[bytes | str | Path] = [tokenizer_file, str(max_length), precision, variant, *labels]
    for name, tensor in sorted(weights.items()):
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor.contiguous().numpy().tobytes()]
    if precision == "int8":
        parts.append(_arithmetic())
    return digest(*parts)


def _arithmetic() -> str:
    """Return what decides the last bits of a float here."""
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return f"onnxruntime {onnxruntime.__version__} {' '.join([*simd['baseline'], *simd['found']])}"
