"""A profile: the one file that says which corpus, task, teacher and students a run is about."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from finstill.config.known import KNOWN
from finstill.config.settings import read_settings
from finstill.config.task import TASKS, Task, class_groups, digest_of_decisions
from finstill.files import digest

EMBEDDED = "embedded"

CPU_PROVIDER = "CPUExecutionProvider"
GPU_TOKEN_BUDGET = 16_384
"""Fixed, and not measured a run: the shapes of batches are part of what a float16 logit is."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitByDate(_Section):
    """A split by time: what is learned from is older than what it is measured on.

    Attributes:
        by: names this kind of split.
        validation_from: first day of the validation split; texts of earlier days are train.
        test_from: first day of the test split.
    """

    by: Literal["date"]
    validation_from: date
    test_from: date

    @model_validator(mode="after")
    def _in_order(self) -> SplitByDate:
        if self.validation_from >= self.test_from:
            raise ValueError(
                f"'validation_from' ({self.validation_from}) must be earlier than 'test_from' ({self.test_from})"
            )
        return self


class CorpusSource(_Section):
    """Where the texts come from: exactly one of `path` and `hub`.

    Attributes:
        path: a file, a list of files, a folder or zip of them, or `embedded` for the corpus that ships with Finstill;
            see `finstill.corpus.readers` for the formats. Relative paths start at the profile's folder.
        hub: the name of a Hugging Face data set, or a folder in that layout beside the profile; its splits are
            honoured.
        hub_config: configuration of the data set, where it has several.
        hub_revision: branch, tag or commit of the data set.
        known: the name of a data set that Finstill knows as it is published; sets what the profile does not say.
        encoding: of text files; UTF-8 where it is not said.
        delimiter: of delimited files; a comma where it is not said, a tab in `.tsv`.
        columns: names of the columns, where the files have no header.
        unescape: whether texts hold HTML entities, as `&amp;`, to be read as the characters they stand for.
        text: the column that holds the text.
        label: the column that holds the label; rows where it is empty are unlabelled.
        date, id: columns carried along for people.
        split: the column that holds train, validation or test, rows where it is empty being split by their key; or
            `{by: date, validation_from: ..., test_from: ...}` to split by `date`.
        label_names: the task's label for each label of the file that is called otherwise, as `{"0": negative}`; null
            for what stands for no label.
        thresholds: present where the label is a score: below the first number it is negative, above the second
            positive, else neutral.
        on_bad_rows: a row that cannot be read stops the run, or is set aside in a file beside the corpus.
        bad_rows_at_most: share of the rows that may be set aside; more stop the run.
        name: what the data set is called, as `teacher.trained_on` would call it; of a hub's, what follows its owner.
        licence: as the hub names it (`cc0-1.0`); the model card of each student says it.
        section: the profile's section that it stands in, by which messages name its settings.
    """

    section: ClassVar[str] = "corpus"

    path: str | tuple[str, ...] | None = None
    hub: str | None = None
    hub_config: str | None = None
    hub_revision: str | None = None
    known: str | None = None
    encoding: str | None = None
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    columns: tuple[str, ...] | None = Field(None, min_length=1)
    unescape: bool = False
    text: str = "text"
    label: str | None = None
    date: str | None = None
    id: str | None = None
    split: str | SplitByDate | None = None
    label_names: dict[str, str | None] = {}
    thresholds: tuple[float, float] | None = None
    on_bad_rows: Literal["stop", "set_aside"] = "stop"
    bad_rows_at_most: float = Field(0.01, ge=0, le=1)
    name: str | None = None
    licence: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        published: dict[str, Any] = {}
        if isinstance(hub := values.get("hub"), str):
            published["name"] = PurePosixPath(hub).name
        if (known := values.get("known")) is not None:
            if known not in KNOWN:
                raise ValueError(f"there is no known data set '{known}'; there are {list(KNOWN)}")
            published |= KNOWN[known].settings
        return {**published, **values}

    @model_validator(mode="after")
    def _one_source(self) -> CorpusSource:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of 'path' (a file or folder) and 'hub' (a Hugging Face data set)")
        given = self.path if isinstance(self.path, tuple) else (self.path or self.hub,)
        if not given or not all(given):
            raise ValueError("'path' and 'hub' must not be empty: name a file, a folder or a Hugging Face data set")
        if self.thresholds is not None and self.thresholds[0] > self.thresholds[1]:
            raise ValueError(f"'thresholds' must ascend, and are {list(self.thresholds)}")
        if isinstance(self.split, SplitByDate) and self.date is None:
            raise ValueError("a split by date needs 'date', the column that holds it")
        return self

    @property
    def split_by_date(self) -> SplitByDate | None:
        """The days that divide the splits; None where keys or the rows themselves say the split."""
        return self.split if isinstance(self.split, SplitByDate) else None

    @field_validator("split", mode="before")
    @classmethod
    def _column_or_dates(cls, value: object) -> object:
        # Not left to the union, whose errors would name its members and not the key.
        if isinstance(value, dict):
            return SplitByDate.model_validate(value)
        if value is not None and not isinstance(value, (str, SplitByDate)):
            raise ValueError("name a column, or write {by: date, validation_from: 2019-07-01, test_from: 2020-01-01}")
        return value

    @field_validator("label_names", mode="before")
    @classmethod
    def _names_are_text(cls, value: object) -> object:
        # YAML reads 0 and 1 as numbers, and files hold them as text.
        return {str(key): name for key, name in value.items()} if isinstance(value, dict) else value


class OutOfDomainSource(CorpusSource):
    """Where the texts come from that students are measured on and from which none learns."""

    section: ClassVar[str] = "out_of_domain"


class FineTuning(_Section):
    """How an encoder becomes a teacher on the corpus's labelled train rows.

    Attributes:
        epochs: of each run.
        runs: fine-tunings whose weights are averaged to one teacher, at one teacher's cost in the pass.
    """

    epochs: int = Field(4, ge=1, le=100)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(8e-5, gt=0, lt=1)
    runs: int = Field(1, ge=1, le=20)


class Member(_Section):
    """A further teacher of an ensemble: see `Teacher` for what each setting means."""

    checkpoint: str | None = None
    imported: str | None = None
    revision: str = "main"

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.checkpoint is None) == (self.imported is None):
            raise ValueError(
                "give exactly one of 'checkpoint' (a folder or a Hugging Face model) and 'imported' (a name that "
                "`finstill cache import` was given)"
            )
        return self

    @property
    def name(self) -> str:
        """The checkpoint as the profile names it, or the imported teacher's name."""
        return self.checkpoint or self.imported or ""


class Teacher(Member):
    """Who is distilled: a classifier, or soft labels that were made elsewhere.

    Attributes:
        checkpoint: a folder, a Hugging Face model name, or `embedded` for the encoder that Finstill installs.
        imported: the name under which soft labels were imported into the cache.
        tokenizer: of an imported teacher, the checkpoint whose tokenizer reads the texts and whose word vectors
            students start from.
        missing: a text that an imported teacher has no row of stops the run, or is left out of training and
            evaluation.
        revision: branch, tag or commit of a hub checkpoint; the commit it resolves to is recorded.
        fine_tune: present where the checkpoint is an encoder to fine-tune on this corpus first.
        max_length: tokens that are read at once, special tokens included.
        long: a longer text is cut there, or read in `windows`; students read it as the teacher does.
        token_budget: tokens (padding included) in one batch of the teacher pass; by default 512 on a CPU and 16,384 on
            another provider.
        precision: of the graph that labels; `float16` is for a GPU. One of lower precision is refused where its labels
            differ from the float32 one's; `auto` takes the lower one where they do not, and float32 where they do.
        execution_provider: ONNX Runtime's provider, as `CPUExecutionProvider` or `CUDAExecutionProvider`.
        ensemble: further teachers, trained classifiers; the logits of all are averaged.
        trained_on: names of data sets the teacher was trained on, printed beside the figures that they contaminate.
        licence: as the hub names it (`apache-2.0`); the model card of each student says it.
    """

    tokenizer: str = EMBEDDED
    missing: Literal["stop", "leave_out"] = "stop"
    fine_tune: FineTuning | None = None
    max_length: int = Field(128, ge=8, le=512)
    long: Literal["cut", "windows"] = "cut"
    token_budget: int = Field(512, ge=8)
    precision: Literal["float32", "int8", "float16", "auto"] = "float32"
    execution_provider: str = CPU_PROVIDER
    ensemble: tuple[Member, ...] = ()
    trained_on: tuple[str, ...] = ()
    licence: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _budget_of_the_provider(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("execution_provider", CPU_PROVIDER) != CPU_PROVIDER:
            return {"token_budget": GPU_TOKEN_BUDGET, **values}
        return values

    @field_validator("fine_tune", mode="before")
    @classmethod
    def _is_not_empty(cls, value: object) -> object:
        if value is None:
            raise ValueError("it is empty: write {} for its defaults, or leave it out")
        return value

    @model_validator(mode="after")
    def _nothing_to_run(self) -> Teacher:
        """An imported teacher has no weights, and answers for whole texts."""
        if self.imported is None and "tokenizer" in self.model_fields_set:
            raise ValueError("'tokenizer' is for an imported teacher: a checkpoint has its own")
        if self.imported is not None and (self.fine_tune is not None or self.precision != "float32"):
            raise ValueError("'fine_tune' and 'precision' are for a checkpoint, and 'imported' names none")
        if self.has_imported and self.long == "windows":
            raise ValueError("'long: windows' asks a teacher about parts of a text, and an imported one has answered")
        return self

    @property
    def has_imported(self) -> bool:
        """Whether it, or a teacher of its ensemble, was imported."""
        return any(each.imported is not None for each in (self, *self.ensemble))

    @property
    def starting_checkpoint(self) -> str:
        """The checkpoint whose tokenizer reads the texts and whose word vectors students start from."""
        return self.checkpoint or self.tokenizer

    @model_validator(mode="after")
    def _halves_on_a_gpu(self) -> Teacher:
        if self.precision == "float16" and self.execution_provider == CPU_PROVIDER:
            raise ValueError("'precision: float16' is for a GPU: set 'execution_provider' to CUDAExecutionProvider")
        return self


class Augmentation(_Section):
    """More texts for the teacher to label, made from train rows: see `finstill.augment`.

    Attributes:
        variants_per_text: variants of each row; 0 makes none.
        origins: which train rows they are made from: those with a label, or all.
        spliced: share of variants that are the head of one text and the tail of another.
        cropped: share that are a random crop of the text: some of its words in a row.
        replaced: share of word pieces replaced by one of the `neighbours` nearest in the teacher's embedding space.
        masked: share of word pieces replaced by the mask token.
        seed: another seed makes other variants.
    """

    variants_per_text: int = Field(0, ge=0, le=1000)
    origins: Literal["labelled", "all"] = "labelled"
    spliced: float = Field(0.25, ge=0, le=1)
    cropped: float = Field(0.2, ge=0, le=1)
    replaced: float = Field(0.16, ge=0, le=1)
    neighbours: int = Field(10, ge=1, le=1000)
    masked: float = Field(0.06, ge=0, le=1)
    seed: int = Field(17, ge=0)

    @model_validator(mode="after")
    def _shares(self) -> Augmentation:
        for first, second in (("spliced", "cropped"), ("replaced", "masked")):
            if (total := getattr(self, first) + getattr(self, second)) > 1:
                raise ValueError(f"'{first}' and '{second}' are shares of the same whole, and add up to {total:g}")
        return self


class Tuning(_Section):
    """A search for a better recipe, see `finstill.tuning`; what it finds is the student `tuned`.

    Attributes:
        recipe: name of the recipe that it starts from.
        trials: how many recipes are tried.
        seed: of what is tried first.
    """

    recipe: str
    trials: int = Field(30, ge=1, le=10_000)
    seed: int = Field(17, ge=0, le=2**31)


class Budgets(_Section):
    """What a student must keep to before it may go into service; what is not set is not asked.

    Attributes:
        megabytes: of its ONNX graph, 10^6 bytes, at most.
        latency_ms: of one text alone on one thread, at most, as the evaluation measures it.
        agreement: share of test texts that get the teacher's class, at least.
        kl_to_teacher: mean Kullback-Leibler divergence from the teacher in nats, at most.
        calibration_error: expected calibration error on the labelled test texts, at most; of the calibrated
            probabilities, or at T = 1 where no temperature was fitted.
    """

    megabytes: float | None = Field(None, gt=0)
    latency_ms: float | None = Field(None, gt=0)
    agreement: float | None = Field(None, ge=0, le=1)
    kl_to_teacher: float | None = Field(None, ge=0)
    calibration_error: float | None = Field(None, ge=0, le=1)


AnyTeacher = TypeVar("AnyTeacher", Teacher, Member)


class ProfileFile(_Section):
    """What a profile's YAML file holds.

    Attributes:
        task: `sentiment`, `risk`, or a task of one's own.
        out_of_domain: a second labelled corpus, on which students are measured and from which none learns.
        tuning: present where the asset `tuning` is to search.
        augmentation: off unless it says how many variants.
        recipes: the YAML file of students; relative paths start at the profile's folder.
        budgets: what a student must keep to before it may go into service.
        defer: share of the texts that a student leaves to its teacher, those that it is least sure of.
        report_to: where the students' trainer reports besides Finstill's own log.
        seed: of the teacher's fine-tuning; each recipe has its own.
    """

    task: Task
    corpus: CorpusSource
    teacher: Teacher
    out_of_domain: OutOfDomainSource | None = None
    augmentation: Augmentation = Augmentation()
    tuning: Tuning | None = None
    recipes: Path
    budgets: Budgets = Budgets()
    defer: float | None = Field(None, gt=0, lt=1)
    report_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    # Its runs, of which there are at most 20, take this seed and those after it.
    seed: int = Field(17, ge=0, le=2**32 - 20)

    @field_validator("out_of_domain")
    @classmethod
    def _labelled_and_named(cls, value: OutOfDomainSource | None) -> OutOfDomainSource | None:
        if value is not None and (value.label is None or value.name is None):
            raise ValueError("it needs a 'label', the column to measure against, and a 'name'")
        return value

    @field_validator("task", mode="before")
    @classmethod
    def _built_in_task(cls, value: object) -> object:
        if isinstance(value, str):
            if value not in TASKS:
                raise ValueError(f"there is no task '{value}'; the built-in ones are {list(TASKS)}, or write one out")
            return TASKS[value]
        return value

    @field_validator("teacher")
    @classmethod
    def _means_the_labels_it_learns(cls, value: Teacher, info: ValidationInfo) -> Teacher:
        task = info.data.get("task")
        if task is not None and value.fine_tune is not None:
            own = [[position] for position in range(len(task.labels))]
            if class_groups(task, task.labels) != own:
                raise ValueError(
                    "with 'fine_tune' its classes are the task's labels, and 'task.teacher_classes' places these under "
                    "others: leave one of the two out"
                )
        return value


class Profile(ProfileFile):
    """Everything a run is about: a profile's file with its paths absolute, named after it. Each report prints it.

    Attributes:
        corrections: the folder of corrected labels, beside the file: see `finstill.corpus.corrections`.
    """

    name: str
    corrections: Path

    @property
    def package_settings(self) -> str:
        """A digest of what a student or its package is made by and no table that it reads tells."""
        settings = {
            "labels": self.task.labels,
            "decide": digest_of_decisions(self.task.decide),
            "defer": self.defer,
            "unescape": self.corpus.unescape,
            "teacher_classes": self.task.teacher_classes,
        }
        return digest(json.dumps({name: value for name, value in settings.items() if value}))

    def is_contaminated(self, source: CorpusSource | None) -> bool:
        """Whether the teacher was trained on the data set that `source` names: its figures on it are contaminated."""
        trained_on = {name.casefold() for name in self.teacher.trained_on}
        return source is not None and source.name is not None and source.name.casefold() in trained_on


def read_profile(path: Path) -> Profile:
    """Read a profile; its name is the file's, and relative paths in it start at its folder.

    Raises:
        InputError: see `read_settings`.
    """
    file = read_settings(path, ProfileFile)
    base = path.resolve().parent
    ensemble = tuple(_beside(member, base) for member in file.teacher.ensemble)
    teacher = _beside(file.teacher.model_copy(update={"ensemble": ensemble}), base)
    resolved = {
        "corpus": _absolute(file.corpus, base),
        "out_of_domain": file.out_of_domain and _absolute(file.out_of_domain, base),
        "teacher": teacher,
        "recipes": (base / file.recipes).resolve(),
        "corrections": base / f"{path.stem}.corrections",
    }
    return Profile(name=path.stem, **{**dict(file), **resolved})


def _absolute(source: CorpusSource, base: Path) -> CorpusSource:
    # A data set's name looks like a path too, as a checkpoint's does.
    if source.hub is not None and (folder := base / source.hub).is_dir():
        return source.model_copy(update={"hub": str(folder)})
    if not source.path or source.path == EMBEDDED:
        return source
    path = str(base / source.path) if isinstance(source.path, str) else tuple(str(base / each) for each in source.path)
    return source.model_copy(update={"path": path})


def _beside(teacher: AnyTeacher, base: Path) -> AnyTeacher:
    # 'ProsusAI/finbert' looks like a path too: it is one where a folder of that name stands beside the profile.
    named = {setting: getattr(teacher, setting, None) for setting in ("checkpoint", "tokenizer")}
    folders = {setting: base / name for setting, name in named.items() if name is not None}
    return teacher.model_copy(update={name: str(folder) for name, folder in folders.items() if folder.is_dir()})
