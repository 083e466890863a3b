"""Whether a graph answers as the torch model that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from finstill.errors import InputError
from finstill.inference.session import CPU_PROVIDER, OnnxClassifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PARITY_TEXTS = 64
"""Texts of the corpus on which a teacher's graph is compared."""

TEXTS_ALONE = 2048
"""Texts that are run one by one, which takes some milliseconds each, to show that no batch changes an answer."""

LARGEST_DIFFERENCE = 1e-4
"""How far a logit of a graph may lie from its checkpoint's: some hundred times float32's rounding of a logit."""


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

    def require(self, name: str, where: Path) -> None:
        """Stop where the graph of `name` in the folder `where` may not answer in its checkpoint's place.

        Raises:
            InputError: a logit differs by more than rounding, or a class does.
        """
        if not self.holds:
            raise InputError(
                f"the graph of {name} differs from its checkpoint by {self.largest_difference:.2g} on {self.rows} "
                f"texts (onnxruntime {onnxruntime.__version__})",
                where=where,
                remedy="This is a fault of Finstill or of the installed versions: please report it",
            )


def own_provider(graph: Path, provider: str, rows: Sequence[Sequence[int]], token_budget: int) -> str | None:
    """Return `provider` where its logits of some rows differ from the CPU's by more than rounding, and None otherwise.

    Args:
        graph: the ONNX file.
        provider: ONNX Runtime's execution provider.
        rows: token ids, special tokens included.
        token_budget: tokens of one batch, padding included.

    Raises:
        InputError: the provider cannot be used here.
    """
    if provider == CPU_PROVIDER or not rows:
        return None
    theirs, cpus = (
        OnnxClassifier(graph, provider=each).logits(rows, token_budget) for each in (provider, CPU_PROVIDER)
    )
    # Not `>`, which NaN would pass.
    return None if np.abs(theirs - cpus).max() <= LARGEST_DIFFERENCE else provider


def run_alone(texts: int) -> np.ndarray:
    """Return the positions of those of so many texts that are run alone: int64, evenly spaced."""
    count = min(texts, TEXTS_ALONE)
    return np.arange(count) * texts // max(count, 1)


def graph_parity(exported: np.ndarray, model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> Parity:
    """Compare a graph's logits with those of the torch model it was made from.

    The model runs each text alone, so that padding or batch mates that reached a logit would show; of many texts it
    runs those of `run_alone`.

    Args:
        exported: float32, (rows, classes), what the graph says of the rows, in batches.
        rows: token ids, special tokens included.
    """
    import torch

    at = run_alone(len(rows))
    exported = exported[at]
    with torch.inference_mode():
        alone = (torch.from_numpy(np.array([rows[i]], np.int64)) for i in at)
        original = np.concatenate([model(input_ids=ids).logits.numpy() for ids in alone])
    return Parity(
        rows=len(at),
        largest_difference=float(np.abs(exported - original).max()),
        argmax_agreement=float((exported.argmax(axis=1) == original.argmax(axis=1)).mean()),
    )
