"""The student in service: replaced only by a better one, and put back in one step."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finstill.config.profile import Budgets
from finstill.corpus.long_texts import mean_over_windows
from finstill.corpus.provenance import LongTexts
from finstill.corpus.text import text_key
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import load_tokenizer
from finstill.corpus.tokens import tokenize_windows
from finstill.errors import InputError
from finstill.evaluation.budgets import breaches
from finstill.evaluation.decisions import orders_by_chance, probability_of
from finstill.evaluation.evaluate import StudentEvaluation
from finstill.evaluation.significance import Difference, difference
from finstill.files import read_json, remove_folder, standing_folder, whole_folder, write_json
from finstill.inference.session import OnnxClassifier
from finstill.serving.package import STUDENT_TOKEN_BUDGET, DecisionRule, Package
from finstill.teacher.classes import judge_classifier
from finstill.training.rows import NO_LABEL, TrainingRows

logger = logging.getLogger(__name__)

WITHDRAWN_FILE = "withdrawn.json"

PROMOTION_LEVEL = 0.998
"""The level at which a challenger must be better. A challenger every night makes 365 tests a year, and an equal one
passes a test by chance in at most one of a thousand: 0.37 false promotions a year. bench/champion.py counts them."""

CHANCE = 0.05
"""The p-value from which probabilities may be ordered by chance."""


@dataclass(frozen=True)
class AgainstChampion:
    """How a student stands against the champion on today's test texts, without those that the champion learned from.

    A split by another rule makes test texts of some that the champion learned from. On these it is better than on
    others, and no student that did not learn from them would ever be shown to be better.

    Attributes:
        difference: None where no text of some class is left.
        left_out: test texts that the champion learned from.
        missing: the labels of which no text is left.
    """

    difference: Difference | None
    left_out: int
    missing: tuple[str, ...]

    @property
    def note(self) -> str:
        """What is left out, in words that follow the difference; nothing where nothing is."""
        return f", without {self.left_out:,} test texts that the champion learned from" if self.left_out else ""


@dataclass(frozen=True)
class Decision:
    """Whether the student in service changed, and why.

    Attributes:
        champion: name of the student in service now.
        digest: of its package.
        promoted: whether it is new.
        reason: a sentence for people.
    """

    champion: str
    digest: str
    promoted: bool
    reason: str


def choose_champion(
    students: Mapping[str, StudentEvaluation],
    packages: Mapping[str, Package],
    test: TrainingRows,
    texts: Sequence[str],
    budgets: Budgets,
    folder: Path,
) -> Decision:
    """Put the best student into service where it is shown to be better than the one that is.

    The best is chosen on the validation split and looked at once on the test split. It replaces a champion only where
    the difference is shown at `PROMOTION_LEVEL`, both scoring today's test split: chance does not change what is in
    service. Where the champion learned from all test texts of a class nothing can be shown, and the best replaces it if
    it did not learn from them too. The champion replaced is kept in `folder`/previous. A student is passed over where
    it breaches a budget, was withdrawn by `roll_back`, is not shown to be better than the majority class for every
    text, or, where the task decides about a label, keeps to the operating point with no threshold.

    Args:
        students, packages: by recipe name.
        test: the rows of the test split.
        texts: their texts, in the same order.
        folder: of the champion; holds a copy of its package in `current`.

    Raises:
        InputError: every student is passed over, and none is in service.
    """
    current = folder / "current"
    truth, counted = _truth(test)
    refused = _refused(students, packages, budgets, _withdrawn(folder), truth, counted)
    eligible = [name for name in students if name not in refused]
    if not eligible:
        why = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        if not current.exists():
            raise InputError(
                f"no student may go into service, and none is there yet ({why})",
                remedy="Train longer or on more texts, mend the recipes, or ask for less under the profile's `budgets`",
            )
        champion = Package.read(current)
        return Decision(champion.name, champion.digest, False, f"{champion.name} stays, no other may follow it ({why})")
    best = max(eligible, key=lambda name: students[name].student.validation_score)
    challenger = packages[best]
    if not current.exists():
        return _promote(challenger, folder, "it is the first champion")
    champion = Package.read(current)
    if champion.digest == challenger.digest:
        return Decision(best, champion.digest, False, f"{best} is in service already")
    if (champion.task, champion.labels) != (challenger.task, challenger.labels):
        return _promote(challenger, folder, f"the task changed from {champion.task} to {challenger.task}")
    if _operating_point(champion) != _operating_point(challenger):
        return _promote(challenger, folder, "the task decides at another operating point")
    if champion.unescape != challenger.unescape:
        return _promote(challenger, folder, "it reads HTML entities as the profile says, and the champion does not")
    found = difference_from_champion(students[best], champion, test, texts, level=PROMOTION_LEVEL)
    gain = found.difference
    if gain is None:
        reason = f"{champion.name} learned from all test texts of {', '.join(found.missing)}, and cannot be measured"
        # Else students that start from the champion would replace each other night after night.
        if _learned(challenger, test, texts)[1]:
            reason += f"; it stays, since {best} learned from them too, as a student does that starts from a champion"
            return Decision(champion.name, champion.digest, False, reason)
        return _promote(challenger, folder, reason)
    if gain.better:
        return _promote(challenger, folder, f"it is better than {champion.name}: {gain}{found.note}")
    reason = f"{best} is best on the validation texts, and not shown to be better on the test texts: {gain.words}"
    return Decision(champion.name, champion.digest, False, reason + found.note)


def difference_from_champion(
    student: StudentEvaluation, champion: Package, test: TrainingRows, texts: Sequence[str], *, level: float
) -> AgainstChampion:
    """Return by how much a student is better than the champion on today's test split.

    The champion scores the texts with its own tokenizer. Where no test text is labelled the teacher's class counts.
    Texts that the champion learned from do not count.

    Args:
        student: what is set against it.
        test, texts: the rows of the test split and their texts, in the same order.
        level: of the test, see `Difference`.
    """
    truth, counted = _truth(test)
    learned, missing = _learned(champion, test, texts)
    left_out = int((learned & counted).sum())
    if missing:
        return AgainstChampion(None, left_out, missing)
    logger.info("champion: %s scores %s test texts beside %s", champion.name, f"{len(texts):,}", student.student.name)
    ids, owners, sizes = _read(champion, texts, _long(test))
    champions = mean_over_windows(OnnxClassifier(champion.graph).logits(ids, STUDENT_TOKEN_BUDGET), owners, sizes)
    labels, decided = np.where(counted, truth, NO_LABEL)[~learned], student.decided
    student = replace(student, labels=labels, logits=student.logits[~learned])
    rival = replace(student, logits=champions[~learned])
    if decided is not None:
        student = replace(student, decided=replace(decided, scores=decided.scores[~learned]))
        scores = probability_of(decided.position, rival.logits, champion.temperature)
        rival = replace(rival, decided=replace(decided, scores=scores))
    return AgainstChampion(difference([student], [rival], level=level), left_out, ())


def _read(package: Package, texts: Sequence[str], long: LongTexts) -> tuple[TokenIds, np.ndarray, np.ndarray]:
    """Return the texts' windows as a packaged student reads them, the text that each is of, and its tokens."""
    keys = pa.array([text_key(text) for text in texts])
    table = tokenize_windows(keys, list(texts), load_tokenizer(package.folder, package.max_length), long)
    owners = pc.index_in(table["text_key"], keys).to_numpy()
    return TokenIds.of_column(table["input_ids"]), owners, table["size"].to_numpy()


def _long(test: TrainingRows) -> LongTexts:
    """Return how the students were measured on long texts: also where none of the texts is long to the teacher."""
    # Rows of no table show it by their windows.
    return test.provenance.long if test.provenance else "cut" if test.windows is None else "windows"


def _learned(package: Package, test: TrainingRows, texts: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the test texts that a packaged student learned from, whichever label they had then.

    Returns:
        bool, (texts,); and the labels of which it learned from all test texts.
    """
    from finstill.training.warm_start import LEARNED_FILE, learned_with  # It needs torch.

    if not (package.folder / LEARNED_FILE).is_file():
        return np.zeros(len(texts), bool), ()
    learned = np.load(package.folder / LEARNED_FILE, allow_pickle=False)
    ids, owners, _ = _read(package, texts, package.long or _long(test))
    known = learned_with(ids, (NO_LABEL, *range(len(package.labels))), learned)
    # It knows all windows of a text it learned from. A single one may be the disclaimer that many texts end with.
    texts_learned = np.bincount(owners[~known], minlength=len(texts)) == 0
    truth, counted = _truth(test)
    missing = np.setdiff1d(truth[counted], truth[counted & ~texts_learned])
    return texts_learned, tuple(package.labels[position] for position in missing)


def _operating_point(package: Package) -> tuple[str, dict[str, float]] | None:
    return None if package.decision is None else (package.decision.label, package.decision.point)


def _truth(test: TrainingRows) -> tuple[np.ndarray, np.ndarray]:
    """Return the class of each test text and which texts count: the labelled ones, or all by the teacher's class."""
    test = test.whole_texts()
    labelled = test.labels != NO_LABEL
    if labelled.any():
        return test.labels, labelled
    assert test.teacher_logits is not None
    return test.teacher_logits.argmax(axis=1), np.ones(len(test), dtype=bool)


def roll_back(folder: Path) -> Decision:
    """Put the champion before this one back into service, and withdraw this one: it is not promoted again.

    What is withdrawn is the package. The same recipe trained on other data makes another one, which may compete.
    Rolling back once more returns to where one started. One that was cut off is ended by the next, and not undone.

    Raises:
        InputError: there is no champion before this one.
    """
    current, previous, replaced = (folder / name for name in ("current", "previous", "replaced"))
    if not previous.exists():
        raise InputError("no champion before this one is kept: there is nothing to roll back to", where=folder)
    # The one that leaves is kept in `replaced` until all is done.
    if not replaced.exists():
        _copy(current, replaced)
    leaving, returning = Package.read(replaced), Package.read(previous)
    if leaving.digest == returning.digest:
        # It was cut off when only `replaced` was left to remove.
        returning = Package.read(current)
    if leaving.digest == returning.digest:
        remove_folder(replaced)
        raise InputError(f"the champion before this one is {returning.name} too, the same package", where=folder)
    write_json(folder / WITHDRAWN_FILE, sorted({*_withdrawn(folder), leaving.digest} - {returning.digest}))
    _copy(returning.folder, current)
    _copy(leaving.folder, previous)
    remove_folder(replaced)
    reason = f"{returning.name} is in service again: {leaving.name} was withdrawn"
    return Decision(returning.name, returning.digest, True, reason)


def _withdrawn(folder: Path) -> set[str]:
    """Return the digests of the packages that were withdrawn."""
    file = folder / WITHDRAWN_FILE
    return set(read_json(file)) if file.is_file() else set()


def _refused(
    students: Mapping[str, StudentEvaluation],
    packages: Mapping[str, Package],
    budgets: Budgets,
    withdrawn: set[str],
    truth: np.ndarray,
    counted: np.ndarray,
) -> dict[str, str]:
    """Return the students that may not go into service, each with the reason."""
    refused = {}
    for name, student in students.items():
        found = breaches(student, budgets)
        if packages[name].digest in withdrawn:
            found.append("it was withdrawn")
        if (rule := packages[name].decision) is not None and student.decided is not None:
            found += _faults_of_decisions(rule, truth[counted] == rule.position, student.decided.scores[counted])
        else:
            found += _faults_of_classes(truth[counted], student.logits[counted], packages[name].labels)
        if found:
            refused[name] = ", ".join(found)
    return refused


def _faults_of_decisions(rule: DecisionRule, truth: np.ndarray, scores: np.ndarray) -> list[str]:
    found = []
    if not rule.reached:
        found.append(
            f"no threshold has {rule.wish} for '{rule.label}' on the validation texts: the best "
            f"precision there is {rule.precision or 0:.3f}, at a recall of {rule.recall or 0:.3f}"
        )
    # Not whether its most likely class is right: a rare label may be well ordered and never be the most likely one.
    if (p := orders_by_chance(truth, scores)) >= CHANCE:
        found.append(f"its probabilities of '{rule.label}' are not shown to be larger where it is true (p = {p:.2g})")
    return found


def _faults_of_classes(labels: np.ndarray, logits: np.ndarray, names: tuple[str, ...]) -> list[str]:
    judgement = judge_classifier(labels, logits, names)
    if judgement.verdict == "better":
        return []
    return [
        f"it is not shown to be better than the majority class (accuracy {judgement.accuracy:.3f} against "
        f"{judgement.majority_accuracy:.3f}, macro-F1 {judgement.macro_f1:.3f} against "
        f"{judgement.majority_macro_f1:.3f})"
    ]


def _copy(source: Path, target: Path) -> None:
    with whole_folder(target) as unfinished:
        shutil.copytree(standing_folder(source), unfinished, dirs_exist_ok=True)


def _promote(package: Package, folder: Path, reason: str) -> Decision:
    current, previous = folder / "current", folder / "previous"
    # What a roll back left that was cut off is of no use to another champion.
    remove_folder(folder / "replaced")
    if current.exists():
        _copy(current, previous)
    _copy(package.folder, current)
    return Decision(package.name, package.digest, True, f"{package.name} is in service: {reason}")
