"""How often the rule that promotes a champion errs over a year of nights, and how soon it finds a better student.

    python bench/champion.py [--quick] [--json FILE]

Nothing is trained: a student is what it answers. Each of the task's texts has a difficulty that all students share, and
a student trained anew, as every night does, adds luck of its own; two students of one recipe then disagree on about one
text in nine. The shares of the classes are those of Financial PhraseBank. Texts stay the same over the year: a test
split that never grows is the hardest case, since every night looks at the same rows again.

`false_promotions_a_year` counts the nights of a year in which a champion is replaced although all students, the
champion too, are equal; five of them compete every night. `nights_to_promote_one_point` is the median number of nights
until a student that is 1 point of accuracy better replaces the champion, on `rows_for_one_point` labelled test texts:
the smallest split of the table for which it is at most 30.

The rival is the rule that Finstill had before: the best of the night by the test split, promoted where the 95% interval
of macro-F1 lies above 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from machine import describe_machine, read_arguments, report
from scipy.stats import norm

from finstill.evaluation.significance import Difference
from finstill.metrics import macro_f1, mcnemar, paired_interval
from finstill.packaging.champion import PROMOTION_LEVEL

GOALS = {"false_promotions_a_year": "at most 0.5", "nights_to_promote_one_point": "", "rows_for_one_point": ""}

CLASSES = (0.12, 0.59, 0.29)
ACCURACY = 0.80
SHARED = 0.85
"""Share of the variance of a text's difficulty that all students have in common."""

NIGHTS = 365
STUDENTS = 5
TEST_ROWS = (500, 1451, 5000, 20_000)
"""The second is Financial PhraseBank's test split."""

VALIDATION_SHARE = 1 / 3
AT_MOST_NIGHTS = 30
GIVEN_UP_AFTER = 2 * NIGHTS


@dataclass(frozen=True)
class Texts:
    """Labelled texts: labels int64, difficulty float64 and what a wrong answer says, int64, each (rows,)."""

    labels: np.ndarray
    difficulty: np.ndarray
    wrong: np.ndarray

    @classmethod
    def draw(cls, rows: int, random: np.random.Generator) -> Texts:
        labels = random.choice(len(CLASSES), size=rows, p=CLASSES)
        wrong = (labels + random.integers(1, len(CLASSES), size=rows)) % len(CLASSES)
        return cls(labels, random.normal(size=rows), wrong)

    def answers(self, accuracy: float, random: np.random.Generator) -> np.ndarray:
        """Return the one-hot logits of a newly trained student: float32, (rows, classes)."""
        luck = random.normal(size=len(self.labels))
        right = np.sqrt(SHARED) * self.difficulty + np.sqrt(1 - SHARED) * luck < norm.ppf(accuracy)
        return np.eye(len(CLASSES), dtype=np.float32)[np.where(right, self.labels, self.wrong)]


def is_promoted(labels: np.ndarray, challenger: np.ndarray, champion: np.ndarray) -> bool:
    """Whether Finstill would promote the challenger; the cheap test first, as a year has many nights."""
    if mcnemar(challenger.argmax(axis=1) == labels, champion.argmax(axis=1) == labels) >= 1 - PROMOTION_LEVEL:
        return False
    return Difference.between(labels, challenger[None], champion[None], level=PROMOTION_LEVEL).better


def was_promoted(labels: np.ndarray, challenger: np.ndarray, champion: np.ndarray) -> bool:
    """Whether the rule of before would have."""
    return paired_interval(labels, challenger, champion)[1] > 0


def promotions(
    rows: int, students: int, gain: float, random: np.random.Generator, *, before: bool = False
) -> Iterator[bool]:
    """Yield for each night whether the champion is replaced, by a student that is as good as `gain` says."""
    validation, test = Texts.draw(round(rows * VALIDATION_SHARE), random), Texts.draw(rows, random)
    champion = test.answers(ACCURACY, random)
    while True:
        judged = [
            (validation.answers(ACCURACY + gain, random), test.answers(ACCURACY + gain, random))
            for _ in range(students)
        ]
        if before:
            _, challenger = max(judged, key=lambda pair: macro_f1(test.labels, pair[1]))
            replaced = was_promoted(test.labels, challenger, champion)
        else:
            _, challenger = max(judged, key=lambda pair: macro_f1(validation.labels, pair[0]))
            replaced = is_promoted(test.labels, challenger, champion)
        if replaced:
            champion = challenger
        yield replaced


def a_year(rows: int, students: int, years: int, *, before: bool = False) -> float:
    """Return how many equal students are promoted in a year, on the average."""
    random = np.random.default_rng(0)
    runs = (promotions(rows, students, 0.0, random, before=before) for _ in range(years))
    return sum(next(run) for run in runs for _ in range(NIGHTS)) / years


def nights_to_promote(rows: int, repeats: int) -> float:
    """Return the median number of nights until a student that is 1 point better is promoted."""
    random = np.random.default_rng(1)
    nights = []
    for _ in range(repeats):
        run = islice(promotions(rows, 1, 0.01, random), GIVEN_UP_AFTER)
        nights.append(next((night for night, replaced in enumerate(run, start=1) if replaced), np.inf))
    return float(np.median(nights))


def main() -> None:
    arguments = read_arguments(__doc__)
    years, repeats = (4, 15) if arguments.quick else (12, 45)
    rows = TEST_ROWS[1]
    print(f"Promotions of equal students in a year, mean of {years} years, {rows:,} test texts")
    counts = {}
    for students in (1, 3, STUDENTS, 10):
        counts[students] = a_year(rows, students, years)
        old = a_year(rows, students, years, before=True)
        print(f"  {students:>2} students a night: {counts[students]:.2f}; by the rule of before {old:.1f}")
    print(f"Nights until a student that is 1 point better is promoted, median of {repeats}")
    nights = {}
    for rows in TEST_ROWS:
        nights[rows] = nights_to_promote(rows, repeats)
        print(f"  {rows:>6,} test texts: {nights[rows]:.0f}")
    soon = next((rows for rows in TEST_ROWS if nights[rows] <= AT_MOST_NIGHTS), TEST_ROWS[-1])
    figures = {
        "false_promotions_a_year": counts[STUDENTS],
        "nights_to_promote_one_point": nights[soon],
        "rows_for_one_point": soon,
    }
    report(figures, GOALS, describe_machine(), arguments.json)


if __name__ == "__main__":
    main()
