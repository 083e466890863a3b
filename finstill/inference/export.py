"""A torch module as an ONNX graph."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finstill.quiet import errors_alone

if TYPE_CHECKING:
    import torch


def export_onnx(module: torch.nn.Module, outputs: Sequence[str]) -> torch.onnx.ONNXProgram:
    """Return `module`, a function of `input_ids` and `attention_mask`, as ONNX with free numbers of rows and tokens.

    Args:
        module: takes two int64 tensors, (rows, tokens), and returns a tensor for each of `outputs`.
    """
    import torch
    from torch.export import Dim

    # Two tensors: the exporter takes one that is passed twice for one input.
    example = torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)
    axes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    # The exporter warns of its own internals on every call; what matters, that the graph is right, is proved after.
    with errors_alone("torch.onnx"), errors_alone("onnxscript"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=["input_ids", "attention_mask"],
            output_names=outputs,
            dynamic_shapes=(axes, axes),
            verbose=False,
        )
    assert program is not None
    return program
