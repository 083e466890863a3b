"""Many rows on one small machine: the corpus stage beside a bare scan, and what training keeps in memory.

    python bench/scale.py [--quick] [--json FILE]

The texts are ten words each, drawn at random with a newswire's frequencies, so that no two are near-duplicates; one in
a hundred has a label. `corpus_vs_scan` is the time of reading, normalising, merging, splitting and looking for
near-duplicates over that of DuckDB, which the stage sorts by, scanning, sorting and writing the same file, each in a
process of its own; and `corpus_gib` is that process's largest memory. `one_new_row_vs_scan` is the time of corpus and
tokens together in a night that finds one more file with one row, over the same scan (the median of three).
`training_gib` is the memory of the rows of a training, tokens, labels and teacher logits joined from their tables,
above what torch and the libraries take; `training_peak_gib` is the largest while they are joined. `training_overhead`
is the share of an epoch that is not the student: choosing rows, making batches of them, and what the trainer does
between steps.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from machine import describe_machine, read_arguments, read_shared, report
from memory import peak_gib

GOALS = {
    "corpus_rows": "",
    "corpus_rows_per_second": "",
    "corpus_gib": "at most 4 at 10 million rows",
    "corpus_vs_scan": "at most 3",
    "tokens_rows_per_second": "",
    "one_new_row_vs_scan": "at most 2",
    "one_new_row_gib": "",
    "training_rows": "",
    "training_gib": "at most 2 at 10 million rows",
    "training_peak_gib": "",
    "training_overhead": "at most 0.1",
}

GIB = 1 << 30
ROWS_AT_A_TIME = 100_000
WORDS = 10
TEXTS = "texts.parquet"
LABELS = ("negative", "neutral", "positive")
EPOCH_ROWS = 6_400
VOCABULARY = 30_522


def main() -> None:
    if sys.argv[1:2] == ["--stage"]:
        stage, where = sys.argv[2:]
        # No import is timed, and pyarrow imports pandas with its first array.
        pa.array(np.zeros(1))
        print(json.dumps(STAGES[stage](Path(where))))
        return
    arguments = read_arguments(__doc__)
    corpus_rows, training_rows = (1_000_000, 1_000_000) if arguments.quick else (10_000_000, 10_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").mkdir()
        write_texts(folder / "source" / TEXTS, corpus_rows)
        # The scan takes a second, which is not the same twice: it is taken before, between and after.
        order = ("scan", "corpus", "scan", "tokens", "night", "scan")
        first, corpus, second, tokens, night, third = (in_a_process(stage, folder) for stage in order)
        scan = statistics.median(each["seconds"] for each in (first, second, third))
        write_tables(folder, training_rows)
        training = in_a_process("training", folder)
    figures = {
        "corpus_rows": corpus_rows,
        "corpus_rows_per_second": corpus_rows / corpus["seconds"],
        "corpus_gib": corpus["gib"],
        "corpus_vs_scan": corpus["seconds"] / scan,
        "tokens_rows_per_second": corpus_rows / tokens["seconds"],
        "one_new_row_vs_scan": night["seconds"] / scan,
        "one_new_row_gib": night["gib"],
        "training_rows": training_rows,
        **{f"training_{figure}": value for figure, value in training.items()},
    }
    report(figures, GOALS, describe_machine("duckdb", "pyarrow", "torch"), arguments.json)


def in_a_process(stage: str, folder: Path) -> dict[str, float]:
    print(f"Measuring: {stage}", flush=True)
    command = [sys.executable, __file__, "--stage", stage, str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def write_texts(path: Path, rows: int) -> None:
    """Write texts of random words, with labels for one in a hundred."""
    words = np.array(
        sorted({word for text in read_shared("reuters_sentences")["text"].to_pylist() for word in text.split()})
    )
    random = np.random.default_rng(0)
    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, ROWS_AT_A_TIME):
            count = min(ROWS_AT_A_TIME, rows - start)
            drawn = words[(len(words) * random.random((count, WORDS)) ** 3).astype(int)]
            labels = [LABELS[i % 3] if i % 100 == 0 else None for i in range(count)]
            writer.write_table(pa.table([[" ".join(text) for text in drawn.tolist()], labels], schema=schema))


def write_tables(folder: Path, rows: int) -> None:
    """Write the tables of a corpus, of its tokens and of its logits as the stages before a training do."""
    from finstill.corpus.merge import CORPUS_SCHEMA
    from finstill.corpus.provenance import TableProvenance
    from finstill.corpus.text import KEY_BYTES
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.corpus.tokens import CORPUS_TOKENS_SCHEMA
    from finstill.teacher.checkpoint import resolve_checkpoint

    read = TableProvenance.of_tokenizer(load_tokenizer(resolve_checkpoint("embedded").folder, 128), "cut")
    logits_type = pa.list_(pa.float32(), len(LABELS))
    logits_schema = pa.schema([("key", pa.binary(KEY_BYTES)), ("logits", logits_type)], {"labels": "\n".join(LABELS)})
    answered = TableProvenance(read.tokenizer, read.max_length, read.long, ("0" * 32,))
    schemas = {
        "corpus": CORPUS_SCHEMA,
        "tokens": read.of_schema(CORPUS_TOKENS_SCHEMA),
        "teacher_logits": answered.of_schema(logits_schema),
    }
    random = np.random.default_rng(0)
    writers = {name: pq.ParquetWriter(folder / f"{name}.parquet", schema) for name, schema in schemas.items()}
    for start in range(0, rows, ROWS_AT_A_TIME):
        count = min(ROWS_AT_A_TIME, rows - start)
        numbers = np.arange(start, start + count)
        keys = pa.array([number.to_bytes(KEY_BYTES, "big") for number in numbers.tolist()], pa.binary(KEY_BYTES))
        sizes = random.integers(8, 36, count)
        values = pa.array(random.integers(1000, 20_000, sizes.sum()), pa.int32())
        ids = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32()), values)
        labels = pa.array([LABELS[number % 3] if number % 100 == 0 else None for number in numbers.tolist()])
        splits = pa.array(np.where(numbers % 100 < 98, "train", np.where(numbers % 100 < 99, "validation", "test")))
        texts = pa.array([f"text number {number} of so many words as a headline has" for number in numbers.tolist()])
        nothing = pa.nulls(count, pa.string())
        columns: dict[str, dict[str, Any]] = {
            "corpus": {"key": keys, "text": texts, "label": labels, "split": splits, "source": texts},
            "tokens": {"key": keys, "input_ids": ids, "n_tokens": sizes, "truncated": pa.repeat(False, count)},
            "teacher_logits": {"key": keys},
        }
        columns["corpus"] |= {"date": nothing, "id": nothing}
        columns["tokens"] |= {"text_key": keys, "size": sizes - 2, "window": nothing}
        flat = pa.array(random.normal(size=count * len(LABELS)).astype(np.float32))
        columns["teacher_logits"] |= {"logits": pa.FixedSizeListArray.from_arrays(flat, len(LABELS))}
        for name, writer in writers.items():
            arrays = [pa.array(columns[name][field.name]).cast(field.type) for field in schemas[name]]
            writer.write_table(pa.table(arrays, schema=schemas[name]))
    for writer in writers.values():
        writer.close()


def scan(folder: Path) -> dict[str, float]:
    """Scan, sort and write by DuckDB, with the memory that the corpus stage gives it."""
    import duckdb

    from finstill.corpus.merge import SORT_MEMORY

    started = time.perf_counter()
    with duckdb.connect(config={"memory_limit": SORT_MEMORY, "temp_directory": str(folder / "spilled")}) as connection:
        texts, target = folder / "source" / TEXTS, folder / "sorted.parquet"
        connection.sql(f"SELECT * FROM read_parquet('{texts}') ORDER BY text").write_parquet(str(target))
    return {"seconds": time.perf_counter() - started, "gib": peak_gib()}


def corpus(folder: Path) -> dict[str, float]:
    from finstill.config.profile import CorpusSource
    from finstill.corpus.build import read_corpus

    started = time.perf_counter()
    source = CorpusSource(path=str(folder / "source"), label="label")
    read_corpus(source, LABELS, folder / "built.parquet", folder / "parts")
    return {"seconds": time.perf_counter() - started, "gib": peak_gib()}


def tokens(folder: Path) -> dict[str, float]:
    from finstill.corpus.tokenizer import load_tokenizer
    from finstill.corpus.tokens import tokenize_corpus
    from finstill.teacher.checkpoint import resolve_checkpoint

    tokenizer = load_tokenizer(resolve_checkpoint("embedded").folder, 128)
    started = time.perf_counter()
    tokenize_corpus(folder / "built.parquet", tokenizer, folder / "built.tokens.parquet")
    return {"seconds": time.perf_counter() - started, "gib": peak_gib()}


def night(folder: Path) -> dict[str, float]:
    """Make corpus and tokens again after one more file with one row has arrived."""
    row = pa.table({"text": ["a row that nobody has seen before tonight"], "label": pa.nulls(1, pa.string())})
    pq.write_table(row, folder / "source" / "tonight.parquet")
    parts = corpus(folder), tokens(folder)
    return {"seconds": sum(part["seconds"] for part in parts), "gib": peak_gib()}


def training(folder: Path) -> dict[str, float]:
    from training import train_epoch
    from transformers import TrainerCallback

    from finstill.config.architectures import LstmAttentionConfig
    from finstill.config.recipe import Recipe
    from finstill.config.task import SENTIMENT
    from finstill.training.rows import training_rows

    class Clock(TrainerCallback):
        """Adds up what a step takes from its batch to its end."""

        epoch = steps = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.step_began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.steps += time.perf_counter() - self.step_began

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.epoch += time.perf_counter() - self.began

    before = psutil.Process().memory_info().rss
    corpus, tokens, logits = (folder / f"{name}.parquet" for name in ("corpus", "tokens", "teacher_logits"))
    rows = training_rows(corpus, tokens, SENTIMENT, logits)
    pa.default_memory_pool().release_unused()
    held, most = psutil.Process().memory_info().rss - before, peak_gib() - before / GIB
    recipe = Recipe(epochs=1, batch_size=64, rows_per_epoch=EPOCH_ROWS, architecture=LstmAttentionConfig())
    unlabelled = rows["train"].at(np.flatnonzero(rows["train"].labels < 0))
    clock = Clock()
    train_epoch(recipe, unlabelled, VOCABULARY, clock)
    return {"gib": held / GIB, "peak_gib": most, "overhead": 1 - clock.steps / clock.epoch}


STAGES: dict[str, Callable[[Path], dict[str, float]]] = {
    "scan": scan,
    "corpus": corpus,
    "tokens": tokens,
    "night": night,
    "training": training,
}


if __name__ == "__main__":
    main()
