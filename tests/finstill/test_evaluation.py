"""Measures against values worked out by hand or by another library; the comparison; the champion."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from tokenizers import Tokenizer

from finstill import metrics
from finstill.config.architectures import LstmAttentionConfig
from finstill.config.profile import Budgets, CorpusSource, OutOfDomainSource, Profile, Teacher
from finstill.config.recipe import Recipe
from finstill.config.task import SENTIMENT, OperatingPoint
from finstill.corpus.provenance import LongTexts, TableProvenance
from finstill.corpus.text import text_key
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import load_tokenizer
from finstill.corpus.tokens import tokenize_windows
from finstill.errors import InputError
from finstill.evaluation import evaluate, speed
from finstill.evaluation.budgets import breaches
from finstill.evaluation.compare import Comparison, compare
from finstill.evaluation.decisions import fit_threshold, probability_of
from finstill.evaluation.evaluate import Decided, StudentEvaluation, evaluate_student
from finstill.evaluation.mistakes import worst_mistakes
from finstill.evaluation.report import draw, write_report
from finstill.evaluation.significance import Difference, difference
from finstill.evaluation.speed import Contender, Speed, compare_speed
from finstill.files import read_json, standing_folder
from finstill.inference.session import OnnxClassifier
from finstill.metrics import (
    agreement,
    calibration_error,
    distinct_cells,
    kl_to_teacher,
    macro_f1,
    macro_f1_of_cells,
    mcnemar,
    paired_interval,
    quality,
)
from finstill.packaging.build import build_package
from finstill.packaging.card import Provenance
from finstill.packaging.champion import Decision, choose_champion, difference_from_champion, roll_back
from finstill.serving import StudentClassifier
from finstill.serving.package import SERVED, Package
from finstill.teacher.export import TeacherGraph, ensemble_fingerprint, export_teacher
from finstill.teacher.imported import ImportedTeacher
from finstill.training.distil import train_student
from finstill.training.rows import NO_LABEL, TrainingRows
from finstill.training.warm_start import LEARNED_FILE, row_digests

LABELS = SENTIMENT.labels


def one_hot(classes: list[int], confidence: float = 9.0) -> np.ndarray:
    return (confidence * np.eye(3)[classes]).astype(np.float32)


class TestMetrics:
    def test_perfect_logits(self) -> None:
        labels = np.array([0, 1, 2, 1])
        measured = quality(labels, one_hot([0, 1, 2, 1]), LABELS)
        assert measured["accuracy"] == measured["macro_f1"] == measured["classes"]["neutral"]["recall"] == 1
        assert measured["confusion"] == [[1, 0, 0], [0, 2, 0], [0, 0, 1]]

    def test_a_class_never_predicted_counts_nought(self) -> None:
        # Classes 0 and 1: precision 1/2, recall 1; class 2: 0. F1 is 2/3, 2/3 and 0.
        labels = np.array([0, 1, 2, 2])
        assert macro_f1(labels, one_hot([0, 1, 0, 1])) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)

    def test_calibration_error_is_confidence_less_accuracy(self) -> None:
        # Four rows at 80% confidence, half of them right.
        logits = np.log(np.array([[0.8, 0.1, 0.1]] * 4, dtype=np.float32))
        assert calibration_error(np.array([0, 0, 1, 2]), logits) == pytest.approx(0.3, abs=1e-6)

    def test_kl_to_teacher_is_from_teacher_to_student(self) -> None:
        teacher = np.log(np.array([[0.75, 0.25]], np.float32))
        student = np.log(np.array([[0.5, 0.5]], np.float32))
        expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
        assert kl_to_teacher(student, teacher) == pytest.approx(expected, abs=1e-6)
        assert kl_to_teacher(teacher, teacher) == pytest.approx(0, abs=1e-9)

    def test_agreement(self) -> None:
        assert agreement(one_hot([0, 1, 2, 2]), one_hot([0, 1, 1, 2])) == 0.75

    @given(
        st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=20, unique=True).flatmap(
            lambda cells: st.tuples(
                st.just(cells), st.lists(st.integers(0, 5), min_size=len(cells), max_size=len(cells)).filter(any)
            )
        )
    )
    def test_macro_f1_from_cells_is_scikit_learns_on_their_rows(
        self, drawn: tuple[list[tuple[int, int, int]], list[int]]
    ) -> None:
        cells, counts = (np.array(each) for each in drawn)
        labels, *runs = np.repeat(cells, counts, axis=0).T
        expected = [f1_score(labels, run, average="macro", labels=range(4), zero_division=0) for run in runs]
        assert macro_f1_of_cells(cells, counts[None], classes=4)[:, 0] == pytest.approx(expected)

    def test_the_interval_is_that_of_drawn_rows(self) -> None:
        """Each end within three standard errors of a quantile of 2,000 draws, some 4% of the interval's width."""
        random = np.random.default_rng(1)
        labels = random.choice(3, size=150, p=[0.6, 0.3, 0.1])
        ours, theirs = (
            np.where(random.random(150) < right, labels, random.integers(3, size=150)) for right in (0.8, 0.6)
        )
        rows = random.integers(150, size=(2000, 150))
        plain = [
            macro_f1(labels[drawn], one_hot(ours[drawn].tolist()))
            - macro_f1(labels[drawn], one_hot(theirs[drawn].tolist()))
            for drawn in rows
        ]
        low, high = np.quantile(plain, [0.025, 0.975])
        _, *interval = paired_interval(labels, one_hot(ours.tolist()), one_hot(theirs.tolist()))
        assert interval == pytest.approx([low, high], abs=0.12 * (high - low))

    def test_the_interval_does_not_depend_on_the_order_of_the_rows(self) -> None:
        random = np.random.default_rng(2)
        labels, order = random.integers(3, size=60), random.permutation(60)
        runs, rivals = random.normal(size=(2, 4, 60, 3)).astype(np.float32)
        shuffled = paired_interval(labels[order], runs[:, order], rivals[:, order])
        assert shuffled == paired_interval(labels, runs, rivals)

    def test_a_million_rows_are_drawn_as_few_counts(self) -> None:
        random = np.random.default_rng(3)
        cells, counts = distinct_cells(random.integers(3, size=10**6), random.integers(3, size=(2, 10**6)))
        assert cells.shape == (27, 3)
        assert counts.sum() == 10**6

    def test_the_interval_does_not_depend_on_how_many_are_drawn_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        random = np.random.default_rng(4)
        labels, (logits, rival) = random.integers(3, size=60), random.normal(size=(2, 60, 3)).astype(np.float32)
        whole = paired_interval(labels, logits, rival)
        monkeypatch.setattr(metrics, "DRAWN_AT_ONCE", 1000)
        assert paired_interval(labels, logits, rival) == whole

    def test_the_interval_of_a_rival_with_the_same_answers_is_nought(self) -> None:
        logits = one_hot([0, 1, 2] * 20)
        assert paired_interval(np.array([0, 1, 2] * 20), logits, 2 * logits) == (0, 0, 0)

    def test_the_interval_of_several_seeds_is_one_of_the_recipe_and_not_of_a_lucky_run(self) -> None:
        """One recipe's runs are right always or never, the other's half the time: alone the lucky run wins clearly."""
        labels = np.array([0, 1, 2] * 60)
        lucky, unlucky = one_hot(labels.tolist()), one_hot(((labels + 1) % 3).tolist())
        half = one_hot([label if i % 2 else (label + 1) % 3 for i, label in enumerate(labels.tolist())])
        assert paired_interval(labels, lucky, half)[1] > 0
        difference, low, high = paired_interval(labels, np.stack([lucky, unlucky]), np.stack([half, half]))
        assert difference == pytest.approx(0.0, abs=1e-9)
        assert low == pytest.approx(-0.5, abs=0.1)
        assert high == pytest.approx(0.5, abs=0.1)

    def test_mcnemars_test_counts_the_rows_that_one_alone_gets_right(self) -> None:
        # 8 rows for one, 1 for the other: twice the probability of at most 1 of 9 heads, 2 * (1 + 9) / 2^9.
        one, other = np.array([True] * 19 + [False]), np.array([False] * 8 + [True] * 12)
        assert mcnemar(one, other) == pytest.approx(20 / 512)
        assert mcnemar(other, one) == pytest.approx(20 / 512)
        assert mcnemar(one, one) == 1

    def test_the_interval_excludes_nought_where_one_is_clearly_better(self) -> None:
        labels = np.array([0, 1, 2] * 40)
        difference, low, high = paired_interval(labels, one_hot(labels.tolist()), one_hot([0] * 120))
        assert 0 < low <= difference <= high


@pytest.fixture(scope="module")
def teacher(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> TeacherGraph:
    return export_teacher(tiny_checkpoint, tmp_path_factory.mktemp("teacher") / "onnx", max_length=32, source="test")


NO_BUDGETS = Budgets()


class Bench:
    """A folder of packaged and evaluated students."""

    def __init__(self, root: Path, teacher: TeacherGraph, checkpoint: Path, rows: Callable[..., TrainingRows]):
        self.root, self.teacher, self.checkpoint, self.rows = root, teacher, checkpoint, rows
        self.validation, self.test = rows(40, seed=1), rows(120, seed=2)
        # Each token of a row is one word of the vocabulary, so that its text is tokenized to the same ids.
        vocabulary = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.texts = [" ".join(vocabulary.id_to_token(i) for i in ids[1:-1]) for ids in self.test.input_ids]
        self.recipes: dict[str, Recipe] = {}
        self.students: dict[str, StudentEvaluation] = {}
        self.packages: dict[str, Package] = {}
        self.steps: dict[str, int] = {}

    def add(self, name: str, **settings: object) -> None:
        architecture = LstmAttentionConfig(embedding="random", embedding_width=16, hidden_width=16, layers=1)
        recipe = Recipe(architecture=architecture, batch_size=16, learning_rate=0.01, **settings)  # type: ignore[arg-type]
        folder = self.root / name
        trained = train_student(
            recipe, self.rows(160), self.validation, LABELS, self.checkpoint, folder / "checkpoint", stage=name
        )
        self.recipes[name], self.steps[name] = recipe, trained.steps
        splits = {"validation": self.validation, "test": self.test}
        provenance = Provenance(
            "test", "0" * 32, False, None, None, {split: len(each) for split, each in splits.items()}
        )
        self.packages[name] = build_package(
            trained.folder,
            name,
            recipe.model_dump(),
            SENTIMENT,
            [self.teacher],
            provenance,
            splits,
            folder / "package",
        ).package
        self.students[name] = self.evaluate(name, self.test, folder / "evaluation")

    def evaluate(
        self, name: str, test: TrainingRows, folder: Path, out_of_domain: tuple[str, TrainingRows] | None = None
    ) -> StudentEvaluation:
        package = self.packages[name]
        return evaluate_student(package, self.teacher, self.validation, test, 512, folder, out_of_domain)

    def compare(self) -> Comparison:
        return compare(self.students, self.recipes, self.steps)


@pytest.fixture(scope="module")
def bench(teacher: TeacherGraph, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    random_rows = _rows
    made = Bench(tmp_path_factory.mktemp("bench"), teacher, tiny_checkpoint, random_rows)
    made.add("poor", epochs=1, alpha=0.7, seed=3)
    made.add("good", epochs=8, alpha=0.7)
    made.add("good-baseline", epochs=8, alpha=0.0)
    return made


def _rows(rows: int, seed: int = 0) -> TrainingRows:
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=rows)
    input_ids = [[101, *random.integers(2000, 2050, size=6).tolist(), 3000 + int(label), 102] for label in labels]
    logits = (3.0 * np.eye(3)[labels] + random.normal(scale=0.1, size=(rows, 3))).astype(np.float32)
    return TrainingRows(TokenIds.of(input_ids), labels.astype(np.int64), logits)


def test_an_evaluation_reads_back_as_it_was_written(bench: Bench) -> None:
    stored = StudentEvaluation.read(bench.root / "good" / "evaluation")
    assert stored.student == bench.students["good"].student
    assert np.array_equal(stored.logits, bench.students["good"].logits)


def test_an_imported_teacher_is_measured_and_not_timed(bench: Bench, tmp_path: Path) -> None:
    imported = ImportedTeacher(tmp_path, "e" * 32, LABELS, 32, "votes", ())
    package = replace(bench.packages["good"], teacher=ensemble_fingerprint([bench.teacher, imported]))
    result = evaluate_student(
        package, bench.teacher, bench.validation, bench.test, 512, tmp_path / "evaluation", further=[(imported, [])]
    )
    assert StudentEvaluation.read(tmp_path / "evaluation").teacher == result.teacher
    assert (result.teacher.speed, result.teacher.megabytes, result.teacher.parameters) == (None, None, None)
    assert result.student.speed is not None
    assert result.student.times_faster(result.teacher) is None
    assert result.student.agreement == bench.students["good"].student.agreement
    row, *_ = compare({"good": result}, bench.recipes, bench.steps).table()
    assert row["macro_f1"] == 1
    assert row["texts_per_second"] is None


def test_unlabelled_test_rows_count_for_fidelity_alone(bench: Bench) -> None:
    test = TrainingRows(bench.test.input_ids, bench.test.labels.copy(), bench.test.teacher_logits)
    test.labels[:100] = NO_LABEL
    result = bench.evaluate("good", test, bench.root / "partly")
    assert (result.student.test_rows, result.student.labelled_rows) == (120, 20)
    assert sum(sum(row) for row in result.student.quality["confusion"]) == 20  # type: ignore[index]
    test.labels[:] = NO_LABEL
    result = bench.evaluate("good", test, bench.root / "unlabelled")
    assert result.student.quality is None
    assert result.student.agreement == bench.students["good"].student.agreement


def test_a_share_of_alerts_is_one_of_all_texts_wherever_it_is_measured(bench: Bench, tmp_path: Path) -> None:
    """The rows are those that the thresholds were fitted on: there all have the recall that their threshold has."""
    test, package, negative = bench.test, bench.packages["poor"], LABELS.index("negative")
    # The labelled rows are those that were looked at for their risk.
    labels = np.where((test.labels == negative) | (np.arange(len(test)) % 4 == 0), test.labels, NO_LABEL)
    rows, point = replace(test, labels=labels), OperatingPoint(alerts_at_most=0.25)
    scores = probability_of(negative, bench.students["poor"].logits, package.temperature)
    package = replace(package, decision=fit_threshold(LABELS, "negative", point, labels, scores))
    result = evaluate_student(package, bench.teacher, rows, rows, 512, tmp_path / "evaluation")
    for each in (result.student, result.teacher):
        assert each.decision is not None
        assert each.decision.alerts_per_thousand <= 250
        assert each.decision.at_the_point == each.validation_score == each.decision.recall


def test_students_are_compared_at_a_share_of_alerts_of_all_texts(bench: Bench) -> None:
    """Of 3,300 texts 99 may be alerts; of the 300 that are labelled, often for a risk, 9."""
    random = np.random.default_rng(0)
    rows = np.arange(3300)
    labels = np.where(rows < 300, (rows < 60).astype(np.int64), NO_LABEL)
    risks = (rows < 60) | (rows >= 3270)
    hard = random.normal(size=3300)
    good, poor = (1 / (1 + np.exp(2 - gain * risks - hard - random.normal(size=3300) / 2)) for gain in (2.4, 1.2))
    point, any_student = OperatingPoint(alerts_at_most=0.03), bench.students["good"]
    ours, theirs = (replace(any_student, labels=labels, decided=Decided(1, point, each, each)) for each in (good, poor))
    gained = difference([ours], [theirs])
    assert gained.better
    assert gained.points > 0.2


def test_each_distilled_student_is_set_against_its_own_baseline(bench: Bench) -> None:
    comparison = bench.compare()
    assert [row["name"] for row in comparison.table()] == ["teacher", "poor", "good", "good-baseline"]
    assert [(verdict.student, verdict.baseline) for verdict in comparison.verdicts] == [("good", "good-baseline")]
    assert comparison.table()[0]["times_faster"] == 1


def test_a_student_is_as_fast_as_it_was_beside_its_teacher_in_the_same_run(bench: Bench) -> None:
    students = dict(bench.students)
    slow = students["good"].teacher.speed
    slow = replace(slow, texts_per_second=slow.texts_per_second / 8)
    students["good"] = replace(students["good"], teacher=replace(students["good"].teacher, speed=slow))
    before = {row["name"]: row["times_faster"] for row in bench.compare().table()}
    after = {row["name"]: row["times_faster"] for row in compare(students, bench.recipes, bench.steps).table()}
    assert after["good"] == pytest.approx(8 * before["good"])
    assert after["poor"] == before["poor"]
    assert all(
        before[name] == pytest.approx(each.student.speed.texts_per_second / each.teacher.speed.texts_per_second)
        for name, each in bench.students.items()
    )


def test_all_are_timed_on_the_same_texts_in_however_many_windows_each_reads_them(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Texts of nine tokens: one window of the teacher's, and two of eight tokens.
    said = TableProvenance("the teacher's", 32, "windows")
    test = replace(bench.test, texts=pa.array(bench.texts, pa.large_string()), provenance=said)
    timed: list[Contender] = []

    def watched(contenders: Sequence[Contender]) -> list[Speed]:
        timed.extend(contenders)
        return compare_speed(contenders)

    monkeypatch.setattr(evaluate, "compare_speed", watched)
    package = replace(bench.packages["good"], max_length=8)
    evaluate_student(package, bench.teacher, bench.validation, test, 512, tmp_path / "evaluation")
    student, teacher = (contender.texts for contender in timed)
    assert len(student) == len(teacher) == evaluate.SPEED_SAMPLE
    assert {len(windows) for windows in student} == {2}
    assert [list(window) for (window,) in teacher] == bench.test.input_ids[: evaluate.SPEED_SAMPLE].tolist()


def test_a_text_counts_once_in_however_many_windows_it_is_read(
    teacher: TeacherGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By this clock, whatever is timed takes a second.
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=count().__next__))
    window = [101, 2000, 102]
    classifier = OnnxClassifier(teacher.graph, threads=1)
    assert compare_speed([Contender(classifier, 512, [[window] * 3, [window]])]) == [Speed(1000, 2)]


def test_what_is_measured_is_the_graph_that_serves(bench: Bench) -> None:
    served = OnnxClassifier(bench.packages["good"].graph_of(SERVED)).logits(bench.test.input_ids, 512)
    assert np.array_equal(bench.students["good"].logits, served)
    assert StudentClassifier(bench.packages["good"].folder).precision == SERVED
    megabytes = bench.packages["good"].graph_of(SERVED).stat().st_size / 1e6
    assert bench.students["good"].student.megabytes == megabytes


@pytest.mark.parametrize(
    ("interval", "accuracy", "p", "shown"),
    [
        ((0.01, 0.1), 0.05, 0.01, True),
        ((0.01, 0.1), 0.05, 0.12, False),
        ((-0.01, 0.1), 0.05, 0.01, False),
        ((0.01, 0.1), -0.05, 0.01, False),
        ((-0.1, -0.01), -0.05, 0.01, True),
    ],
)
def test_a_difference_is_shown_where_both_tests_find_it(
    interval: tuple[float, float], accuracy: float, p: float, shown: bool
) -> None:
    low, high = interval
    difference = Difference((low + high) / 2, low, high, accuracy, p)
    assert difference.shown is shown
    assert difference.better is (shown and low > 0)
    assert ("no difference shown" in str(difference)) is not shown


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.01, 0.1, "beats"), (-0.1, -0.01, "is worse than"), (-0.1, 0.1, "No difference shown")]
)
def test_a_verdict_says_plainly_what_was_shown(bench: Bench, low: float, high: float, words: str) -> None:
    (verdict,) = bench.compare().verdicts
    middle = (low + high) / 2
    difference = replace(verdict.difference, points=middle, low=low, high=high, accuracy=middle, p=0.01)
    assert words in replace(verdict, difference=difference).sentence
    assert verdict.steps == verdict.baseline_steps == 80


def test_recipes_that_differ_in_their_seed_alone_are_compared_as_one(bench: Bench) -> None:
    recipes = dict(bench.recipes)
    students = dict(bench.students)
    for name, source, seed in (("good-2", "good", 2), ("good-baseline-2", "good-baseline", 3)):
        recipes[name] = recipes[source].model_copy(update={"seed": seed})
        students[name] = students[source]
    comparison = compare(students, recipes, dict.fromkeys(students, 80))
    (verdict,) = comparison.verdicts
    assert (verdict.student, verdict.baseline) == ("good (2 seeds)", "good-baseline (2 seeds)")
    poor, good, baseline = comparison.leaderboard
    assert (poor["seeds"], good["seeds"], baseline["seeds"]) == (1, 2, 2)
    assert poor["macro_f1_deviation"] is None
    assert good["macro_f1_deviation"] == pytest.approx(0)
    assert good["macro_f1"] == pytest.approx(students["good"].student.quality["macro_f1"])  # type: ignore[index]
    assert "points of macro-F1" in poor["against_the_best"]
    assert poor["against_the_best"].startswith("-")
    others = {good["against_the_best"], baseline["against_the_best"]} - {"the best"}
    assert all(words.startswith("no difference shown") for words in others)


def test_students_of_different_teachers_are_not_compared(bench: Bench) -> None:
    other = bench.students["good"]
    stranger = replace(other, inputs="another")
    with pytest.raises(ValueError, match="'good-baseline' was evaluated on other data or another teacher"):
        compare({"good": other, "good-baseline": stranger}, bench.recipes, bench.steps)


def test_the_report_is_one_file_and_draws_no_markup_of_the_profile(bench: Bench, tmp_path: Path) -> None:
    comparison = bench.compare()
    plots = draw(comparison, {"good": [{"epoch": 1, "loss": 1.0, "validation_loss": 0.9, "macro_f1": 0.5}]}, LABELS)
    profile = Profile(
        name="<script>alert(1)</script>",
        task=SENTIMENT,
        corpus=CorpusSource(path="x.csv"),
        teacher=Teacher(checkpoint="ProsusAI/finbert", trained_on=("financial_phrasebank",)),
        recipes=Path("recipes.yaml"),
        corrections=Path("mine.corrections"),
    )
    mistakes = worst_mistakes(bench.students, bench.packages, bench.recipes, bench.texts)
    report = write_report(
        comparison, plots, mistakes, profile, {"texts": "1"}, {"good": ["<b>"]}, tmp_path / "comparison"
    )
    page = report.read_text(encoding="utf-8")
    assert "Worst mistakes of poor" in page
    assert "baseline said" not in page.split("Worst mistakes of poor")[1].split("<h2>")[0]
    assert "<script>" not in page
    assert "<li>&lt;b&gt;</li>" in page
    assert "financial_phrasebank" in page
    assert "calibration error, T = 1</th><th>calibration error, calibrated</th>" in page
    assert page.count("data:image/png;base64,") == len(plots) == 5
    assert "http://" not in page
    assert "https://" not in page


def test_contaminated_figures_are_marked(bench: Bench, tmp_path: Path) -> None:
    """The teacher was trained on the out-of-domain texts; only its own figure on them bears the mark."""
    further = TrainingRows(bench.test.input_ids[:60], bench.test.labels[:60], bench.test.teacher_logits[:60])  # type: ignore[index]
    measured = bench.evaluate("good", bench.test, bench.root / "out_of_domain", ("tweets", further))
    assert StudentEvaluation.read(bench.root / "out_of_domain").student == measured.student
    student, teacher = measured.student.out_of_domain, measured.teacher.out_of_domain
    assert student is not None
    assert teacher is not None
    assert (student.name, student.rows, teacher.agreement) == ("tweets", 60, 1.0)
    comparison = compare({"good": measured}, bench.recipes, bench.steps)
    assert [row["macro_f1_out_of_domain"] for row in comparison.table()] == [
        teacher.quality["macro_f1"],
        student.quality["macro_f1"],
    ]
    profile = Profile(
        name="mine",
        task=SENTIMENT,
        corpus=CorpusSource(path="x.csv", name="phrasebank"),
        out_of_domain=OutOfDomainSource(path="y.csv", label="tone", name="tweets"),
        teacher=Teacher(checkpoint="ProsusAI/finbert", trained_on=("Tweets",)),
        recipes=Path("recipes.yaml"),
        corrections=Path("mine.corrections"),
    )
    page = write_report(comparison, {}, {}, profile, {}, {}, tmp_path / "comparison").read_text(encoding="utf-8")
    assert f"{teacher.quality['macro_f1']:.3f}*</td>" in page
    assert page.count("*</td>") == 1
    (note,) = read_json(tmp_path / "comparison" / "comparison.json")["notes"]
    assert "tweets" in note
    with pytest.raises(ValueError, match="'good' was evaluated on other data"):
        compare({"poor": bench.students["poor"], "good": measured}, bench.recipes, bench.steps)


def test_worst_mistakes_are_those_a_student_is_surest_of(bench: Bench) -> None:
    evaluation = bench.students["poor"]
    found = worst_mistakes({"poor": evaluation}, bench.packages, bench.recipes, bench.texts)["poor"]
    wrong = evaluation.logits.argmax(axis=1) != evaluation.labels
    assert found
    assert all(mistake.truth != mistake.said["student"][0] for mistake in found)
    alarms = [mistake for mistake in found if mistake.kind == "false alarm"]
    assert all(mistake.said["student"][0] == "negative" for mistake in alarms)
    assert all(mistake.truth == "negative" for mistake in found if mistake.kind == "missed risk")
    for kind in ("false alarm", "missed risk", "mistake"):
        assert sum(mistake.kind == kind for mistake in found) <= 3
    texts = {"".join(word.before + word.text for word in mistake.words) for mistake in found}
    assert texts <= {text for text, each in zip(bench.texts, wrong, strict=True) if each}
    assert all(max(word.shade for word in mistake.words) == 1 for mistake in found)


def test_the_baselines_word_stands_beside(bench: Bench) -> None:
    """The good student's mistakes are few; the poor one's evaluation in its place has some."""
    students = {"good": bench.students["poor"], "good-baseline": bench.students["good-baseline"]}
    found = worst_mistakes(students, bench.packages, bench.recipes, bench.texts)["good"]
    assert all(set(mistake.said) == {"student", "teacher", "baseline"} for mistake in found)
    assert found


class Service:
    """What chooses a champion, night after night."""

    def __init__(self, bench: Bench, folder: Path):
        self.bench, self.folder = bench, folder

    def choose(self, *names: str, budgets: Budgets = NO_BUDGETS, **changed: StudentEvaluation) -> Decision:
        students = {name: self.bench.students[name] for name in names} | changed
        bench = self.bench
        return choose_champion(students, bench.packages, bench.test, bench.texts, budgets, self.folder)

    def in_service(self, which: str = "current") -> str:
        return Package.read(self.folder / which).name


def _let_learn(package: Path, bench: Bench, positions: np.ndarray, label: int | None = None) -> None:
    """Add test texts to what a packaged student learned from, all with `label` where it is given."""
    labels = bench.test.labels[positions] if label is None else np.full(len(positions), label)
    encodings = load_tokenizer(package, 32).encode_batch([bench.texts[i] for i in positions])
    rows = TrainingRows(TokenIds.of([encoding.ids for encoding in encodings]), labels)
    file = standing_folder(package) / LEARNED_FILE
    np.save(file, np.union1d(np.load(file), row_digests(rows)))


@pytest.fixture
def service(bench: Bench, tmp_path: Path) -> Service:
    return Service(bench, tmp_path / "champion")


class TestChampion:
    def test_it_is_replaced_by_a_better_student_alone(self, service: Service) -> None:
        assert service.choose("poor").promoted
        better = service.choose("poor", "good")
        assert better.promoted
        assert (service.in_service(), service.in_service("previous")) == ("good", "poor")
        unproved = service.choose("good-baseline")
        assert not unproved.promoted
        assert "not shown to be better" in unproved.reason
        assert service.in_service() == "good"

    def test_it_is_replaced_where_it_reads_html_entities_otherwise(
        self, service: Service, bench: Bench, trained_on_cut_texts: Callable[..., Package]
    ) -> None:
        service.choose("good")
        good = bench.packages["good"]
        decoding = trained_on_cut_texts(good, long=good.long, unescape=True, digest="0" * 32)
        packages = {**bench.packages, "good": decoding}
        students = {"good": bench.students["good"]}
        chosen = choose_champion(students, packages, bench.test, bench.texts, NO_BUDGETS, service.folder)
        assert chosen.promoted
        assert "HTML entities" in chosen.reason
        assert Package.read(service.folder / "current").unescape

    def test_the_one_in_service_is_left_alone(self, service: Service) -> None:
        service.choose("good")
        again = service.choose("good")
        assert not again.promoted
        assert "in service already" in again.reason

    def test_it_reads_long_texts_as_the_challenger_does_also_where_none_is_long_to_the_teacher(
        self, bench: Bench
    ) -> None:
        """What tells a text's label is its last word, which is cut off where the champion reads eight tokens."""
        champion, good = replace(bench.packages["good"], max_length=8), bench.students["good"]
        gains = {}
        for long in get_args(LongTexts):
            test = replace(bench.test, provenance=TableProvenance("the teacher's", 32, long))
            found = difference_from_champion(good, champion, test, bench.texts, level=0.95)
            assert found.difference is not None
            assert found.left_out == 0
            gains[long] = found.difference
        assert gains["cut"].better
        assert gains["windows"].points < 0.5 * gains["cut"].points

    @pytest.mark.parametrize("label", [None, NO_LABEL, 2], ids=["as today", "without a label", "corrected since"])
    def test_test_texts_that_it_learned_from_do_not_count(
        self, service: Service, bench: Bench, label: int | None
    ) -> None:
        """They were train texts before the split changed. The challenger is wrong on all of them."""
        first, good = np.arange(40), bench.students["good"]
        logits = good.logits.copy()
        logits[first] = one_hot(((bench.test.labels[first] + 1) % 3).tolist())
        challenger = replace(good, logits=logits)
        service.choose("poor")
        all_count = service.choose(good=challenger)
        assert (all_count.promoted, "learned" in all_count.reason) == (False, False)
        _let_learn(service.folder / "current", bench, first, label)
        without = service.choose(good=challenger)
        assert without.promoted
        assert without.reason.endswith(", without 40 test texts that the champion learned from")

    def test_a_test_text_counts_of_which_it_knows_one_window_alone(self, bench: Bench, tmp_path: Path) -> None:
        folder, keys = tmp_path / "package", pa.array([text_key(text) for text in bench.texts])
        shutil.copytree(standing_folder(bench.packages["good"].folder), folder)
        windows = tokenize_windows(keys, bench.texts, load_tokenizer(folder, 8), "windows")
        learned = [owner == text_key(bench.texts[0]) for owner in windows["text_key"].to_pylist()]
        assert sum(learned) > 1
        # Another text's end, as many texts have it.
        learned[-1] = True
        ids = TokenIds.of_column(windows["input_ids"]).at(np.flatnonzero(learned))
        np.save(folder / LEARNED_FILE, np.sort(row_digests(TrainingRows(ids, np.full(len(ids), NO_LABEL)))))
        champion = replace(Package.read(folder), max_length=8)
        test = replace(bench.test, provenance=TableProvenance("the teacher's", 32, "windows"))
        found = difference_from_champion(bench.students["good"], champion, test, bench.texts, level=0.95)
        assert found.left_out == 1

    def test_one_that_learned_from_all_test_texts_of_a_class_is_replaced_as_one_of_another_task(
        self, service: Service, bench: Bench, tmp_path: Path
    ) -> None:
        service.choose("good")
        of_a_class = np.flatnonzero(bench.test.labels == 1)
        _let_learn(service.folder / "current", bench, of_a_class)
        champion = Package.read(service.folder / "current")
        found = difference_from_champion(bench.students["poor"], champion, bench.test, bench.texts, level=0.95)
        assert (found.difference, found.left_out, found.missing) == (None, len(of_a_class), ("neutral",))
        # A student that started from it learned from them too.
        shutil.copytree(standing_folder(bench.packages["good-baseline"].folder), tmp_path / "warm")
        _let_learn(tmp_path / "warm", bench, of_a_class)
        students, warm = {"warm": bench.students["good-baseline"]}, Package.read(tmp_path / "warm")
        kept = choose_champion(students, {"warm": warm}, bench.test, bench.texts, NO_BUDGETS, service.folder)
        assert (kept.promoted, "learned from them too" in kept.reason) == (False, True)
        replaced = service.choose("good-baseline")
        assert replaced.promoted
        assert "good learned from all test texts of neutral" in replaced.reason

    def test_the_challenger_is_chosen_on_the_validation_rows(self, service: Service, bench: Bench) -> None:
        poor = bench.students["poor"]
        best_there = replace(poor, student=replace(poor.student, validation_score=1.1))
        assert service.choose("good", poor=best_there).champion == "poor"

    def test_what_answers_no_better_than_the_majority_class_does_not_go_into_service(
        self, service: Service, bench: Bench
    ) -> None:
        good = bench.students["good"]
        constant = np.zeros_like(good.logits)
        constant[:, 1] = 1
        with pytest.raises(InputError, match="good: it is not shown to be better than the majority class"):
            service.choose(good=replace(good, logits=constant))
        assert not service.folder.exists()
        service.choose("good")
        kept = service.choose(poor=replace(bench.students["poor"], logits=constant))
        assert kept.champion == "good"
        assert "majority class" in kept.reason

    def test_rolling_back_withdraws_the_one_in_service_until_it_is_made_anew(self, service: Service) -> None:
        service.choose("poor")
        service.choose("good")
        assert roll_back(service.folder).champion == "poor"
        assert service.in_service() == "poor"
        again = service.choose("poor", "good")
        assert not again.promoted
        assert again.champion == "poor"
        assert roll_back(service.folder).champion == "good"
        assert service.choose("poor", "good").champion == "good"

    def test_a_student_over_a_budget_is_passed_over(self, service: Service, bench: Bench) -> None:
        with pytest.raises(InputError, match=r"none is there yet \(good: latency_ms is .* at most 1e-09 is allowed\)"):
            service.choose("good", budgets=Budgets(latency_ms=1e-9))
        service.choose("good")
        half = bench.students["poor"].student.megabytes / 2
        refused = service.choose("poor", budgets=Budgets(megabytes=half))
        assert not refused.promoted
        assert "megabytes is" in refused.reason

    def test_nothing_is_rolled_back_to_where_there_was_nothing(self, service: Service) -> None:
        service.choose("good")
        with pytest.raises(InputError, match="nothing to roll back to"):
            roll_back(service.folder)

    def test_the_calibration_that_serves_keeps_to_the_budget(self, bench: Bench, tmp_path: Path) -> None:
        """Its labels are those of its own logits, so that it is surer the smaller the temperature is."""
        student, package = bench.students["good"], replace(bench.packages["good"], temperature=0.01)
        rows = replace(bench.test, labels=student.logits.argmax(axis=1))
        measured = evaluate_student(package, bench.teacher, rows, rows, 512, tmp_path / "evaluation")
        plain = measured.student.quality["calibration_error"]  # type: ignore[index]
        assert measured.student.calibrated_error == pytest.approx(0, abs=1e-6)
        assert plain > 0.001
        assert student.student.calibrated_error is None
        budgets = Budgets(calibration_error=plain / 2)
        assert breaches(measured, budgets) == []
        never_fitted = replace(measured, student=replace(measured.student, calibrated_error=None))
        assert "calibration_error is" in breaches(never_fitted, budgets)[0]
        row = compare({"good": measured}, bench.recipes, bench.steps).table()[1]
        assert (row["calibration_error"], row["calibrated_error"]) == (plain, measured.student.calibrated_error)

    def test_logits_that_are_not_finite_keep_a_student_out(self, bench: Bench) -> None:
        broken = replace(bench.students["good"], logits=np.full_like(bench.students["good"].logits, np.nan))
        assert breaches(broken, Budgets()) == ["a logit is not finite"]
