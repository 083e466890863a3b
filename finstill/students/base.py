"""What every student is: a transformers classifier that can write itself as an ONNX graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import onnx
from pydantic import BaseModel
from torch import Tensor, nn
from transformers import PreTrainedModel


class Student(PreTrainedModel):
    """A small classifier that reads the teacher's token ids.

    Loaded and saved as any transformers model. `forward(input_ids, attention_mask)` returns a
    `SequenceClassifierOutput` with logits of shape (rows, classes), and each row's logits depend on that row alone.
    """

    def _init_weights(self, module: nn.Module) -> None:
        """Keep torch's own initial values: transformers' normal(0, 0.02) is made for transformers' layer norms."""

    @classmethod
    @abstractmethod
    def from_shape(
        cls, shape: BaseModel, labels: Sequence[str], vocabulary: int, teacher_embeddings: np.ndarray | None
    ) -> Self:
        """Return an untrained student.

        Args:
            shape: the student's own part of the recipe.
            labels: the task's labels, in the order of the logits.
            vocabulary: number of token ids.
            teacher_embeddings: the teacher's word embeddings, float32, (vocabulary, width), or None where the student
                starts from random ones.
        """

    @abstractmethod
    def onnx_graph(self) -> onnx.ModelProto:
        """Return this student as a graph with inputs `input_ids` and `attention_mask` and outputs `logits` and
        `attention`."""


def arrays(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """Return a model's weights by name as float32 arrays."""
    return {name: _numpy(tensor) for name, tensor in model.state_dict().items()}


def label_maps(labels: Sequence[str]) -> dict[str, Any]:
    """Return the class names as a transformers configuration holds them."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
