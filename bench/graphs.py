"""Students' graphs as torch's exporter makes them, beside the same graphs written by hand: size, speed, difference.

    python bench/graphs.py [--quick] [--json FILE]

Students have their default sizes, know some 8,000 words and have random weights; token ids are random, 4 to 60 a text.
Each graph runs on one thread, rivals in turn; latency is of one text of 30 tokens. Ratios are exported over by hand, of
medians: 1.05 is 5% slower, or larger. `difference` is a float32 logit's largest distance from the checkpoint's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from machine import describe_machine, read_arguments, report, take_turns
from torch import nn
from transformers import PreTrainedModel

from finstill.config.architectures import ARCHITECTURES
from finstill.inference.parity import graph_parity
from finstill.inference.session import GRAPH_FILES, OnnxClassifier
from finstill.packaging.int8 import quantize_student
from finstill.serving.package import STUDENT_TOKEN_BUDGET
from finstill.students.convolution import Convolution, margins
from finstill.students.encoder import Encoder
from finstill.students.graph import MASKED_SOFTMAX, GraphPart, as_array, build_graph
from finstill.students.registry import STUDENTS
from finstill.students.start import Start
from finstill.students.static import Static
from finstill.students.vocabulary import Vocabulary

LABELS = ("negative", "neutral", "positive")
VOCABULARY = 30522
UNKNOWN = 100
WORDS = 8000
MAX_LENGTH = 128
ONE_TEXT = 30
"""Tokens of the text whose latency is measured."""

TEXTS_COMPARED = 100
"""With the checkpoint, which runs each text alone."""


def main() -> None:
    arguments = read_arguments(__doc__)
    texts, rounds, single_texts = (100, 5, 200) if arguments.quick else (400, 11, 2000)
    random = np.random.default_rng(0)
    rows = [random.integers(1, VOCABULARY, size).tolist() for size in random.integers(4, 61, texts)]
    words = np.union1d([UNKNOWN], random.choice(VOCABULARY, WORDS, replace=False))
    vocabulary = Vocabulary(words, VOCABULARY, UNKNOWN)
    start = Start.open("embedded", Path(), MAX_LENGTH)
    figures: dict[str, float] = {}
    for name, by_hand in BY_HAND.items():
        torch.manual_seed(0)
        student = STUDENTS[name].from_architecture(ARCHITECTURES[name](), LABELS, vocabulary, start).eval()
        with tempfile.TemporaryDirectory(prefix="finstill-bench-") as folder:
            graphs = {"exported": student.onnx_graph(), "by_hand": by_hand(student)}
            figures |= compare(name, graphs, student, rows, rounds, single_texts, Path(folder))
    report(figures, {}, describe_machine("onnx", "onnxruntime", "onnxscript", "torch"), arguments.json)


def compare(
    name: str,
    graphs: dict[str, onnx.ModelProto],
    student: PreTrainedModel,
    rows: list[list[int]],
    rounds: int,
    single_texts: int,
    folder: Path,
) -> dict[str, float]:
    """Print a line for each graph of a student in each precision, and return the figures."""
    figures: dict[str, float] = {}
    one = [next(row for row in rows if len(row) >= ONE_TEXT)[:ONE_TEXT]]
    for precision in GRAPH_FILES:
        files, runs, single = {}, {}, {}
        for made, graph in graphs.items():
            files[made] = folder / f"{made}.{precision}.onnx"
            onnx.save(graph if precision == "float32" else quantize_student(graph), files[made])
            classifier = OnnxClassifier(files[made], threads=1)
            runs[made] = partial(classifier.logits, rows, STUDENT_TOKEN_BUDGET)
            single[made] = partial(classifier.batch_logits, one)
        take_turns(runs, 1)  # Warm: memory is taken, and the first batches are slower.
        whole = take_turns(runs, rounds)
        seconds = take_turns(single, single_texts)
        size = {made: file.stat().st_size for made, file in files.items()}
        pace = {made: len(rows) / median(each) for made, each in whole.items()}
        latency = {made: 1000 * median(each) for made, each in seconds.items()}
        for made, run in runs.items():
            difference = graph_parity(run()[:TEXTS_COMPARED], student, rows[:TEXTS_COMPARED]).largest_difference
            print(
                f"{name:<12} {precision:<8} {made:<9} {size[made] / 1e6:7.3f} MB {pace[made]:9,.0f} texts/s "
                f"{latency[made]:7.3f} ms  {difference:.1e}",
                flush=True,
            )
            if precision == "float32":
                figures[f"{name}_{made}_difference"] = difference
        prefix = f"{name}_exported_over_by_hand" + ("_int8" if precision == "int8" else "")
        figures[f"{prefix}_latency"] = latency["exported"] / latency["by_hand"]
        figures[f"{prefix}_texts_per_second"] = pace["exported"] / pace["by_hand"]
        figures[f"{prefix}_bytes"] = size["exported"] / size["by_hand"]
    return figures


def convolution_by_hand(student: Convolution) -> onnx.ModelProto:
    nodes = """
        last_axis = Constant <value_ints = [-1]> ()
        channel_axis = Constant <value_ints = [1]> ()
        present = Cast <to = 1> (attention_mask)
        column = Unsqueeze (present, last_axis)
        words = Mul (embedded, column)
        channels = Transpose <perm = [0, 2, 1]> (words)
    """
    weights = {"head": as_array(student.head.weight), "head_bias": as_array(student.head.bias)}
    for i, bank in enumerate(student.banks):
        assert isinstance(bank, nn.Conv1d)
        assert bank.bias is not None
        left, right = margins(bank)
        nodes += f"bank_{i} = Conv <pads = [{left}, {right}]> (channels, filters_{i}, biases_{i})\n"
        weights |= {f"filters_{i}": as_array(bank.weight), f"biases_{i}": as_array(bank.bias)}
    nodes += f"""
        side_by_side = Concat <axis = 1> ({", ".join(f"bank_{i}" for i in range(len(student.banks)))})
        mask = Cast <to = 9> (attention_mask)
        over_filters = Unsqueeze (mask, channel_axis)
        excluded = Constant <value_float = -inf> ()
        responses = Where (over_filters, side_by_side, excluded)
        strongest = ReduceMax (responses, last_axis)
        flat = Squeeze (strongest, last_axis)
        pooled = Relu (flat)
        logits = Gemm <transB = 1> (pooled, head, head_bias)
        equal = Equal (responses, strongest)
        wins = Cast <to = 1> (equal)
        winners = ReduceSum (wins, last_axis)
        shares = Div (wins, winners)
        attention = ReduceMean <keepdims = 0> (shares, channel_axis)
    """
    return build_graph("convolution", student.embedding.graph_part(), GraphPart(nodes, weights))


def static_by_hand(student: Static) -> onnx.ModelProto:
    assert student.hidden is not None
    assert student.pairs is not None
    with torch.inference_mode():
        first, second = student.pairs.projection(student.embedding.vectors.weight).chunk(2, dim=1)
    weights = {
        "token_scores": as_array(student.scores.weight)[:, 0],
        "first_words": as_array(first),
        "second_words": as_array(second),
        "pair_scores": as_array(student.pairs.score.weight).T,
        "pair_bias": as_array(student.pairs.score.bias),
        "hidden": as_array(student.hidden.weight),
        "hidden_bias": as_array(student.hidden.bias),
        "head": as_array(student.head.weight),
        "head_bias": as_array(student.head.bias),
    }
    nodes = f"""
        scores = Gather (token_scores, known)
        {MASKED_SOFTMAX}
        token_axis = Constant <value_ints = [1]> ()
        last_axis = Constant <value_ints = [-1]> ()
        line = Unsqueeze (attention, token_axis)
        mean_word = MatMul (line, embedded)
        words = Squeeze (mean_word, token_axis)
        present = Cast <to = 1> (attention_mask)
        column = Unsqueeze (present, last_axis)
        all_second = Gather (second_words, known)
        second = Mul (all_second, column)
        shifted_by_one = Constant <value_ints = [0, -1, 0, 0, 1, 0]> ()
        following = Pad (second, shifted_by_one)
        first = Gather (first_words, known)
        products = Mul (first, following)
        weighed = MatMul (products, pair_scores)
        with_bias = Add (weighed, pair_bias)
        of_pairs = Squeeze (with_bias, last_axis)
        present_pairs = Where (mask, of_pairs, excluded)
        shares = Softmax <axis = -1> (present_pairs)
        pair_line = Unsqueeze (shares, token_axis)
        mean_pair = MatMul (pair_line, products)
        pairs = Squeeze (mean_pair, token_axis)
        pooled = Concat <axis = 1> (words, pairs)
        bent = Gemm <transB = 1> (pooled, hidden, hidden_bias)
        inner = Relu (bent)
        logits = Gemm <transB = 1> (inner, head, head_bias)
    """
    return build_graph("static", student.embedding.graph_part(), GraphPart(nodes, weights))


def encoder_by_hand(student: Encoder) -> onnx.ModelProto:
    config = student.config
    head_width = config.width // config.heads
    norm = f"LayerNormalization <axis = -1, epsilon = {config.epsilon:.3e}>"
    nodes = f"""
        mask = Cast <to = 9> (attention_mask)
        head_and_query_axes = Constant <value_ints = [1, 2]> ()
        readable = Unsqueeze (mask, head_and_query_axes)
        excluded = Constant <value_float = -inf> ()
        start = Constant <value_ints = [0]> ()
        length = Shape <start = 1, end = 2> (input_ids)
        placed = Slice (positions, start, length)
        summed = Add (embedded, placed)
        states_0 = {norm} (summed, norm, norm_bias)
        apart = Constant <value_ints = [0, 0, {config.heads}, {head_width}]> ()
        together = Constant <value_ints = [0, 0, {config.width}]> ()
        scale = Constant <value_float = {head_width**-0.5}> ()
    """
    weights = {"positions": as_array(student.positions), **norm_weights("norm", student.norm)}
    for i, layer in enumerate(student.layers):
        assert isinstance(layer, nn.TransformerEncoderLayer)
        nodes += f"""
            projected_{i} = MatMul (states_{i}, qkv_{i})
            shifted_{i} = Add (projected_{i}, qkv_{i}_bias)
            q_{i}, k_{i}, v_{i} = Split <axis = -1, num_outputs = 3> (shifted_{i})
            q_apart_{i} = Reshape (q_{i}, apart)
            k_apart_{i} = Reshape (k_{i}, apart)
            v_apart_{i} = Reshape (v_{i}, apart)
            queries_{i} = Transpose <perm = [0, 2, 1, 3]> (q_apart_{i})
            keys_{i} = Transpose <perm = [0, 2, 3, 1]> (k_apart_{i})
            values_{i} = Transpose <perm = [0, 2, 1, 3]> (v_apart_{i})
            products_{i} = MatMul (queries_{i}, keys_{i})
            scaled_{i} = Mul (products_{i}, scale)
            masked_{i} = Where (readable, scaled_{i}, excluded)
            attention_{i} = Softmax <axis = -1> (masked_{i})
            weighed_{i} = MatMul (attention_{i}, values_{i})
            by_token_{i} = Transpose <perm = [0, 2, 1, 3]> (weighed_{i})
            joined_{i} = Reshape (by_token_{i}, together)
            {linear(f"joined_{i}", f"out_{i}", f"attended_{i}")}
            with_input_{i} = Add (states_{i}, attended_{i})
            middle_{i} = {norm} (with_input_{i}, norm_{i}_1, norm_{i}_1_bias)
            {linear(f"middle_{i}", f"widen_{i}", f"wide_{i}")}
            bent_{i} = Gelu (wide_{i})
            {linear(f"bent_{i}", f"narrow_{i}", f"fed_{i}")}
            with_middle_{i} = Add (middle_{i}, fed_{i})
            states_{i + 1} = {norm} (with_middle_{i}, norm_{i}_2, norm_{i}_2_bias)
        """
        attention = layer.self_attn
        weights |= {
            f"qkv_{i}": as_array(attention.in_proj_weight).T,
            f"qkv_{i}_bias": as_array(attention.in_proj_bias),
            f"out_{i}": as_array(attention.out_proj.weight).T,
            f"out_{i}_bias": as_array(attention.out_proj.bias),
            f"widen_{i}": as_array(layer.linear1.weight).T,
            f"widen_{i}_bias": as_array(layer.linear1.bias),
            f"narrow_{i}": as_array(layer.linear2.weight).T,
            f"narrow_{i}_bias": as_array(layer.linear2.bias),
            **norm_weights(f"norm_{i}_1", layer.norm1),
            **norm_weights(f"norm_{i}_2", layer.norm2),
        }
    last = len(student.layers)
    nodes += f"""
        first = Constant <value_int = 0> ()
        first_state = Gather <axis = 1> (states_{last}, first)
        pooler_input = Gemm <transB = 1> (first_state, pooler, pooler_bias)
        pooled = Tanh (pooler_input)
        logits = Gemm <transB = 1> (pooled, head, head_bias)
        of_first = Gather <axis = 2> (attention_{last - 1}, first)
        head_axis = Constant <value_ints = [1]> ()
        attention = ReduceMean <keepdims = 0> (of_first, head_axis)
    """
    weights |= {
        "pooler": as_array(student.pooler.weight),
        "pooler_bias": as_array(student.pooler.bias),
        "head": as_array(student.head.weight),
        "head_bias": as_array(student.head.bias),
    }
    return build_graph("encoder", student.embedding.graph_part(), GraphPart(nodes, weights))


def linear(states: str, weight: str, result: str) -> str:
    return f"{result}_product = MatMul ({states}, {weight})\n{result} = Add ({result}_product, {weight}_bias)"


def norm_weights(name: str, norm: nn.LayerNorm) -> dict[str, np.ndarray]:
    return {name: as_array(norm.weight), f"{name}_bias": as_array(norm.bias)}


BY_HAND: dict[str, Callable[[Any], onnx.ModelProto]] = {
    "convolution": convolution_by_hand,
    "static": static_by_hand,
    "encoder": encoder_by_hand,
}


if __name__ == "__main__":
    main()
