"""Making a student's package, proved to answer as its checkpoint does."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from finstill.config.task import Task
from finstill.corpus.tokenizer import TOKENIZER_FILE, read_tokenizer
from finstill.corpus.wordpiece import is_wordpiece
from finstill.errors import InputError
from finstill.evaluation.calibration import calibrated_error, fit_temperature
from finstill.evaluation.decisions import decision_quality, fit_threshold, probability_of
from finstill.evaluation.deferral import fit_deferral
from finstill.files import digest, read_json, whole_folder, write_json
from finstill.inference.parity import Parity, graph_parity
from finstill.inference.session import GRAPH_FILES, OnnxClassifier
from finstill.metrics import agreement, quality, row_kl
from finstill.packaging.card import CARD_FILE, Provenance, model_card
from finstill.packaging.int8 import quantize_student
from finstill.packaging.proof import LEAST_AGREEMENT, MOST_MACRO_F1_LOST, Int8Proof, prove_int8, reads_alike
from finstill.serving.package import PACKAGE_FILE, STUDENT_TOKEN_BUDGET, Package
from finstill.students.registry import load_student
from finstill.teacher.export import AnyTeacher, ensemble_fingerprint
from finstill.training.rows import NO_LABEL, TrainingRows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A package, and what was proved of it: `parity` of its float32 graph and `int8` of the other."""

    package: Package
    parity: Parity
    int8: Int8Proof


def build_package(
    student: Path,
    name: str,
    recipe: dict[str, Any],
    task: Task,
    teachers: Sequence[AnyTeacher],
    provenance: Provenance,
    rows: Mapping[str, TrainingRows],
    folder: Path,
    *,
    defer: float | None = None,
    unescape: bool = False,
) -> Built:
    """Package the student in the folder `student` into `folder`, whole or not at all.

    Args:
        name: the student's.
        recipe: the recipe that it was trained with.
        teachers: whom it learned from, one or the members of an ensemble.
        provenance: what the model card says of licences and corpus.
        rows: of each split. On `test` graphs and checkpoint are compared and quality is measured, on `validation` the
            temperature is fitted, and the threshold where the task decides about a label.
        defer: share of the texts that the student leaves to its teacher; None where it leaves none.
        unescape: whether HTML entities in the corpus's texts were decoded.

    Raises:
        InputError: the graph and the checkpoint differ, the int8 graph answers otherwise, or no validation row has the
            label that the task decides about; no package is made.
    """
    model = load_student(student)
    # A student may read by another tokenizer than its teacher.
    tokenizer = read_tokenizer(student)
    validation, test = (rows[split].read_by(tokenizer, model.config.longest) for split in ("validation", "test"))
    with whole_folder(folder) as unfinished:
        shutil.copytree(student, unfinished, dirs_exist_ok=True)
        # Without white space, which is a third of the file that it replaces.
        (unfinished / TOKENIZER_FILE).write_text(tokenizer.to_str(), encoding="utf-8")
        float32, int8 = (unfinished / file for file in GRAPH_FILES.values())
        logger.info("student_package %s: exports the graphs", name)
        graph = model.onnx_graph()
        onnx.save(graph, float32)
        onnx.save(quantize_student(graph), int8)
        logger.info("student_package %s: proves them on %s test texts", name, f"{len(test):,}")
        exact = OnnxClassifier(float32).logits(test.input_ids, STUDENT_TOKEN_BUDGET)
        parity = graph_parity(exact, model, test.input_ids)
        parity.require(f"student '{name}'", student)
        # What is measured and calibrated is the graph that serves.
        served = OnnxClassifier(int8)
        logits = served.logits(test.input_ids, STUDENT_TOKEN_BUDGET)
        proof = prove_int8(served, logits, exact, test.input_ids, test.labels)
        if not proof.holds:
            lost = "" if proof.macro_f1_lost is None else f", loses {proof.macro_f1_lost:.3f} of macro-F1"
            raise InputError(
                f"the int8 graph of student '{name}' names another class on {proof.rows_that_differ} of {proof.rows} "
                f"test texts{lost} and moves a logit by {proof.batch_dependence:.2g} with the batch; the limits are "
                f"{1 - LEAST_AGREEMENT:.0%}, {MOST_MACRO_F1_LOST} and 1e-4",
                where=student,
                remedy="Train it longer, or make it wider: a student that is hardly trained decides by small margins",
            )
        known = validation.whole_texts().labels
        scores = validation.over_texts(served.logits(validation.input_ids, STUDENT_TOKEN_BUDGET))
        temperature = fit_temperature(known[known != NO_LABEL], scores[known != NO_LABEL])
        decision = None
        for label, point in task.decide.items():
            probability = probability_of(task.labels.index(label), scores, temperature)
            decision = fit_threshold(task.labels, label, point, known, probability)
        answers_of_test = test.over_texts(logits)
        measured = {
            **_measure(answers_of_test, test.whole_texts(), task.labels, temperature),
            "graph": asdict(parity),
            "int8": asdict(proof),
            "decision": decision
            and asdict(
                decision_quality(
                    decision,
                    test.whole_texts().labels,
                    probability_of(decision.position, answers_of_test, temperature),
                )
            ),
            "megabytes": {
                precision: (unfinished / file).stat().st_size / 1e6 for precision, file in GRAPH_FILES.items()
            },
        }
        deferral = None
        if defer is not None:
            deferral = fit_deferral(
                defer, task, teachers[0].labels, validation.whole_texts(), scores, temperature, decision
            )
        # A teacher that is asked in service reads by the same library.
        read_in_service = {unfinished: tokenizer}
        if deferral is not None and is_wordpiece(read_json(teachers[0].folder / TOKENIZER_FILE)):
            read_in_service[teachers[0].folder] = read_tokenizer(teachers[0].folder)
        alike = all(reads_alike(own, where, [validation.texts, test.texts]) for where, own in read_in_service.items())
        long = test.provenance.long if test.provenance else None
        answers = (*task.labels, repr(temperature), *(repr(each) for each in (decision, deferral) if each))
        if long == "cut":
            # Not "windows": packages that were always read so keep their digest.
            answers = (*answers, long)
        if unescape:
            answers = (*answers, "unescape")
        identity = digest(float32, int8, unfinished / TOKENIZER_FILE, *answers)
        package = Package(
            folder=folder,
            name=name,
            task=task.name,
            labels=task.labels,
            max_length=model.config.longest,
            teacher=ensemble_fingerprint(teachers),
            corpus=provenance.corpus_digest,
            recipe=recipe,
            parameters=model.num_parameters(),
            temperature=temperature,
            measured=measured,
            digest=identity,
            decision=decision,
            deferral=deferral,
            tokenizer="tokie" if alike else "tokenizers",
            long=long,
            unescape=unescape,
        )
        (unfinished / CARD_FILE).write_text(str(model_card(package, teachers, provenance)), encoding="utf-8")
        write_json(unfinished / PACKAGE_FILE, {**asdict(package), "folder": None})
    return Built(package, parity, proof)


def _measure(
    logits: np.ndarray, test: TrainingRows, labels: tuple[str, ...], temperature: float | None
) -> dict[str, Any]:
    """Return what the int8 graph is worth on the test split; None where labels or teacher logits are missing."""
    labelled = test.labels != NO_LABEL
    truth, scores = test.labels[labelled], logits[labelled]
    kl = None if test.teacher_logits is None else row_kl(logits, test.teacher_logits)
    return {
        "test_rows": len(test),
        "labelled_rows": int(labelled.sum()),
        "quality": quality(truth, scores, labels) if labelled.any() else None,
        "calibrated_error": calibrated_error(truth, scores, temperature),
        "agreement": None if test.teacher_logits is None else agreement(logits, test.teacher_logits),
        "kl_to_teacher": None if kl is None else float(kl.mean()),
        "kl_deviation": None if kl is None else float(kl.std()),
    }
