"""Teachers of the architectures that the docs name: exported, quantised, and equal to their checkpoints."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from finstill.inference.parity import graph_parity
from finstill.inference.session import OnnxClassifier
from finstill.metrics import kl_to_teacher
from finstill.teacher.checkpoint import longest_text
from finstill.teacher.export import export_graph
from finstill.teacher.fidelity import LARGEST_BATCH_DEPENDENCE, measure_fidelity
from finstill.teacher.int8 import fuse_teacher, quantize_teacher

MAX_LENGTH = 512
LENGTHS = (3, 4, 5, 8, 13, 16, 17, 31, 64, 127, 128, 129, 200, 511, MAX_LENGTH, MAX_LENGTH)
TOKEN_BUDGET = 2048
"""The longest rows are read four at a time, and all shorter ones beside longer ones."""

VOCABULARY = 500
FIRST, LAST, WORDS = 5, 6, 10
"""The ids around each row and the least id of a word: above the padding token's in every architecture."""

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
# RoBERTa's family counts positions from after the padding token's id, 1.
SHIFTED = {**SIZES, "max_position_embeddings": MAX_LENGTH + 2}
DISTILBERT = {"vocab_size": VOCABULARY, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
# As DeBERTa-v3, but for fewer buckets, so that the longer rows have distances that share one.
DEBERTA = {
    "relative_attention": True,
    "position_buckets": 32,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
# One layer attends to all tokens, the other to the 128 around each.
MODERNBERT = {
    "global_attn_every_n_layers": 2,
    "local_attention": 128,
    "pad_token_id": 1,
    "bos_token_id": FIRST,
    "cls_token_id": FIRST,
    "eos_token_id": LAST,
    "sep_token_id": LAST,
}

ARCHITECTURES = {
    "BERT": transformers.BertConfig(**SIZES),
    "DistilBERT": transformers.DistilBertConfig(**DISTILBERT),
    "RoBERTa": transformers.RobertaConfig(**SHIFTED, type_vocab_size=1),
    "XLM-R": transformers.XLMRobertaConfig(**SHIFTED, type_vocab_size=1),
    "ELECTRA": transformers.ElectraConfig(**SIZES, embedding_size=32),
    "ALBERT": transformers.AlbertConfig(**SIZES, embedding_size=32),
    "MPNet": transformers.MPNetConfig(**SHIFTED),
    "DeBERTa-v2": transformers.DebertaV2Config(**SIZES, **DEBERTA),
    "ModernBERT": transformers.ModernBertConfig(**SIZES, **MODERNBERT),
}


@dataclass(frozen=True)
class Teacher:
    """A classifier with random weights and its graphs."""

    model: PreTrainedModel
    float32: Path
    int8: Path


@pytest.fixture(scope="module", params=ARCHITECTURES)
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    config = copy.deepcopy(ARCHITECTURES[request.param])
    config.num_labels = 3
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    # At the usual initial scale every text gets nearly the same logits.
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.5 if len(parameter) == config.num_labels else 0.1)
    folder = tmp_path_factory.mktemp(request.param)
    export_graph(model, folder / "exported.onnx")
    fuse_teacher(folder / "exported.onnx", folder / "float32.onnx")
    quantize_teacher(folder / "exported.onnx", folder / "int8.onnx")
    return Teacher(model, folder / "float32.onnx", folder / "int8.onnx")


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    random = np.random.default_rng(0)
    return [[FIRST, *random.integers(WORDS, VOCABULARY, length - 2).tolist(), LAST] for length in LENGTHS]


def test_a_text_may_have_512_tokens(teacher: Teacher) -> None:
    longest = longest_text(teacher.model)
    assert longest == (8192 if teacher.model.config.model_type == "modernbert" else MAX_LENGTH)


@pytest.mark.parametrize("token_budget", [TOKEN_BUDGET, 1], ids=["in batches", "alone"])
def test_the_float32_graph_equals_the_checkpoint(teacher: Teacher, rows: list[list[int]], token_budget: int) -> None:
    logits = OnnxClassifier(teacher.float32).logits(rows, token_budget)
    assert np.ptp(logits, axis=0).min() > 0.3, "texts have logits of their own"
    parity = graph_parity(logits, teacher.model, rows)
    assert parity.holds, parity


def test_the_int8_graph_lies_near_float32(teacher: Teacher, rows: list[list[int]]) -> None:
    fidelity = measure_fidelity(teacher.int8, teacher.float32, rows, TOKEN_BUDGET)
    logits = OnnxClassifier(teacher.float32).logits(rows, TOKEN_BUDGET)
    # What another text's answer would cost in a text's place.
    apart = kl_to_teacher(np.roll(logits, 1, axis=0), logits)
    assert 0 < fidelity.kl_to_float32 < 0.05 * apart


def test_no_batch_moves_a_texts_int8_logits(teacher: Teacher, rows: list[list[int]]) -> None:
    classifier = OnnxClassifier(teacher.int8)
    alone = np.concatenate([classifier.batch_logits([row]) for row in rows])
    random = np.random.default_rng(1)
    for size in (2, 3, 5, 8, len(rows)):
        batch = random.choice(len(rows), size, replace=False)
        together = classifier.batch_logits([rows[i] for i in batch])
        np.testing.assert_allclose(together, alone[batch], rtol=0, atol=LARGEST_BATCH_DEPENDENCE)
