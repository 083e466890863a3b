"""Many texts through one graph: in parallel, in order, and stopped when asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finstill.errors import InputError
from finstill.inference import arithmetic, parity, session
from finstill.inference.arithmetic import gpu_name
from finstill.inference.session import OnnxClassifier
from finstill.teacher import export
from finstill.teacher.checkpoint import load_classifier
from finstill.teacher.export import TeacherGraph, export_teacher, prove_teacher
from finstill.teacher.fidelity import measure_fidelity
from finstill.teacher.fingerprint import fingerprint_on

ROWS = [[101, *np.random.default_rng(i).integers(1000, 20000, i % 40 + 1).tolist(), 102] for i in range(200)]


@pytest.mark.parametrize("name", ["fused", "int8"])
def test_threads_do_not_move_a_bit(graphs: dict[str, Path], name: str) -> None:
    one, three = (OnnxClassifier(graphs[name], threads=threads).logits(ROWS, 256) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_logits_stand_in_the_order_of_the_texts(graphs: dict[str, Path]) -> None:
    classifier = OnnxClassifier(graphs["fused"])
    alone = np.concatenate([classifier.batch_logits([row]) for row in ROWS])
    np.testing.assert_allclose(classifier.logits(ROWS, 256), alone, rtol=0, atol=1e-5)


def test_an_interrupt_ends_the_run_with_what_is_in_flight(graphs: dict[str, Path]) -> None:
    run: list[int] = []

    class Watched(OnnxClassifier):
        def _run(self, outputs: list[str], rows: Any, shape: Any = None) -> list[np.ndarray]:
            run.append(len(rows))
            return super()._run(outputs, rows, shape)

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Watched(graphs["fused"], threads=2).logits(ROWS * 5, 64, interrupt)
    assert 0 < sum(run) < len(ROWS)


def test_one_text_and_one_worker_need_no_pool(graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    one, three = (OnnxClassifier(graphs["fused"], threads=threads) for threads in (1, 3))
    expected = three.logits(ROWS, 256)

    def refuse(workers: int) -> None:
        raise AssertionError(f"a pool of {workers}")

    monkeypatch.setattr(session, "ThreadPoolExecutor", refuse)
    np.testing.assert_array_equal(one.logits(ROWS, 256), expected)
    assert three.logits(ROWS[:1], 256).shape == (1, expected.shape[1])


CUDA = "CUDAExecutionProvider"
OTHER = "AzureExecutionProvider"
"""Every build of ONNX Runtime from PyPI has it. It leaves all operators to the CPU's kernels."""


class TestProvider:
    def test_one_that_does_not_load_is_no_cpu_in_silence(
        self, graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """ONNX Runtime here has no CUDA, and falls back as it does where CUDA's libraries are missing."""
        monkeypatch.setattr(session.onnxruntime, "get_available_providers", lambda: [CUDA, session.CPU_PROVIDER])
        with pytest.warns(UserWarning, match=CUDA), pytest.raises(InputError, match="cannot be loaded here") as caught:
            OnnxClassifier(graphs["fused"], provider=CUDA)
        message = str(caught.value)
        assert message.startswith("teacher.execution_provider: ")
        assert "would run the graph on CPUExecutionProvider" in message

    def test_cuda_computes_in_float32_and_never_falls_back(
        self, graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[object] = []

        class Session:
            def __init__(self, graph: Path, options: object, providers: list[object]):
                asked.extend(providers)

            def disable_fallback(self) -> None:
                asked.append("no fallback")

            def get_providers(self) -> list[str]:
                return [CUDA, session.CPU_PROVIDER]

        monkeypatch.setattr(session.onnxruntime, "get_available_providers", lambda: [CUDA])
        monkeypatch.setattr(session.onnxruntime, "InferenceSession", Session)
        OnnxClassifier(graphs["fused"], provider=CUDA)
        assert asked == [(CUDA, {"use_tf32": "0"}), "no fallback"]

    def test_a_texts_own_length_alone_decides_the_shape_in_which_it_is_computed(self, graphs: dict[str, Path]) -> None:
        shapes: dict[tuple[int, ...], set[tuple[int, ...]]] = {}

        class Watched(OnnxClassifier):
            def _run(self, outputs: list[str], rows: Any, shape: Any = None) -> list[np.ndarray]:
                found = super()._run(outputs, rows, shape)
                for row in rows:
                    shapes.setdefault(tuple(row), set()).add((len(found[0]), *shape))
                return found

        other = Watched(graphs["fused"], provider=OTHER)
        together = other.logits(ROWS, 64)
        alone = np.concatenate([other.logits([row], 64) for row in ROWS])
        np.testing.assert_array_equal(together, alone)
        np.testing.assert_allclose(together, OnnxClassifier(graphs["fused"]).logits(ROWS, 64), atol=1e-5)
        for row, (shape,) in shapes.items():
            tokens = -(-len(row) // 8) * 8
            assert shape == (max(1, 64 // tokens), max(1, 64 // tokens), tokens)


class TestFloat16:
    @pytest.fixture
    def make(self, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        def make(gpu: str = "a GPU", token_budget: int = 64, max_length: int = 32) -> TeacherGraph:
            monkeypatch.setattr(arithmetic, "gpu_name", lambda: gpu)
            return export_teacher(
                tiny_checkpoint,
                tmp_path / "teacher",
                max_length=max_length,
                source="test",
                precision="float16",
                provider=OTHER,
                sample=ROWS[:8],
                token_budget=token_budget,
            )

        return make

    def test_it_labels_almost_as_float32_does_at_half_the_size(self, make: Callable[..., TeacherGraph]) -> None:
        teacher = make()
        measured = measure_fidelity(teacher.graph, teacher.float32_graph, ROWS, 64, OTHER)
        assert measured.holds
        assert measured.kl_to_float32 > 0
        assert teacher.graph.stat().st_size < 0.7 * teacher.float32_graph.stat().st_size

    def test_its_logits_are_those_of_a_card_and_of_the_shapes_of_batches(
        self, make: Callable[..., TeacherGraph]
    ) -> None:
        first = make().fingerprint
        assert make().fingerprint == first
        assert len({first, make(gpu="another").fingerprint, make(token_budget=128).fingerprint}) == 3

    def test_texts_are_padded_within_what_the_model_reads(self, make: Callable[..., TeacherGraph]) -> None:
        with pytest.raises(InputError, match=r"max_length is 30.*multiple of 8"):
            make(max_length=30)

    def test_without_a_card_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(InputError, match="torch sees no GPU"):
            gpu_name()


def on_a_provider_that_adds(difference: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every provider but the CPU give logits that lie so far from its own."""

    class Differing(OnnxClassifier):
        def __init__(self, graph: Path, *, provider: str = session.CPU_PROVIDER, **settings: int):
            super().__init__(graph, provider=provider, **settings)  # type: ignore[arg-type]
            self.added = np.float32(0 if provider == session.CPU_PROVIDER else difference)

        def _run(self, *arguments: Any) -> list[np.ndarray]:
            return [output + self.added for output in super()._run(*arguments)]

    for module in (parity, export):
        monkeypatch.setattr(module, "OnnxClassifier", Differing)


class TestFingerprintOfAProvider:
    @pytest.fixture
    def make(self, tiny_checkpoint: Path, tmp_path: Path) -> Callable[[str], TeacherGraph]:
        def make(provider: str) -> TeacherGraph:
            return export_teacher(
                tiny_checkpoint,
                tmp_path / "teacher",
                max_length=32,
                source="test",
                provider=provider,
                sample=ROWS[:8],
                token_budget=256,
            )

        return make

    def test_within_rounding_it_is_the_cpus(
        self, make: Callable[[str], TeacherGraph], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cpus = make(session.CPU_PROVIDER)
        on_a_provider_that_adds(5e-5, monkeypatch)
        assert make(OTHER) == cpus

    @pytest.mark.parametrize("difference", [2e-4, float("nan")])
    def test_beyond_it_is_another_until_the_cpu_labels_again(
        self, make: Callable[[str], TeacherGraph], monkeypatch: pytest.MonkeyPatch, difference: float
    ) -> None:
        cpus = make(session.CPU_PROVIDER)
        written = cpus.graph.stat().st_mtime_ns
        with monkeypatch.context() as patch:
            on_a_provider_that_adds(difference, patch)
            own = make(OTHER)
            assert (own.provider, own.fingerprint) == (OTHER, fingerprint_on(cpus.fingerprint, OTHER))
            assert own.fingerprint != cpus.fingerprint
            assert TeacherGraph.read(own.folder).fingerprint == own.fingerprint
        assert make(OTHER) == own, "what was found stays so"
        assert make(session.CPU_PROVIDER) == cpus
        assert cpus.graph.stat().st_mtime_ns == written, "the graph is not made again"

    def test_a_new_graph_is_compared_before_it_is_written_down(
        self, make: Callable[[str], TeacherGraph], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_a_provider_that_adds(2e-4, monkeypatch)
        assert make(OTHER).provider == OTHER

    def test_the_proof_is_of_the_provider_that_labels(
        self, make: Callable[[str], TeacherGraph], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, cpus = load_classifier(tiny_checkpoint), make(session.CPU_PROVIDER)
        assert prove_teacher(cpus, model, ROWS[:8], 256, session.CPU_PROVIDER).holds
        on_a_provider_that_adds(2e-4, monkeypatch)
        assert not prove_teacher(cpus, model, ROWS[:8], 256, OTHER).holds, "its fingerprint says that it is the CPU's"
        assert prove_teacher(make(OTHER), model, ROWS[:8], 256, OTHER).holds
        on_a_provider_that_adds(float("nan"), monkeypatch)
        assert not prove_teacher(cpus, model, ROWS[:8], 256, OTHER).holds
