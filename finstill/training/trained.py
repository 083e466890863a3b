"""A trained student's folder, and what is written down in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finstill.config.recipe import Recipe
from finstill.corpus.provenance import TableProvenance, require_together, says_nothing
from finstill.errors import InputError
from finstill.files import read_json, standing_folder

TRAINING_FILE = "training.json"


@dataclass(frozen=True)
class TrainedStudent:
    """A trained student's folder.

    Attributes:
        folder: in the transformers layout, with the tokenizer and this description.
        recipe: what it was made by.
        inputs: digest of everything that determines it; equal inputs give an equal student.
        history: an entry an epoch: loss, temperature, validation figures.
        validation: its own loss, macro-F1 and agreement on the validation rows, of its best epoch or its mean weights.
        rows: rows it was trained on, each counted once: texts, or windows where long texts are read in these.
        texts: that it, or a student it started from, learned from, each counted once; 0 where an older version of
            Finstill wrote the file.
        labelled: how many of these texts have had a label.
        steps: batches it was trained on.
        parameters: number of weights.
        started_from: digest of the champion's weights that it started from; None where it was trained anew.
        provenance: how the texts were read that it learned from, and by which teachers' logits, if any; None where that
            is not known.
    """

    folder: Path
    recipe: Recipe
    inputs: str
    history: list[dict[str, float]]
    validation: dict[str, float]
    rows: int
    texts: int
    labelled: int
    steps: int
    parameters: int
    started_from: str | None = None
    provenance: TableProvenance | None = None

    @classmethod
    def read(cls, folder: Path) -> TrainedStudent:
        """Read what `train_student` wrote.

        Raises:
            InputError: another version of Finstill wrote it.
        """
        folder = standing_folder(folder)
        values = read_json(folder / TRAINING_FILE)
        if "validation" not in values:
            raise InputError(
                "another version of Finstill trained this student", where=folder, remedy="Materialize student again"
            )
        # An older version's says nothing of it.
        provenance = values.get("provenance")
        return cls(
            folder,
            Recipe.from_stored(values["recipe"]),
            **{name: values[name] for name in ("inputs", "history", "validation", "rows", "steps", "parameters")},
            **{name: values.get(name, 0) for name in ("texts", "labelled")},
            started_from=values.get("started_from"),
            provenance=TableProvenance.from_dict(provenance) if provenance else None,
        )

    def require_taught_by(self, teacher_logits: Path) -> None:
        """Refuse to measure the student beside logits of texts that it reads otherwise, or of another teacher.

        Raises:
            InputError: names both files, and what each says; or one of them says nothing.
        """
        file = self.folder / TRAINING_FILE
        if self.provenance is None:
            raise says_nothing(file, "student")
        said = TableProvenance.read(teacher_logits)
        require_together(file, self.provenance, teacher_logits, said, "Materialize student again")
