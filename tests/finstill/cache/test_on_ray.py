"""The pass on a Ray cluster of several node processes: the same set as on one machine, whatever happens to a node."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finstill.cache import labelling
from finstill.cache.cache import SoftLabelCache
from finstill.cache.labelling import LabellingReport, label_texts
from finstill.errors import InputError
from finstill.inference.arithmetic import arithmetic
from finstill.inference.session import CPU_PROVIDER, OnnxClassifier

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'finstill[ray]'")

from ray.cluster_utils import Cluster  # noqa: E402

from finstill.cache import on_ray  # noqa: E402

WriteTokens = Callable[[Path, Sequence[str]], pa.Table]

TEXTS = [f"headline {i}" for i in range(1000)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and two nodes of one core each, that notice within seconds that a node is gone."""
    soon = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 2}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": soon})
    try:
        for _ in range(2):
            started.add_node(num_cpus=1)
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


@pytest.fixture
def tokens(write_tokens: WriteTokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(labelling, "CHUNK_ROWS", 32)
    write_tokens(tmp_path / "tokens.parquet", TEXTS)
    return tmp_path / "tokens.parquet"


@pytest.fixture
def label(cluster: Cluster, tokens: Path, tmp_path: Path, graph: Path) -> Callable[..., LabellingReport]:
    def label(
        cache: SoftLabelCache,
        graph: Path = graph,
        precision: str = "float32",
        address: str = cluster.address,
        made_with: str = "",
    ) -> LabellingReport:
        root, fingerprint = str(tmp_path / "cache"), cache.fingerprint
        work = on_ray.Work(tokens, root, fingerprint, graph, precision, CPU_PROVIDER, 512, made_with)
        return on_ray.label_texts_on_ray(address, cache, work)

    return label


def stored(cache: SoftLabelCache) -> pa.Table:
    return cache.query(lambda cached: cached.to_table()).sort_by("key")


@pytest.fixture
def undisturbed(graph: Path, tokens: Path, tmp_path: Path, cache: SoftLabelCache) -> pa.Table:
    """What a pass on this machine stores."""
    alone = SoftLabelCache(tmp_path / "alone", cache.fingerprint, cache.labels)
    label_texts(tokens, alone, partial(OnnxClassifier, graph), 512)
    return stored(alone)


class Slow(on_ray.Labeller):
    """A teacher that takes its time."""

    def __call__(self, chunks: pa.Table) -> pa.Table:
        time.sleep(0.3)
        return super().__call__(chunks)


def workers_left() -> list[str]:
    names = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            names.append(process.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return [name for name in names if name.startswith("ray::") and "MapWorker" in name]


def assert_no_worker_is_left() -> None:
    """Ray ends them within seconds of their driver."""
    deadline = time.monotonic() + 60
    while workers_left() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not workers_left()


def test_it_stores_what_one_machine_stores_and_names_its_workers(
    label: Callable[..., LabellingReport],
    cache: SoftLabelCache,
    undisturbed: pa.Table,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "finstill")
    assert label(cache) == LabellingReport(1000, 1000)
    assert stored(cache).equals(undisturbed)
    assert len(cache.parts()) == -(-1000 // 32)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("finstill")]
    assert any(line.startswith("teacher_logits: worker 1 is ") for line in lines)
    assert lines[-1].startswith("teacher_logits: 1,000 of 1,000 texts")
    assert label(cache) == LabellingReport(1000, 0)


def test_a_worker_decodes_only_what_the_teacher_reads(
    label: Callable[..., LabellingReport],
    cache: SoftLabelCache,
    tokens: Path,
    add_unreadable_windows: Callable[[Path], None],
) -> None:
    add_unreadable_windows(tokens)
    assert label(cache) == LabellingReport(1000, 1000)


def test_a_node_that_is_lost_costs_its_chunks_alone(
    cluster: Cluster,
    label: Callable[..., LabellingReport],
    cache: SoftLabelCache,
    undisturbed: pa.Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(on_ray, "Labeller", Slow)
    lost = cluster.add_node(num_cpus=2)
    chunks, run = [0], on_ray.run_chunks

    def lose_the_node(*arguments: object) -> Iterator[tuple[int, str]]:
        for found in run(*arguments):  # type: ignore[arg-type]
            chunks[0] += 1
            if chunks[0] == 6:
                cluster.remove_node(lost, allow_graceful=False)
            yield found

    monkeypatch.setattr(on_ray, "run_chunks", lose_the_node)
    assert label(cache) == LabellingReport(1000, 1000)
    assert chunks[0] >= 6
    assert stored(cache).equals(undisturbed)


def test_a_driver_that_is_killed_loses_what_was_in_flight_and_leaves_no_worker(
    cluster: Cluster,
    label: Callable[..., LabellingReport],
    cache: SoftLabelCache,
    tokens: Path,
    graph: Path,
    tmp_path: Path,
    undisturbed: pa.Table,
) -> None:
    program = """
import sys; from pathlib import Path
from finstill.cache import labelling, on_ray
from finstill.cache.cache import SoftLabelCache
labelling.CHUNK_ROWS = 32
address, tokens, root, graph, fingerprint, *labels = sys.argv[1:]
cache = SoftLabelCache(root, fingerprint, labels)
work = on_ray.Work(Path(tokens), root, fingerprint, Path(graph), "float32", "CPUExecutionProvider", 512, "")
on_ray.label_texts_on_ray(address, cache, work)
"""
    values = [cluster.address, tokens, tmp_path / "cache", graph, cache.fingerprint, *cache.labels]
    driver = subprocess.Popen([sys.executable, "-c", program, *map(str, values)])
    while not cache.parts() and driver.poll() is None:
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert_no_worker_is_left()
    kept = sum(pq.read_metadata(part).num_rows for part in cache.parts())
    assert label(cache) == LabellingReport(1000, 1000 - kept)
    assert stored(cache).equals(undisturbed)


def test_a_pass_that_is_cancelled_leaves_no_worker(
    label: Callable[..., LabellingReport], cache: SoftLabelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel(*_: object) -> Callable[[int], None]:
        def advance(count: int) -> None:
            raise KeyboardInterrupt

        return advance

    monkeypatch.setattr(on_ray, "progress_logger", cancel)
    with pytest.raises(KeyboardInterrupt):
        label(cache)
    assert_no_worker_is_left()
    assert not ray.is_initialized()


def test_a_worker_of_another_processor_may_not_label_in_int8(
    label: Callable[..., LabellingReport], cache: SoftLabelCache
) -> None:
    with pytest.raises(InputError, match="the teacher was made with a third processor"):
        label(cache, precision="int8", made_with="a third processor")
    assert not cache.parts()
    assert label(cache, precision="int8", made_with=arithmetic("int8")) == LabellingReport(1000, 1000)


def test_a_worker_that_does_not_see_the_files_says_which(
    label: Callable[..., LabellingReport], cache: SoftLabelCache
) -> None:
    with pytest.raises(InputError, match=r"worker .*: /no/such/volume/model\.onnx is not there"):
        label(cache, graph=Path("/no/such/volume/model.onnx"))


def test_no_cluster_says_what_to_do(label: Callable[..., LabellingReport], cache: SoftLabelCache) -> None:
    with pytest.raises(InputError, match=r"FINSTILL_RAY=127\.0\.0\.1:1: no Ray cluster answers there"):
        label(cache, address="127.0.0.1:1")


def test_an_address_of_ray_client_is_refused_with_the_way_to_do_it() -> None:
    with (
        pytest.raises(InputError, match=r"FINSTILL_RAY=ray://head:10001: .*let dagster-ray start the run on one"),
        on_ray.connected("ray://head:10001"),
    ):
        pass
