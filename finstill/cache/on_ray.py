"""The teacher pass on a Ray cluster: as many workers as the cluster has room for, each with a teacher of its own."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from finstill.cache.cache import SoftLabelCache
from finstill.cache.labelling import LabellingReport, chunk_rows, label_chunk, open_pass
from finstill.cache.positions import chunks_at
from finstill.corpus.tokens import TOKENS_SCHEMA
from finstill.errors import InputError
from finstill.inference.arithmetic import arithmetic
from finstill.inference.session import CPU_PROVIDER, OnnxClassifier
from finstill.progress import progress_logger

SECONDS_TO_ANSWER = 10.0

LONG_PASS_ROWS = 1 << 22
LONG_PASS_CHUNK_ROWS = 4096
"""A chunk costs the driver some 10 ms, whatever its length; a base-size teacher takes minutes for this one."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What a worker needs to label chunks of one token table; its paths are of places that all machines see.

    Attributes:
        tokens: Parquet with the columns of `finstill.corpus.tokens.TOKENS_SCHEMA`.
        cache: the root of all teachers' logits, a folder or an object store's URL.
        fingerprint: the teacher's.
        graph: the ONNX file that labels.
        precision: of the graph.
        provider: ONNX Runtime's execution provider.
        token_budget: tokens of one batch, padding included.
        arithmetic: what decides the last bits of a float where the teacher was made, as
            `finstill.inference.arithmetic` says it.
    """

    tokens: Path
    cache: str
    fingerprint: str
    graph: Path
    precision: str
    provider: str
    token_budget: int
    arithmetic: str


def label_texts_on_ray(address: str, cache: SoftLabelCache, work: Work) -> LabellingReport:
    """Make `cache` hold a row for each row of a token table, as `label_texts` does, on a cluster.

    Each worker reads its chunks' ids from the table, and writes each chunk to the cache as one part before it reports
    it: the driver moves positions and counts alone. Workers come and go with the cluster's size. One that is lost costs
    its chunk, and a driver that is killed what was in flight. The cluster's workers of this driver end with the pass.

    Args:
        address: `auto` for the cluster that this machine is part of, or `host:port` where it is part of several.
        cache: the one that the work names.

    Raises:
        InputError: the cluster cannot be reached, a worker does not see the files, or its processor would give other
            logits than those that the fingerprint stands for.
    """
    keys, unseen = open_pass(work.tokens, cache)
    if not len(unseen):
        return LabellingReport(len(keys), 0)
    chunks = cut(unseen, rows_of_chunks(len(unseen), work.provider))
    advance = progress_logger(logger, "teacher_logits", len(unseen), "texts")
    workers: set[str] = set()
    with connected(address):
        for count, worker in run_chunks(chunks, Labeller, work):
            if worker not in workers:
                workers.add(worker)
                logger.info("teacher_logits: worker %s is %s", len(workers), worker)
            advance(count)
    return LabellingReport(len(keys), len(unseen))


def rows_of_chunks(rows: int, provider: str) -> int:
    """Return in chunks of how many rows a pass over so many hands out its work.

    Those of a long pass are longer, so that one driver can feed thousands of workers; a worker that is lost costs more.
    """
    usual = chunk_rows(provider)
    return usual if rows < LONG_PASS_ROWS else max(usual, LONG_PASS_CHUNK_ROWS)


def cut(positions: np.ndarray, rows: int) -> list[pa.Table]:
    """Return `positions`, int64, in chunks of so many `rows`, each a table of one row, as `run_chunks` takes them."""
    return [pa.table({"positions": [positions[i : i + rows]]}) for i in range(0, len(positions), rows)]


def run_chunks(chunks: Sequence[pa.Table], labeller: type, work: Work) -> Iterator[tuple[int, str]]:
    """Yield for each chunk, as it is stored, how many rows were labelled and by which worker.

    Args:
        chunks: each a table of one row, the `positions` in the token table, list of int64, ascending.
        labeller: made from `work` on each worker, and called with chunks: a `Labeller`, or what stands in for one.

    Raises:
        InputError: of a worker.
    """
    # Blocks of this process: to read, and to look at tables, Ray starts tasks, which want a core that the workers hold.
    labelled = ray.data.from_blocks(list(chunks)).map_batches(
        labeller,
        fn_constructor_args=(work,),
        batch_size=1,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=len(chunks)),
        num_cpus=1,
        num_gpus=None if work.provider == CPU_PROVIDER else 1,
    )
    # None is fetched ahead: a chunk would be reported when the next one is done.
    for batch in labelled.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(batch, pa.Table)
        for done in batch.to_pylist():
            if done["error"] is not None:
                raise InputError(done["error"])
            yield done["labelled"], done["worker"]


class Labeller:
    """A worker: labels chunks and stores them. It opens what it needs with its first chunk."""

    def __init__(self, work: Work):
        self._work = work
        self._teacher: OnnxClassifier | None = None

    def __call__(self, chunks: pa.Table) -> pa.Table:
        """Return of one chunk of positions how many rows were labelled, by which worker, or the error that it met.

        An error is a row too: Ray would wrap one that is raised in an account of its own.
        """
        name = f"{ray.util.get_node_ip_address()} {ray.get_runtime_context().get_actor_id()}"
        try:
            count, error = self._label(chunks["positions"][0].values.to_numpy(), f"worker {name}"), None
        except InputError as raised:
            count, error = 0, str(raised)
        return pa.table({"labelled": [count], "worker": [name], "error": pa.array([error], pa.string())})

    def _label(self, positions: np.ndarray, where: str) -> int:
        if self._teacher is None:
            self._open(where)
        assert self._teacher is not None
        # A batch of the table at a time: positions are scattered over nearly all of its row groups.
        chunk = next(chunks_at(self._tokens, positions, len(positions), TOKENS_SCHEMA.names))
        self._cache.append(label_chunk(chunk, self._teacher, self._work.token_budget))
        return len(positions)

    def _open(self, where: str) -> None:
        work = self._work
        for path in (work.tokens, work.graph):
            if not path.is_file():
                raise InputError(
                    f"{path} is not there",
                    where=where,
                    remedy="Put FINSTILL_HOME on a volume that all machines of the cluster see under one path",
                )
        if (here := arithmetic(work.precision)) != work.arithmetic:
            raise InputError(
                f"its {work.precision} logits would be others than the cache holds under this fingerprint: it "
                f"computes with {here}, and the teacher was made with {work.arithmetic}",
                where=where,
                remedy="Label on machines of one kind, or set teacher.precision to float32",
            )
        self._tokens = pq.ParquetFile(work.tokens)
        self._cache = SoftLabelCache.open(work.cache, work.fingerprint)
        self._teacher = OnnxClassifier(work.graph, threads=1, provider=work.provider)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of the cluster while the block runs; its workers end with it.

    Raises:
        InputError: no cluster answers there, or it is the address of a Ray Client.
    """
    if address.startswith("ray://"):
        # ray.data reads its process's core worker, and a client has none.
        raise InputError(
            "the teacher pass does not run through Ray Client, as Ray Data does not",
            where=f"FINSTILL_RAY={address}",
            remedy="Run on a machine of the cluster with FINSTILL_RAY=auto, or let dagster-ray start the run on one "
            "(docs/scale.md, Many machines train)",
        )
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        if address != "auto":
            # Ray itself would try for minutes.
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers there ({str(error).splitlines()[0]})",
            where=f"FINSTILL_RAY={address}",
            remedy="Start the cluster (ray start --head) or make this machine a part of it (ray start --address=...), "
            "or unset FINSTILL_RAY to label on this machine",
        ) from error
    finally:
        # Ray puts a handler of its own in the place of whoever cancels this run; outside the main thread it cannot.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_termination)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()
