"""A student's package: a folder that holds what it needs to run where torch is not, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finstill.corpus.long_texts import Tokenizer
from finstill.corpus.wordpiece import TOKENIZER_FILE, WordPieceTokenizer
from finstill.errors import InputError
from finstill.files import read_json, standing_folder
from finstill.inference.session import GRAPH_FILES

if TYPE_CHECKING:
    # It needs pyarrow, which is not there where a student serves.
    from finstill.corpus.provenance import LongTexts

PACKAGE_FILE = "package.json"

TokenizerReader = Literal["tokie", "tokenizers"]
"""The library that reads a `tokenizer.json`."""

SERVED: Literal["int8", "float32"] = "int8"
"""The precision that answers by default. It is the one that is measured, ranked, calibrated and held to budgets."""

STUDENT_TOKEN_BUDGET = 1024
"""Tokens of a student's batch, padding included: an LSTM's steps gain little from more, and its states leave the
processor's cache."""


@dataclass(frozen=True)
class DecisionRule:
    """When a text is decided to have a label: its calibrated probability is at least the threshold.

    Attributes:
        label: of the task.
        position: of the label in the task's labels.
        point: the operating point that was asked for, as `{"recall_at_least": 0.95}`.
        threshold: fitted on the validation split.
        low, high: the 95% interval of the threshold over the choice of validation rows.
        reached: whether a threshold reaches the operating point on the validation split; where none does, `threshold`
            is the one that comes nearest.
        rows, positives: validation texts that it was fitted on, and those of them with the label.
        precision, recall, alerts: on these; None where they are not defined. `alerts` is a share of the texts.
    """

    label: str
    position: int
    point: dict[str, float]
    threshold: float
    low: float
    high: float
    reached: bool
    rows: int
    positives: int
    precision: float | None
    recall: float | None
    alerts: float

    @property
    def wish(self) -> str:
        """The operating point in words, as 'recall at least 0.95'."""
        ((name, share),) = self.point.items()
        return f"{name.replace('_', ' ')} {share:g}"


@dataclass(frozen=True)
class Deferral:
    """When a student leaves a text to its teacher, and how the teacher's answer is read.

    Attributes:
        share: of the validation texts that were to be left to the teacher.
        below: the sureness below which a text is; see `finstill.serving.classifier.sureness`.
        classes: for each label, the positions of the teacher's classes that count as it.
        temperature: of the teacher's logits, None where it was not fitted.
        threshold: of the teacher's calibrated probability, None where the task decides about no label.
    """

    share: float
    below: float
    classes: list[list[int]]
    temperature: float | None
    threshold: float | None


@dataclass(frozen=True)
class Package:
    """A packaged student.

    Attributes:
        folder: holds the graphs, `tokenizer.json`, this description, the model card, and the same student for
            transformers' `from_pretrained`.
        name: of its recipe.
        task: name of the task.
        labels: the task's labels, in the order of the logits.
        max_length: tokens of one run of the graph; `long` says how a longer text is read.
        teacher: the fingerprint of the teacher it learned from.
        corpus: digest of the corpus it was trained and measured on.
        recipe: what it was made by.
        parameters: number of weights.
        temperature: what logits are divided by for calibrated probabilities, fitted on validation rows; None where
            fewer than 50 validation rows are labelled.
        measured: what was measured of it on the test split.
        digest: of the graphs, the tokenizer, the labels, the temperature, the threshold, whether long texts are cut and
            whether HTML entities are decoded: what decides every answer it gives.
        decision: when a text is decided to have a label; None where the task decides about none.
        deferral: when a text is left to the teacher; None where none is.
        tokenizer: what reads `tokenizer.json` where the student serves, see `open_tokenizer`.
        long: what became of a longer text where the student was trained and measured, and so becomes of it in service:
            it is cut, or read in windows. None in a package that does not say it: then it is read in windows.
        unescape: whether HTML entities such as `&amp;` were decoded in the texts it was trained and measured on, and so
            are in service.
    """

    folder: Path
    name: str
    task: str
    labels: tuple[str, ...]
    max_length: int
    teacher: str
    corpus: str
    recipe: dict[str, Any]
    parameters: int
    temperature: float | None
    measured: dict[str, Any]
    digest: str
    decision: DecisionRule | None = None
    deferral: Deferral | None = None
    tokenizer: TokenizerReader = "tokenizers"
    long: LongTexts | None = None
    unescape: bool = False

    @property
    def graph(self) -> Path:
        """The graph that serves."""
        return self.graph_of(SERVED)

    def graph_of(self, precision: str) -> Path:
        """Return the graph of `precision`.

        Raises:
            InputError: there is no such precision.
        """
        if precision not in GRAPH_FILES:
            raise InputError(f"there is no precision '{precision}'; a package has {list(GRAPH_FILES)}")
        return self.folder / GRAPH_FILES[precision]

    @classmethod
    def read(cls, folder: Path) -> Package:
        """Read the package in `folder`.

        Raises:
            InputError: it is not one, its description is not JSON, or another version of Finstill made it.
        """
        folder = standing_folder(folder)
        file = folder / PACKAGE_FILE
        if not file.is_file():
            raise InputError(
                f"there is no {PACKAGE_FILE}", where=folder, remedy="Give the folder of a packaged student"
            )
        try:
            values = read_json(file)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"not readable as JSON: {error}",
                where=file,
                remedy="Materialize student_package again, or copy it anew",
            ) from error
        try:
            read = {"folder": folder, "labels": tuple(values["labels"])}
            for name, kind in (("decision", DecisionRule), ("deferral", Deferral)):
                read[name] = kind(**values[name]) if values.get(name) else None
            return cls(**{**values, **read})
        except (KeyError, TypeError) as error:
            raise InputError(
                f"this package was made by another version of Finstill ({error})",
                where=file,
                remedy="Materialize student_package again; an old champion's folder may be removed",
            ) from error


def open_tokenizer(folder: Path, reader: TokenizerReader) -> Tokenizer:
    """Return the tokenizer in `folder`, as `reader` reads it.

    Raises:
        InputError: the library tokenizers is to read it and is not installed.
    """
    if reader == "tokie":
        return WordPieceTokenizer(folder)
    try:
        from finstill.corpus.tokenizer import read_tokenizer
    except ModuleNotFoundError as error:
        raise InputError(
            "only the library tokenizers reads this tokenizer, and it is not installed",
            where=folder / TOKENIZER_FILE,
            remedy="pip install tokenizers",
        ) from error
    return read_tokenizer(folder)
