"""`finstill new`: a first profile for a person's own files. It asks nothing, and writes a comment where it guessed."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.compute as pc
from ruamel.yaml import YAML

from finstill.config.known import KNOWN
from finstill.config.profile import EMBEDDED, CorpusSource
from finstill.config.task import RISK, SENTIMENT
from finstill.corpus.columns import NO_LABEL_WORDS, canonical_label
from finstill.corpus.look import Look, files_of, first_table, recognise
from finstill.corpus.sources import read_batches
from finstill.errors import InputError
from finstill.files import read_json, whole_file

DEFAULT_TEACHER = "ProsusAI/finbert"

TEXT_NAMES = ("text", "sentence", "headline", "title", "body", "content", "news", "tweet", "message", "summary")
LABEL_NAMES = ("label", "sentiment", "class", "category", "target", "tone", "mood", "rating", "risk", "polarity")
DATE_NAMES = (
    "date",
    "published",
    "publishedat",
    "publisheddate",
    "time",
    "timestamp",
    "datetime",
    "created",
    "createdat",
)
ID_NAMES = ("id", "uuid", "key", "guid", "sno")
SPLIT_NAMES = ("split", "fold", "set", "partition")

WORDS = {
    "negative": {"negative", "neg", "bearish", "bear", "bad", "sell", "down", "pessimistic", "-1"},
    "neutral": {"neutral", "neu", "hold", "flat", "mixed", "unchanged", "no impact"},
    "positive": {"positive", "pos", "bullish", "bull", "good", "buy", "up", "optimistic"},
}
"""Names under which sentiments are met. A 0 and a 1 may mean anything, and are guessed last."""

NUMBERS = ({"-1": "negative", "0": "neutral", "1": "positive"}, {"0": "negative", "1": "neutral", "2": "positive"})

NOTHING = {"n/a", "na", "#n/a", "none", "-"}
"""What is no label beside those of a built-in task, and may be a class beside others."""

SPLIT_VALUES = {"train", "validation", "valid", "val", "dev", "test"}
MOST_CLASSES = 20
YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


@dataclass
class Guess:
    """A part of the profile: its lines, and what was guessed.

    Attributes:
        task: name of a built-in task, or the lines of one written out.
        corpus: settings of the corpus by name, as YAML writes their values.
        comments: why a setting is what it is, where that was guessed, by the setting's name.
        labelled: whether rows have labels.
    """

    task: str = SENTIMENT.name
    corpus: dict[str, str] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    labelled: bool = False


def write_new_profile(paths: Sequence[Path], teacher: str, profile: Path | None = None) -> tuple[Path, Path]:
    """Write a profile for the corpus in `paths`, and a file of recipes beside it.

    Args:
        paths: the files, a folder or a zip. The first file with rows is looked at, and the others are read as it is.
            The labels of all rows are counted.
        teacher: a Hugging Face model or a folder.
        profile: where to write; by default a file in this folder, named after the data.

    Returns:
        The profile and the recipes.

    Raises:
        InputError: a file cannot be read, or has no column of texts; or the profile or the recipes exist already.
    """
    guess = _guess(paths)
    profile = profile or Path(f"{_name(paths[0], guess)}.yaml")
    recipes = profile.with_name(f"{profile.stem}.students.yaml")
    for file in (profile, recipes):
        if file.exists():
            raise InputError("this file exists already", where=file, remedy="Give another one with --profile")
    base = profile.resolve().parent
    guess.corpus = {"path": _paths(paths, base), **guess.corpus}
    with whole_file(recipes) as unfinished:
        unfinished.write_text(_recipes(guess.labelled), encoding="utf-8")
    with whole_file(profile) as unfinished:
        unfinished.write_text(_profile(guess, teacher, recipes.name, base), encoding="utf-8")
    return profile, recipes


def _guess(paths: Sequence[Path]) -> Guess:
    first = paths[0]
    if not first.exists():
        raise InputError("there is no such file or folder", where=first)
    files = files_of(first)
    known = recognise(files)
    if known is not None:
        comment = f"as it is published; {KNOWN[known].files} is read" if files[0].found else "as it is published"
        return Guess(corpus={"known": known}, comments={"known": comment}, labelled=True)
    table = first_table(files)
    if table is None:
        raise InputError("no file in it holds rows", where=first)
    file, seen = table
    guess = Guess()
    if "split" in file.folders:
        guess.corpus["split"] = "split"
        guess.comments["split"] = "the folders are named after it"
    if not seen.header and seen.delimiter is not None:
        seen = _with_names(seen)
    _how_it_is_written(seen, guess)
    text = _text_column(seen, guess)
    taken = {text}
    label = _label_column(seen, taken, guess)
    if label is not None:
        taken.add(label)
        _labels(paths, seen, label, guess)
    for role, names in (("date", DATE_NAMES), ("id", ID_NAMES), ("split", SPLIT_NAMES)):
        if role not in guess.corpus and (column := _named(seen, names, taken)):
            if role == "split" and not set(map(str.casefold, seen.values(column))) <= SPLIT_VALUES:
                continue
            guess.corpus[role] = _quoted(column)
            taken.add(column)
    if name := _data_set(f"{first.resolve().name} {file.name}"):
        guess.corpus["name"] = name
        guess.comments["name"] = "guessed: a file or folder is named after this data set"
    return guess


def _data_set(names: str) -> str | None:
    """Return how `teacher.trained_on` calls the known data set that the names of files say, or None."""
    words = f"_{re.sub(r'[^a-z0-9]+', '_', names.casefold())}_"
    known = dict.fromkeys(str(each.settings["name"]) for each in KNOWN.values())
    return next((name for name in known if any(f"_{word}_" in words for word in (name, name.replace("_", "")))), None)


def _how_it_is_written(seen: Look, guess: Guess) -> None:
    if seen.encoding not in ("utf-8", "utf-8-sig"):
        guess.corpus["encoding"] = seen.encoding
        guess.comments["encoding"] = "guessed: it is not UTF-8"
    if seen.delimiter is not None and seen.delimiter != ("\t" if ".tsv" in seen.path.suffixes else ","):
        guess.corpus["delimiter"] = json.dumps(seen.delimiter)
    if not seen.header and seen.delimiter is not None:
        guess.corpus["columns"] = f"[{', '.join(seen.columns)}]"
        guess.comments["columns"] = "guessed: the first line is no header, and the longest values are the text"


def _with_names(seen: Look) -> Look:
    """Return a look at a file without a header whose columns of texts and of labels bear these names."""
    label = _column_of_sentiments(seen, set())
    text = _longest(seen, {label})
    names = {text: "text", label: "label"}
    return replace(seen, columns=[names.get(column, column) for column in seen.columns])


def _text_column(seen: Look, guess: Guess) -> str:
    if column := _named(seen, TEXT_NAMES, set()):
        chosen = column
    else:
        chosen = _longest(seen)
        if not _mean_length(seen, chosen):
            raise InputError(f"none of the columns {list(seen.columns)} holds text", where=seen.path)
        guess.comments["text"] = "guessed: the longest values"
    guess.corpus["text"] = _quoted(chosen)
    return chosen


def _longest(seen: Look, taken: Container[str | None] = ()) -> str:
    """Return the column with the longest values, one that is taken only where there is no other."""
    return max(seen.columns, key=lambda column: (column not in taken, _mean_length(seen, column)))


def _mean_length(seen: Look, column: str) -> float:
    values = seen.values(column)
    return sum(map(len, values)) / max(len(values), 1)


def _label_column(seen: Look, taken: set[str], guess: Guess) -> str | None:
    if column := _named(seen, LABEL_NAMES, taken):
        return column
    if column := _column_of_sentiments(seen, taken):
        guess.comments["label"] = "guessed: its values are sentiments"
    return column


def _column_of_sentiments(seen: Look, taken: set[str]) -> str | None:
    for column in seen.columns:
        distinct = {value.strip().casefold() for value in seen.values(column)} - NO_LABEL_WORDS - NOTHING
        if column not in taken and distinct and distinct <= set().union(*WORDS.values()):
            return column
    return None


def _labels(paths: Sequence[Path], seen: Look, column: str, guess: Guess) -> None:
    """Choose the task and the label names from a column's values."""
    if column in seen.nested:
        guess.comments["text"] = f"'{column}' holds lists or objects, which are no labels"
        return
    counts = Counter(label for value in seen.values(column) if (label := canonical_label(value)))
    whole = len(counts) <= MOST_CLASSES and _count_all(paths, column, counts, guess)
    found = _spelled_once(counts)
    rest = [label for label in found if label.casefold() not in NOTHING]
    nothing = dict.fromkeys(label for label in found if label not in rest)
    if not rest:
        return
    if _scores(rest):
        guess.corpus |= {"label": _quoted(column), "thresholds": "[-0.1, 0.1]"}
        guess.comments["thresholds"] = "guessed: scores below the first are negative, above the second positive"
        guess.labelled = True
        _name_labels(nothing, guess)
        return
    built_in = _built_in(rest, column, whole, guess)
    if built_in is None and not 1 < len(found) <= MOST_CLASSES:
        values = "one value" if len(found) == 1 else f"more than {MOST_CLASSES} values"
        guess.comments["text"] = f"'{column}' has {values} and is not taken for the label"
        return
    guess.corpus["label"] = _quoted(column)
    guess.labelled = True
    if built_in is not None:
        _name_labels({**built_in, **nothing}, guess)
        return
    name = re.sub(r"[^a-z0-9]+", "_", column.casefold()).strip("_") or "mine"
    guess.task = f"\n  name: {_quoted(name)}\n  labels: [{', '.join(map(_quoted, found))}]"
    guess.comments["task"] = "a task of your own: its teacher is fine-tuned on your labels"


def _count_all(paths: Sequence[Path], column: str, counts: Counter[str], guess: Guess) -> bool:
    """Count the labels of the corpus, read with the settings that were guessed; return whether all could be read."""
    settings = {name: YAML(typ="safe").load(value) for name, value in guess.corpus.items()}
    source = CorpusSource(path=tuple(map(str, paths)), label=column, **settings)
    read: Counter[str] = Counter()
    try:
        for batch in read_batches(source):
            for each in pc.value_counts(batch["label"].drop_null()).to_pylist():
                read[each["values"]] += each["counts"]
    except InputError:
        # The profile is what a person mends.
        guess.comments["label"] = "its labels could not all be read: `finstill check` says why"
        return False
    finally:
        # The larger count of each: the rows that were looked at are read again.
        counts |= read
    return True


def _spelled_once(counts: Counter[str]) -> list[str]:
    """Return the labels, sorted, each as it is spelled most often: case does not count."""
    spelled: dict[str, str] = {}
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        spelled.setdefault(label.casefold(), label)
    return sorted(label for folded, label in spelled.items() if folded not in NO_LABEL_WORDS)


def _built_in(found: Sequence[str], column: str, whole: bool, guess: Guess) -> dict[str, str | None] | None:
    """Return what a built-in task, which becomes the guess's, calls the labels; None where none knows all of them.

    Nor is it one of a task that has more, where the `whole` corpus has several of its labels and no row of another.
    """
    meant = {label: _sentiment(label) for label in found}
    numbers = next((numbers for numbers in NUMBERS if set(found) == set(numbers)), None)
    task = SENTIMENT
    names: dict[str, str | None]
    if {label.casefold() for label in found} <= set(RISK.labels):
        task, names = RISK, {label: label.casefold() for label in found}
    elif None not in meant.values() and len(set(meant.values())) == len(found):
        names = meant
    elif numbers is not None:
        names = dict(numbers)
        guess.comments["label_names"] = "guessed: see what `finstill check` says of the teacher"
    elif "risk" in column.casefold() and set(found) <= {"0", "1"}:
        task, names = RISK, {label: RISK.labels[int(label)] for label in found}
        guess.comments["label_names"] = "guessed: 1 is a risk"
    else:
        return None
    missing = [label for label in task.labels if label not in names.values()]
    if missing and whole and len(found) > 1:
        guess.comments.pop("label_names", None)
        return None
    if missing:
        guess.comments["task"] = f"no row that was read is labelled {' or '.join(missing)}"
    guess.task = task.name
    return names


def _sentiment(label: str) -> str | None:
    return next((name for name, words in WORDS.items() if label.casefold() in words), None)


def _name_labels(names: Mapping[str, str | None], guess: Guess) -> None:
    other = {given: name for given, name in names.items() if given.casefold() != name}
    if other:
        pairs = ", ".join(f"{_quoted(given)}: {name or 'null'}" for given, name in other.items())
        guess.corpus["label_names"] = f"{{{pairs}}}"
    if None in other.values():
        guess.comments.setdefault("label_names", "guessed: null stands for no label")


def _scores(found: Sequence[str]) -> bool:
    """Whether labels are scores between -1 and 1."""
    try:
        numbers = [float(label) for label in found]
    except ValueError:
        return False
    return any(number % 1 for number in numbers) and min(numbers) >= -1 and max(numbers) <= 1


def _named(seen: Look, names: Sequence[str], taken: set[str]) -> str | None:
    """Return the column that bears the first of `names` that any does; spaces, case and signs do not count."""
    folded = {re.sub(r"[^a-z]", "", column.casefold()): column for column in seen.columns if column not in taken}
    return next((folded[name] for name in names if name in folded), None)


def _name(path: Path, guess: Guess) -> str:
    """Return the name of the profile: the known data set's, or the file's without what a shell would trip over."""
    if "known" in guess.corpus:
        return guess.corpus["known"]
    stem = path.name.split(".")[0] if path.is_file() else path.resolve().name
    return re.sub(r"[^a-z0-9_-]+", "_", stem.casefold()).strip("_") or "mine"


def _paths(paths: Sequence[Path], base: Path) -> str:
    relative = [_quoted(Path(os.path.relpath(path.resolve(), base)).as_posix()) for path in paths]
    return relative[0] if len(relative) == 1 else f"[{', '.join(relative)}]"


def _recipes(labelled: bool) -> str:
    """Return the built-in recipes; without the student that learns from labels alone where there are none."""
    text = (importlib.resources.files("finstill.data") / "recipes.yaml").read_text(encoding="utf-8")
    parts = text.split("\n\n")
    return "\n\n".join(part for part in parts if labelled or "alpha: 0\n" not in f"{part}\n")


def _profile(guess: Guess, teacher: str, recipes: str, base: Path) -> str:
    own_task = guess.task.startswith("\n")
    lines = [
        "# Written by `finstill new`. docs/profiles.md explains every setting, and `finstill check` says what a run",
        "# would do.",
    ]
    lines += _line("task", guess.task, guess, "")
    lines += ["", "corpus:"]
    for name, value in guess.corpus.items():
        lines += _line(name, value, guess, "  ")
    if not guess.labelled:
        lines.append("  # No column of labels was found: quality is then agreement with the teacher.")
    lines += ["", "teacher:", *_teacher(teacher, own_task, base)]
    lines += ["", f"recipes: {_quoted(recipes)}", ""]
    return "\n".join(lines)


def _teacher(teacher: str, own_task: bool, base: Path) -> list[str]:
    if own_task and teacher == DEFAULT_TEACHER:
        return [f"  checkpoint: {EMBEDDED}    # no published teacher is known to have these classes", "  fine_tune: {}"]
    folder = Path(teacher)
    checkpoint = Path(os.path.relpath(folder.resolve(), base)).as_posix() if folder.is_dir() else teacher
    lines = [f"  checkpoint: {_quoted(checkpoint)}"]
    if teacher == DEFAULT_TEACHER:
        lines.append("  trained_on: [financial_phrasebank]    # its figures on this data set are contaminated")
    config = folder / "config.json"
    heads = read_json(config).get("architectures") or [] if config.is_file() else []
    if heads and not any(head.endswith("ForSequenceClassification") for head in heads):
        lines.append("  fine_tune: {}    # it is an encoder: it learns your labels first")
    return lines


def _line(name: str, value: str, guess: Guess, indent: str) -> list[str]:
    comment = f"    # {guess.comments[name]}" if name in guess.comments else ""
    if value.startswith("\n"):
        return [f"{indent}{name}:{comment}{value}"]
    return [f"{indent}{name}: {value}{comment}"]


def _quoted(value: str) -> str:
    """Return a value as YAML reads it back: in quotes where it could be read as something else."""
    plain = re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.casefold() not in YAML_WORDS
    return value if plain else json.dumps(value, ensure_ascii=not value.isprintable())
