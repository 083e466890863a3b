"""What a run that is killed, and a corpus with a fault in it, cost: nothing that was computed, and no row.

    python bench/endurance.py [--quick] [--json FILE]

Every stage runs as `make demo` runs it, on 120 texts and a BERT of two narrow layers. Once it runs undisturbed. Then it
runs anew, is killed (SIGKILL, with all its processes) at a random moment, and is run to its end: `kills_survived`
counts the kills after which the cached logits, the students and the champion equal the undisturbed run's.

`bad_inputs_named` counts the corpora with one fault that stop with an error that names the file and, where the fault
has one, the row; `bad_inputs_tried` says of how many. `rows_lost` counts rows that were read and are neither in the
corpus nor counted under a reason, over all corpora that could be read, and cached rows that a kill lost.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from machine import describe_machine, no_deployment, read_arguments, report
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification

from finstill.cache.cache import SoftLabelCache, teachers
from finstill.config.profile import CorpusSource
from finstill.config.task import SENTIMENT
from finstill.config.workspace import Workspace
from finstill.corpus.build import read_corpus
from finstill.corpus.tokenizer import TOKENIZER_FILE, read_tokenizer
from finstill.errors import InputError
from finstill.files import digest
from finstill.inference.batching import pad
from finstill.quiet import quiet_transformers
from finstill.serving.package import Package
from finstill.teacher.checkpoint import resolve_checkpoint

GOALS = {"kills_survived": "20", "bad_inputs_named": "all tried", "bad_inputs_tried": "", "rows_lost": "0"}

ROOT = Path(__file__).resolve().parents[1]

PROFILE = """\
task: sentiment
corpus: {path: texts.csv, label: label}
teacher: {checkpoint: teacher, max_length: 32}
recipes: recipes.yaml
"""

RECIPES = """\
small: &small
  architecture: {embedding: random, embedding_width: 8, hidden_width: 8, layers: 1}
  alpha: 0.3
  epochs: 6
  batch_size: 16
  learning_rate: 0.05
small-baseline: {<<: *small, alpha: 0}
"""

TEXTS = {"negative": "Shares fell {} points", "neutral": "They met in room {}", "positive": "Profit rose {} percent"}

GOOD = b"text,label\nShares fell,negative\nProfit rose,positive\n"

BAD: dict[str, tuple[bytes, int | None]] = {
    "unknown label": (GOOD + b"Shares were bullish,bullish\n", 3),
    "too few fields": (GOOD + b"Shares fell again\n", 3),
    "too many fields": (GOOD + b"Shares fell,again,negative\n", 3),
    "a quote that never closes": (GOOD + b'"Shares fell,negative\nProfit rose,positive\n', 3),
    "bytes that are no UTF-8": (GOOD + b"Gr\xf6\xdfe zog an,positive\n", None),
    "another header": (b"headline,label\nShares fell,negative\n", None),
    "the same column twice": (b"text,text,label\nShares fell,Shares fell,negative\n", None),
    "no row": (b"text,label\n", None),
    "NUL bytes": (b"\0" * 64, None),
}
"""Contents of texts.csv and the row that is to be named."""

BAD_JSON: dict[str, tuple[bytes, int | None]] = {
    "a line that is no JSON": (b'{"text": "Shares fell", "label": "negative"}\n{"text": \n', 2),
    "a line that is no object": (b'{"text": "Shares fell", "label": "negative"}\n[1, 2]\n', 2),
    "a lone surrogate": (b'{"text": "Shares fell", "label": "negative"}\n{"text": "\\ud800", "label": "neutral"}\n', 2),
    "a text that is a number": (b'{"text": "Shares fell", "label": "negative"}\n{"text": 7, "label": "neutral"}\n', 2),
}


class House:
    """A user's folder, in which every stage can be run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.home = folder / "home"
        (folder / "mine.yaml").write_text(PROFILE)
        (folder / "recipes.yaml").write_text(RECIPES)
        rows = [(text.format(i), label) for i in range(40) for label, text in TEXTS.items()]
        (folder / "texts.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
        tokenizer = resolve_checkpoint("embedded").folder / TOKENIZER_FILE
        with quiet_transformers():
            taught_teacher(rows, read_tokenizer(tokenizer.parent)).save_pretrained(folder / "teacher")
        shutil.copy(tokenizer, folder / "teacher")

    def start(self) -> subprocess.Popen[bytes]:
        own = {"FINSTILL_PROFILE": str(self.folder / "mine.yaml"), "FINSTILL_HOME": str(self.home)}
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.run"],
            cwd=ROOT,
            env={**no_deployment(), **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self) -> None:
        process = self.start()
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"a run failed:\n{output.decode()[-2000:]}")

    def made(self) -> tuple[dict[bytes, list[float]], dict[str, str], str]:
        """Return what stands there: logits by key, a digest a student, and the champion's digest."""
        cache, workspace = str(self.home / "cache"), Workspace(self.home / "mine")
        (fingerprint,) = teachers(cache)
        rows = SoftLabelCache.open(cache, fingerprint).query(lambda cached: cached.to_table())
        logits = dict(zip(rows["key"].to_pylist(), rows["logits"].to_pylist(), strict=True))
        names = sorted(path.name for path in workspace.students.iterdir())
        students = {name: digest(workspace.student(name) / "model.safetensors") for name in names}
        return logits, students, Package.read(workspace.champion / "current").digest


def taught_teacher(rows: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> BertForSequenceClassification:
    """Return a small teacher that knows the labels: one that is worse than the majority class stops a run."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config.id2label = dict(enumerate(SENTIMENT.labels))
    model = BertForSequenceClassification(config)
    ids, mask = map(torch.from_numpy, pad([encoding.ids for encoding in tokenizer.encode_batch([t for t, _ in rows])]))
    labels = torch.tensor([SENTIMENT.labels.index(label) for _, label in rows])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
    return model


def survive(folder: Path, kills: int) -> tuple[int, int]:
    """Return how many kills left no trace, and how many cached rows were lost."""
    house = House(folder)
    started = time.monotonic()
    house.run()
    seconds = time.monotonic() - started
    expected = house.made()
    moments, survived, lost = random.Random(0), 0, 0
    for number in range(1, kills + 1):
        killed = False
        while not killed:
            # A later run may be faster than the first and end before it is killed.
            shutil.rmtree(house.home)
            moment = moments.uniform(0.1, 1) * seconds
            process = house.start()
            time.sleep(moment)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed = process.returncode == -signal.SIGKILL
        house.run()
        made = house.made()
        survived += made == expected
        lost += len(expected[0].keys() - made[0].keys())
        same = "as undisturbed" if made == expected else "otherwise"
        print(f"  kill {number:>2} of {kills}, after {moment:.1f} of {seconds:.1f} s: ended {same}", flush=True)
    return survived, lost


def read_bad(folder: Path) -> tuple[int, int, int]:
    """Return how many faults were named, how many were tried, and how many rows were lost."""
    tried = [("texts.csv", *each) for each in BAD.items()] + [("texts.jsonl", *each) for each in BAD_JSON.items()]
    torn = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["Shares fell"], "label": ["negative"]}), torn)
    whole = torn.getvalue().to_pybytes()
    tried += [("texts.parquet", "a torn Parquet file", (whole[: len(whole) // 2], None))]
    named, lost = 0, 0
    for file, fault, (content, row) in tried:
        path = folder / file
        path.write_bytes(content)
        try:
            source = CorpusSource(path=str(path), label="label")
            read = read_corpus(source, SENTIMENT.labels, folder / "corpus" / "corpus.parquet")
        except InputError as error:
            words = str(error)
            says = file in words and (row is None or re.search(rf"\b{row}\b", words.replace(file, "")) is not None)
        except Exception as error:
            words, says = f"{type(error).__name__}: {error}", False
        else:
            words, says = "it was read", False
            lost += read.read - read.kept - sum(read.reasons.values())
        named += says
        print(f"  {'named' if says else 'NOT NAMED'}: {fault}: {words[:150]}")
        path.unlink()
    return named, len(tried), lost


def main() -> None:
    arguments = read_arguments(__doc__)
    kills = 4 if arguments.quick else 20
    with tempfile.TemporaryDirectory() as folder:
        print("Corpora with a fault")
        named, tried, lost = read_bad(Path(folder))
        print(f"Runs that are killed, {kills}")
        survived, rows = survive(Path(folder), kills)
    figures = {
        "kills_survived": survived,
        "bad_inputs_named": named,
        "bad_inputs_tried": tried,
        "rows_lost": lost + rows,
    }
    report(figures, {**GOALS, "kills_survived": str(kills)}, describe_machine(), arguments.json)


if __name__ == "__main__":
    main()
