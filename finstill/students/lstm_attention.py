"""`lstm_attention`: a bidirectional LSTM with additive attention over its states."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from finstill.config.architectures import LstmAttentionConfig
from finstill.students.base import StudentConfig, TokenStateStudent, masked_softmax
from finstill.students.embedding import TokenEmbedding
from finstill.students.graph import as_array, build_graph


class PretrainedLstmAttentionConfig(StudentConfig):
    """Of an `LstmAttention`; its architecture is a `LstmAttentionConfig`."""

    model_type = "finstill_lstm_attention"


class BidirectionalLayer(nn.Module):
    """One LSTM layer read in both directions, padding never read before a token.

    The backward direction reads each row reversed within its own length. So padding stands at the end for both, where
    it cannot reach a token's state, and a row's states are those it has alone. It equals a packed bidirectional
    `nn.LSTM` at half the time of a step on CPU, since the rows stay one dense tensor. The directions run at the same
    time, a thread each: that moves no bit, where threads within a product would.
    """

    def __init__(self, width: int, hidden_width: int):
        super().__init__()
        self.forwards = nn.LSTM(width, hidden_width)
        self.backwards = nn.LSTM(width, hidden_width)

    def forward(self, states: Tensor, reversal: Tensor) -> Tensor:
        """Return the states of both directions side by side.

        Args:
            states: float, (tokens, rows, width).
            reversal: int64, (tokens * rows,): see `reversal_order`.

        Returns:
            float, (tokens, rows, 2 * hidden_width).
        """
        reversed_states = _Exchange.apply(states, reversal)
        if torch.is_grad_enabled() and states.device.type == "cpu":
            weights = *self.forwards.parameters(), *self.backwards.parameters()
            forwards, backwards = _BothDirections.apply(
                self.forwards, self.backwards, states, reversed_states, *weights
            )
        else:
            # For a text alone a thread costs more than a layer, and a GPU runs what one thread asks of it.
            forwards, backwards = self.forwards(states)[0], self.backwards(reversed_states)[0]
        return torch.cat([forwards, _Exchange.apply(backwards, reversal)], dim=-1)

    def onnx_weights(self) -> dict[str, np.ndarray]:
        """Return the weights as ONNX's LSTM takes them: directions stacked, gates in the order i, o, f, c."""

        def both(name: str) -> np.ndarray:
            directions = []
            for lstm in (self.forwards, self.backwards):
                # torch's order is i, f, c, o.
                i, f, c, o = np.split(as_array(getattr(lstm, f"{name}_l0")), 4)
                directions.append(np.concatenate([i, o, f, c]))
            return np.stack(directions)

        biases = np.concatenate([both("bias_ih"), both("bias_hh")], axis=1)
        return {"W": both("weight_ih"), "R": both("weight_hh"), "B": biases}


class AdditiveAttention(nn.Module):
    """Weights over a row's tokens: softmax of v . tanh(W h + b), padding left out.

    Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and Translate", with a learned query
    as in Yang et al. 2016, "Hierarchical Attention Networks for Document Classification".
    """

    def __init__(self, width: int):
        super().__init__()
        self.projection = nn.Linear(width, width // 2)
        self.query = nn.Linear(width // 2, 1, bias=False)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the weights of `states` (tokens, rows, width) where `mask` (tokens, rows) is true: (tokens, rows)."""
        scores = self.query(torch.tanh(self.projection(states))).squeeze(-1)
        return masked_softmax(scores, mask, dim=0)


class LstmAttention(TokenStateStudent):
    """Embedding, LSTM layers, additive attention pooling, a linear head."""

    config_class = PretrainedLstmAttentionConfig

    def __init__(self, config: PretrainedLstmAttentionConfig):
        super().__init__(config)
        architecture = LstmAttentionConfig(**config.architecture)
        width = 2 * architecture.hidden_width
        self.embedding = TokenEmbedding(config.known_tokens, config.vocab_size, architecture.embedding_width)
        self.layers = nn.ModuleList(
            BidirectionalLayer(architecture.embedding_width if i == 0 else width, architecture.hidden_width)
            for i in range(architecture.layers)
        )
        self.attention = AdditiveAttention(width)
        self.dropout = nn.Dropout(architecture.dropout)
        self.head = nn.Linear(width, len(config.id2label or ()))
        self.post_init()

    def classify(self, input_ids: Tensor, mask: Tensor, explain: bool) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and the attention over tokens."""
        states = self.token_states(input_ids, mask)
        weights = self.attention(states.transpose(0, 1), mask.T).T
        pooled = torch.einsum("rt,rtw->rw", weights, states)
        return self.head(self.dropout(pooled)), weights

    def token_states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        reversal = reversal_order(mask)
        # An LSTM reads token by token.
        states = self._drop(self.embedding(input_ids.T))
        for layer in self.layers:
            states = self._drop(layer(states, reversal))
        return states.transpose(0, 1)

    def _drop(self, states: Tensor) -> Tensor:
        """Leave out the same units at all tokens of a row.

        Gal and Ghahramani 2016, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks". It also
        takes a random number a row and unit, and not one a token: they would be a tenth of a step's time.
        """
        if not self.training:
            return states
        return states * self.dropout(torch.ones_like(states[:1]))

    def onnx_graph(self) -> onnx.ModelProto:
        # The ids are turned round and not their vectors, which are a hundred times as much.
        embedding, weights = self.embedding.onnx_nodes("ids_by_token")
        nodes = f"""
            ids_by_token = Transpose <perm = [1, 0]> (input_ids)
            {embedding}
            last_axis = Constant <value_ints = [-1]> ()
            side_by_side = Constant <value_ints = [0, 0, -1]> ()
            count = ReduceSum <keepdims = 0> (attention_mask, last_axis)
            lengths = Cast <to = 6> (count)
            states_0 = Identity (embedded)
        """
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, BidirectionalLayer)
            # An LSTM takes (tokens, rows, width); what follows the last takes (rows, tokens, width).
            order = [0, 2, 1, 3] if i + 1 < len(self.layers) else [2, 0, 1, 3]
            nodes += f"""
                both_{i} = LSTM <direction = "bidirectional", hidden_size = {layer.forwards.hidden_size}>
                    (states_{i}, W_{i}, R_{i}, B_{i}, lengths)
                apart_{i} = Transpose <perm = {order}> (both_{i})
                states_{i + 1} = Reshape (apart_{i}, side_by_side)
            """
            weights |= {f"{name}_{i}": array for name, array in layer.onnx_weights().items()}
        nodes += f"""
            projected = MatMul (states_{len(self.layers)}, projection)
            shifted = Add (projected, projection_bias)
            bent = Tanh (shifted)
            scored = MatMul (bent, query)
            scores = Squeeze (scored, last_axis)
            mask = Cast <to = 9> (attention_mask)
            excluded = Constant <value_float = -inf> ()
            masked = Where (mask, scores, excluded)
            attention = Softmax <axis = -1> (masked)
            middle_axis = Constant <value_ints = [1]> ()
            shares = Unsqueeze (attention, middle_axis)
            mean = MatMul (shares, states_{len(self.layers)})
            pooled = Squeeze (mean, middle_axis)
            logits = Gemm <transB = 1> (pooled, head, head_bias)
        """
        weights |= {
            "projection": as_array(self.attention.projection.weight).T,
            "projection_bias": as_array(self.attention.projection.bias),
            "query": as_array(self.attention.query.weight).T,
            "head": as_array(self.head.weight),
            "head_bias": as_array(self.head.bias),
        }
        return build_graph("lstm_attention", nodes, weights)


def _side_by_side(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
    """Return what both return; the second runs in a thread, with as many threads to a product as this one.

    A thread for each call: it costs some hundred times less than a layer, and a process that forks cannot be left with
    a pool whose threads are gone.
    """
    threads = torch.get_num_threads()

    def in_the_thread() -> Any:
        torch.set_num_threads(threads)  # OpenMP counts them for each thread that asks.
        return second()

    with ThreadPoolExecutor(1, "lstm-direction") as thread:
        other = thread.submit(in_the_thread)
        return first(), other.result()


class _BothDirections(torch.autograd.Function):
    """Two LSTMs at the same time, forwards and backwards: on CPU, autograd walks a graph on one thread alone.

    Each LSTM has a graph of its own for that, from its input to its states.
    """

    @staticmethod
    def forward(
        ctx: Any, first: nn.LSTM, second: nn.LSTM, states: Tensor, reversed_states: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the states of `first` on `states` and of `second` on `reversed_states`.

        Args:
            _: the weights of both, so that autograd knows of them.
        """

        def run(lstm: nn.LSTM, states: Tensor) -> tuple[Tensor, Tensor]:
            states = states.detach().requires_grad_()
            with torch.enable_grad():
                return states, lstm(states)[0]

        ctx.lstms = first, second
        ctx.graphs = _side_by_side(lambda: run(first, states), lambda: run(second, reversed_states))
        return ctx.graphs[0][1].detach(), ctx.graphs[1][1].detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        def run(i: int) -> tuple[Tensor, ...]:
            states, result = ctx.graphs[i]
            return torch.autograd.grad(result, [states, *ctx.lstms[i].parameters()], gradients[i])

        (of_states, *weights), (of_reversed, *other_weights) = _side_by_side(lambda: run(0), lambda: run(1))
        return None, None, of_states, of_reversed, *weights, *other_weights


class _Exchange(torch.autograd.Function):
    """States in an order that undoes itself. So the gradient is the same exchange, and not a sum at each index."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return states.flatten(0, 1).index_select(0, order).view_as(states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (order,), (gradient,) = ctx.saved_tensors, gradients
        return gradient.flatten(0, 1).index_select(0, order).view_as(gradient), None


def reversal_order(mask: Tensor) -> Tensor:
    """Return which state stands where when each row is reversed within its length and its padding stays.

    Args:
        mask: bool, (rows, tokens).

    Returns:
        int64, (tokens * rows,): positions among the states of all rows, token by token. Applied twice it changes
        nothing.
    """
    rows, tokens = mask.shape
    positions = torch.arange(tokens, device=mask.device).expand(mask.shape)
    reversed_positions = torch.where(mask, mask.sum(dim=1, keepdim=True) - 1 - positions, positions)
    return (reversed_positions * rows + torch.arange(rows, device=mask.device)[:, None]).T.flatten()
