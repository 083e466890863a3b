"""The teacher pass on a Ray cluster: beside one machine's, with 64 workers, and as fast as a driver can feed it.

    python bench/cluster.py [--quick] [--json FILE]

The cluster is local: its nodes are processes of this machine. `ray_vs_local` labels the phrase bank's texts with a
BERT-base of random weights, by two workers of one core each and by the pass of one machine on two threads, both in
chunks of 64 texts, in texts a second once all workers are at work. `ray_efficiency_64` has workers that sleep for as
long as such a teacher takes for a chunk and store its rows: the rate of 64 over 64 times that of one alone.
`driver_rows_per_second` has workers that only answer, on chunks as a pass over ten million rows hands them out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from machine import describe_machine, draw_rows, read_arguments, read_shared, report
from ray.cluster_utils import Cluster
from teacher import LABELS, MAX_LENGTH, TOKEN_BUDGET, random_teacher, write_tokens

from finstill.cache import labelling
from finstill.cache.cache import SoftLabelCache
from finstill.cache.labelling import label_texts
from finstill.cache.on_ray import Labeller, Work, connected, cut, rows_of_chunks, run_chunks
from finstill.corpus.text import KEY_BYTES
from finstill.corpus.tokenizer import load_tokenizer
from finstill.inference.session import CPU_PROVIDER, OnnxClassifier
from finstill.teacher.checkpoint import resolve_checkpoint
from finstill.teacher.export import export_graph
from finstill.teacher.int8 import fuse_teacher

GOALS = {
    "ray_vs_local": "at least 0.95",
    "ray_efficiency_64": "at least 0.9",
    "driver_rows_per_second": "at least 200,000",
}

LONG_PASS = 10_000_000
SHORT_CHUNK_ROWS = 64
"""So that a few texts make many chunks. Both pad more than with chunks of 1,024."""
BASE_ROWS_PER_SECOND = 17
"""Of a base-size teacher on one core."""


class Sleeper(Labeller):
    """Takes a base-size teacher's time for a chunk, and stores as many rows."""

    def _label(self, positions: np.ndarray, where: str) -> int:
        time.sleep(len(positions) / BASE_ROWS_PER_SECOND)
        keys = [int(position).to_bytes(KEY_BYTES, "big") for position in positions]
        cache = SoftLabelCache.open(self._work.cache, self._work.fingerprint)
        logits = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(len(keys) * len(LABELS), np.float32)), len(LABELS))
        columns = [pa.array(keys, pa.binary(KEY_BYTES)), logits, pa.repeat(8, len(keys)), pa.repeat(False, len(keys))]
        cache.append(pa.table(columns, names=cache.schema.names))
        return len(positions)


class Answerer(Labeller):
    """Says that it has labelled."""

    def _label(self, positions: np.ndarray, where: str) -> int:
        return len(positions)


def main() -> None:
    arguments = read_arguments(__doc__)
    quick = arguments.quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = make_work(folder, 512 if quick else 1024)
        figures = {"ray_vs_local": beside_local(work)}
        many, chunks_each = (8, 3) if quick else (64, 4)
        figures[f"ray_efficiency_{many}"] = efficiency(work, many, chunks_each)
        with cluster(2) as address:
            rows = rows_of_chunks(LONG_PASS, CPU_PROVIDER)
            done = finish_times(address, Answerer, work, cut(np.arange(rows * (200 if quick else 1000)), rows))
        figures["driver_rows_per_second"] = rate(done, 2)
    report(figures, GOALS, describe_machine("ray", "onnxruntime"), arguments.json)


def make_work(folder: Path, texts: int) -> Work:
    """Return texts of the phrase bank, a teacher of random weights and a cache."""
    export_graph(random_teacher(), folder / "exported.onnx")
    fuse_teacher(folder / "exported.onnx", folder / "model.onnx")
    sample = draw_rows(read_shared("financial_phrasebank"), texts)["text"].to_pylist()
    tokens = write_tokens(sample, load_tokenizer(resolve_checkpoint("embedded").folder, MAX_LENGTH), folder)
    graph, cache = folder / "model.onnx", str(folder / "cache")
    return Work(tokens, cache, "0" * 32, graph, "float32", CPU_PROVIDER, TOKEN_BUDGET, "")


@contextmanager
def cluster(cores: int) -> Iterator[str]:
    """Run a head of so many cores and yield its address."""
    head = Cluster(initialize_head=True, head_node_args={"num_cpus": cores})
    try:
        yield head.address
    finally:
        ray.shutdown()
        head.shutdown()


def finish_times(address: str, labeller: type, work: Work, chunks: Sequence[pa.Table]) -> list[tuple[float, int, str]]:
    """Return of each chunk when it was done, how many rows it had and by which worker."""
    SoftLabelCache(work.cache, work.fingerprint, LABELS)
    with connected(address):
        return [(time.perf_counter(), count, worker) for count, worker in run_chunks(chunks, labeller, work)]


def rate(done: Sequence[tuple[float, int, str]], workers: int) -> float:
    """Return rows a second from when all workers had finished a chunk to when the first had no other."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for position, (_, _, worker) in enumerate(done):
        first.setdefault(worker, position)
        last[worker] = position
    if len(first) < workers:
        raise SystemExit(f"only {len(first)} of {workers} workers had a chunk to do")
    start, end = max(first.values()), min(last.values())
    if end <= start:
        raise SystemExit("the workers were never at work all at once for long enough to measure")
    rows = sum(count for _, count, _ in done[start + 1 : end + 1])
    return rows / (done[end][0] - done[start][0])


def beside_local(work: Work) -> float:
    """Return the rate of two workers of one core over that of the pass on this machine, in turns."""
    count = pq.read_metadata(work.tokens).num_rows
    ratios = []
    for turn in range(3):
        with cluster(2) as address:
            placed = replace(work, cache=f"{work.cache}-{turn}")
            theirs = rate(finish_times(address, Labeller, placed, cut(np.arange(count), SHORT_CHUNK_ROWS)), 2)
        ours = local_rate(work, SoftLabelCache(f"{work.cache}-local-{turn}", work.fingerprint, LABELS))
        ratios.append(theirs / ours)
        print(f"two workers {theirs:.1f} texts a second, this machine's pass {ours:.1f}", flush=True)
    return float(np.median(ratios))


def local_rate(work: Work, cache: SoftLabelCache) -> float:
    labelling.CHUNK_ROWS = SHORT_CHUNK_ROWS
    teacher = OnnxClassifier(work.graph, threads=2)
    started = time.perf_counter()
    report = label_texts(work.tokens, cache, lambda: teacher, TOKEN_BUDGET)
    return report.labelled / (time.perf_counter() - started)


def efficiency(work: Work, workers: int, chunks_each: int) -> float:
    """Return the rate of many sleeping workers over as many times that of one."""
    run = partial(finish_times, labeller=Sleeper, work=replace(work, cache=f"{work.cache}-asleep"))
    rows = 10 * BASE_ROWS_PER_SECOND
    with cluster(1) as address:
        one = rate(run(address, chunks=cut(np.arange(4 * rows), rows)), 1)
    with cluster(workers) as address:
        many = rate(run(address, chunks=cut(np.arange((workers + workers * chunks_each) * rows), rows)), workers)
    print(f"one worker {one:.1f} rows a second, {workers} workers {many:.1f}", flush=True)
    return many / (workers * one)


if __name__ == "__main__":
    main()
