"""Finding what a cache lacks: seconds and memory beside a bare polars join, and how both grow with the cache.

    python bench/cache.py [--quick] [--json FILE]

A corpus of a million keys, one in a hundred of them new, meets 1, 10 and 30 million cached rows; with --quick every
million is ten thousand. Each measurement is a process of its own, ours and the rival's in turn, whose peak memory
(VmHWM) includes interpreter and libraries. The pass over a million texts has a teacher that costs next to nothing, so
that what is measured is the pass.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from memory import peak_gib

from finstill.cache.cache import SoftLabelCache
from finstill.cache.labelling import label_texts, write_logits
from finstill.corpus.provenance import TableProvenance
from finstill.corpus.text import KEY_BYTES
from finstill.corpus.tokens import TOKENS_SCHEMA
from finstill.inference.session import OnnxClassifier

GOALS = {"lookup_vs_polars": "at most 1.5", "lookup_gib": "at most 1", "pass_gib": "at most 1.5"}

FINGERPRINT = "0" * 32
LABELS = ("negative", "neutral", "positive")
NEW_SHARE = 0.01
ROUNDS = 3
REPEATS = 3

Result = TypeVar("Result")

Measurement = tuple[float, float, int]
"""Seconds, peak GiB of the process, and keys that were new."""


def random_keys(random: np.random.Generator, count: int) -> pa.FixedSizeBinaryArray:
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(KEY_BYTES), count, [None, pa.py_buffer(random.bytes(KEY_BYTES * count))]
    )


def grow_cache(cache: SoftLabelCache, start: int, stop: int, part_rows: int) -> None:
    """Add the rows `start` to `stop` to a cache of random rows, in parts of `part_rows`."""
    for first in range(start, stop, part_rows):
        random = np.random.default_rng(first)
        count = min(part_rows, stop - first)
        logits = pa.array(random.standard_normal(len(LABELS) * count, np.float32))
        cache.append(
            pa.table(
                {
                    "key": random_keys(random, count),
                    "logits": pa.FixedSizeListArray.from_arrays(logits, len(LABELS)),
                    "n_tokens": pa.array(random.integers(4, 60, count), pa.int32()),
                    "truncated": pa.array(np.zeros(count, bool)),
                }
            )
        )


def write_corpus(path: Path, cache: SoftLabelCache, rows: int) -> None:
    """Write `rows` keys in random order, `NEW_SHARE` of them new and the others from all over the cache."""
    random = np.random.default_rng(1)
    cached = cache.dataset(cache.parts()).to_table(columns=["key"])["key"]
    known = cached.take(pa.array(random.choice(len(cached), round(rows * (1 - NEW_SHARE)), replace=False)))
    keys = pa.chunked_array([*known.chunks, random_keys(random, rows - len(known))])
    pq.write_table(pa.table({"key": keys.take(pa.array(random.permutation(rows)))}), path, use_dictionary=False)


def ours(corpus: Path, root: Path) -> int:
    keys = pq.read_table(corpus, columns=["key"])["key"]
    return len(SoftLabelCache(root, FINGERPRINT, LABELS).unseen(keys))


def polars_anti_join(corpus: Path, root: Path) -> int:
    import polars as pl

    cached = pl.scan_parquet(root / FINGERPRINT / "part-*.parquet").select("key")
    return pl.scan_parquet(corpus).select("key").join(cached, on="key", how="anti").collect(engine="streaming").height


def measure(find: Callable[[Path, Path], int], corpus: Path, root: Path) -> Measurement:
    import polars  # noqa: F401  # Neither side pays for its import, and both hold it.

    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        new = find(corpus, root)
        seconds.append(time.perf_counter() - start)
    return median(seconds), peak_gib(), new


def measure_pass(folder: Path, rows: int) -> tuple[float, float]:
    """Label `rows` texts of 8 to 40 tokens and write their logits.

    Returns:
        Texts a second, and GiB above what the process held with its teacher loaded.
    """
    from tiny_teacher import write_tiny_teacher

    write_tiny_teacher(folder / "model.onnx", 30_000, len(LABELS), seed=2)
    random = np.random.default_rng(3)
    schema = TableProvenance(tokenizer="random ids", max_length=40, long="cut").of_schema(TOKENS_SCHEMA)
    with pq.ParquetWriter(folder / "tokens.parquet", schema) as writer:
        for start in range(0, rows, 8192):
            lengths = random.integers(8, 40, min(8192, rows - start)).astype(np.int32)
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            ids = pa.ListArray.from_arrays(offsets, random.integers(0, 30_000, offsets[-1], dtype=np.int32))
            columns = [random_keys(random, len(lengths)), ids, lengths, np.zeros(len(lengths), bool)]
            writer.write_table(pa.table(columns, schema=schema))
    teacher = OnnxClassifier(folder / "model.onnx")
    teacher.batch_logits([[1, 2, 3]])
    before = peak_gib()
    cache = SoftLabelCache(folder / "pass", FINGERPRINT, LABELS)
    start_time = time.perf_counter()
    label_texts(folder / "tokens.parquet", cache, lambda: teacher, token_budget=4096)
    write_logits([folder / "tokens.parquet"], cache, folder / "logits.parquet")
    return rows / (time.perf_counter() - start_time), peak_gib() - before


def in_own_process(function: Callable[..., Result], *arguments: object) -> Result:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def compare(corpus: Path, root: Path) -> dict[str, float]:
    """Return medians of our and the rival's seconds and peaks, measured in turn."""
    rounds = []
    for _ in range(ROUNDS):
        our_seconds, our_gib, our_new = in_own_process(measure, ours, corpus, root)
        seconds, gib, new = in_own_process(measure, polars_anti_join, corpus, root)
        assert our_new == new, "the two found different keys to be new"
        rounds.append((our_seconds, seconds, our_seconds / seconds, our_gib, gib))
    names = ["seconds", "polars_seconds", "ratio", "gib", "polars_gib"]
    return {name: median(values) for name, values in zip(names, zip(*rounds, strict=True), strict=True)}


def main() -> None:
    # It loads torch, which the measured processes must not: they import this file.
    from machine import describe_machine, read_arguments, report

    arguments = read_arguments(__doc__)
    million = 10_000 if arguments.quick else 1_000_000
    sizes = (1, 10, 30)
    rows = {}
    with tempfile.TemporaryDirectory(prefix="finstill-bench-") as name:
        folder = Path(name)
        cache = SoftLabelCache(folder / "cache", FINGERPRINT, LABELS)
        print(f"{million:,} corpus keys against      ours      polars  ratio       ours     polars")
        for start, size in zip((0, *sizes), sizes, strict=False):
            grow_cache(cache, start * million, size * million, part_rows=million)
            write_corpus(folder / "corpus.parquet", cache, million)
            row = rows[size] = compare(folder / "corpus.parquet", folder / "cache")
            print(
                f"{size * million:>14,} cached rows   {row['seconds']:7.2f} s  {row['polars_seconds']:7.2f} s  "
                f"{row['ratio']:5.2f}  {row['gib']:5.2f} GiB  {row['polars_gib']:5.2f} GiB",
                flush=True,
            )
        texts_per_second, pass_gib = in_own_process(measure_pass, folder, million)
    slope, base = np.polyfit(sizes, [rows[size]["seconds"] for size in sizes], 1)
    figures = {
        "lookup_vs_polars": rows[10]["ratio"],
        "lookup_gib": rows[10]["gib"],
        "pass_gib": pass_gib,
        "pass_texts_per_second": texts_per_second,
        **{f"lookup_seconds_{size}_million": rows[size]["seconds"] for size in sizes},
        "lookup_seconds_a_million_more": slope,
        "lookup_seconds_1000_million": base + 1000 * slope,
    }
    report(figures, GOALS, describe_machine("polars", "pyarrow"), arguments.json)


if __name__ == "__main__":
    main()
