"""Small real components that many tests share."""

from __future__ import annotations

import os

# Before torch is loaded: see pipelines/__init__.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from finstill.distil.loss import NO_LABEL
from finstill.teacher.checkpoint import resolve_checkpoint
from finstill.training import TrainingRows

PROSUS_ORDER = ("positive", "negative", "neutral")


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
        return TrainingRows(input_ids, labels, logits)

    return make
