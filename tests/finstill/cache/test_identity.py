"""A row belongs to a text and a teacher: keys are the same on every platform, and no two teachers share rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig

from finstill.corpus.text import normalise, text_key
from finstill.teacher.fingerprint import configuration_identity, teacher_fingerprint

KEYS = {
    "Profit rose 12.5 % in Q3 .": "45ba69e0881a11949f5152c72d6211ff",
    "净利润同比增长 12.5%": "c11e2ad1b79c63015c5b09c9d9d656ff",
    "ارتفعت الأرباح بنسبة 20٪": "e6f63ee627c7f8a910e1d5e953248bae",
    "📈🚀 to the moon 💎🙌🏽": "e88bd8d4db95b3e97cad74c9a26bb76d",
    "zero\u200bwidth\u200djoiner": "c96e36b34d964df2422c1f98c38ab12e",
    "１,２３４.５６": "5bab09ef6a25242fa6fbea73616615d1",
    "0": "1240a4684403b160e6597a653a88f56c",
}


@pytest.mark.parametrize(("text", "key"), KEYS.items())
def test_keys_are_the_same_on_every_platform(text: str, key: str) -> None:
    assert text_key(normalise(text)).hex() == key


@pytest.mark.parametrize(
    ("one", "other"),
    [("１２.５％", "12.5%"), ("net\u00a0profit\n", " net  profit"), ("ﬁnance", "finance"), ("e\u0301", "é")],
)
def test_texts_that_differ_in_form_alone_share_a_key(one: str, other: str) -> None:
    assert text_key(normalise(one)) == text_key(normalise(other))


@pytest.mark.parametrize(
    ("one", "other"), [("Profit", "profit"), ("up 1", "up 1."), ("zero\u200bwidth", "zerowidth"), ("12", "1 2")]
)
def test_texts_that_differ_in_meaning_do_not(one: str, other: str) -> None:
    assert text_key(normalise(one)) != text_key(normalise(other))


@pytest.fixture
def teacher() -> dict[str, Any]:
    weights = {"encoder.weight": torch.arange(12.0).reshape(3, 4), "head.bias": torch.zeros(3)}
    return {
        "weights": weights,
        "configuration": configuration_identity(BertConfig()),
        "tokenizer": "0" * 32,
        "max_length": 128,
        "precision": "float32",
        "variant": "torch-export",
        "labels": ("negative", "neutral", "positive"),
    }


def one_weight(teacher: Mapping[str, Any]) -> dict[str, Any]:
    weight = teacher["weights"]["encoder.weight"].clone()
    weight[1, 2] = torch.nextafter(weight[1, 2], torch.tensor(torch.inf))
    return {"weights": {**teacher["weights"], "encoder.weight": weight}}


def one_shape(teacher: Mapping[str, Any]) -> dict[str, Any]:
    return {"weights": {**teacher["weights"], "encoder.weight": teacher["weights"]["encoder.weight"].reshape(4, 3)}}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(one_weight, id="one weight by its last bit"),
        pytest.param(one_shape, id="one shape"),
        pytest.param(lambda teacher: {"tokenizer": "1" * 32}, id="tokenizer"),
        pytest.param(
            lambda teacher: {"configuration": configuration_identity(BertConfig(num_attention_heads=6))},
            id="number of heads",
        ),
        pytest.param(
            lambda teacher: {"configuration": configuration_identity(BertConfig(hidden_act="relu"))}, id="activation"
        ),
        pytest.param(
            lambda teacher: {"configuration": configuration_identity(BertConfig(layer_norm_eps=1e-5))}, id="epsilon"
        ),
        pytest.param(lambda teacher: {"max_length": 127}, id="maximum length"),
        pytest.param(lambda teacher: {"precision": "int8"}, id="precision"),
        pytest.param(lambda teacher: {"variant": "fused"}, id="graph variant"),
        pytest.param(lambda teacher: {"labels": ("neutral", "negative", "positive")}, id="label order"),
    ],
)
def test_a_changed_teacher_never_meets_anothers_rows(teacher: dict[str, Any], change: Any) -> None:
    assert teacher_fingerprint(**{**teacher, **change(teacher)}) != teacher_fingerprint(**teacher)


def test_a_teacher_saved_again_keeps_its_rows(teacher: dict[str, Any]) -> None:
    again = {name: tensor.clone() for name, tensor in reversed(teacher["weights"].items())}
    assert teacher_fingerprint(**{**teacher, "weights": again}) == teacher_fingerprint(**teacher)


def test_what_a_configuration_says_of_names_and_training_identifies_no_logit() -> None:
    told = BertConfig(id2label={0: "up", 1: "down"}, initializer_range=0.1, architectures=["X"], dtype="float16")
    assert configuration_identity(told) == configuration_identity(BertConfig(hidden_act="gelu"))


@pytest.mark.parametrize(
    ("precision", "same"), [pytest.param("float32", True, id="float32"), pytest.param("int8", False, id="int8")]
)
def test_an_int8_teacher_belongs_to_one_runtime(
    teacher: dict[str, Any], monkeypatch: pytest.MonkeyPatch, precision: str, same: bool
) -> None:
    teacher["precision"] = precision
    here = teacher_fingerprint(**teacher)
    monkeypatch.setattr("onnxruntime.__version__", "0.0.1")
    assert (teacher_fingerprint(**teacher) == here) is same


def test_what_numpy_leaves_out_of_its_report_is_as_what_it_says_is_empty(
    teacher: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher["precision"] = "int8"
    simd = np.__config__.CONFIG["SIMD Extensions"]
    monkeypatch.setitem(simd, "found", [])
    empty = teacher_fingerprint(**teacher)
    monkeypatch.delitem(simd, "found")
    assert teacher_fingerprint(**teacher) == empty
