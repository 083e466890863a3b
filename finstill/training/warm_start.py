"""Starting a student from the champion: a few epochs over what is new and a sample of what is not."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from finstill.config.recipe import Recipe
from finstill.config.temperature import TemperatureSchedule
from finstill.corpus.provenance import TableProvenance
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import read_tokenizer, tokenizer_identity
from finstill.errors import InputError
from finstill.files import digest
from finstill.students.base import Student
from finstill.students.registry import load_student
from finstill.students.start import Start
from finstill.training.rows import NO_LABEL, TrainingRows
from finstill.training.trained import TrainedStudent

LEARNED_FILE = "learned.npy"
"""Of each row that a student, or one that it started from, learned from: `row_digests`."""

LEARNING_RATE_LEFT = 0.25
"""Of the recipe's learning rate: a training ends at a low one, and starting at the full one forgets."""

REHEARSED = 0.2
"""Of the rows that a student has learned from: the least that it reads again."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmStart:
    """A student that already knows most of what it is to learn.

    Attributes:
        champion: digest of the weights it has.
        student: the model.
        recipe: how it goes on: as its training ended, for a few epochs.
        learned: uint64, (rows,), ascending: the digests of the rows it has learned from.
        texts, labelled: how many texts these are, and how many have had a label.
    """

    champion: str
    student: Student
    recipe: Recipe
    learned: np.ndarray
    texts: int
    labelled: int

    def rows_to_read(self, rows: TrainingRows, seed: int) -> np.ndarray:
        """Return the positions of the rows it has not seen, and of as many that it has.

        Rehearsal of old rows beside the new ones keeps what was learned from being overwritten (Robins 1995,
        "Catastrophic Forgetting, Rehearsal and Pseudorehearsal"). Where few rows are new, `REHEARSED` of the old ones
        are read all the same: a batch of a dozen rows would pull the student to them.

        Returns:
            int64, ascending.
        """
        known = np.isin(row_digests(rows), self.learned)
        new, old = np.flatnonzero(~known), np.flatnonzero(known)
        rehearsed = max(len(new), math.ceil(REHEARSED * len(old)))
        return np.sort(np.concatenate([new, np.random.default_rng(seed).permutation(old)[:rehearsed]]))

    def count_with(self, texts: TrainingRows, classes: int) -> tuple[int, int]:
        """Return `texts` and `labelled` as they are once it has learned from these texts too.

        A text counts once, also where its label came or changed meanwhile.

        Args:
            texts: a row each.
            classes: of the task.
        """

        had_label = learned_with(texts.input_ids, range(classes), self.learned)
        new = ~(had_label | learned_with(texts.input_ids, [NO_LABEL], self.learned))
        first_label = (texts.labels != NO_LABEL) & ~had_label
        return self.texts + int(new.sum()), self.labelled + int(first_label.sum())


def row_digests(rows: TrainingRows) -> np.ndarray:
    """Return 64 bits that stand for the tokens of each row and its label: uint64, (rows,).

    A row whose label was corrected is a new one.
    """
    labelled = zip(rows.input_ids, rows.labels.astype(np.int64), strict=True)
    digests = (blake2b(ids.tobytes() + label.tobytes(), digest_size=8).digest() for ids, label in labelled)
    return np.frombuffer(b"".join(digests), np.uint64)


def learned_with(input_ids: TokenIds, labels: Iterable[int], learned: np.ndarray) -> np.ndarray:
    """Return which rows a student learned from with one of these labels: bool, (rows,).

    Args:
        learned: the digests of the rows it learned from.
    """
    each = [row_digests(TrainingRows(input_ids, np.full(len(input_ids), label))) for label in labels]
    return np.any(np.isin(each, learned), axis=0)


def start_from_champion(
    recipe: Recipe,
    champion: Path,
    train: np.ndarray,
    validation: np.ndarray,
    said: TableProvenance | None,
    labels: Sequence[str],
    start: Start,
    stage: str,
) -> WarmStart | None:
    """Return the champion as the start of `recipe`'s student; None, with a line in the log, where it cannot be that.

    Args:
        champion: the folder of the package in service, which may be missing.
        train, validation: uint64, (rows,): the digests of the rows of these splits.
        said: what the rows say of the teachers whose logits the student is to learn from.
        labels: the task's, in the order of the logits.
        start: the one that the student has without a champion, for how it is to read.
        stage: how log lines call this training.
    """
    try:
        trained = TrainedStudent.read(champion)
        learned = np.load(trained.folder / LEARNED_FILE, allow_pickle=False)
    except (InputError, FileNotFoundError):
        logger.info("%s: is trained anew: there is no champion, or another version made it", stage)
        return None
    student, own = load_student(trained.folder), trained.provenance
    unlike = {
        "has another architecture": trained.recipe.architecture != recipe.architecture,
        "learned from another teacher": (own.teachers if own else ()) != (said.teachers if said else ()),
        "answers another task": list((student.config.id2label or {}).values()) != list(labels),
        "reads by another tokenizer": tokenizer_identity(read_tokenizer(trained.folder))
        != tokenizer_identity(start.tokenizer),
        "reads texts of another length": student.config.longest != start.max_length,
        "does not say from how many texts it learned": not trained.texts,
        # The splits changed: what it learned from stands in test too.
        "learned from texts of validation": np.isin(validation, np.setdiff1d(learned, train)).any(),
    }
    if reasons := [reason for reason, holds in unlike.items() if holds]:
        logger.info("%s: is trained anew: the champion %s", stage, reasons[0])
        return None
    logger.info("%s: starts from the champion", stage)
    end = TemperatureSchedule(schedule="constant", start=recipe.temperature.at(1, 2))
    further = recipe.model_copy(
        update={
            "epochs": recipe.warm_epochs,
            "learning_rate": recipe.learning_rate * LEARNING_RATE_LEFT,
            "temperature": end,
            "rows_per_epoch": None,
        }
    )
    weights = digest(trained.folder / "model.safetensors")
    return WarmStart(weights, student, further, learned, trained.texts, trained.labelled)
