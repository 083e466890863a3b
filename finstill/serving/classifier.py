"""A packaged student at work: texts in, labels and probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from finstill.corpus.long_texts import Encoding, Window, mean_over_windows
from finstill.corpus.text import cleaned, normalise, unescaped
from finstill.errors import InputError
from finstill.inference.batching import length_sorted_batches
from finstill.inference.session import OnnxClassifier
from finstill.serving.asked_teacher import AskedTeacher
from finstill.serving.package import SERVED, STUDENT_TOKEN_BUDGET, Package, open_tokenizer
from finstill.serving.reading import read_texts

if TYPE_CHECKING:
    from finstill.corpus.provenance import LongTexts

TEXTS_PER_CHUNK = 8192
"""Texts in memory at a time."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a student says of one text.

    Attributes:
        label: the most likely one.
        probabilities: by label, the softmax of the logits (T = 1).
        calibrated: by label, at the temperature fitted on validation rows (Guo et al. 2017, "On Calibration of Modern
            Neural Networks"); None where none was.
        windows: in how many windows the text was read; above 1 its logits are their mean, each weighed by its tokens. 1
            also where only its beginning was read.
        attention: where asked for, the text's words and each one's share of the student's attention; what is missing
            from 1 rests on special tokens. In several windows, the same mean over them.
        ask: whether the student is so unsure of the text that it is left to the teacher; with a teacher at hand, all
            the rest is the teacher's answer. None where the package leaves none.
        decision: whether the text is decided to have the label that the package decides about: its calibrated
            probability is at least the threshold. None where the package decides about none.
    """

    label: str
    probabilities: dict[str, float]
    calibrated: dict[str, float] | None
    windows: int
    attention: tuple[tuple[str, float], ...] | None
    decision: bool | None = None
    ask: bool | None = None


class StudentClassifier:
    """A packaged student.

    A text's score depends on that text alone: not on the texts around it, their order, or the number of threads.

    Args:
        folder: of the package.
        precision: of the graph that answers: `int8`, the smaller and faster one, or `float32`.
        threads: batches run at a time, each on one thread. With more than one the tokenizer uses all cores, or as many
            as RAYON_NUM_THREADS says.
        long_texts: by default, a text longer than the student reads is read as in its training: it is cut, or scored by
            windows (see `Package.long`). `windows` scores all of it also where training and figures are of cut texts.
            It may be `refuse`d.
        threshold: decides in place of the package's own, from 0 to 1.
        teacher: the folder of the exported teacher, which answers the texts that the student leaves to it.

    Raises:
        InputError: the folder is no package, a threshold is given and the package decides about no label, or a teacher
            is given that is not the package's.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        precision: Literal["int8", "float32"] = SERVED,
        threads: int = 1,
        long_texts: Literal["windows", "refuse"] | None = None,
        threshold: float | None = None,
        teacher: Path | str | None = None,
    ):
        if threads < 1:
            raise InputError(f"{threads} threads cannot run; give 1 or more", where="threads")
        if long_texts not in (None, "windows", "refuse"):
            raise InputError(f"'{long_texts}' is neither 'windows' nor 'refuse'", where="long_texts")
        self.package = Package.read(Path(folder))
        if threshold is not None and self.package.decision is None:
            raise InputError(
                "the package decides about no label, so that a threshold has no meaning",
                where=self.package.folder,
                remedy="Give the task `decide` in the profile and materialize student_package again",
            )
        if threshold is not None and not 0 <= threshold <= 1:
            raise InputError(f"{threshold} is no probability; give one from 0 to 1", where="threshold")
        self.precision = precision
        self._graph = OnnxClassifier(self.package.graph_of(precision), threads=1)
        self._tokenizer = open_tokenizer(self.package.folder, self.package.tokenizer)
        self._threads = threads
        self._refuses_long = long_texts == "refuse"
        self.long: LongTexts = "windows" if long_texts == "windows" else self.package.long or "windows"
        rule = self.package.decision
        self.threshold = rule.threshold if rule and threshold is None else threshold
        self._teacher = None if teacher is None else AskedTeacher(Path(teacher), self.package, threads, self.long)

    def score(self, texts: Iterable[str], *, explain: bool = False, of_corpus: bool = False) -> Iterator[Score]:
        """Yield the score of each text, in order; any number of texts streams through.

        Args:
            explain: also return the attention over words.
            of_corpus: the texts are of a corpus table, which holds them as students read them. They are not decoded
                again: a `&lt;` there was `&amp;lt;` in the file.

        Raises:
            InputError: a text is too long, and such are refused; names its row.
        """
        source = iter(texts)
        first_row = 1
        # One text alone is answered before a thread would have started.
        with nullcontext() if self._threads == 1 else ThreadPoolExecutor(self._threads) as pool:
            while chunk := list(islice(source, TEXTS_PER_CHUNK)):
                read = chunk if of_corpus else list(map(self.read, chunk))
                yield from self._score_chunk(read, first_row, explain, map if pool is None else pool.map)
                first_row += len(chunk)

    @property
    def asks(self) -> bool:
        """Whether a teacher is at hand."""
        return self._teacher is not None

    def tokens(self, text: str) -> int:
        """Return how many tokens a text has; the student reads `package.max_length` at once."""
        return len(self._tokenizer.encode(self.read(text)).ids)

    def read(self, text: str) -> str:
        """Return a text as the student reads it, and as those of its corpus were read: in normal form."""
        return normalise(cleaned(unescaped(text) if self.package.unescape else text))

    def _score_chunk(
        self, texts: list[str], first_row: int, explain: bool, each: Callable[..., Iterable[None]]
    ) -> Iterator[Score]:
        if self._threads == 1:
            encodings = [self._tokenizer.encode(text) for text in texts]
        else:
            encodings = self._tokenizer.encode_batch(texts)
        if self._refuses_long:
            self._refuse_long(encodings, first_row)
        windows, owners, ids = read_texts(texts, encodings, self._tokenizer, self.package.max_length, self.long)
        logits = np.empty((len(windows), len(self.package.labels)), np.float32)
        attention: list[np.ndarray] = [np.empty(0)] * len(windows)

        def run(batch: np.ndarray) -> None:
            rows = [ids[i] for i in batch.tolist()]
            if explain:
                logits[batch], weights = self._graph.batch_attention(rows)
                for i, shares in zip(batch, weights, strict=True):
                    attention[i] = shares
            else:
                logits[batch] = self._graph.batch_logits(rows)

        # A list, so that all are run, and an error in a thread is raised here.
        list(each(run, length_sorted_batches(list(map(len, ids)), STUDENT_TOKEN_BUDGET)))
        if len(windows) > len(texts):
            logits = mean_over_windows(logits, owners, [window.size for window in windows])
        first = np.searchsorted(owners, np.arange(len(texts) + 1)).tolist()
        labels, temperature, rule = self.package.labels, self.package.temperature, self.package.decision
        decided = None if rule is None else rule.position
        answer, ask = _Answers.of(logits, temperature, decided, self.threshold), None
        if (deferral := self.package.deferral) is not None:
            ask = answer.sureness < deferral.below
            if self._teacher is not None and ask.any():
                theirs = self._teacher.logits([texts[i] for i in np.flatnonzero(ask)])
                asked = _Answers.of(theirs, deferral.temperature, decided, deferral.threshold)
                for ours, teachers in zip(answer, asked, strict=True):
                    ours[ask] = teachers
        # Lists of plain numbers: to take one of an array's numbers at a time would cost more than a small graph does.
        likeliest, decisions = answer.probabilities.argmax(axis=1).tolist(), answer.decisions.tolist()
        probabilities, at_temperature = answer.probabilities.tolist(), answer.calibrated.tolist()
        asks = None if ask is None else ask.tolist()
        for i, (start, end) in enumerate(pairwise(first)):
            yield Score(
                labels[likeliest[i]],
                dict(zip(labels, probabilities[i], strict=True)),
                None if temperature is None else dict(zip(labels, at_temperature[i], strict=True)),
                end - start,
                _by_word(texts[i], windows[start:end], attention[start:end]) if explain else None,
                None if rule is None else decisions[i],
                None if asks is None else asks[i],
            )

    def _refuse_long(self, encodings: Sequence[Encoding], first_row: int) -> None:
        limit = self.package.max_length
        for row, encoding in enumerate(encodings, start=first_row):
            if len(encoding.ids) > limit:
                raise InputError(
                    f"the text has {len(encoding.ids):,} tokens, and the student reads {limit}",
                    row=row,
                    remedy="Score it by windows, or shorten it",
                )


class _Answers(NamedTuple):
    """What logits say, a row a text; without a temperature or a threshold, its array says nothing."""

    probabilities: np.ndarray
    calibrated: np.ndarray
    decisions: np.ndarray
    sureness: np.ndarray

    @classmethod
    def of(
        cls, logits: np.ndarray, temperature: float | None, position: int | None, threshold: float | None
    ) -> _Answers:
        probabilities = calibrated(logits, temperature)
        if position is None or threshold is None:
            decisions, sure = np.zeros(len(logits), bool), sureness(probabilities, None)
        else:
            decisions, sure = probabilities[:, position] >= threshold, sureness(probabilities, (position, threshold))
        return cls(softmax(logits), probabilities, decisions, sure)


def sureness(probabilities: np.ndarray, decided: tuple[int, float] | None) -> np.ndarray:
    """Return how sure each row's answer is: float64, (rows,).

    It is the largest probability (Hendrycks and Gimpel 2017, "A Baseline for Detecting Misclassified and
    Out-of-Distribution Examples in Neural Networks"), or, where one label is decided, the distance of its probability
    from the threshold.

    Args:
        probabilities: float64, (rows, labels), calibrated.
        decided: position and threshold of the label that is decided.
    """
    if decided is None:
        return probabilities.max(axis=1)
    position, threshold = decided
    return np.abs(probabilities[:, position] - threshold)


def calibrated(logits: np.ndarray, temperature: float | None) -> np.ndarray:
    """Return the probabilities of logits (rows, classes) at a temperature; None leaves them as they are."""
    return softmax(logits if temperature is None else logits / temperature)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of logits (rows, classes), in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _by_word(text: str, windows: Sequence[Window], shares: Sequence[np.ndarray]) -> tuple[tuple[str, float], ...]:
    """Return a text's words, each with the attention of its tokens added up over the windows that hold it.

    Args:
        windows, shares: each window, and the student's attention over its tokens, special ones and padding included.
    """
    total = sum(window.size for window in windows)
    words: dict[tuple[int, int], float] = {}
    for window, attention in zip(windows, shares, strict=True):
        share = window.size / total if len(windows) > 1 else 1
        own: dict[int, list[int]] = {}
        for i, word in enumerate(window.encoding.word_ids):
            if word is not None:
                own.setdefault(word, []).append(i)
        offsets = window.encoding.offsets
        for at in own.values():
            place = window.start + offsets[at[0]][0], window.start + offsets[at[-1]][1]
            words[place] = words.get(place, 0.0) + share * float(attention[at].sum())
    return tuple((text[start:end], weight) for (start, end), weight in words.items())
