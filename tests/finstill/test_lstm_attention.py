"""What is the LSTM's own: a layer equals a packed one. What holds for every student is in test_students.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from finstill.students.lstm_attention import BidirectionalLayer, reversal_order

LENGTHS = torch.tensor([7, 2, 5])
MASK = torch.arange(7) < LENGTHS[:, None]
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@pytest.fixture
def layers() -> tuple[BidirectionalLayer, nn.LSTM]:
    """Return our layer and torch's bidirectional one with the same weights."""
    torch.manual_seed(0)
    layer, packed = BidirectionalLayer(5, 4), nn.LSTM(5, 4, bidirectional=True)
    with torch.no_grad():
        for name in WEIGHTS:
            getattr(packed, f"{name}_l0").copy_(getattr(layer.forwards, f"{name}_l0"))
            getattr(packed, f"{name}_l0_reverse").copy_(getattr(layer.backwards, f"{name}_l0"))
    return layer, packed


def test_a_layer_and_its_gradient_equal_a_packed_bidirectional_lstms(
    layers: tuple[BidirectionalLayer, nn.LSTM],
) -> None:
    layer, packed = layers
    ours = torch.randn(7, 3, 5, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    sequence = nn.utils.rnn.pack_padded_sequence(theirs, LENGTHS, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(packed(sequence)[0])
    states = layer(ours, reversal_order(MASK))
    assert torch.allclose(states[MASK.T], expected[MASK.T], atol=1e-6)
    states[MASK.T].square().sum().backward()
    expected[MASK.T].square().sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
    for name in WEIGHTS:
        for lstm, suffix in ((layer.forwards, ""), (layer.backwards, "_reverse")):
            gradient = getattr(packed, f"{name}_l0{suffix}").grad
            assert torch.allclose(getattr(lstm, f"{name}_l0").grad, gradient, atol=1e-6), (name, suffix)


def test_a_layer_that_learns_nothing_keeps_nothing_and_gives_the_same_states(
    layers: tuple[BidirectionalLayer, nn.LSTM],
) -> None:
    layer, _ = layers
    states, order = torch.randn(7, 3, 5), reversal_order(MASK)
    learning = layer(states, order)
    with torch.no_grad():
        asked = layer(states, order)
    assert learning.requires_grad
    assert not asked.requires_grad
    # Two kernels: their sums may be rounded in another order.
    torch.testing.assert_close(learning, asked, rtol=0, atol=1e-6)


def test_reversing_twice_changes_nothing() -> None:
    order = reversal_order(MASK)
    assert order[order].tolist() == list(range(21))
    # Row 1 has two tokens: they change places, and its padding stays.
    assert [int(order[token * 3 + 1]) // 3 for token in range(7)] == [1, 0, 2, 3, 4, 5, 6]
