"""A text classifier as an ONNX graph, run by ONNX Runtime: the teacher's and every student's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from joblib import cpu_count

from finstill.batching import length_sorted_batches, pad
from finstill.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU_PROVIDER = "CPUExecutionProvider"

LARGEST_DIFFERENCE = 1e-4
"""How far a logit of a graph may lie from its checkpoint's: some hundred times float32's rounding of a logit."""


class OnnxClassifier:
    """Logits of texts, from a graph with inputs `input_ids` and `attention_mask` and an output `logits`.

    What a text gets does not depend on the texts around it: padding is masked, and the graphs that Finstill makes
    compute each row alone.

    Args:
        graph: the ONNX file.
        threads: threads of one run; by default what the process may use: affinity and container limits counted.
        provider: ONNX Runtime's execution provider.

    Raises:
        InputError: this build of ONNX Runtime does not have `provider`.
    """

    def __init__(self, graph: Path, *, threads: int | None = None, provider: str = CPU_PROVIDER):
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise InputError(
                f"this installation of ONNX Runtime has no {provider}; it has {available}",
                where="teacher.execution_provider",
                remedy="Install the build that has it (onnxruntime-gpu for CUDA), or choose one of those",
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cpu_count()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=[provider])

    def batch_logits(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the logits of one batch of token ids: float32, (rows, classes)."""
        input_ids, attention_mask = pad(rows)
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self._session.run(["logits"], feed)[0]

    def logits(
        self,
        rows: Sequence[Sequence[int]],
        token_budget: int,
        advance: Callable[[int], None] = lambda count: None,
    ) -> np.ndarray:
        """Return the logits of many texts, run in length-sorted batches.

        Args:
            rows: token ids, special tokens included.
            token_budget: tokens of one batch, padding included.
            advance: called with the number of rows of each batch when it is done.

        Returns:
            float32, (rows, classes), in the order of `rows`.
        """
        parts, positions = [], []
        for batch in length_sorted_batches([len(row) for row in rows], token_budget):
            parts.append(self.batch_logits([rows[i] for i in batch]))
            positions.append(batch)
            advance(len(batch))
        logits = np.concatenate(parts)
        ordered = np.empty_like(logits)
        ordered[np.concatenate(positions)] = logits
        return ordered


@dataclass(frozen=True)
class Parity:
    """How a graph compares with its checkpoint on the same rows.

    Attributes:
        rows: texts compared.
        largest_difference: the largest absolute difference of a logit.
        argmax_agreement: share of rows with the same most likely class.
    """

    rows: int
    largest_difference: float
    argmax_agreement: float

    @property
    def holds(self) -> bool:
        return self.largest_difference <= LARGEST_DIFFERENCE and self.argmax_agreement == 1.0


def graph_parity(graph: Path, model: PreTrainedModel, rows: Sequence[Sequence[int]], token_budget: int) -> Parity:
    """Compare `graph` with the torch model it was made from.

    The model runs each text alone, so that padding or batch mates that reached a logit would show.

    Args:
        rows: token ids, special tokens included.
    """
    import torch

    exported = OnnxClassifier(graph).logits(rows, token_budget)
    with torch.inference_mode():
        original = np.concatenate([model(input_ids=torch.tensor([list(row)])).logits.numpy() for row in rows])
    return Parity(
        rows=len(rows),
        largest_difference=float(np.abs(exported - original).max()),
        argmax_agreement=float((exported.argmax(axis=1) == original.argmax(axis=1)).mean()),
    )
