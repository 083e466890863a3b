"""A package: equal to its checkpoint in both precisions, calibrated, and described by a card the hub can read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from huggingface_hub import ModelCard
from onnx import numpy_helper
from transformers import AutoModelForSequenceClassification

from finstill.config.recipe import Recipe
from finstill.config.task import SENTIMENT
from finstill.corpus.provenance import LongTexts, TableProvenance
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import read_tokenizer, tokenizer_identity
from finstill.errors import InputError
from finstill.evaluation.calibration import LEAST_ROWS, fit_temperature
from finstill.files import read_json, standing_folder, write_json
from finstill.inference.session import OnnxClassifier
from finstill.packaging import build, proof
from finstill.packaging.build import build_package
from finstill.packaging.card import Provenance
from finstill.packaging.int8 import quantize_student
from finstill.packaging.proof import Int8Proof, prove_int8
from finstill.serving import StudentClassifier
from finstill.serving.package import STUDENT_TOKEN_BUDGET, Package
from finstill.students.lstm_attention import LstmAttention
from finstill.students.registry import load_student
from finstill.teacher.export import TeacherGraph
from finstill.training.rows import NO_LABEL, TrainingRows

FILES = {
    "model.onnx",
    "model.int8.onnx",
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "package.json",
    "README.md",
}


def rows_of(random: np.random.Generator, count: int) -> list[list[int]]:
    return [[101, *random.integers(1000, 30000, size=size).tolist(), 102] for size in random.integers(0, 30, count)]


class TestFolder:
    def test_it_holds_what_runs_and_what_transformers_loads(self, package: Package) -> None:
        assert {file.name for file in package.folder.iterdir()} >= FILES
        assert Package.read(package.folder) == replace(package, folder=standing_folder(package.folder))
        loaded = AutoModelForSequenceClassification.from_pretrained(package.folder, local_files_only=True).eval()
        row = [101, 2345, 6789, 102]
        logits = OnnxClassifier(package.graph_of("float32"), threads=1).batch_logits([row])
        assert loaded(torch.tensor([row])).logits.detach().numpy() == pytest.approx(logits, abs=1e-4)

    def test_it_says_how_long_texts_were_read(
        self, package: Package, teacher_of_packages: TeacherGraph, tmp_path: Path
    ) -> None:
        random = np.random.default_rng(5)
        identity = tokenizer_identity(read_tokenizer(package.folder))

        def made(long: LongTexts | None) -> Package:
            said = None if long is None else TableProvenance(identity, package.max_length, long)
            rows = TrainingRows(TokenIds.of(ids), np.arange(60) % 3, logits, provenance=said)
            about = Provenance("news.csv", "0" * 32, False, None, None, {"test": 60})
            splits = {"validation": rows, "test": rows}
            teachers, folder = [teacher_of_packages], tmp_path / f"{long}"
            built = build_package(package.folder, "s", package.recipe, SENTIMENT, teachers, about, splits, folder)
            return Package.read(built.package.folder)

        ids, logits = rows_of(random, 60), random.normal(size=(60, 3)).astype(np.float32)
        cut, in_windows, untold = (made(long) for long in ("cut", "windows", None))
        assert (cut.long, in_windows.long, untold.long) == ("cut", "windows", None)
        # To be read in windows is what a package means that does not say it.
        assert cut.digest != in_windows.digest == untold.digest
        limits = [
            (each.folder / "README.md").read_text().partition("## Limits")[2] for each in (cut, in_windows, untold)
        ]
        assert "the beginning is read, as in training" in limits[0]
        assert "in windows whose logits are averaged; as in training" in limits[1]
        assert "in windows whose logits are averaged; that was not measured" in limits[2]

    def test_it_says_whether_html_entities_are_decoded(
        self, package: Package, teacher_of_packages: TeacherGraph, tmp_path: Path
    ) -> None:
        random = np.random.default_rng(5)
        ids, logits = rows_of(random, 60), random.normal(size=(60, 3)).astype(np.float32)
        rows = TrainingRows(TokenIds.of(ids), np.arange(60) % 3, logits)
        about = Provenance("news.csv", "0" * 32, False, None, None, {"test": 60})

        def made(name: str, **said: bool) -> Package:
            splits, teachers, folder = {"validation": rows, "test": rows}, [teacher_of_packages], tmp_path / name
            built = build_package(
                package.folder, "s", package.recipe, SENTIMENT, teachers, about, splits, folder, **said
            )
            return Package.read(built.package.folder)

        untold, decoding = made("untold"), made("decoding", unescape=True)
        assert (untold.unescape, decoding.unescape) == (False, True)
        assert untold.digest != decoding.digest
        limits = [(each.folder / "README.md").read_text().partition("## Limits")[2] for each in (untold, decoding)]
        assert ["HTML entities" in limit for limit in limits] == [False, True]
        # As it was written before it could say so.
        values = read_json(untold.folder / "package.json")
        del values["unescape"]
        write_json(untold.folder / "package.json", values)
        assert Package.read(untold.folder) == untold

    def test_a_folder_that_is_no_package_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"there is no package\.json"):
            Package.read(tmp_path)
        write_json(tmp_path / "package.json", {"labels": ["a"]})
        with pytest.raises(InputError, match="another version of Finstill"):
            Package.read(tmp_path)

    @pytest.mark.parametrize("content", [b'{"labels": ', b"\xff", b"[" * 100_000], ids=["cut", "no text", "deep"])
    def test_a_description_that_is_not_json_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "package.json").write_bytes(content)
        with pytest.raises(InputError, match=r"package\.json: not readable as JSON"):
            Package.read(tmp_path)

    def test_a_graph_that_differs_from_the_checkpoint_is_refused(
        self, make_package: Callable[..., Package], package: Package, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stranger = load_student(package.folder).onnx_graph()
        monkeypatch.setattr(LstmAttention, "onnx_graph", lambda self: stranger)
        with pytest.raises(InputError, match="the graph of student 'other' differs from its checkpoint"):
            make_package("other", seed=1)

    def test_an_int8_graph_of_other_answers_is_refused(
        self, make_package: Callable[..., Package], package: Package, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stranger = quantize_student(load_student(package.folder).onnx_graph())
        monkeypatch.setattr(build, "quantize_student", lambda graph: stranger)
        with pytest.raises(InputError, match="the int8 graph of student 'other' names another class"):
            make_package("other", seed=1)


class TestInt8:
    def test_it_is_smaller_and_names_the_same_class(self, package: Package) -> None:
        assert package.graph_of("int8").stat().st_size < 0.4 * package.graph_of("float32").stat().st_size
        rows = rows_of(np.random.default_rng(0), 200)
        float32, int8 = (OnnxClassifier(package.graph_of(p), threads=1) for p in ("float32", "int8"))
        assert (float32.logits(rows, 512).argmax(1) == int8.logits(rows, 512).argmax(1)).mean() > 0.97

    @pytest.mark.parametrize("seed", range(4))
    def test_batch_mates_do_not_move_a_logit(self, package: Package, seed: int) -> None:
        classifier = OnnxClassifier(package.graph_of("int8"), threads=1)
        rows = rows_of(np.random.default_rng(seed), 40)
        alone = np.concatenate([classifier.batch_logits([row]) for row in rows])
        assert classifier.batch_logits(rows) == pytest.approx(alone, abs=1e-5)

    @pytest.mark.parametrize(
        ("student", "architecture"),
        [
            ("convolution", {"embedding_width": 16, "filters": 24, "widths": [2, 3]}),
            ("encoder", {"checkpoint": "teacher", "layers": [0, 1]}),
            ("encoder", {"checkpoint": "teacher", "layers": [1], "embedding_width": 24}),
            ("static", {"embedding_width": 32, "hidden_width": 64}),
        ],
    )
    def test_every_students_graph_is_proved(
        self, make_package: Callable[..., Package], student: str, architecture: dict
    ) -> None:
        recipe = Recipe.model_validate({"student": student, "architecture": architecture})
        package = make_package(student, recipe=recipe)
        assert package.measured["int8"]["batch_dependence"] < 1e-5
        assert package.graph_of("int8").stat().st_size < 0.4 * package.graph_of("float32").stat().st_size
        (score,) = StudentClassifier(package.folder).score(["Shares fell"], explain=True)
        assert score.label in package.labels
        assert [word for word, _ in score.attention or ()] == ["Shares", "fell"]

    def test_onnx_runtimes_own_dynamic_quantisation_would_move_it(self, package: Package, tmp_path: Path) -> None:
        """What the pinned range is for: without it the proof does not hold."""
        graph = quantize_student(load_student(package.folder).onnx_graph())
        for tensor in graph.graph.initializer:
            if tensor.name.endswith("_ends"):
                tensor.CopyFrom(numpy_helper.from_array(np.zeros((1, 1, 2), np.float32), tensor.name))
        onnx.save(graph, tmp_path / "unpinned.onnx")
        rows = rows_of(np.random.default_rng(0), 60)
        labels = np.full(60, NO_LABEL)
        exact = OnnxClassifier(package.graph_of("float32")).logits(rows, STUDENT_TOKEN_BUDGET)

        def batch_dependence(graph: Path) -> float:
            quantised = OnnxClassifier(graph)
            logits = quantised.logits(rows, STUDENT_TOKEN_BUDGET)
            return prove_int8(quantised, logits, exact, rows, labels).batch_dependence

        assert batch_dependence(tmp_path / "unpinned.onnx") > 1e-3
        assert batch_dependence(package.graph_of("int8")) < 1e-5

    def test_any_graph_keeps_its_meaning(self, tmp_path: Path) -> None:
        """Convolution, matrix products, a one-dimensional table and a one-way LSTM, none of them a student's."""
        random = np.random.default_rng(0)
        weights = {
            "words": random.normal(size=(50, 32)),
            "scores": random.normal(size=50),
            "kernel": random.normal(size=(48, 32, 3)) / 10,
            "W": random.normal(size=(1, 64, 48)) / 7,
            "R": random.normal(size=(1, 64, 16)) / 7,
            "B": random.normal(size=(1, 128)) / 7,
            "dense": random.normal(size=(64, 64)) / 8,
            "head": random.normal(size=(64, 3)) / 8,
        }
        model = onnx.parser.parse_model(
            """
            <ir_version: 10, opset_import: ["": 20]>
            other (int64[rows, tokens] input_ids, int64[rows, tokens] attention_mask) => (float[rows, classes] logits)
            {
                axis = Constant <value_ints = [1]> ()
                embedded = Gather (words, input_ids)
                channels = Transpose <perm = [0, 2, 1]> (embedded)
                convolved = Conv <pads = [1, 1]> (channels, kernel)
                bent = Tanh (convolved)
                steps = Transpose <perm = [2, 0, 1]> (bent)
                read = LSTM <hidden_size = 16> (steps, W, R, B)
                one_way = Squeeze (read, axis)
                states = Transpose <perm = [1, 0, 2]> (one_way)
                score = Gather (scores, input_ids)
                last = Constant <value_ints = [-1]> ()
                column = Unsqueeze (score, last)
                weighed = Mul (states, column)
                convolved_tokens = Transpose <perm = [0, 2, 1]> (bent)
                both = Concat <axis = 2> (weighed, convolved_tokens)
                mean = ReduceMean <keepdims = 0> (both, axis)
                inner = MatMul (mean, dense)
                logits = MatMul (inner, head)
            }
            """
        )
        model.graph.initializer.extend(
            numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
        )
        quantised = quantize_student(model)
        assert "DynamicQuantizeLSTM" in {node.op_type for node in quantised.graph.node}
        for name, graph in (("float32", model), ("int8", quantised)):
            onnx.save(graph, tmp_path / name)
        rows = [random.integers(50, size=9).tolist() for _ in range(30)]
        float32, int8 = (OnnxClassifier(tmp_path / name, threads=1).batch_logits(rows) for name in ("float32", "int8"))
        assert np.abs(float32 - int8).max() < 0.05 * float32.std()
        assert (tmp_path / "int8").stat().st_size < 0.5 * (tmp_path / "float32").stat().st_size

    def test_two_rows_of_a_small_split_may_differ_and_more_may_not(self) -> None:
        assert Int8Proof(20, 2, 0.9, 0.05, 0.0).holds
        assert not Int8Proof(100, 3, 0.97, 0.0, 0.0).holds
        assert not Int8Proof(1000, 10, 0.99, proof.MOST_MACRO_F1_LOST + 0.001, 0.0).holds
        assert not Int8Proof(1000, 0, 1.0, 0.0, 1e-3).holds


class TestCalibration:
    def test_the_temperature_of_logits_that_are_twice_too_sure_is_two(self) -> None:
        random = np.random.default_rng(0)
        logits = random.normal(scale=2.0, size=(4000, 3)).astype(np.float32)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        labels = (shares.cumsum(axis=1) > random.random((4000, 1))).argmax(axis=1)
        assert fit_temperature(labels, 2 * logits) == pytest.approx(2, rel=0.1)

    def test_few_rows_give_none(self) -> None:
        assert fit_temperature(np.zeros(LEAST_ROWS - 1, np.int64), np.zeros((LEAST_ROWS - 1, 3), np.float32)) is None

    def test_a_package_without_validation_labels_has_none(self, make_package: Callable[..., Package]) -> None:
        assert make_package("unlabelled", labelled=False).temperature is None


class TestModelCard:
    def test_the_hub_can_read_it(self, package: Package) -> None:
        card = ModelCard.load(package.folder / "README.md", ignore_metadata_errors=False)
        assert card.data.pipeline_tag == "text-classification"
        assert card.data.base_model == ["me/finbert"]
        assert card.data.license == "other"
        results = {result.metric_type: result for result in card.data.eval_results}
        assert results["f1"].metric_value == pytest.approx(package.measured["quality"]["macro_f1"], abs=1e-4)
        assert results["f1"].dataset_split == "test"
        # No name of a data set on the hub.
        assert (results["f1"].dataset_name, results["f1"].dataset_type) == ("news.csv", "unknown")
        for fact in ("news.csv", "cc0-1.0", "Teacher: mit", package.teacher, "int8 graph", "lstm_attention"):
            assert fact in card.text

    def test_what_is_not_declared_is_not_claimed(self, make_package: Callable[..., Package]) -> None:
        nothing = Provenance("news.csv", "0" * 32, False, None, None, {"test": 120})
        unlabelled = make_package("bare", labelled=False, provenance=nothing)
        card = ModelCard.load(unlabelled.folder / "README.md", ignore_metadata_errors=False)
        assert card.data.license is None
        assert card.data.eval_results is None
        assert "Teacher: not declared. Corpus: not declared." in card.text
        assert "names no data set that the teacher was trained on" in card.text
