"""The teacher pass beside its rivals, on a BERT-base shape with the lengths of real texts.

    python bench/teacher.py [--quick] [--json FILE] [--provider CUDAExecutionProvider]

Speeds are texts a second from text to logits, tokenizing included. The teacher they are measured with has random
weights; the int8 graph's fidelity is measured with the embedded encoder, fine-tuned on Financial PhraseBank, on the
test rows. `auto` chooses by rows of validation and test, as in Finstill.

With a provider for a GPU the rivals are those of a GPU: transformers' pipeline in float16 with batches of 256, and a
large product in float16.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from joblib import cpu_count
from machine import (
    MATMUL_SIZE,
    describe_machine,
    draw_rows,
    matmul,
    read_arguments,
    read_shared,
    report,
    take_turns,
    times_faster,
)
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    pipeline,
)

from finstill.cache.cache import SoftLabelCache
from finstill.cache.labelling import label_texts
from finstill.config.profile import GPU_TOKEN_BUDGET, FineTuning
from finstill.corpus.splits import SPLITS
from finstill.corpus.text import KEY_BYTES, normalise, text_key
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import load_tokenizer
from finstill.corpus.tokens import tokenize_corpus
from finstill.inference.batching import length_sorted_batches, pad
from finstill.inference.session import CPU_PROVIDER, OnnxClassifier
from finstill.teacher.checkpoint import Checkpoint, load_classifier, resolve_checkpoint
from finstill.teacher.export import AUTO_TEXTS, export_graph
from finstill.teacher.fidelity import measure_fidelity
from finstill.teacher.float16 import halve_teacher
from finstill.teacher.int8 import fuse_teacher, quantize_teacher
from finstill.training.fine_tune import fine_tune
from finstill.training.rows import TrainingRows
from finstill.training.samples import rows_not_learned

GOALS = {
    "auto_vs_pipeline_phrasebank": "at least 6 with VNNI or AMX, 3.5 without",
    "float32_vs_pipeline_phrasebank": "at least 3",
    "float32_vs_pipeline_headlines": "at least 2",
    "float32_max_difference": "at most 1e-4",
    "float32_vs_padded_phrasebank": "at least 4",
    "float32_vs_padded_headlines": "at least 6",
    "float32_vs_openvino": "at least 1",
    "float32_vs_matmul": "at least 0.9",
    "int8_vs_float32": "at least 2.5 with VNNI or AMX, 1.5 with AVX2 alone",
    "int8_agreement": "at least 0.99",
    "int8_kl": "under 0.01",
    "int8_batch_dependence": "at most 1e-4",
    "float32_batch_dependence": "at most 1e-4",
    "overhead": "at most 0.05",
    "gpu_float16_vs_pipeline": "at least 3",
    "gpu_float16_vs_matmul": "at least 0.4",
    "gpu_float16_texts_per_second": "",
    "gpu_float32_vs_pipeline": "",
    "gpu_float32_max_difference": "at most 1e-4",
    "gpu_float32_batch_dependence": "at most 1e-4",
    "gpu_float16_agreement": "at least 0.99",
    "gpu_float16_kl": "under 0.01",
    "gpu_float16_batch_dependence": "at most 1e-4",
}

LABELS = ("negative", "neutral", "positive")
MAX_LENGTH = 128
TOKEN_BUDGET = 512
BATCH_SIZE = 32
"""Of the rivals that take rows as they come."""

GPU_BATCH_SIZE = 256
GPU_MATMUL_SIZE = 8192
GPU_TOKEN_BUDGETS = (4096, 8192, 16_384, 32_768, 65_536)

Logits = Callable[[list[str]], np.ndarray]
"""From texts to float32, (texts, classes)."""


def main() -> None:
    arguments = read_arguments(__doc__, provider=True)
    machine = describe_machine("onnxruntime", "torch", "transformers")
    phrasebank, headlines = read_shared("financial_phrasebank"), read_shared("business_headlines")
    if arguments.provider != CPU_PROVIDER:
        report(on_a_card(arguments.provider, phrasebank, arguments.quick), GOALS, machine, arguments.json)
        return
    size, rounds, epochs = (48, 3, 1) if arguments.quick else (192, 5, 4)
    texts = {
        "phrasebank": draw_rows(phrasebank, size)["text"].to_pylist(),
        "headlines": draw_rows(headlines, size)["text"].to_pylist(),
    }
    encoder = resolve_checkpoint("embedded")
    tokenizer = load_tokenizer(encoder.folder, MAX_LENGTH)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("Exporting a BERT-base and comparing speeds", flush=True)
        model = random_teacher()
        graphs = make_graphs(model, folder)
        figures = compare_speed(texts, model, tokenizer, encoder, graphs, rounds)
        print("Measuring the pass and what batch mates change", flush=True)
        figures["overhead"] = overhead(texts["phrasebank"], tokenizer, graphs["float32"], folder)
        few = token_ids(tokenizer, texts["phrasebank"][:BATCH_SIZE])
        dependence = {precision: batch_dependence(graphs[precision], few) for precision in ("float32", "int8")}

        print("Training a teacher for the int8 graph's fidelity", flush=True)
        rows = split_rows(phrasebank, tokenizer)
        trained = make_graphs(train_teacher(rows, encoder, epochs, folder / "trained"), folder)
        test = rows["test"].input_ids
        measured, of_auto = (
            measure_fidelity(trained["int8"], trained["float32"], each, TOKEN_BUDGET)
            for each in (test, rows_not_learned(rows, AUTO_TEXTS))
        )
        print(f"int8: {measured}\nwhere auto measures: {of_auto}")
        figures |= {"int8_agreement": measured.agreement, "int8_kl": measured.kl_to_float32}
        chosen = "int8" if of_auto.holds else "float32"
        figures["auto_vs_pipeline_phrasebank"] = figures[f"{chosen}_vs_pipeline_phrasebank"]
        for precision, largest in dependence.items():
            figures[f"{precision}_batch_dependence"] = max(largest, batch_dependence(trained[precision], test[:400]))
    ordered = {name: figures[name] for name in GOALS if name in figures}
    report(ordered, GOALS, machine, arguments.json)


def on_a_card(provider: str, phrasebank: pa.Table, quick: bool) -> dict[str, float]:
    """Return the figures of the teacher pass on `provider`: speed with random weights, fidelity with trained ones."""
    texts = draw_rows(read_shared("reuters_sentences"), 20_000 if quick else 80_000)["text"].to_pylist()
    encoder = resolve_checkpoint("embedded")
    tokenizer = load_tokenizer(encoder.folder, MAX_LENGTH)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_teacher()
        graphs = make_graphs(model, folder, "float16")
        half, single = (OnnxClassifier(graphs[precision], provider=provider) for precision in ("float16", "float32"))
        rows = token_ids(tokenizer, texts)
        for budget in GPU_TOKEN_BUDGETS:
            half.logits(rows, budget)
            passes = take_turns({"float16": partial(half.logits, rows, budget)}, 3)["float16"]
            print(f"float16, {budget:>6,} tokens a batch: {len(rows) / np.median(passes):>8,.0f} texts a second")
        # The pipeline takes so much longer that a tenth of the texts must do.
        rivals: dict[str, Callable[[], object]] = {
            "float16": lambda: half.logits(token_ids(tokenizer, texts), GPU_TOKEN_BUDGET),
            "float32": lambda: single.logits(token_ids(tokenizer, texts), GPU_TOKEN_BUDGET),
            "pipeline": partial(
                pipeline_rival(deepcopy(model), encoder, "cuda", torch.float16, GPU_BATCH_SIZE), texts[::10]
            ),
            "matmul": matmul(GPU_MATMUL_SIZE, torch.float16, "cuda"),
        }
        for run in rivals.values():
            run()
        seconds = take_turns({**rivals, "passes alone": partial(half.logits, rows, GPU_TOKEN_BUDGET)}, 3)
        work = useful_operations(model.config, rows) / (2 * GPU_MATMUL_SIZE**3)
        figures = {
            "gpu_float16_vs_pipeline": 10 * times_faster(seconds, "float16", "pipeline"),
            "gpu_float16_vs_matmul": work * times_faster(seconds, "passes alone", "matmul"),
            "gpu_float16_texts_per_second": len(texts) / float(np.median(seconds["float16"])),
            "gpu_float32_vs_pipeline": 10 * times_faster(seconds, "float32", "pipeline"),
        }
        print("Training a teacher for the float16 graph's fidelity", flush=True)
        splits = split_rows(phrasebank, tokenizer)
        graphs = make_graphs(train_teacher(splits, encoder, 1, folder / "trained"), folder, "float16")
        test = splits["test"].input_ids
        exact = OnnxClassifier(graphs["float32"]).logits(test, TOKEN_BUDGET)
        on_card = OnnxClassifier(graphs["float32"], provider=provider).logits(test, GPU_TOKEN_BUDGET)
        figures["gpu_float32_max_difference"] = float(np.abs(on_card - exact).max())
        for precision in ("float32", "float16"):
            measured = measure_fidelity(graphs[precision], graphs["float32"], test, GPU_TOKEN_BUDGET, provider)
            figures[f"gpu_{precision}_batch_dependence"] = measured.batch_dependence
        figures |= {"gpu_float16_agreement": measured.agreement, "gpu_float16_kl": measured.kl_to_float32}
    return {name: figures[name] for name in GOALS if name in figures}


def random_teacher() -> BertForSequenceClassification:
    """Return a classifier of BERT-base's shape (Devlin et al. 2019: 12 layers, 768 wide)."""
    return BertForSequenceClassification(BertConfig(id2label=dict(enumerate(LABELS)))).eval()


def make_graphs(model: PreTrainedModel, folder: Path, lower: str = "int8") -> dict[str, Path]:
    """Return the exporter's own graph, which the rivals run, and ours in float32 and in a lower precision."""
    graphs = {name: folder / f"{name}.onnx" for name in ("exported", "float32", lower)}
    export_graph(model, graphs["exported"])
    fuse_teacher(graphs["exported"], graphs["float32"])
    if lower == "int8":
        quantize_teacher(graphs["exported"], graphs["int8"])
    else:
        halve_teacher(graphs["float32"], graphs["float16"])
    return graphs


def compare_speed(
    texts: dict[str, list[str]],
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    encoder: Checkpoint,
    graphs: dict[str, Path],
    rounds: int,
) -> dict[str, float]:
    """Return the figures that compare speeds, and the largest difference of our logits from the pipeline's."""
    rivals = {
        "float32": ours(tokenizer, graphs["float32"]),
        "int8": ours(tokenizer, graphs["int8"]),
        "pipeline": pipeline_rival(model, encoder),
        "padded": padded_rival(encoder, graphs["exported"]),
    }
    figures = {}
    differences = []
    for corpus, sample in texts.items():
        differences.append(np.abs(rivals["float32"](sample) - rivals["pipeline"](sample)).max())
        seconds = take_turns({name: partial(logits, sample) for name, logits in rivals.items()}, rounds)
        for name in ("pipeline", "padded"):
            figures[f"float32_vs_{name}_{corpus}"] = times_faster(seconds, "float32", name)
        if corpus == "phrasebank":
            figures["int8_vs_pipeline_phrasebank"] = times_faster(seconds, "int8", "pipeline")
    figures["float32_max_difference"] = float(max(differences))

    rivals = {name: rivals[name] for name in ("float32", "int8")}
    if find_spec("openvino"):
        rivals["openvino"] = openvino_rival(tokenizer, graphs["exported"])
    else:
        print("float32_vs_openvino is left out: OpenVINO is not installed (pip install openvino)")
    sample = texts["phrasebank"]
    runs: dict[str, Callable[[], object]] = {name: partial(logits, sample) for name, logits in rivals.items()}
    seconds = take_turns({**runs, "matmul": matmul()}, rounds)
    figures["int8_vs_float32"] = times_faster(seconds, "int8", "float32")
    if "openvino" in seconds:
        figures["float32_vs_openvino"] = times_faster(seconds, "float32", "openvino")
    work = useful_operations(model.config, token_ids(tokenizer, sample)) / (2 * MATMUL_SIZE**3)
    figures["float32_vs_matmul"] = work * times_faster(seconds, "float32", "matmul")
    return figures


def token_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def ours(tokenizer: Tokenizer, graph: Path) -> Logits:
    classifier = OnnxClassifier(graph)
    return lambda texts: classifier.logits(token_ids(tokenizer, texts), TOKEN_BUDGET)


def pipeline_rival(
    model: PreTrainedModel,
    encoder: Checkpoint,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch_size: int = BATCH_SIZE,
) -> Logits:
    """Return transformers' pipeline over rows as they come."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(encoder.folder / "tokenizer.json"), pad_token="[PAD]", model_max_length=MAX_LENGTH
    )
    cast(nn.Module, model).to(dtype)
    classify = pipeline(
        "text-classification", model, tokenizer=tokenizer, device=device, top_k=None, function_to_apply="none"
    )

    def logits(texts: list[str]) -> np.ndarray:
        classes: Any = classify(texts, batch_size=batch_size, truncation=True)
        scores = [{one["label"]: one["score"] for one in row} for row in classes]
        return np.array([[row[label] for label in LABELS] for row in scores], np.float32)

    return logits


def padded_rival(encoder: Checkpoint, graph: Path) -> Logits:
    """Return ONNX Runtime over rows as they come, each padded to `MAX_LENGTH`."""
    tokenizer = load_tokenizer(encoder.folder, MAX_LENGTH)
    tokenizer.enable_padding(length=MAX_LENGTH)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_count()
    session = onnxruntime.InferenceSession(graph, options)

    def logits(texts: list[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(texts), BATCH_SIZE):
            encodings = tokenizer.encode_batch(texts[start : start + BATCH_SIZE])
            input_ids = np.array([encoding.ids for encoding in encodings])
            attention_mask = np.array([encoding.attention_mask for encoding in encodings])
            parts += session.run(["logits"], {"input_ids": input_ids, "attention_mask": attention_mask})
        return np.concatenate(parts)

    return logits


def openvino_rival(tokenizer: Tokenizer, graph: Path) -> Logits:
    """Return OpenVINO in float32 over our length-sorted batches."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cpu_count()}
    compiled = openvino.compile_model(str(graph), "CPU", settings)

    def logits(texts: list[str]) -> np.ndarray:
        rows = token_ids(tokenizer, texts)
        values = np.empty((len(rows), len(LABELS)), np.float32)
        for batch in length_sorted_batches([len(row) for row in rows], TOKEN_BUDGET):
            input_ids, attention_mask = pad([rows[i] for i in batch])
            values[batch] = compiled({"input_ids": input_ids, "attention_mask": attention_mask})[0]
        return values

    return logits


def useful_operations(config: Any, rows: Sequence[Sequence[int]]) -> float:
    """Return the multiplications and additions of matrix products that the logits of `rows` need.

    Padding does not count, and neither does what no logit depends on: after the last attention, and of its queries, all
    but the first token.
    """
    n = np.array([len(row) for row in rows], float)
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    keys_and_values = 2 * n * width**2
    a_token = 2 * width**2 + 2 * width * inner + 2 * n * width
    """Query and output projections, the two of the feed-forward block, scores and their sum over values."""
    head = width**2 + width * config.num_labels
    return float(2 * (layers * keys_and_values + ((layers - 1) * n + 1) * a_token + head).sum())


def overhead(texts: list[str], tokenizer: Tokenizer, graph: Path, folder: Path) -> float:
    """Return what a pass over `texts` takes beyond ONNX Runtime's own time, as a share of that time.

    From a Parquet file of texts to rows in a cache: reading, hashing, tokenizing, batching, padding and writing.
    """
    teacher = OnnxClassifier(graph)
    session = teacher._session
    runs: list[tuple[float, float]] = []

    class Timed:
        def run(self, *arguments: object) -> object:
            started = time.perf_counter()
            outputs = session.run(*arguments)
            runs.append((started, time.perf_counter()))
            return outputs

    teacher._session = Timed()
    # A first pass over a few texts loads what is loaded once.
    for sample in (texts[:8], texts):
        runs.clear()
        pq.write_table(pa.table({"text": sample}), folder / "texts.parquet")
        started = time.perf_counter()
        tokens = write_tokens(pq.read_table(folder / "texts.parquet")["text"].to_pylist(), tokenizer, folder)
        cache = SoftLabelCache(folder / f"cache-{len(sample)}", "0" * 32, LABELS)
        label_texts(tokens, cache, lambda: teacher, TOKEN_BUDGET)
        total = time.perf_counter() - started
    return total / _covered(runs) - 1


def write_tokens(texts: list[str], tokenizer: Tokenizer, folder: Path) -> Path:
    """Write a corpus of `texts` and its tokens into `folder`, and return the token table."""
    normalised = [normalise(text) for text in texts]
    keys = pa.array([text_key(text) for text in normalised], pa.binary(KEY_BYTES))
    pq.write_table(pa.table({"key": keys, "text": normalised}), folder / "corpus.parquet")
    tokenize_corpus(folder / "corpus.parquet", tokenizer, folder / "tokens.parquet")
    return folder / "tokens.parquet"


def _covered(intervals: list[tuple[float, float]]) -> float:
    """Return the length of the union of `intervals`: several threads may run at once."""
    length = reached = 0.0
    for start, end in sorted(intervals):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length


def split_rows(phrasebank: pa.Table, tokenizer: Tokenizer) -> dict[str, TrainingRows]:
    """Return the rows of each split of `phrasebank`."""

    def rows(split: str) -> TrainingRows:
        chosen = phrasebank.filter(pc.field("split") == split)
        labels = np.array([LABELS.index(label) for label in chosen["label"].to_pylist()])
        return TrainingRows(TokenIds.of(token_ids(tokenizer, chosen["text"].to_pylist())), labels)

    return {split: rows(split) for split in SPLITS}


def train_teacher(rows: Mapping[str, TrainingRows], encoder: Checkpoint, epochs: int, folder: Path) -> PreTrainedModel:
    """Return `encoder` fine-tuned on the train rows."""
    fine_tune(encoder, FineTuning(epochs=epochs), rows["train"], rows["validation"], LABELS, folder, seed=0)
    return load_classifier(folder)


def batch_dependence(graph: Path, rows: Sequence[Sequence[int]]) -> float:
    """Return the largest distance of a logit of `rows` in a batch, sorted or at random, from that of its text alone."""
    classifier = OnnxClassifier(graph)
    alone = np.concatenate([classifier.batch_logits([row]) for row in rows])
    largest = [np.abs(classifier.logits(rows, budget) - alone).max() for budget in (TOKEN_BUDGET, 4 * TOKEN_BUDGET)]
    order = np.random.default_rng(0).permutation(len(rows))
    for batch in np.array_split(order, -(-len(rows) // BATCH_SIZE)):
        largest.append(np.abs(classifier.batch_logits([rows[i] for i in batch]) - alone[batch]).max())
    return float(max(largest))


if __name__ == "__main__":
    main()
