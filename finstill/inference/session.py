"""A text classifier as an ONNX graph, run by ONNX Runtime: the teacher's and every student's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime

from finstill.errors import InputError
from finstill.inference.batching import few_shapes, length_sorted_batches, pad

GRAPH_FILES = {"float32": "model.onnx", "int8": "model.int8.onnx"}
"""How the graphs of a teacher and of a student are called, by precision."""

CPU_PROVIDER = "CPUExecutionProvider"

CUDA_PROVIDER = "CUDAExecutionProvider"

PROVIDER_OPTIONS = {CUDA_PROVIDER: {"use_tf32": "0"}}
"""How a provider computes in float32: CUDA's products would otherwise have ten bits of mantissa (TF32)."""

GPU_WORKERS = 2
"""Batches in flight on another provider than the CPU's."""

SLOW_FUSIONS = "SkipLayerNormFusion;BiasGeluFusion"
"""Graph rewrites that ONNX Runtime makes by default and whose kernels are slower on a CPU than what they replace."""


class OnnxClassifier:
    """Logits of texts, from a graph with inputs `input_ids` and `attention_mask` and an output `logits`.

    What a text gets does not depend on the texts around it: padding is masked, and the graphs that Finstill makes
    compute each row alone. Nor on the number of threads: each batch is one thread's, and several run at a time, which
    is also faster than several threads that meet after each operation of one small batch. Another provider than the
    CPU's gets batches of few shapes, see `few_shapes`, and two threads: one pads while the other's batch is computed.

    Args:
        graph: the ONNX file.
        threads: batches run at a time on the CPU; by default what the process may use: affinity and container limits
            counted.
        provider: ONNX Runtime's execution provider.

    Raises:
        InputError: this build of ONNX Runtime does not have `provider`, or has it and cannot load it here.
    """

    def __init__(self, graph: Path, *, threads: int | None = None, provider: str = CPU_PROVIDER):
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise InputError(
                f"this installation of ONNX Runtime has no {provider}; it has {available}",
                where="teacher.execution_provider",
                remedy="Install the build that has it (onnxruntime-gpu for CUDA), or choose one of those",
            )
        if threads is None:
            # Not among what a packaged student needs: the runtime always says how many.
            from joblib import cpu_count

            threads = cpu_count()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.provider = provider
        self._workers = threads if provider == CPU_PROVIDER else GPU_WORKERS
        if provider == CPU_PROVIDER:
            options.add_session_config_entry("optimization.disable_specified_optimizers", SLOW_FUSIONS)
        elif provider == CUDA_PROVIDER:
            # Where CUDA came from the package index, ONNX Runtime finds its libraries when it is told to look.
            onnxruntime.preload_dlls()
        # ONNX Runtime would go on on the CPU where a provider does not load, or fails later, and hardly say so.
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=[(provider, PROVIDER_OPTIONS.get(provider, {}))]
        )
        self._session.disable_fallback()
        if (runs_on := self._session.get_providers()[0]) != provider:
            raise InputError(
                f"{provider} is installed and cannot be loaded here: ONNX Runtime would run the graph on {runs_on}",
                where="teacher.execution_provider",
                remedy="Install the libraries that it needs (for CUDA: the driver, CUDA and cuDNN of the versions that "
                f"ONNX Runtime {onnxruntime.__version__} names), or choose {runs_on}",
            )

    def batch_logits(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the logits of one batch of token ids: float32, (rows, classes)."""
        return self._run(["logits"], rows)[0]

    def batch_attention(self, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits of one batch, (rows, classes), and a student's weights over its tokens, (rows, tokens)."""
        logits, attention = self._run(["logits", "attention"], rows)
        return logits, attention

    def _run(
        self, outputs: list[str], rows: Sequence[Sequence[int]], shape: tuple[int, int] | None = None
    ) -> list[np.ndarray]:
        if shape is None:
            input_ids, attention_mask = pad(rows)
        else:
            # Rows that are there to fill the shape say the first text again.
            input_ids, attention_mask = pad([*rows, *[rows[0]] * (shape[0] - len(rows))], shape[1])
        return self._session.run(outputs, {"input_ids": input_ids, "attention_mask": attention_mask})

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
        lengths = [len(row) for row in rows]
        batches: list[tuple[np.ndarray, tuple[int, int] | None]]
        if self.provider == CPU_PROVIDER:
            batches = [(batch, None) for batch in length_sorted_batches(lengths, token_budget)]
        else:
            batches = list(few_shapes(lengths, token_budget))

        def run(batch: np.ndarray, shape: tuple[int, int] | None) -> np.ndarray:
            return self._run(["logits"], [rows[i] for i in batch], shape)[0][: len(batch)]

        parts = []
        with _mapping(min(self._workers, len(batches))) as mapped:
            for part in mapped(run, *zip(*batches, strict=True)):
                parts.append(part)
                advance(len(part))
        logits = np.concatenate(parts)
        ordered = np.empty_like(logits)
        ordered[np.concatenate([batch for batch, _ in batches])] = logits
        return ordered


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Iterator[np.ndarray]]]:
    """Yield a `map` of so many threads that drops what it has not begun when the block is left early: a cancelled run
    ends within the batches in flight."""
    if workers == 1:
        # A pool would take longer to make than a small student takes for a text.
        yield map
        return
    executor = ThreadPoolExecutor(workers)
    try:
        yield executor.map
    finally:
        executor.shutdown(cancel_futures=True)
