"""Where the artefacts of each stage live on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finstill.config.recipe import RECIPE_NAME
from finstill.errors import InputError
from finstill.files import read_json, write_json

NOT_A_PROFILE = ("cache", "huggingface", "onnxruntime-web")
"""What else stands in the folder of all workspaces begins like this: the soft labels, what was fetched from the hub
where a deployment keeps it there, and what pages are made with."""


@dataclass(frozen=True)
class Workspace:
    """The folder of one profile's artefacts. Most can be made again; the champion, its record and the studies of tuning
    cannot, see docs/operating.md. Soft labels, which are kept for good, live elsewhere.
    """

    root: Path

    @classmethod
    def of_profile(cls, home: Path, profile: Path) -> Workspace:
        """Return the workspace of a profile's file: a folder in `home` that is named after it.

        Raises:
            InputError: the file's name cannot name a folder of its own there, or the folder is another profile's.
        """
        name = profile.stem
        if name.startswith((".", *NOT_A_PROFILE)):
            raise InputError(
                f"'{name}' cannot name a profile: its artefacts would lie in {home / name}, which is no folder of "
                "its own",
                where=profile,
                remedy=f"Give the file another name, one that does not begin with '.' or {' or '.join(NOT_A_PROFILE)}",
            )
        workspace = cls(home.resolve() / name)
        if workspace.owner.is_file():
            other = Path(read_json(workspace.owner)["profile"])
            # One that is gone was moved here, or stands on another machine.
            if other != profile.resolve() and other.is_file():
                raise InputError(
                    f"in {workspace.root} lie the artefacts of {other}: two profiles of one name would overwrite each "
                    "other's",
                    where=profile,
                    remedy="Give the file another name, or set FINSTILL_HOME to another folder",
                )
        return workspace

    def belongs_to(self, profile: Path) -> None:
        """Write down whose workspace this is, so that `of_profile` refuses it to another profile."""
        write_json(self.owner, {"profile": str(profile.resolve())})

    @property
    def owner(self) -> Path:
        """The path of the profile, as JSON."""
        return self.root / "profile.json"

    @property
    def corpus(self) -> Path:
        return self.root / "corpus.parquet"

    @property
    def corpus_parts(self) -> Path:
        """Holds what was read of each file of the source, until the file changes."""
        return self.root / "corpus.parts"

    @property
    def bad_rows(self) -> Path:
        """Rows of the source that were set aside, as JSONL: file, row, reason, content."""
        return self.root / "corpus.bad_rows.jsonl"

    @property
    def taken(self) -> Path:
        """Which dropped files joined the corpus, as JSON: names with size and time of change."""
        return self.root / "corpus.taken.json"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens.parquet"

    @property
    def teacher_source(self) -> Path:
        """Which files the profile's teacher stands for, as JSON: folder, name, revision."""
        return self.root / "teacher" / "source.json"

    @property
    def teacher_checkpoint(self) -> Path:
        return self.root / "teacher" / "checkpoint"

    @property
    def teacher_onnx(self) -> Path:
        return self.root / "teacher" / "onnx"

    @property
    def teacher_ensemble(self) -> Path:
        """Holds a folder for each further teacher, numbered from 1."""
        return self.root / "teacher" / "ensemble"

    @property
    def teacher_logits(self) -> Path:
        return self.root / "teacher_logits.parquet"

    @property
    def augmented(self) -> Path:
        return self.root / "augmented.parquet"

    @property
    def out_of_domain(self) -> Workspace:
        """Holds the tables of the out-of-domain corpus under their usual names."""
        return Workspace(self.root / "out_of_domain")

    @property
    def starts(self) -> Path:
        """Holds what students started from, by the digest of what that was made from."""
        return self.root / "starts"

    @property
    def tuning(self) -> Path:
        return self.root / "tuning"

    @property
    def comparison(self) -> Path:
        return self.root / "comparison"

    @property
    def champion(self) -> Path:
        return self.root / "champion"

    @property
    def scores(self) -> Path:
        return self.root / "scores"

    @property
    def label_review(self) -> Path:
        """The labels that look wrong, as CSV."""
        return self.root / "label_review.csv"

    @property
    def in_service(self) -> Path:
        """The record of how the student in service holds."""
        return self.root / "in_service"

    @property
    def students(self) -> Path:
        """Holds a folder a student."""
        return self.root / "students"

    def of_student(self, name: str) -> Path:
        """Return the folder of all that is one student's.

        Raises:
            InputError: no recipe can be called `name`, as a partition may that somebody added by hand: a folder of that
                name could lie anywhere.
        """
        if not RECIPE_NAME.fullmatch(name):
            raise InputError(
                f"'{name}' cannot name a student: a recipe's name has lower-case letters, digits, '.', '_' and '-'",
                remedy="Delete this partition",
            )
        return self.students / name

    def student(self, name: str) -> Path:
        return self.of_student(name) / "checkpoint"

    def package(self, name: str) -> Path:
        return self.of_student(name) / "package"

    def evaluation(self, name: str) -> Path:
        return self.of_student(name) / "evaluation"
