"""What distilling is worth on Financial PhraseBank, and what each piece of it adds.

    python bench/quality.py [--quick] [--json FILE]

Transfer text are business headlines and augmented sentences. Each student is trained from several seeds; every choice
is made on `validation`, and `test` is read once, at the end. Artefacts stay in .finstill/quality: a run that was
stopped goes on from there. Trainings run side by side, one thread each.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from joblib import Parallel, cpu_count, delayed
from machine import describe_machine, draw_rows, read_arguments, read_shared, report, take_turns, times_faster

from finstill.augment.build import augment_corpus
from finstill.cache.cache import SoftLabelCache
from finstill.cache.labelling import label_texts, write_logits
from finstill.config.architectures import ConvolutionConfig, LstmAttentionConfig, StaticConfig
from finstill.config.profile import Augmentation, CorpusSource, FineTuning
from finstill.config.recipe import Recipe
from finstill.config.task import SENTIMENT
from finstill.config.temperature import TemperatureSchedule
from finstill.config.workspace import Workspace
from finstill.corpus.build import build_corpus
from finstill.corpus.sources import read_rows
from finstill.corpus.tokenizer import load_tokenizer
from finstill.corpus.tokens import tokenize_corpus
from finstill.evaluation.significance import Difference
from finstill.inference.session import GRAPH_FILES, OnnxClassifier
from finstill.metrics import agreement, calibration_error, macro_f1
from finstill.packaging.build import build_package
from finstill.packaging.card import Provenance
from finstill.packaging.int8 import quantize_student
from finstill.serving import StudentClassifier
from finstill.serving.package import STUDENT_TOKEN_BUDGET
from finstill.students.registry import load_student
from finstill.teacher.checkpoint import load_classifier, resolve_checkpoint, word_embeddings
from finstill.teacher.export import TeacherGraph, export_teacher
from finstill.training.distil import train_student
from finstill.training.fine_tune import fine_tune
from finstill.training.rows import TrainingRows, training_rows, with_augmented

GOALS = {
    "teacher_macro_f1": "",
    "lstm_over_direct": "at least 0.12",
    "lstm_over_direct_low": "above 0",
    "lstm_teacher_share": "at least 0.99",
    "best_small_teacher_share": "at least 1",
    "lstm_agreement": "at least 0.92",
    "calibration_ratio": "under 1",
    "static_teacher_share": "at least 0.95",
    "static_vs_teacher_speed": "at least 1000",
    "windows_over_whole": "",
}

EVERYTHING = frozenset({"headlines", "augmented"})

FOLDER = Path(__file__).resolve().parents[1] / ".finstill" / "quality"
MAX_LENGTH = 128
TEACHER_TOKEN_BUDGET = 512
SMALL_MEGABYTES = 5
WINDOW_TOKENS = 32
"""Of a window, where texts that the student could read whole are read in windows to see what that costs."""

TRIMMED: dict[str, Any] = {"vocabulary": "corpus", "vocabulary_size": 8000}
# Word vectors as wide as the teacher's, so that nothing of them is left out.
LSTM = LstmAttentionConfig(embedding_width=384, **TRIMMED)
DISTILLED: dict[str, Any] = {"batch_size": 64, "patience": 10, "labelled_repeats": 3}
# As many epochs as still help: the best one by validation is kept.
FEW_ROWS: dict[str, Any] = {"epochs": 25, "batch_size": 32, "patience": 8}
RECIPES = {
    "lstm": Recipe(student="lstm_attention", architecture=LSTM, epochs=2, **DISTILLED),
    "convolution": Recipe(student="convolution", architecture=ConvolutionConfig(**TRIMMED), epochs=3, **DISTILLED),
    "static": Recipe(student="static", architecture=StaticConfig(**TRIMMED), epochs=6, **DISTILLED),
    "lstm-baseline": Recipe(student="lstm_attention", architecture=LSTM, alpha=0, **FEW_ROWS),
}
"""What the figures are of. The label-only baseline differs from `lstm` in what it learns from, and in its epochs."""

# Narrower, so that there is time for each piece to be left out from more than one seed.
NARROW = LstmAttentionConfig(hidden_width=64, **TRIMMED)
RANDOM_VECTORS = NARROW.model_copy(update={"embedding": "random"})
NARROW_LSTM = RECIPES["lstm"].model_copy(update={"architecture": NARROW})
ABLATION_SEEDS = 2
ABLATIONS: dict[str, tuple[dict[str, Any], frozenset[str]]] = {
    "64 units": ({}, EVERYTHING),
    "labels alone": ({"alpha": 0.0, **FEW_ROWS}, EVERYTHING),
    "labels alone, random word vectors": ({"alpha": 0.0, "architecture": RANDOM_VECTORS, **FEW_ROWS}, EVERYTHING),
    "labelled rows alone": (FEW_ROWS, frozenset()),
    "headlines, no augmented rows": ({"epochs": 4}, frozenset({"headlines"})),
    "augmented rows, no headlines": ({"epochs": 4}, frozenset({"augmented"})),
    "constant temperature 3": ({"temperature": TemperatureSchedule(schedule="constant")}, EVERYTHING),
    "1/T^2 in place of T^2": ({"soft_loss": "kl_inverse_square"}, EVERYTHING),
    "mean squared error on logits": ({"soft_loss": "mse"}, EVERYTHING),
    "standardised logits": ({"soft_loss": "standardised_kl"}, EVERYTHING),
    "decoupled KD": ({"soft_loss": "dkd"}, EVERYTHING),
    "DIST": ({"soft_loss": "dist"}, EVERYTHING),
    "random word vectors": ({"architecture": RANDOM_VECTORS}, EVERYTHING),
    "word vectors 384 wide": ({"architecture": NARROW.model_copy(update={"embedding_width": 384})}, EVERYTHING),
    "all 30,522 word vectors": (
        {"architecture": NARROW.model_copy(update={"vocabulary": "full", "vocabulary_size": None})},
        EVERYTHING,
    ),
}
"""Changes to the recipe `lstm` with 64 units a direction and vectors 128 wide, and the transfer text left to it."""


@dataclass(frozen=True)
class Size:
    """How much of everything a run takes: `variants` augmented rows for each labelled train row."""

    seeds: int
    headlines: int
    variants: int
    teacher: FineTuning
    most_epochs: int


FULL = Size(
    seeds=5,
    headlines=53_000,
    variants=16,
    teacher=FineTuning(epochs=4, batch_size=32, learning_rate=8e-5, runs=4),
    most_epochs=25,
)
QUICK = Size(seeds=1, headlines=1_000, variants=1, teacher=FineTuning(epochs=1), most_epochs=1)


def main() -> None:
    arguments = read_arguments(__doc__)
    size = QUICK if arguments.quick else FULL
    folder = FOLDER / ("quick" if arguments.quick else "full")
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("finstill").setLevel(logging.INFO)
    make_corpus(folder, size.headlines)
    teacher = make_teacher(folder, size)

    seeds = range(size.seeds)
    jobs = [(name, recipe, EVERYTHING, seed) for seed in seeds for name, recipe in RECIPES.items()]
    for name, (changes, transfer) in ABLATIONS.items():
        recipe = NARROW_LSTM.model_copy(update=changes)
        jobs += [(name, recipe, transfer, seed) for seed in seeds[:ABLATION_SEEDS]]
    runs = Parallel(n_jobs=cpu_count())(delayed(train)(folder, size.most_epochs, *job) for job in jobs)
    students: dict[str, list[Path]] = {}
    for (name, *_), path in zip(jobs, runs, strict=True):
        write_graphs(path)
        students.setdefault(name, []).append(path)

    files = Workspace(folder)
    rows = training_rows(files.corpus, files.tokens, SENTIMENT, files.teacher_logits)
    test = rows["test"]
    logits = {name: np.stack([predict(path, test) for path in paths]) for name, paths in students.items()}
    print_table(test, logits, students)
    figures = measure(test, logits, students, teacher)
    figures["windows_over_whole"] = windows_over_whole(folder, rows, teacher, students["lstm"])
    report(figures, GOALS, describe_machine("torch", "onnxruntime"), arguments.json)


def make_corpus(folder: Path, headlines: int) -> None:
    """Write PhraseBank with its own split, and `headlines` of the headlines as unlabelled train rows, and their ids."""
    files = Workspace(folder)
    if files.tokens.exists():
        return
    labelled = read_shared("financial_phrasebank").select(["text", "label", "split"])
    texts = draw_rows(read_shared("business_headlines"), headlines)["text"]
    columns = [texts, pa.nulls(headlines), pa.repeat("train", headlines)]
    source = folder / "source.parquet"
    unlabelled = pa.table(columns, names=labelled.column_names).cast(labelled.schema)
    pq.write_table(pa.concat_tables([labelled, unlabelled]), source)
    rows = read_rows(CorpusSource(path=str(source), label="label", split="split"))
    corpus, _ = build_corpus(rows, SENTIMENT.labels, {})
    pq.write_table(corpus, files.corpus)
    tokenizer = load_tokenizer(resolve_checkpoint("embedded").folder, MAX_LENGTH)
    tokenize_corpus(files.corpus, tokenizer, files.tokens)


def make_teacher(folder: Path, size: Size) -> TeacherGraph:
    """Fine-tune the teacher, make the augmented corpus from its embeddings, and label all texts."""
    files, encoder, checkpoint = Workspace(folder), resolve_checkpoint("embedded"), folder / "teacher"
    rows = training_rows(files.corpus, files.tokens, SENTIMENT)
    fine_tune(encoder, size.teacher, rows["train"], rows["validation"], SENTIMENT.labels, checkpoint, seed=0)
    teacher = export_teacher(checkpoint, folder / "onnx", max_length=MAX_LENGTH, source="embedded")
    if not files.augmented.exists():
        augment_corpus(
            files.corpus,
            files.tokens,
            load_tokenizer(checkpoint, MAX_LENGTH),
            word_embeddings(load_classifier(checkpoint)),
            Augmentation(variants_per_text=size.variants),
            files.augmented,
        )
    cache = SoftLabelCache(folder / "cache", teacher.fingerprint, teacher.labels)
    for texts in (files.tokens, files.augmented):
        label_texts(texts, cache, partial(OnnxClassifier, teacher.graph), TEACHER_TOKEN_BUDGET)
    write_logits([files.tokens, files.augmented], cache, files.teacher_logits)
    return teacher


def train(folder: Path, most_epochs: int, name: str, recipe: Recipe, transfer: frozenset[str], seed: int) -> Path:
    """Train one student from `transfer` text beside the labelled rows and return its folder."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    files = Workspace(folder)
    rows = training_rows(files.corpus, files.tokens, SENTIMENT, files.teacher_logits)
    learned = rows["train"] if "headlines" in transfer else rows["train"].labelled()
    if "augmented" in transfer:
        learned = with_augmented(learned, files.augmented, files.teacher_logits, SENTIMENT)
    # A folder of its own for each: its trainer keeps checkpoints beside it.
    student = folder / "students" / name.replace("/", " ") / str(seed) / "student"
    train_student(
        recipe.model_copy(update={"seed": seed, "epochs": min(recipe.epochs, most_epochs)}),
        learned,
        rows["validation"],
        SENTIMENT.labels,
        folder / "teacher",
        student,
        stage=f"{name}, seed {seed}",
    )
    print(f"{name}, seed {seed}: trained", flush=True)
    return student


def write_graphs(student: Path) -> None:
    graph = load_student(student).onnx_graph()
    onnx.save(graph, student / GRAPH_FILES["float32"])
    onnx.save(quantize_student(graph), student / GRAPH_FILES["int8"])


def predict(student: Path, rows: TrainingRows, precision: str = "float32") -> np.ndarray:
    return OnnxClassifier(student / GRAPH_FILES[precision]).logits(rows.input_ids, STUDENT_TOKEN_BUDGET)


def print_table(test: TrainingRows, logits: dict[str, np.ndarray], students: dict[str, list[Path]]) -> None:
    """Print what each student is worth on the test rows: the mean over its seeds and the standard deviation."""
    teacher = test.teacher_logits
    assert teacher is not None
    form = "{:<33} {:>5} {:>15} {:>9} {:>6} {:>5} {:>7}  {}"
    print(form.format("test rows", "seeds", "macro-F1", "agreement", "ECE", "MB", "int8 MB", "over its baseline"))
    print(form.format("teacher", "", f"{macro_f1(test.labels, teacher):.3f}", *[""] * 5))
    for name, runs in logits.items():
        scores = [macro_f1(test.labels, run) for run in runs]
        rival = "lstm" if name in RECIPES else "64 units"
        sizes = [(students[name][0] / file).stat().st_size / 1e6 for file in GRAPH_FILES.values()]
        print(
            form.format(
                name,
                len(runs),
                f"{np.mean(scores):.3f} +- {np.std(scores):.3f}",
                f"{np.mean([agreement(run, teacher) for run in runs]):.3f}",
                f"{np.mean([calibration_error(test.labels, run) for run in runs]):.3f}",
                *(f"{size:.1f}" for size in sizes),
                "" if name == rival else str(Difference.between(test.labels, runs, logits[rival])),
            )
        )


def measure(
    test: TrainingRows, logits: dict[str, np.ndarray], students: dict[str, list[Path]], teacher: TeacherGraph
) -> dict[str, float]:
    """Return the figures, each a mean over the seeds."""
    assert test.teacher_logits is not None
    of_teacher = macro_f1(test.labels, test.teacher_logits)

    def share(runs: np.ndarray) -> float:
        return float(np.mean([macro_f1(test.labels, run) for run in runs])) / of_teacher

    gain = Difference.between(test.labels, logits["lstm"], logits["lstm-baseline"])
    small = {}
    for name in RECIPES:
        if max((path / GRAPH_FILES["int8"]).stat().st_size for path in students[name]) < SMALL_MEGABYTES * 1e6:
            small[name] = share(np.stack([predict(path, test, "int8") for path in students[name]]))
    errors = {
        name: np.mean([calibration_error(test.labels, run) for run in logits[name]])
        for name in ("lstm", "lstm-baseline")
    }
    static = OnnxClassifier(students["static"][0] / GRAPH_FILES["float32"])
    original = OnnxClassifier(teacher.graph)
    seconds = take_turns(
        {
            "static": lambda: static.logits(test.input_ids, STUDENT_TOKEN_BUDGET),
            "teacher": lambda: original.logits(test.input_ids, TEACHER_TOKEN_BUDGET),
        },
        rounds=3,
    )
    return {
        "teacher_macro_f1": of_teacher,
        "lstm_over_direct": gain.points,
        "lstm_over_direct_low": gain.low,
        "lstm_teacher_share": share(logits["lstm"]),
        "best_small_teacher_share": max(small.values()),
        "lstm_agreement": float(np.mean([agreement(run, test.teacher_logits) for run in logits["lstm"]])),
        "calibration_ratio": float(errors["lstm"] / errors["lstm-baseline"]),
        "static_teacher_share": share(logits["static"]),
        "static_vs_teacher_speed": times_faster(seconds, "static", "teacher"),
    }


def windows_over_whole(
    folder: Path, rows: dict[str, TrainingRows], teacher: TeacherGraph, students: list[Path]
) -> float:
    """Return the macro-F1 of test texts read in windows less that of the same texts read whole, by packaged students.

    The texts are those of more than `WINDOW_TOKENS` tokens: data of this kind has none longer than a student reads.
    """
    corpus = pq.read_table(Workspace(folder).corpus, columns=["text"], filters=pc.field("split") == "test")
    texts = corpus["text"].to_pylist()
    provenance = Provenance(
        "financial_phrasebank", "", False, None, None, {name: len(each) for name, each in rows.items()}
    )
    longer = np.flatnonzero([len(ids) > WINDOW_TOKENS for ids in rows["test"].input_ids])
    answers: dict[str, list[list[list[float]]]] = {"whole": [], "windows": []}
    for student in students:
        package = build_package(
            student, "lstm", {}, SENTIMENT, [teacher], provenance, rows, student.parent / "package"
        ).package
        for way, max_length in (("whole", MAX_LENGTH), ("windows", WINDOW_TOKENS)):
            classifier = StudentClassifier(package.folder)
            classifier.package = replace(package, max_length=max_length)
            scores = classifier.score(texts[i] for i in longer)
            answers[way].append([list(score.probabilities.values()) for score in scores])
    labels, windows, whole = rows["test"].labels[longer], np.array(answers["windows"]), np.array(answers["whole"])
    lost = Difference.between(labels, windows, whole)
    print(f"\n{len(longer)} test texts in windows, over whole: {lost}")
    return lost.points


if __name__ == "__main__":
    main()
