"""The teacher: which checkpoints can be one, and that its graph is equal to it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from finstill.config.profile import FineTuning
from finstill.config.task import SENTIMENT
from finstill.corpus.tokenizer import load_tokenizer
from finstill.errors import InputError
from finstill.files import standing_folder, whole_folder
from finstill.inference.parity import graph_parity
from finstill.inference.session import CPU_PROVIDER, OnnxClassifier
from finstill.teacher import fidelity
from finstill.teacher.checkpoint import Checkpoint, class_names, load_classifier, resolve_checkpoint
from finstill.teacher.export import TeacherGraph, export_teacher
from finstill.teacher.fidelity import measure_fidelity
from finstill.training.fine_tune import FineTuned, fine_tune
from finstill.training.rows import NO_LABEL, TrainingRows

TEXTS = [
    "Profit rose 12%",
    "The auditor resigned and nobody has signed the accounts, which lenders noticed before shareholders did.",
    "违约风险上升",
    "مخاطر",
    "🚀🚀",
    "7",
]


@pytest.fixture(scope="module")
def teacher(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> TeacherGraph:
    folder = tmp_path_factory.mktemp("teacher") / "onnx"
    return export_teacher(tiny_checkpoint, folder, max_length=64, source="test", trained_on=["phrasebank"])


def token_ids(teacher: TeacherGraph, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in load_tokenizer(teacher.folder, 64).encode_batch(texts)]


def test_the_graph_gives_what_transformers_gives_row_by_row(teacher: TeacherGraph, tiny_checkpoint: Path) -> None:
    rows = token_ids(teacher, TEXTS)
    parity = graph_parity(OnnxClassifier(teacher.graph).logits(rows, 64), load_classifier(tiny_checkpoint), rows)
    assert parity.holds
    assert parity.rows == len(TEXTS)


def test_parity_fails_against_another_checkpoint(teacher: TeacherGraph, make_checkpoint: Callable[..., Path]) -> None:
    other, rows = load_classifier(make_checkpoint(seed=1)), token_ids(teacher, TEXTS)
    parity = graph_parity(OnnxClassifier(teacher.graph).logits(rows, 64), other, rows)
    assert not parity.holds
    with pytest.raises(InputError, match="the graph of test differs from its checkpoint by"):
        parity.require("test", teacher.folder)


def test_a_texts_logits_do_not_depend_on_its_batch(teacher: TeacherGraph) -> None:
    rows, classifier = token_ids(teacher, TEXTS), OnnxClassifier(teacher.graph)
    alone = np.concatenate([classifier.batch_logits([row]) for row in rows])
    assert classifier.batch_logits(rows) == pytest.approx(alone, abs=1e-5)
    assert classifier.logits(rows[::-1], 8)[::-1] == pytest.approx(alone, abs=1e-5)


def test_labels_and_what_was_seen_travel_with_the_graph(teacher: TeacherGraph) -> None:
    assert TeacherGraph.read(teacher.folder) == replace(teacher, folder=standing_folder(teacher.folder))
    assert teacher.labels == ("positive", "negative", "neutral")
    assert teacher.trained_on == ("phrasebank",)


def test_a_teacher_that_stands_there_already_is_kept(teacher: TeacherGraph, tiny_checkpoint: Path) -> None:
    before = teacher.graph.stat().st_mtime_ns
    again = export_teacher(tiny_checkpoint, teacher.folder, max_length=64, source="test", trained_on=["phrasebank"])
    assert again.fingerprint == teacher.fingerprint
    assert teacher.graph.stat().st_mtime_ns == before


def test_a_graph_that_somebody_removed_is_made_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for _ in range(2):
        made = export_teacher(tiny_checkpoint, tmp_path / "onnx", max_length=64, source="test")
        assert made.graph.is_file()
        made.graph.unlink()


def test_an_int8_teacher_has_a_fingerprint_of_its_own_and_the_float32_graph_beside_it(
    teacher: TeacherGraph, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    quantised = export_teacher(tiny_checkpoint, tmp_path / "int8", max_length=64, source="test", precision="int8")
    assert quantised.fingerprint != teacher.fingerprint
    assert quantised.graph != quantised.float32_graph
    texts = token_ids(teacher, TEXTS)
    exported = OnnxClassifier(quantised.float32_graph).logits(texts, 64)
    assert graph_parity(exported, load_classifier(tiny_checkpoint), texts).holds
    rows = token_ids(teacher, [f"{text} {i}" for text in TEXTS for i in range(20)])
    assert measure_fidelity(quantised.graph, quantised.float32_graph, rows, 256).kl_to_float32 < 0.05


def test_only_a_machine_of_the_kind_that_made_an_int8_teacher_labels_with_it(
    teacher: TeacherGraph, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "int8"
    export_teacher(tiny_checkpoint, folder, max_length=64, source="test", precision="int8")
    TeacherGraph.read(folder).open(CPU_PROVIDER)
    monkeypatch.setattr("onnxruntime.__version__", "0.0.1")
    made_elsewhere = TeacherGraph.read(folder)
    with pytest.raises(InputError, match=r"made on another kind of processor .* Materialize teacher_onnx again"):
        made_elsewhere.open(CPU_PROVIDER)
    replace(made_elsewhere, arithmetic="").open(CPU_PROVIDER)  # As an older version described it.
    teacher.open(CPU_PROVIDER)


def test_an_int8_graph_of_another_teacher_is_refused(
    teacher: TeacherGraph, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    stranger = export_teacher(make_checkpoint(seed=1), tmp_path / "x", max_length=64, source="test", precision="int8")
    rows = token_ids(teacher, [f"{text} {i}" for text in TEXTS for i in range(20)])
    assert not measure_fidelity(stranger.graph, teacher.float32_graph, rows, 256).holds


class TestChoosingThePrecision:
    @pytest.fixture
    def choose(self, tiny_checkpoint: Path, tmp_path: Path, teacher: TeacherGraph) -> Callable[[int], TeacherGraph]:
        rows = token_ids(teacher, [f"{text} {i}" for text in TEXTS for i in range(100)])

        def choose(texts: int) -> TeacherGraph:
            return export_teacher(
                tiny_checkpoint,
                tmp_path / "auto",
                max_length=64,
                source="test",
                precision="auto",
                sample=rows[:texts],
                token_budget=256,
            )

        return choose

    @staticmethod
    def limit(patch: pytest.MonkeyPatch, least_agreement: float) -> None:
        patch.setattr(fidelity, "LEAST_AGREEMENT", least_agreement)
        patch.setattr(fidelity, "LARGEST_KL", 1.0)
        patch.setattr(fidelity, "LARGEST_BATCH_DEPENDENCE", 1.0)

    def test_int8_where_its_labels_hold_and_it_stays_so(
        self, choose: Callable[[int], TeacherGraph], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.limit(monkeypatch, 0)
        chosen = choose(300)
        assert chosen.precision == "int8"
        assert re.match(r"in int8, \d+\.\d\d% of 300 texts get the same class \(95% interval", chosen.chosen or "")
        self.limit(monkeypatch, 2)
        assert choose(290) == chosen
        assert replace(chosen, folder=TeacherGraph.read(chosen.folder).folder) == TeacherGraph.read(chosen.folder)

    def test_float32_where_they_do_not_with_the_logits_that_its_cache_has(
        self,
        choose: Callable[[int], TeacherGraph],
        teacher: TeacherGraph,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.limit(monkeypatch, 2)
        chosen = choose(300)
        assert (chosen.precision, chosen.fingerprint) == ("float32", teacher.fingerprint)
        assert "of 300 texts" in str(chosen.chosen)
        assert not list(standing_folder(chosen.folder).glob("*int8*"))

    def test_float32_while_the_texts_are_too_few_to_tell(
        self, choose: Callable[[int], TeacherGraph], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.limit(monkeypatch, 0)
        chosen = choose(299)
        assert (chosen.precision, chosen.chosen) == ("float32", "too few texts to tell how int8 labels: 299")
        written = chosen.graph.stat().st_mtime_ns
        assert choose(298).graph.stat().st_mtime_ns == written
        assert choose(300).precision == "int8"


def test_fidelity_has_its_intervals(teacher: TeacherGraph) -> None:
    """Wilson's interval of 60 of 60 is from 1 / (1 + 1.96^2 / 60) to 1."""
    rows = token_ids(teacher, [f"{text} {i}" for text in TEXTS for i in range(20)])[:60]
    same = measure_fidelity(teacher.graph, teacher.graph, rows, 256)
    assert (same.agreement, same.kl_to_float32, same.kl_interval) == (1, 0, (0, 0))
    assert same.agreement_interval == pytest.approx((0.9398, 1), abs=1e-4)


def test_an_unknown_execution_provider_lists_those_there_are(teacher: TeacherGraph) -> None:
    with pytest.raises(InputError, match=r"no TPUExecutionProvider; it has \[.*CPUExecutionProvider"):
        OnnxClassifier(teacher.graph, provider="TPUExecutionProvider")


class TestCheckpoint:
    def test_a_name_that_is_neither_folder_nor_hub_name(self) -> None:
        with pytest.raises(InputError, match="'finbert' is neither a folder nor a Hugging Face model name"):
            resolve_checkpoint("finbert")

    def test_the_hub_out_of_reach_says_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(InputError, match=r"'ProsusAI/finbert' cannot be fetched.*give its folder"):
            resolve_checkpoint("ProsusAI/finbert")

    def test_a_folder_without_weights(self, tiny_checkpoint: Path, tmp_path: Path) -> None:
        shutil.copy(tiny_checkpoint / "config.json", tmp_path)
        with pytest.raises(InputError, match="cannot be loaded"):
            load_classifier(tmp_path)

    def test_a_folder_without_a_configuration(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no config\.json"):
            load_classifier(tmp_path)

    @pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
    def test_a_broken_file_is_named(self, tiny_checkpoint: Path, tmp_path: Path, file: str) -> None:
        broken = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
        (broken / file).write_text((broken / file).read_text()[:-20])
        with pytest.raises(InputError, match=rf"broken/{re.escape(file)}: .*\. Fetch or copy the checkpoint again"):
            export_teacher(broken, tmp_path / "onnx", max_length=64, source="test")

    def test_weights_that_are_not_finite_are_named(self, tiny_checkpoint: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
        weights = load_file(tmp_path / "model.safetensors")
        weights["classifier.bias"][1] = torch.nan
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match=r"'classifier\.bias' holds values that are not finite"):
            load_classifier(tmp_path)

    def test_an_encoder_is_not_a_classifier(self) -> None:
        with pytest.raises(InputError, match=r"classifier\.bias.*an encoder.*teacher\.fine_tune"):
            load_classifier(resolve_checkpoint("embedded").folder)

    def test_a_maximum_length_beyond_the_positions(self, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
        short = make_checkpoint(max_position_embeddings=32)
        with pytest.raises(InputError, match=r"max_length is 64, and the model reads 32 tokens at most"):
            export_teacher(short, tmp_path / "onnx", max_length=64, source="test")
        assert not (tmp_path / "onnx").exists()

    def test_a_folder_without_a_tokenizer(self, tiny_checkpoint: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny_checkpoint, tmp_path / "bare")
        (tmp_path / "bare" / "tokenizer.json").unlink()
        with pytest.raises(InputError, match=r"no tokenizer among the files .*tokenizer\.json"):
            export_teacher(tmp_path / "bare", tmp_path / "onnx", max_length=64, source="test")


class CutOff(TrainingRows):
    """Rows that can be read until the second run of the fine-tuning in `folder` is whole."""

    folder: Path

    def labelled(self) -> TrainingRows:
        return self

    def __getitem__(self, position: int) -> dict[str, Any]:
        if list(self.folder.glob("fine-tuning-*/run-1")):
            raise InterruptedError
        return super().__getitem__(position)


class TestFineTuning:
    @pytest.fixture
    def tune(
        self, tiny_checkpoint: Path, learnable_rows: Callable[..., TrainingRows], tmp_path: Path
    ) -> Callable[..., FineTuned]:
        def tune(
            name: str,
            rows: TrainingRows | None = None,
            callbacks: Sequence[TrainerCallback] = (),
            **changes: int,
        ) -> FineTuned:
            settings = FineTuning(**{"epochs": 4, "batch_size": 8, "learning_rate": 5e-3, **changes})
            encoder = Checkpoint(tiny_checkpoint, "test", None)
            rows, validation = rows or learnable_rows(160), learnable_rows(40, seed=1)
            folder = tmp_path / name / "teacher"
            return fine_tune(encoder, settings, rows, validation, SENTIMENT.labels, folder, seed=1, callbacks=callbacks)

        return tune

    def test_an_encoder_learns_the_rows_and_is_kept_while_they_stay(
        self, tune: Callable[..., FineTuned], tmp_path: Path
    ) -> None:
        tuned = tune("once")
        assert tuned.macro_f1 == max(epoch["macro_f1"] for epoch in tuned.history) > 0.9
        folder = tmp_path / "once" / "teacher"
        assert class_names(load_classifier(folder)) == SENTIMENT.labels
        assert {file.name for file in folder.parent.iterdir()} == {"teacher", ".teacher.versions"}
        written = (folder / "model.safetensors").stat().st_mtime_ns
        assert tune("once") == tuned
        assert (folder / "model.safetensors").stat().st_mtime_ns == written

    @pytest.mark.parametrize("units", [{"avx512_bf16": True}, {"amx_bf16": True}, {"avx512_bf16": False}], ids=str)
    def test_it_multiplies_in_bfloat16_where_the_processor_does_and_keeps_its_weights_in_float32(
        self,
        tune: Callable[..., FineTuned],
        computed_types: set[torch.dtype],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        units: dict[str, bool],
    ) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
        assert tune("once").macro_f1 > 0.9
        assert (torch.bfloat16 in computed_types) == any(units.values())
        weights = load_file(tmp_path / "once" / "teacher" / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}

    def test_the_teacher_is_the_mean_of_its_runs_and_a_cut_off_one_keeps_those_it_had(
        self,
        tune: Callable[..., FineTuned],
        learnable_rows: Callable[..., TrainingRows],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level("INFO")
        rows = learnable_rows(160)
        CutOff.folder = tmp_path / "three"
        with pytest.raises(InterruptedError):
            tune("three", CutOff(rows.input_ids, rows.labels, rows.teacher_logits), runs=3, epochs=2)
        runs = [load_file(file) for file in sorted(tmp_path.glob("three/fine-tuning-*/run-*/model.safetensors"))]
        assert len(runs) == 2
        assert not torch.equal(runs[0]["classifier.weight"], runs[1]["classifier.weight"])

        two = tune("two", runs=2, epochs=2)
        mean = load_file(tmp_path / "two" / "teacher" / "model.safetensors")
        for name, weights in mean.items():
            torch.testing.assert_close(weights, (runs[0][name] + runs[1][name]) / 2)
        assert [epoch["epoch"] for epoch in two.history] == [1, 2, 3, 4]

        caplog.clear()
        resumed = tune("three", runs=3, epochs=2)
        assert [r.message for r in caplog.records if "finished before" in r.message] == [
            f"teacher_checkpoint, run {run} of 3: finished before" for run in (1, 2)
        ]
        assert resumed == tune("whole", runs=3, epochs=2)
        assert {file.name for file in (tmp_path / "three").iterdir()} == {"teacher", ".teacher.versions"}

    def test_a_callback_ends_it_and_the_next_goes_on_from_its_last_epoch(
        self,
        tune: Callable[..., FineTuned],
        cut_off_after: Callable[[int], TrainerCallback],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level("INFO")
        with pytest.raises(InterruptedError):
            tune("cut", callbacks=[cut_off_after(2)])
        resumed = tune("cut")
        assert "run 1 of 1: goes on from checkpoint-40" in caplog.text
        assert resumed == tune("undisturbed")

    @pytest.mark.parametrize("saved", [False, True], ids=["before it was saved", "when it was saved"])
    def test_a_run_that_was_cut_off_after_its_last_epoch_is_not_trained_again(
        self,
        tune: Callable[..., FineTuned],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        saved: bool,
    ) -> None:
        caplog.set_level("INFO")

        @contextmanager
        def cut_off(path: Path) -> Iterator[Path]:
            if saved:
                with whole_folder(path) as unfinished:
                    yield unfinished
            raise InterruptedError

        monkeypatch.setattr("finstill.training.fine_tune.whole_folder", cut_off)
        with pytest.raises(InterruptedError):
            tune("cut", runs=2, epochs=2)
        monkeypatch.undo()
        caplog.clear()
        resumed = tune("cut", runs=2, epochs=2)
        went_on = [r.message for r in caplog.records if "goes on" in r.message or "before" in r.message]
        expected = "finished before" if saved else "goes on from checkpoint-40"
        assert went_on == [f"teacher_checkpoint, run 1 of 2: {expected}"]
        assert resumed == tune("undisturbed", runs=2, epochs=2)
        ours, theirs = (load_file(tmp_path / name / "teacher" / "model.safetensors") for name in ("cut", "undisturbed"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert {file.name for file in (tmp_path / "cut").iterdir()} == {"teacher", ".teacher.versions"}

    def test_a_label_without_rows_is_named(
        self, tiny_checkpoint: Path, learnable_rows: Callable[..., TrainingRows], tmp_path: Path
    ) -> None:
        rows = learnable_rows(30)
        rows.labels[rows.labels == 2] = NO_LABEL
        with pytest.raises(InputError, match="no labelled row of the train split is positive"):
            fine_tune(
                Checkpoint(tiny_checkpoint, "test", None),
                FineTuning(),
                rows,
                rows,
                ("negative", "neutral", "positive"),
                tmp_path / "teacher",
                seed=1,
            )
