"""`finstill new`: a first profile for a person's own files. It asks nothing, and writes a comment where it guessed."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finstill.config.known import KNOWN
from finstill.config.profile import EMBEDDED
from finstill.config.task import RISK, SENTIMENT
from finstill.corpus.columns import NO_LABEL_WORDS, canonical_label
from finstill.corpus.look import Look, look, recognise
from finstill.corpus.readers import kind_of
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
        paths: the files, a folder or a zip. The first file is looked at, and the others are read as it is.
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
    known = recognise(first)
    if known is not None:
        published = first.is_dir() or first.suffix.lower() == ".zip"
        comment = f"as it is published; {KNOWN[known].files} is read" if published else "as it is published"
        return Guess(corpus={"known": known}, comments={"known": comment}, labelled=True)
    if first.is_dir() or first.suffix.lower() == ".zip":
        first = _first_file(first)
    seen = look(first)
    guess = Guess()
    if first != paths[0] and any(part.startswith("split=") for part in first.relative_to(paths[0]).parts):
        guess.corpus["split"] = "split"
        guess.comments["split"] = "the folders are named after it"
    _how_it_is_written(seen, guess)
    text = _text_column(seen, guess)
    taken = {text}
    label = _label_column(seen, taken, guess)
    if label is not None:
        taken.add(label)
        _labels(seen, label, guess)
    for role, names in (("date", DATE_NAMES), ("id", ID_NAMES), ("split", SPLIT_NAMES)):
        if role not in guess.corpus and (column := _named(seen, names, taken)):
            if role == "split" and not set(map(str.casefold, seen.values(column))) <= SPLIT_VALUES:
                continue
            guess.corpus[role] = _quoted(column)
            taken.add(column)
    return guess


def _first_file(folder: Path) -> Path:
    if folder.is_file():
        raise InputError("it is no zip of a known data set", where=folder, remedy="Unpack it, and give the folder")
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and file.stat().st_size
        and kind_of(file.name) is not None
        and not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    )
    if not files:
        raise InputError("there is no file in it that a reader knows", where=folder)
    return next((file for file in files if kind_of(file.name) != "lines"), files[0])


def _how_it_is_written(seen: Look, guess: Guess) -> None:
    if seen.encoding not in ("utf-8", "utf-8-sig"):
        guess.corpus["encoding"] = seen.encoding
        guess.comments["encoding"] = "guessed: it is not UTF-8"
    if seen.delimiter is not None and seen.delimiter != ("\t" if ".tsv" in seen.path.suffixes else ","):
        guess.corpus["delimiter"] = json.dumps(seen.delimiter)
    if not seen.header and seen.delimiter is not None:
        guess.corpus["columns"] = f"[{', '.join(seen.columns)}]"
        guess.comments["columns"] = "guessed: the first line is no header"


def _text_column(seen: Look, guess: Guess) -> str:
    if column := _named(seen, TEXT_NAMES, set()):
        chosen = column
    else:
        lengths = {column: _mean_length(seen, column) for column in seen.columns}
        chosen = max(lengths, key=lambda column: lengths[column])
        if not lengths[chosen]:
            raise InputError(f"none of the columns {list(seen.columns)} holds text", where=seen.path)
        guess.comments["text"] = "guessed: the longest values"
    guess.corpus["text"] = _quoted(chosen)
    return chosen


def _mean_length(seen: Look, column: str) -> float:
    values = seen.values(column)
    return sum(map(len, values)) / max(len(values), 1)


def _label_column(seen: Look, taken: set[str], guess: Guess) -> str | None:
    if column := _named(seen, LABEL_NAMES, taken):
        return column
    for column in seen.columns:
        distinct = {value.strip().casefold() for value in seen.values(column)}
        if column not in taken and distinct and distinct <= set().union(*WORDS.values()):
            guess.comments["label"] = "guessed: its values are sentiments"
            return column
    return None


def _labels(seen: Look, column: str, guess: Guess) -> None:
    """Choose the task and the label names from a column's values."""
    counts = Counter(canonical_label(value) for value in seen.values(column))
    found = sorted(label for label in counts if label and label.casefold() not in NO_LABEL_WORDS)
    if not found:
        return
    if _scores(found):
        guess.corpus |= {"label": _quoted(column), "thresholds": "[-0.1, 0.1]"}
        guess.comments["thresholds"] = "guessed: scores below the first are negative, above the second positive"
        guess.labelled = True
        return
    if len(found) > MOST_CLASSES:
        guess.comments["text"] = f"'{column}' has more than {MOST_CLASSES} values and is not taken for the label"
        return
    guess.corpus["label"] = _quoted(column)
    guess.labelled = True
    meant = {label: _sentiment(label) for label in found}
    if {label.casefold() for label in found} <= set(RISK.labels):
        guess.task = RISK.name
    elif set(meant.values()) == set(SENTIMENT.labels) and len(found) == len(SENTIMENT.labels):
        _name_labels(meant, guess, None)
    elif any(set(found) == set(numbers) for numbers in NUMBERS):
        numbers = next(numbers for numbers in NUMBERS if set(found) == set(numbers))
        _name_labels(numbers, guess, "guessed: see what `finstill check` says of the teacher")
    elif "risk" in column.casefold() and set(found) == {"0", "1"}:
        guess.task = RISK.name
        _name_labels({"0": "no_risk", "1": "risk"}, guess, "guessed: 1 is a risk")
    else:
        name = re.sub(r"[^a-z0-9]+", "_", column.casefold()).strip("_") or "mine"
        guess.task = f"\n  name: {_quoted(name)}\n  labels: [{', '.join(map(_quoted, found))}]"
        guess.comments["task"] = "a task of your own: its teacher is fine-tuned on your labels"


def _sentiment(label: str) -> str | None:
    return next((name for name, words in WORDS.items() if label.casefold() in words), None)


def _name_labels(names: Mapping[str, str | None], guess: Guess, comment: str | None) -> None:
    other = {given: name for given, name in names.items() if given.casefold() != name}
    if other:
        pairs = ", ".join(f"{_quoted(given)}: {name}" for given, name in other.items())
        guess.corpus["label_names"] = f"{{{pairs}}}"
    if comment:
        guess.comments["label_names"] = comment


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
    return value if plain else json.dumps(value, ensure_ascii=False)
