"""Many texts through one graph: in parallel, in order, and stopped when asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finstill.inference.session import OnnxClassifier

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
        def batch_logits(self, rows: list[list[int]]) -> np.ndarray:  # type: ignore[override]
            run.append(len(rows))
            return super().batch_logits(rows)

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Watched(graphs["fused"], threads=2).logits(ROWS * 5, 64, interrupt)
    assert sum(run) < len(ROWS)
