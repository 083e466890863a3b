"""A profile: the one file that says which corpus, task, teacher and students a run is about."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from finstill.config.known import KNOWN
from finstill.config.settings import read_settings
from finstill.config.task import TASKS, Task

EMBEDDED = "embedded"

CPU_PROVIDER = "CPUExecutionProvider"
GPU_TOKEN_BUDGET = 16_384
"""Fixed, and not measured a run: the shapes of batches are part of what a float16 logit is."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusSource(_Section):
    """Where the texts come from: exactly one of `path` and `hub`.

    Attributes:
        path: a file, a list of files, a folder or zip of them, or `embedded` for the corpus that ships with Finstill;
            see `finstill.corpus.readers` for the formats. Relative paths start at the profile's folder.
        hub: the name of a Hugging Face data set, or a local folder in that layout; its splits are honoured.
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
        split: the column that holds train, validation or test; rows where it is empty are split by their key.
        label_names: the task's label for each label of the file that is called otherwise, as `{"0": negative}`; null
            for what stands for no label.
        thresholds: present where the label is a score: below the first number it is negative, above the second
            positive, else neutral.
        on_bad_rows: a row that cannot be read stops the run, or is set aside in a file beside the corpus.
        bad_rows_at_most: share of the rows that may be set aside; more stop the run.
        name: what the data set is called, as `teacher.trained_on` would call it.
        licence: as the hub names it (`cc0-1.0`); the model card of each student says it.
    """

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
    split: str | None = None
    label_names: dict[str, str | None] = {}
    thresholds: tuple[float, float] | None = None
    on_bad_rows: Literal["stop", "set_aside"] = "stop"
    bad_rows_at_most: float = Field(0.01, ge=0, le=1)
    name: str | None = None
    licence: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, values: object) -> object:
        if not isinstance(values, dict) or values.get("known") is None:
            return values
        if values["known"] not in KNOWN:
            raise ValueError(f"there is no known data set '{values['known']}'; there are {list(KNOWN)}")
        return {**KNOWN[values["known"]].settings, **values}

    @model_validator(mode="after")
    def _one_source(self) -> CorpusSource:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of 'path' (a file or folder) and 'hub' (a Hugging Face data set)")
        if self.thresholds is not None and self.thresholds[0] > self.thresholds[1]:
            raise ValueError(f"'thresholds' must ascend, and are {list(self.thresholds)}")
        return self

    @field_validator("label_names", mode="before")
    @classmethod
    def _names_are_text(cls, value: object) -> object:
        # YAML reads 0 and 1 as numbers, and files hold them as text.
        return {str(key): name for key, name in value.items()} if isinstance(value, dict) else value


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

    checkpoint: str
    revision: str = "main"


class Teacher(_Section):
    """The classifier that is distilled.

    Attributes:
        checkpoint: a folder, a Hugging Face model name, or `embedded` for the encoder that Finstill installs.
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

    checkpoint: str
    revision: str = "main"
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
        calibration_error: expected calibration error on the labelled test texts, at most.
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
        report_to: where the students' trainer reports besides Finstill's own log.
        seed: of the teacher's fine-tuning; each recipe has its own.
    """

    task: Task
    corpus: CorpusSource
    teacher: Teacher
    out_of_domain: CorpusSource | None = None
    augmentation: Augmentation = Augmentation()
    tuning: Tuning | None = None
    recipes: Path
    budgets: Budgets = Budgets()
    report_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    seed: int = 17

    @field_validator("out_of_domain")
    @classmethod
    def _labelled_and_named(cls, value: CorpusSource | None) -> CorpusSource | None:
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


class Profile(ProfileFile):
    """Everything a run is about: a profile's file with its paths absolute, named after it. Each report prints it.

    Attributes:
        corrections: the folder of corrected labels, beside the file: see `finstill.corpus.corrections`.
    """

    name: str
    corrections: Path

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
    if not source.path or source.path == EMBEDDED:
        return source
    path = str(base / source.path) if isinstance(source.path, str) else tuple(str(base / each) for each in source.path)
    return source.model_copy(update={"path": path})


def _beside(teacher: AnyTeacher, base: Path) -> AnyTeacher:
    # 'ProsusAI/finbert' looks like a path too: it is one where a folder of that name stands beside the profile.
    folder = base / teacher.checkpoint
    return teacher.model_copy(update={"checkpoint": str(folder)}) if folder.is_dir() else teacher
