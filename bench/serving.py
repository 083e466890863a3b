"""Students beside their teacher as a user runs them: size, load time, memory, latency and texts a second.

    python bench/serving.py [--quick] [--json FILE]

The teacher has BERT-base's shape and random weights. `lstm` and `static` have the sizes of the built-in recipes,
`lstm_128` has twice the LSTM's units, and the other architectures have their default sizes. Students are trained for
one epoch on Financial PhraseBank and packaged, so that their int8 graphs are proved too. Everything is from text to
label, tokenizing included, in length-sorted batches. Latency is of one text after another, as a service that holds one
classifier answers: rivals take turns in blocks, and the first text of a block, which finds the caches full of another's
weights, does not count.
"""

from __future__ import annotations

import importlib.resources
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import files as files_of
from importlib.metadata import requires
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from machine import Seconds, describe_machine, draw_rows, read_arguments, read_shared, report, take_turns
from packaging.requirements import Requirement
from teacher import random_teacher
from tokenizers import Tokenizer

from finstill.config.recipe import Recipe, read_recipes
from finstill.config.task import SENTIMENT
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import TOKENIZER_FILE, load_tokenizer
from finstill.inference.session import GRAPH_FILES, OnnxClassifier
from finstill.packaging.build import build_package
from finstill.packaging.card import Provenance
from finstill.quiet import quiet_transformers
from finstill.serving import StudentClassifier
from finstill.serving.package import Package
from finstill.students.registry import STUDENTS
from finstill.teacher.checkpoint import resolve_checkpoint
from finstill.teacher.export import TeacherGraph, export_teacher
from finstill.training.distil import train_student
from finstill.training.rows import TrainingRows

GOALS = {
    "lstm_mb": "at most 3",
    "lstm_vs_teacher": "at least 180",
    "lstm_p99_vs_teacher_p50": "at most 0.02",
    "static_vs_teacher": "at least 1,200",
    "base_installation_mb": "at most 150",
}

MAX_LENGTH = 128
WORDS = 8000
"""That a student knows at most; its corpus may have fewer."""

TEACHER_TOKEN_BUDGET = 512

TOKENS_OF_ONE_TEXT = 30
TEXTS_IN_A_ROW = 20

Classify = Callable[[list[str]], object]
Settings = dict[str, Any]

ALONE = """
import json, re, sys, time
from pathlib import Path
kind, folder, graph, texts = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.stdin.read())
started = time.perf_counter()
if kind == "student":
    from finstill.serving import StudentClassifier
    student = StudentClassifier(folder, precision=graph)
    loaded = time.perf_counter()
    list(student.score(texts))
else:
    from tokenizers import Tokenizer
    from finstill.inference.session import OnnxClassifier
    teacher = OnnxClassifier(Path(folder) / graph, threads=1)
    tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
    loaded = time.perf_counter()
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    teacher.logits([tokenizer.encode(text).ids for text in texts], 512)
# Not getrusage: its peak is the parent's where that was larger.
kibibytes = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(json.dumps({"load_ms": 1000 * (loaded - started), "peak_mb": int(kibibytes) * 1024 / 1e6}))
"""
"""What a process of its own does: load one classifier, imports included, label some texts, and say what that took."""


def main() -> None:
    arguments = read_arguments(__doc__)
    phrasebank = read_shared("financial_phrasebank")
    texts, few, rounds, blocks = (600, 24, 3, 3) if arguments.quick else (1500, 96, 5, 20)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("Exporting a BERT-base in both precisions", flush=True)
        teacher = make_teacher(folder)
        tokenizer = load_tokenizer(teacher.folder, MAX_LENGTH)
        packages = {}
        for name, settings in students().items():
            print(f"Training and packaging {name}", flush=True)
            packages[name] = make_package(name, settings, teacher, tokenizer, phrasebank, folder)
        chosen = draw_rows(phrasebank, texts)["text"].to_pylist()
        figures = compare(teacher, tokenizer, packages, chosen, few, rounds, blocks)
    figures["base_installation_mb"] = base_installation_mb()
    report(figures, GOALS, describe_machine("onnxruntime", "tokenizers", "numpy"), arguments.json)


def make_teacher(folder: Path) -> TeacherGraph:
    checkpoint = folder / "checkpoint"
    with quiet_transformers():
        random_teacher().save_pretrained(checkpoint)
    (checkpoint / TOKENIZER_FILE).write_bytes((resolve_checkpoint("embedded").folder / TOKENIZER_FILE).read_bytes())
    return export_teacher(checkpoint, folder / "teacher", max_length=MAX_LENGTH, source="random", precision="int8")


def students() -> dict[str, Settings]:
    """Return architectures by name, each with its student, which knows its corpus's words."""
    known = {"vocabulary": "corpus", "vocabulary_size": WORDS}
    with importlib.resources.as_file(importlib.resources.files("finstill.data") / "recipes.yaml") as file:
        built_in = read_recipes(file)

    def of_recipe(name: str, **changed: object) -> Settings:
        architecture = built_in[name].architecture.model_dump(mode="json")
        return {"student": built_in[name].student, "architecture": {**architecture, **known, **changed}}

    built: dict[str, Settings] = {
        "lstm": of_recipe("lstm"),
        "lstm_128": of_recipe("lstm", hidden_width=128),
        "static": of_recipe("static"),
    }
    measured = {settings["student"] for settings in built.values()}
    others = {name: {"student": name, "architecture": known} for name in STUDENTS if name not in measured}
    return {**built, **others}


def make_package(
    name: str, settings: Settings, teacher: TeacherGraph, tokenizer: Tokenizer, phrasebank: pa.Table, folder: Path
) -> Package:
    """Return a student trained from labels for an epoch."""
    rows = {}
    for split in ("train", "validation", "test"):
        part = phrasebank.filter(pc.field("split") == split)
        labels = np.array([SENTIMENT.labels.index(label) for label in part["label"].to_pylist()], np.int64)
        rows[split] = TrainingRows(TokenIds.of(token_ids(tokenizer, part["text"].to_pylist())), labels)
    recipe = Recipe.model_validate({**settings, "alpha": 0, "epochs": 1})
    trained = train_student(
        recipe,
        rows["train"],
        rows["validation"],
        SENTIMENT.labels,
        folder / "checkpoint",
        folder / name / "checkpoint",
        stage=name,
    )
    provenance = Provenance(
        "financial_phrasebank", "", False, None, None, {split: len(each) for split, each in rows.items()}
    )
    built = build_package(
        trained.folder,
        name,
        recipe.model_dump(mode="json"),
        SENTIMENT,
        [teacher],
        provenance,
        rows,
        folder / name / "package",
    )
    return built.package


def compare(
    teacher: TeacherGraph,
    tokenizer: Tokenizer,
    packages: Mapping[str, Package],
    sample: list[str],
    few: int,
    rounds: int,
    blocks: int,
) -> dict[str, float]:
    """Return all figures.

    Args:
        sample: texts that students label in a round; the teacher labels `few` of them, spread over their lengths.
        blocks: of `TEXTS_IN_A_ROW` single texts timed.
    """
    sample = sorted(sample, key=lambda text: len(tokenizer.encode(text)))
    for_teacher = [sample[int((i + 0.5) / few * len(sample))] for i in range(few)]
    one = next(text for text in sample if len(tokenizer.encode(text)) >= TOKENS_OF_ONE_TEXT)
    figures: dict[str, float] = {}
    alone: dict[str, Classify] = {}
    seconds: dict[int, Seconds] = {}
    for threads in (1, 2):
        runs: dict[str, Callable[[], object]] = {}
        for precision, file in GRAPH_FILES.items():
            run = teacher_run(teacher.folder / file, tokenizer, threads)
            runs[f"teacher_{precision}"] = partial(run, for_teacher)
            alone.setdefault(f"teacher_{precision}", run)
            for name, package in packages.items():
                student = StudentClassifier(package.folder, precision=precision, threads=threads)  # type: ignore[arg-type]
                run = partial(label, student)
                runs[f"{name}_{precision}"] = partial(run, sample)
                alone.setdefault(f"{name}_{precision}", run)
        print(f"Measuring on {threads} thread{'s' * (threads > 1)}", flush=True)
        take_turns(runs, 1)  # Warm: memory is taken, and the first batches are slower.
        seconds[threads] = take_turns(runs, rounds)
    labelled = {name: few if name.startswith("teacher") else len(sample) for name in alone}
    print("Measuring single texts", flush=True)
    latencies: dict[str, list[float]] = {name: [] for name in alone}
    for _ in range(blocks):
        for name, run in alone.items():
            run([one])
            latencies[name] += take_turns({name: partial(run, [one])}, TEXTS_IN_A_ROW)[name]

    for name in alone:
        owner, _, precision = name.rpartition("_")
        folder = teacher.folder if owner == "teacher" else packages[owner].folder
        files = (folder / GRAPH_FILES[precision], folder / TOKENIZER_FILE)
        figures[f"{name}_mb"] = sum(file.stat().st_size for file in files) / 1e6
        figures |= {
            f"{name}_{what}": value for what, value in in_own_process(owner, folder, precision, for_teacher).items()
        }
        for percentile in (50, 95, 99):
            figures[f"{name}_p{percentile}_ms"] = 1000 * float(np.percentile(latencies[name], percentile))
        for threads, measured in seconds.items():
            figures[f"{name}_texts_a_second_{threads}"] = labelled[name] / median(measured[name])
    for name in packages:
        paces = zip(seconds[1][f"{name}_int8"], seconds[1]["teacher_float32"], strict=True)
        figures[f"{name}_vs_teacher"] = median((len(sample) / ours) / (few / theirs) for ours, theirs in paces)
    figures["lstm_mb"] = figures["lstm_int8_mb"]
    figures["lstm_p99_vs_teacher_p50"] = figures["lstm_int8_p99_ms"] / figures["teacher_float32_p50_ms"]
    return figures


def token_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def teacher_run(graph: Path, tokenizer: Tokenizer, threads: int) -> Classify:
    """Return the teacher as students are run: on one thread, texts are tokenized one by one too."""
    classifier = OnnxClassifier(graph, threads=threads)

    def run(texts: list[str]) -> np.ndarray:
        rows = [tokenizer.encode(text).ids for text in texts] if threads == 1 else token_ids(tokenizer, texts)
        return classifier.logits(rows, TEACHER_TOKEN_BUDGET)

    return run


def label(student: StudentClassifier, texts: list[str]) -> list[str]:
    return [score.label for score in student.score(texts)]


def in_own_process(owner: str, folder: Path, precision: str, texts: list[str]) -> dict[str, float]:
    kind, graph = ("teacher", GRAPH_FILES[precision]) if owner == "teacher" else ("student", precision)
    command = [sys.executable, "-c", ALONE, kind, str(folder), graph]
    return json.loads(
        subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True).stdout
    )


def base_installation_mb() -> float:
    """Return how large on disk is what an installation without extras brings, byte code left out."""
    sizes: dict[str, int] = {}
    wanted = [Requirement(each) for each in requires("finstill") or []]
    while wanted:
        requirement = wanted.pop()
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not needed or requirement.name in sizes:
            continue
        files = [path for path in files_of(requirement.name) or [] if path.suffix != ".pyc"]
        sizes[requirement.name] = sum(Path(path.locate()).stat().st_size for path in files)
        wanted += [Requirement(each) for each in requires(requirement.name) or []]
    return sum(sizes.values()) / 1e6


if __name__ == "__main__":
    main()
