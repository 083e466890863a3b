"""A student as an ONNX graph: exported from torch, or, where the exporter cannot, put together by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from transformers import PreTrainedModel

from finstill.inference.export import export_onnx


class _Answers(nn.Module):
    """A student as a function of ids and mask alone."""

    def __init__(self, student: PreTrainedModel):
        super().__init__()
        self.student = student

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.student(input_ids=input_ids, attention_mask=attention_mask, output_attentions=True)
        return answer.logits, answer.attentions[0]


def exported_graph(student: PreTrainedModel) -> onnx.ModelProto:
    """Return the checked graph of a student.

    Inputs are `input_ids` and `attention_mask`, int64, (rows, tokens), padded at the end. Outputs are `logits`, float,
    (rows, classes), and `attention`, float, (rows, tokens): how much of the answer each token had, in sum 1 a row.
    """
    program = export_onnx(_Answers(student), ["logits", "attention"])
    # The exporter notes for each node the lines of code that it comes from, with their paths on this machine.
    ClearMetadataAndDocStringPass()(program.model)
    onnx.checker.check_model(program.model_proto, full_check=True)
    return program.model_proto


def build_graph(name: str, nodes: str, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return the checked graph of nodes in ONNX's text form, with the inputs and outputs of `exported_graph`.

    Args:
        weights: what the nodes name, by name.
    """
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["": 20]>
        {name} (int64[rows, tokens] input_ids, int64[rows, tokens] attention_mask)
            => (float[rows, classes] logits, float[rows, tokens] attention)
        {{
            {nodes}
        }}
        """
    )
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.ascontiguousarray(array), weight) for weight, array in weights.items()
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def as_array(weight: Tensor) -> np.ndarray:
    """Return a weight as a float32 array."""
    return weight.detach().float().cpu().numpy()
