"""The teacher at hand: it answers the texts that a student is least sure of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finstill.corpus.long_texts import mean_over_windows
from finstill.corpus.wordpiece import TOKENIZER_FILE, is_wordpiece
from finstill.errors import InputError
from finstill.files import read_json, standing_folder
from finstill.inference.session import GRAPH_FILES, OnnxClassifier
from finstill.serving.package import Package, open_tokenizer
from finstill.serving.reading import read_texts

if TYPE_CHECKING:
    from finstill.corpus.provenance import LongTexts

DESCRIPTION_FILE = "teacher.json"

TOKEN_BUDGET = 512
"""Tokens of a teacher's batch, padding included: what is fastest on a CPU."""


class AskedTeacher:
    """The teacher that a student learned from, as the pipeline exported it.

    A text longer than it reads is cut or read in windows, as the student reads its own.

    Args:
        folder: of the exported teacher, as .finstill/embedded/teacher/onnx.
        package: the student's.
        threads: batches run at a time.
        long: what becomes of a longer text.

    Raises:
        InputError: the folder holds no teacher, or not this student's, or one whose graph runs on a GPU alone.
    """

    def __init__(self, folder: Path, package: Package, threads: int, long: LongTexts):
        folder = standing_folder(folder)
        file = folder / DESCRIPTION_FILE
        if package.deferral is None:
            raise InputError(
                "the package leaves no text to a teacher",
                where=package.folder,
                remedy="Give the profile `defer`, a share of the texts, and materialize student_package again",
            )
        if not file.is_file():
            raise InputError(
                f"there is no {DESCRIPTION_FILE}", where=folder, remedy="Give the folder of an exported teacher"
            )
        description = read_json(file)
        if description["fingerprint"] != package.teacher:
            raise InputError(
                f"this is teacher {description['fingerprint']}, and the student learned from {package.teacher}",
                where=file,
                remedy="Give the folder of its own teacher; an ensemble cannot be asked",
            )
        if (precision := description.get("precision")) not in GRAPH_FILES:
            raise InputError(
                f"the teacher's {precision} graph runs on a GPU alone"
                if precision
                else "an imported teacher has no graph",
                where=file,
                remedy="Ask one that was exported in float32 or int8",
            )
        self._graph = OnnxClassifier(folder / GRAPH_FILES[precision], threads=threads)
        described = is_wordpiece(read_json(folder / TOKENIZER_FILE))
        self._tokenizer = open_tokenizer(folder, package.tokenizer if described else "tokenizers")
        self._max_length = description["max_length"]
        self._long = long
        self._classes = package.deferral.classes

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the teacher's logits over the task's labels: float32, (texts, labels).

        Args:
            texts: in normal form.
        """
        encodings = [self._tokenizer.encode(text) for text in texts]
        read = read_texts(texts, encodings, self._tokenizer, self._max_length, self._long)
        answers = self._graph.logits(read.ids, TOKEN_BUDGET)
        logits = mean_over_windows(answers, read.owners, [window.size for window in read.windows])
        # Classes of one label are added as probabilities are: see `finstill.config.task.task_logits`.
        return np.stack([np.logaddexp.reduce(logits[:, group], axis=1) for group in self._classes], axis=1)
