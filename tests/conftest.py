"""Small real components that many tests share."""

from __future__ import annotations

import os

# Before torch is loaded: see pipelines/__init__.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
import subprocess
import venv
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

from finstill.config.task import SENTIMENT, Task
from finstill.corpus.token_ids import TokenIds
from finstill.serving.package import Package
from finstill.teacher.checkpoint import resolve_checkpoint
from finstill.training.rows import NO_LABEL, TrainingRows

if TYPE_CHECKING:
    from finstill.teacher.export import TeacherGraph

# What a person's own deployment sets is none of the tests'.
for name in [each for each in os.environ if each.startswith(("FINSTILL_", "DAGSTER_")) and each != "FINSTILL_E2E"]:
    del os.environ[name]

# How long an example takes depends on what else the machine does.
settings.register_profile("finstill", deadline=None)
settings.load_profile("finstill")

ROOT = Path(__file__).parents[1]

VOCABULARY = 30522
PROSUS_ORDER = ("positive", "negative", "neutral")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A driver of a Ray cluster keeps Ray's threads when it has left it, and CPython 3.11's parser may fail beside them.
    items.sort(key=lambda item: item.path.name == "test_on_ray.py")


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a random BERT classifier with the real BERT vocabulary and returns its folder."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    def make(labels: tuple[str, ...] = PROSUS_ORDER, seed: int = 0, **sizes: int) -> Path:
        torch.manual_seed(seed)
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = BertConfig(**{**small, **sizes}, id2label=dict(enumerate(labels)))
        model = BertForSequenceClassification(config)
        # At BERT's own initial scale every text gets nearly the same logits.
        torch.nn.init.normal_(model.classifier.weight, std=2.0)
        folder = tmp_path_factory.mktemp("checkpoint")
        model.save_pretrained(folder)
        shutil.copy(resolve_checkpoint("embedded").folder / "tokenizer.json", folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """A teacher of two narrow layers with ProsusAI's label order."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def furnished_home(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home to copy, with what takes long to make: of the profile `mine` the teacher's graph for 32 tokens, and
    onnxruntime-web where npm can fetch it."""
    from finstill.serving.page.onnxruntime_web import NoPageError, onnxruntime_web
    from finstill.teacher.export import export_teacher

    home = tmp_path_factory.mktemp("furnished") / "home"
    export_teacher(tiny_checkpoint, home / "mine" / "teacher" / "onnx", max_length=32, source=str(tiny_checkpoint))
    with suppress(NoPageError):
        fetched = onnxruntime_web(tmp_path_factory.mktemp("npm"))
        (home / fetched.name).symlink_to(fetched)
    return home


@pytest.fixture(scope="session")
def teacher_of_packages(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TeacherGraph:
    """The random teacher of `make_package`."""
    from finstill.teacher.export import export_teacher

    return export_teacher(
        make_checkpoint(), tmp_path_factory.mktemp("teacher") / "onnx", max_length=32, source="me/finbert"
    )


@pytest.fixture(scope="session")
def make_package(
    make_checkpoint: Callable[..., Path], teacher_of_packages: TeacherGraph, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Package]:
    """Return a function that packages a random student which tells texts apart, for texts of at most 32 tokens."""
    import torch

    from finstill.config.recipe import Recipe
    from finstill.packaging.build import build_package
    from finstill.packaging.card import Provenance
    from finstill.students.registry import STUDENTS
    from finstill.students.start import Start
    from finstill.students.vocabulary import Vocabulary

    checkpoint = make_checkpoint()
    start = Start.open("teacher", checkpoint, 32)

    def make(
        name: str = "small",
        seed: int = 0,
        labelled: bool = True,
        provenance: Provenance | None = None,
        recipe: Recipe | None = None,
        task: Task = SENTIMENT,
        defer: float | None = None,
    ) -> Package:
        torch.manual_seed(seed)
        architecture = {"embedding": "random", "embedding_width": 16, "hidden_width": 16, "layers": 2}
        recipe = recipe or Recipe.model_validate({"architecture": architecture})
        full = Vocabulary.full(VOCABULARY)
        student = STUDENTS[recipe.student].from_architecture(recipe.architecture, SENTIMENT.labels, full, start).eval()
        for parameter_name, parameter in student.named_parameters():
            if parameter_name == "head.weight":
                torch.nn.init.normal_(parameter, std=6.0)
        folder = tmp_path_factory.mktemp(name)
        student.save_pretrained(folder / "checkpoint")
        shutil.copy(checkpoint / "tokenizer.json", folder / "checkpoint")
        splits = {split: _random_rows(120, i, labelled) for i, split in enumerate(("train", "validation", "test"))}
        provenance = provenance or Provenance("news.csv", "0" * 32, False, "cc0-1.0", "mit", {"test": 120})
        return build_package(
            folder / "checkpoint",
            name,
            recipe.model_dump(),
            task,
            [teacher_of_packages],
            provenance,
            splits,
            folder / "package",
            defer=defer,
        ).package

    return make


@pytest.fixture(scope="session")
def run_alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Return a function that runs a program in a new environment into which Finstill was installed without extras."""
    folder = tmp_path_factory.mktemp("alone")
    source, python = folder / "source", folder / "venv" / "bin" / "python"
    # Building leaves files beside what is built.
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "finstill", source / "finstill", ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(folder / "venv", with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    installed = subprocess.run([*pip, source], capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr

    def run(*command: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([python, *command], capture_output=True, cwd=folder, **options)

    return run


@pytest.fixture(scope="session")
def deciding_package(make_package: Callable[..., Package]) -> Package:
    """A packaged student that decides whether texts are negative; other tests leave it as it is."""
    decide = {"negative": {"recall_at_least": 0.5}}
    return make_package("deciding", task=Task.model_validate({"name": "sentiment", "decide": decide}))


@pytest.fixture(scope="session")
def package(make_package: Callable[..., Package]) -> Package:
    """A packaged student that other tests read and leave as it is."""
    return make_package()


def _random_rows(rows: int, seed: int, labelled: bool) -> TrainingRows:
    random = np.random.default_rng(seed)
    input_ids = [[101, *random.integers(2000, 20000, size=random.integers(1, 30)).tolist(), 102] for _ in range(rows)]
    labels = random.integers(3, size=rows).astype(np.int64) if labelled else np.full(rows, NO_LABEL)
    return TrainingRows(TokenIds.of(input_ids), labels, random.normal(size=(rows, 3)).astype(np.float32))


@pytest.fixture
def learnable_rows() -> Callable[..., TrainingRows]:
    """Return a function that makes rows whose label is told by which token occurs, with confident teacher logits."""

    def make(rows: int, seed: int = 0, unlabelled: int = 0) -> TrainingRows:
        random = np.random.default_rng(seed)
        labels = random.integers(3, size=rows)
        input_ids = [
            [101, *random.integers(2000, 2050, size=random.integers(1, 12)).tolist(), 3000 + int(label), 102]
            for label in labels
        ]
        logits = (3.0 * np.eye(3)[labels] + random.normal(scale=0.1, size=(rows, 3))).astype(np.float32)
        labels = labels.astype(np.int64)
        labels[:unlabelled] = NO_LABEL
        return TrainingRows(TokenIds.of(input_ids), labels, logits)

    return make
