"""The student: equal to a packed LSTM, blind to padding, and the same as a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from finstill.batching import pad
from finstill.onnx_classifier import OnnxClassifier, graph_parity
from finstill.students.lstm_attention import BidirectionalLayer, LstmAttention, _reversal
from finstill.students.recipe import LstmAttentionShape
from finstill.students.registry import load_student

LABELS = ("negative", "neutral", "positive")
SMALL = LstmAttentionShape(embedding="random", embedding_width=12, hidden_width=8, layers=3)
token_rows = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=20), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def student() -> LstmAttention:
    torch.manual_seed(0)
    return LstmAttention.from_shape(SMALL, LABELS, 100, None).eval()


@pytest.fixture(scope="module")
def graph(student: LstmAttention, tmp_path_factory: pytest.TempPathFactory) -> OnnxClassifier:
    path = tmp_path_factory.mktemp("student") / "model.onnx"
    onnx.save(student.onnx_graph(), path)
    return OnnxClassifier(path)


def test_a_layer_equals_a_packed_bidirectional_lstm() -> None:
    torch.manual_seed(0)
    layer, packed = BidirectionalLayer(5, 4), nn.LSTM(5, 4, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(packed, f"{name}_l0").copy_(getattr(layer.forwards, f"{name}_l0"))
            getattr(packed, f"{name}_l0_reverse").copy_(getattr(layer.backwards, f"{name}_l0"))
    states, lengths = torch.randn(3, 7, 5), torch.tensor([7, 2, 5])
    mask = torch.arange(7) < lengths[:, None]
    sequence = nn.utils.rnn.pack_padded_sequence(states, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(packed(sequence)[0], batch_first=True)
    ours = layer(states, _reversal(mask))
    assert torch.allclose(ours[mask], expected[mask], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(token_rows)
def test_a_texts_logits_are_those_it_has_alone(student: LstmAttention, graph: OnnxClassifier, rows: list) -> None:
    input_ids, mask = pad(rows)
    with torch.inference_mode():
        alone = np.concatenate([student(torch.tensor([row])).logits.numpy() for row in rows])
        batch = student(torch.from_numpy(input_ids), torch.from_numpy(mask)).logits.numpy()
    assert batch == pytest.approx(alone, abs=1e-5)
    assert graph.batch_logits(rows) == pytest.approx(alone, abs=1e-5)


def test_attention_is_a_distribution_over_the_tokens(student: LstmAttention) -> None:
    input_ids, mask = pad([[5, 6, 7], [8]])
    output = student(torch.from_numpy(input_ids), torch.from_numpy(mask), output_attentions=True)
    (weights,) = output.attentions
    assert weights.sum(dim=1).tolist() == pytest.approx([1, 1])
    assert weights[1].tolist() == pytest.approx([1, 0, 0])


def test_it_is_saved_as_safetensors_and_loaded_by_from_pretrained(student: LstmAttention, tmp_path: Path) -> None:
    student.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = load_student(tmp_path)
    assert isinstance(loaded, LstmAttention)
    assert list(loaded.config.id2label.values()) == list(LABELS)
    row = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded(row).logits, student(row).logits)


def test_parity_notices_a_graph_of_other_weights(student: LstmAttention, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = LstmAttention.from_shape(SMALL, LABELS, 100, None).eval()
    onnx.save(other.onnx_graph(), tmp_path / "other.onnx")
    assert not graph_parity(tmp_path / "other.onnx", student, [[1, 2, 3], [4]], 64).holds


@pytest.mark.parametrize("width", [6, 12, 20])
def test_the_teachers_embeddings_keep_what_is_near_to_what(width: int) -> None:
    """Three words that point the same way stay nearer to each other than to the rest, at any width."""
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(100, 12)).astype(np.float32) * 0.05
    embeddings[:3] = embeddings[0] + random.normal(size=(3, 12)) * 0.002
    shape = SMALL.model_copy(update={"embedding": "teacher", "embedding_width": width})
    start = LstmAttention.from_shape(shape, LABELS, 100, embeddings).embedding.weight.detach().numpy()
    distances = np.linalg.norm(start - start[0], axis=1)
    assert set(np.argsort(distances)[:3]) == {0, 1, 2}
    assert start.std() == pytest.approx(1, rel=0.01)
