"""Measuring one packaged student on the test split, beside its teacher."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from finstill.config.task import OperatingPoint, digest_of_decisions
from finstill.corpus.tokenizer import read_tokenizer
from finstill.errors import InputError
from finstill.evaluation.calibration import calibrated_error
from finstill.evaluation.decisions import DecisionQuality, counted_at, decision_quality, probability_of, value_at
from finstill.evaluation.deferral import DeferralCurve, sureness_of, teachers_rule
from finstill.evaluation.speed import Contender, Speed, compare_speed, one_after_the_other
from finstill.files import digest, read_json, standing_folder, whole_folder, write_json
from finstill.inference.session import OnnxClassifier
from finstill.metrics import agreement, kl_to_teacher, macro_f1, quality
from finstill.serving.package import STUDENT_TOKEN_BUDGET, DecisionRule, Package
from finstill.teacher.export import AnyTeacher, TeacherGraph, ensemble_fingerprint
from finstill.training.rows import NO_LABEL, TrainingRows

logger = logging.getLogger(__name__)

EVALUATION_FILE = "evaluation.json"
PREDICTIONS_FILE = "predictions.npz"

SPEED_SAMPLE = 64
"""Texts whose reading is timed: their keys are hashes, so the first ones are a random sample."""


@dataclass(frozen=True)
class OutOfDomain:
    """What was measured on labelled out-of-domain texts, which no student learned from.

    Attributes:
        name: of their data set.
        rows: texts.
        quality, agreement, decision: as in `Evaluation`.
    """

    name: str
    rows: int
    quality: dict[str, Any]
    agreement: float
    decision: DecisionQuality | None = None


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one classifier; of a student, its graph that serves.

    Attributes:
        name: the recipe's, or `teacher`.
        digest: of the package, or the teacher's fingerprint.
        test_rows, labelled_rows: of the test split.
        quality: `finstill.metrics.quality` over the labelled rows, None where there are none.
        agreement: share of test rows with the teacher's class.
        kl_to_teacher: mean Kullback-Leibler divergence from the teacher, nats.
        parameters: number of weights; None of an imported teacher, which nobody here can run.
        megabytes: of the ONNX graph, 10^6 bytes; None as above.
        speed: one thread; None as above.
        validation_score: macro-F1 on the labelled validation rows, where the task decides about a label the value at
            its operating point, agreement where no row is labelled. Students are chosen by it, so that no choice was
            made on the test rows.
        out_of_domain: the same measures on the out-of-domain texts, or None where the profile names none.
        decision: what deciding is worth, None where the task decides about no label. The teacher's threshold is fitted
            as the student's.
        calibrated_error: expected calibration error of the calibrated probabilities on the labelled rows; that of
            `quality` is at T = 1. None where no temperature was fitted, or no row is labelled.
    """

    name: str
    digest: str
    test_rows: int
    labelled_rows: int
    quality: dict[str, Any] | None
    agreement: float
    kl_to_teacher: float
    parameters: int | None
    megabytes: float | None
    speed: Speed | None
    validation_score: float
    out_of_domain: OutOfDomain | None = None
    decision: DecisionQuality | None = None
    calibrated_error: float | None = None

    def times_faster(self, teacher: Evaluation) -> float | None:
        """Return how many texts this one reads while `teacher` reads one; None where one of them cannot be timed."""
        if self.speed is None or teacher.speed is None:
            return None
        return self.speed.texts_per_second / teacher.speed.texts_per_second


@dataclass(frozen=True)
class Decided:
    """What the test rows were decided by, where the task decides about a label.

    Attributes:
        position: of the label in the task's labels.
        point: where the label is decided.
        scores, teacher_scores: float64, (test rows,): the calibrated probability of the label.
    """

    position: int
    point: OperatingPoint
    scores: np.ndarray
    teacher_scores: np.ndarray


@dataclass(frozen=True)
class StudentEvaluation:
    """A student's evaluation, its teacher's in the same run, and what both said of each test row.

    Attributes:
        inputs: see `evaluation_inputs`.
        labels: int64, (test rows,), `NO_LABEL` where a row has none.
        logits, teacher_logits: float32, (test rows, task labels).
        sureness: float64, (test rows,), the student's; see `finstill.serving.classifier.sureness`.
        decided: None where the task decides about no label.
    """

    student: Evaluation
    teacher: Evaluation
    inputs: str
    labels: np.ndarray
    logits: np.ndarray
    teacher_logits: np.ndarray
    sureness: np.ndarray
    decided: Decided | None = None

    def deferral_curve(self) -> DeferralCurve | None:
        """Return what the student is worth where its teacher answers the test texts that it is least sure of.

        The classes are the task's, or the two decisions of a label, each classifier at its own threshold. None where no
        test row is labelled.
        """
        known = self.labels != NO_LABEL
        if not known.any():
            return None
        said = [self.labels, self.logits.argmax(axis=1), self.teacher_logits.argmax(axis=1)]
        if self.decided and self.student.decision and self.teacher.decision:
            said = [
                self.labels == self.decided.position,
                self.decided.scores >= self.student.decision.threshold,
                self.decided.teacher_scores >= self.teacher.decision.threshold,
            ]
        classes = 2 if self.decided else self.logits.shape[1]
        truth, student, teacher = (each[known].astype(np.int64) for each in said)
        return DeferralCurve.of(truth, student, teacher, self.sureness[known], classes)

    @classmethod
    def read(cls, folder: Path) -> StudentEvaluation:
        """Read what `evaluate_student` wrote.

        Raises:
            InputError: another version of Finstill wrote it.
        """
        folder = standing_folder(folder)
        values = read_json(folder / EVALUATION_FILE)
        if "calibrated_error" not in values["student"]:
            raise InputError(
                "another version of Finstill made this evaluation", where=folder, remedy="Materialize evaluation again"
            )
        with np.load(folder / PREDICTIONS_FILE, allow_pickle=False) as arrays:
            predictions = {name: arrays[name] for name in ("labels", "logits", "teacher_logits", "sureness")}
            decided = None
            if rule := values["decided"]:
                scores, teacher_scores = (arrays[name] for name in ("scores", "teacher_scores"))
                decided = Decided(rule["position"], OperatingPoint(**rule["point"]), scores, teacher_scores)
        student, teacher = (TypeAdapter(Evaluation).validate_python(values[name]) for name in ("student", "teacher"))
        return cls(student, teacher, values["inputs"], **predictions, decided=decided)


def evaluation_inputs(
    teacher: str,
    validation: TrainingRows,
    test: TrainingRows,
    out_of_domain: tuple[str, TrainingRows] | None,
    decide: str,
) -> str:
    """Return a digest of what students are measured on: evaluations compare where it is the same.

    Args:
        teacher: fingerprint, of an ensemble that of all.
        validation, test, out_of_domain: as `evaluate_student` takes them.
        decide: see `digest_of_decisions`.
    """
    further: list[str | bytes] = [out_of_domain[0], *out_of_domain[1].content()] if out_of_domain else []
    return digest(teacher, *validation.content(), *test.content(), *further, decide)


def evaluate_student(
    package: Package,
    teacher: AnyTeacher,
    validation: TrainingRows,
    test: TrainingRows,
    teacher_token_budget: int,
    folder: Path,
    out_of_domain: tuple[str, TrainingRows] | None = None,
    further: Sequence[tuple[AnyTeacher, Sequence[Sequence[int]]]] = (),
) -> StudentEvaluation:
    """Measure a packaged student and its teacher on the test split and write the evaluation to `folder`.

    Where the teacher, or one of an ensemble, was imported, the teacher has neither size nor speed.

    Quality comes from the package's graph that serves, run as a user runs it, and not from the checkpoint.

    Args:
        validation: the rows of the validation split, with the teacher's logits.
        test: the rows of the test split, with the teacher's logits over the task's labels; texts that are read in
            windows are measured as one.
        out_of_domain: name and rows of an out-of-domain data set, all of them labelled, with the teacher's logits too.
        further: the other teachers of an ensemble, each with the test texts' token ids by its own tokenizer, a row a
            text; `test` has the logits of all together.

    Raises:
        InputError: the package was made beside other teachers.
    """
    if package.teacher != (fingerprint := ensemble_fingerprint([teacher, *(each for each, _ in further)])):
        raise InputError(
            f"it is of teacher {package.teacher}, and {teacher.folder} of teacher {fingerprint}",
            where=package.folder,
            remedy="Materialize student_package again",
        )
    one_thread, tokenizer = OnnxClassifier(package.graph, threads=1), read_tokenizer(package.folder)

    def read(rows: TrainingRows) -> TrainingRows:
        # A student may read by another tokenizer than its teacher.
        return rows.read_by(tokenizer, package.max_length)

    def student_logits(own: TrainingRows) -> np.ndarray:
        return own.over_texts(one_thread.logits(own.input_ids, STUDENT_TOKEN_BUDGET))

    logger.info("evaluation %s: scores %s test texts", package.name, f"{len(test):,}")
    own_test = read(test)
    logits = student_logits(own_test)
    texts = test.whole_texts()
    assert texts.teacher_logits is not None
    readers: list[tuple[AnyTeacher, Sequence[Sequence[Sequence[int]]]]] = [
        (teacher, _first_texts(test)),
        *((each, [[ids] for ids in rows[:SPEED_SAMPLE]]) for each, rows in further),
    ]
    graphs = [(each, rows) for each, rows in readers if isinstance(each, TeacherGraph)]
    if len(graphs) < len(readers):
        # Nobody here knows what the imported one took, and the time of the others alone says nothing.
        graphs = []
    contenders = [
        Contender(one_thread, STUDENT_TOKEN_BUDGET, _first_texts(own_test)),
        *(Contender(OnnxClassifier(each.graph, threads=1), teacher_token_budget, rows) for each, rows in graphs),
    ]
    logger.info("evaluation %s: measures its speed and the teacher's, in turns", package.name)
    speed, *teacher_speeds = compare_speed(contenders)
    teacher_speed = one_after_the_other(teacher_speeds) if graphs else None
    validation_texts = validation.whole_texts()
    assert validation_texts.teacher_logits is not None
    by_student = _Decider(package.decision, package.temperature)
    by_teacher = _Decider(*teachers_rule(package.labels, validation_texts, package.decision))
    student_evaluation = _evaluation(
        package.name,
        package.digest,
        [package],
        logits,
        speed,
        _score(student_logits(read(validation)), validation_texts, by_student),
        package.labels,
        texts,
        by_student,
    )
    teacher_evaluation = _evaluation(
        "teacher",
        fingerprint,
        [each for each, _ in graphs],
        texts.teacher_logits,
        teacher_speed,
        _score(validation_texts.teacher_logits, validation_texts, by_teacher),
        package.labels,
        texts,
        by_teacher,
    )
    if out_of_domain is not None:
        name, rows = out_of_domain
        whole = rows.whole_texts()
        assert whole.teacher_logits is not None
        students = student_logits(read(rows))
        student_evaluation, teacher_evaluation = (
            replace(evaluation, out_of_domain=_out_of_domain(name, scores, package.labels, whole, decider))
            for evaluation, scores, decider in (
                (student_evaluation, students, by_student),
                (teacher_evaluation, whole.teacher_logits, by_teacher),
            )
        )
    rule, decided = package.decision, None
    values: dict[str, Any] = {
        "student": asdict(student_evaluation),
        "teacher": asdict(teacher_evaluation),
        "decided": None,
    }
    if rule is not None:
        scores = (by_student.scores(logits), by_teacher.scores(texts.teacher_logits))
        decided = Decided(rule.position, OperatingPoint(**rule.point), *scores)
        values["decided"] = {"position": rule.position, "point": rule.point}
    decide = digest_of_decisions({rule.label: decided.point} if rule and decided else {})
    values["inputs"] = inputs = evaluation_inputs(fingerprint, validation, test, out_of_domain, decide)
    sure = sureness_of(logits, package.temperature, rule)
    with whole_folder(folder) as unfinished:
        np.savez(
            unfinished / PREDICTIONS_FILE,
            labels=texts.labels,
            logits=logits,
            teacher_logits=texts.teacher_logits,
            sureness=sure,
            scores=decided.scores if decided else np.empty(0),
            teacher_scores=decided.teacher_scores if decided else np.empty(0),
        )
        write_json(unfinished / EVALUATION_FILE, values)
    return StudentEvaluation(
        student_evaluation, teacher_evaluation, inputs, texts.labels, logits, texts.teacher_logits, sure, decided
    )


def _first_texts(rows: TrainingRows) -> list[Sequence[Sequence[int]]]:
    """Return the token ids of each window of the first `SPEED_SAMPLE` texts."""
    texts = np.arange(len(rows)) if rows.windows is None else rows.windows.texts
    bounds = np.searchsorted(texts, np.arange(SPEED_SAMPLE + 1)).tolist()
    return [rows.input_ids[start:end] for start, end in pairwise(bounds) if start < end]


@dataclass(frozen=True)
class _Decider:
    """How one classifier decides: its rule, None where the task decides about no label, and its temperature."""

    rule: DecisionRule | None
    temperature: float | None

    def scores(self, logits: np.ndarray) -> np.ndarray:
        assert self.rule is not None
        return probability_of(self.rule.position, logits, self.temperature)

    def quality(self, labels: np.ndarray, logits: np.ndarray) -> DecisionQuality | None:
        return None if self.rule is None else decision_quality(self.rule, labels, self.scores(logits))


def _score(logits: np.ndarray, rows: TrainingRows, decider: _Decider) -> float:
    assert rows.teacher_logits is not None
    labelled = rows.labels != NO_LABEL
    if decider.rule is not None and (truth := rows.labels == decider.rule.position).any():
        point = OperatingPoint(**decider.rule.point)
        counted = counted_at(rows.labels, point)
        return value_at(truth[counted], decider.scores(logits)[counted], point)
    if labelled.any():
        return macro_f1(rows.labels[labelled], logits[labelled])
    return agreement(logits, rows.teacher_logits)


def _evaluation(
    name: str,
    digest: str,
    subjects: Sequence[Package | TeacherGraph],
    logits: np.ndarray,
    speed: Speed | None,
    validation_score: float,
    names: tuple[str, ...],
    test: TrainingRows,
    decider: _Decider,
) -> Evaluation:
    """Return the measures of one classifier; a row of `test` and of `logits` is a text.

    Args:
        subjects: what it is run as; empty where that is not known.
    """
    assert test.teacher_logits is not None
    labelled = test.labels != NO_LABEL
    truth, of_labelled = test.labels[labelled], logits[labelled]
    return Evaluation(
        name=name,
        digest=digest,
        test_rows=len(test),
        labelled_rows=int(labelled.sum()),
        quality=quality(truth, of_labelled, names) if labelled.any() else None,
        agreement=agreement(logits, test.teacher_logits),
        kl_to_teacher=kl_to_teacher(logits, test.teacher_logits),
        parameters=sum(subject.parameters for subject in subjects) or None,
        megabytes=sum(subject.graph.stat().st_size for subject in subjects) / 1e6 or None,
        speed=speed,
        validation_score=validation_score,
        decision=decider.quality(test.labels, logits),
        calibrated_error=calibrated_error(truth, of_labelled, decider.temperature),
    )


def _out_of_domain(
    name: str, logits: np.ndarray, names: tuple[str, ...], rows: TrainingRows, decider: _Decider
) -> OutOfDomain:
    assert rows.teacher_logits is not None
    return OutOfDomain(
        name,
        len(rows),
        quality(rows.labels, logits, names),
        agreement(logits, rows.teacher_logits),
        decider.quality(rows.labels, logits),
    )
