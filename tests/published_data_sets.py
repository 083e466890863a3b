"""The field's data sets, and exports that people have, in the form in which they come; the rows are our own."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

LABELS = ("negative", "neutral", "positive")

SENTENCES = {
    "negative": 'Förlust: net loss of company {} widened to £{} million, "worse" than @expected',
    "neutral": "The annual meeting of company {} takes place in room {}, near Zürich",
    "positive": "Gewinn: net profit of company {} rose to EUR {} mn, a record — almost",
}

LATIN = {"negative": SENTENCES["negative"], "neutral": SENTENCES["neutral"], "positive": "Gewinn {} stieg auf {} mn £"}


def rows(count: int = 240, sentences: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """Return distinct sentences, each with its label, in an order that mixes them."""
    made = [((sentences or SENTENCES)[label].format(i, 100 + i), label) for i in range(count // 3) for label in LABELS]
    random.Random(0).shuffle(made)
    return made


def phrasebank_lines(some: list[tuple[str, str]]) -> bytes:
    return "".join(f"{text}@{label}\r\n" for text, label in some).encode("iso-8859-1")


def phrasebank_file(folder: Path) -> Path:
    """`Sentences_50Agree.txt`, as a person has it who unpacked the zip."""
    path = folder / "Sentences_50Agree.txt"
    path.write_bytes(phrasebank_lines(rows(sentences=LATIN)))
    return path


def phrasebank_zip(folder: Path) -> Path:
    """`FinancialPhraseBank-v1.0.zip`, with all that is in it."""
    path, top = folder / "FinancialPhraseBank-v1.0.zip", "FinancialPhraseBank-v1.0"
    every = rows(sentences=LATIN)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{top}/", "")
        for agreed, count in (("50Agree", 240), ("66Agree", 200), ("75Agree", 150), ("AllAgree", 100)):
            archive.writestr(f"{top}/Sentences_{agreed}.txt", phrasebank_lines(every[:count]))
        archive.writestr(f"{top}/README.txt", "Financial Phrase Bank\n\nAnnotators: 16 people, @ a school\n")
        archive.writestr(f"{top}/License.txt", "Creative Commons\n")
        archive.writestr(f"__MACOSX/{top}/._Sentences_50Agree.txt", b"\x00\x05\x16\x07")
        archive.writestr(f"{top}/.DS_Store", b"\x00\x01")
    return path


def phrasebank_kaggle(folder: Path) -> Path:
    path = folder / "all-data.csv"
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(
        (label, text) for text, label in rows(sentences=LATIN)
    )
    path.write_bytes(buffer.getvalue().encode("iso-8859-1"))
    return path


def fiqa(folder: Path) -> Path:
    """FiQA's task 1: an object by id, scores as text, some sentences with several targets."""
    scores = {"negative": "-0.654", "neutral": "0.02", "positive": "0.41"}
    found: dict[str, dict] = {}
    for i, (text, label) in enumerate(rows()):
        info = [{"snippets": "['x']", "target": "A", "sentiment_score": scores[label], "aspects": "['Stock']"}]
        # Two targets that agree.
        info += info if i % 5 == 0 else []
        found[str(i)] = {"sentence": text, "info": info}
    opposite = [{"target": name, "sentiment_score": score} for name, score in (("A", "0.5"), ("B", "-0.5"))]
    found["240"] = {"sentence": "A gains and B falls", "info": opposite}
    path = folder / "task1_headline_ABSA_train.json"
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return path


def twitter_financial_news(folder: Path) -> Path:
    """The two files of Twitter Financial News Sentiment; returns the one with the train rows."""
    numbers = {"negative": 0, "positive": 1, "neutral": 2}
    for name, some in (("sent_train.csv", rows()), ("sent_valid.csv", rows(30))):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows((f"$AAPL - {text} https://t.co/x", numbers[label]) for text, label in some)
    return folder / "sent_train.csv"


def sentfin(folder: Path) -> Path:
    path = folder / "SEntFiN-v1.1.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["S No.", "Title", "Decisions", "Words"])
        for i, (text, label) in enumerate(rows()):
            decisions = {"SpiceJet": label, "IndiGo's": label} if i % 4 == 0 else {"SpiceJet": label}
            writer.writerow([i, text, str(decisions), len(text.split())])
        writer.writerow([240, "SpiceJet gains while IndiGo falls", "{'SpiceJet': 'positive', 'IndiGo': 'negative'}", 5])
    return path


def hub_parquet(folder: Path) -> Path:
    """Parquet from the hub: numbers for labels, their names in the schema's metadata, -1 for none."""
    names = ["bearish", "bullish", "neutral"]
    of = {"negative": 0, "positive": 1, "neutral": 2}
    features = {"sentence": {"dtype": "string", "_type": "Value"}, "label": {"names": names, "_type": "ClassLabel"}}
    some = [*rows(), ("Nobody labelled this one", "")]
    table = pa.table({"sentence": [text for text, _ in some], "label": [of.get(label, -1) for _, label in some]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    return folder / "train-00000-of-00001.parquet"


def pandas_export(folder: Path) -> Path:
    """A column of numbers with gaps, as pandas writes one, and the index without a name."""
    numbers = {"negative": "0.0", "neutral": "1.0", "positive": "2.0"}
    path = folder / "export.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "sentence", "label"])
        for i, (text, label) in enumerate(rows()):
            writer.writerow([i, text, numbers[label]])
        writer.writerow([240, "A sentence without a label", ""])
    return path


def pandas_parquet(folder: Path) -> Path:
    """The same as Parquet: NaN where there is no label."""
    numbers = {"negative": 0.0, "neutral": 1.0, "positive": 2.0}
    some = [*rows(), ("A sentence without a label", "")]
    labels = pa.array([numbers.get(label, float("nan")) for _, label in some])
    pq.write_table(pa.table({"sentence": [text for text, _ in some], "label": labels}), folder / "export.parquet")
    return folder / "export.parquet"


def excel_export(folder: Path, encoding: str = "utf-8-sig") -> Path:
    """Semicolons and CRLF, with a byte-order mark or in Windows-1252."""
    moods = {"negative": "Bearish", "neutral": "Neutral ", "positive": "BULLISH"}
    path = folder / "Mappe1.csv"
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\r\n")
        writer.writerow(["Datum", "Headline", "Mood"])
        writer.writerows(("2020-01-31", text, moods[label]) for text, label in rows())
    return path


def excel_windows(folder: Path) -> Path:
    return excel_export(folder, "windows-1252")


def lake(folder: Path) -> Path:
    """A folder of `key=value` folders with a copy in a hidden one, a log, empty files and compressed ones."""
    top = folder / "lake"
    parts = {"train": rows()[:160], "validation": rows()[160:200], "test": rows()[200:]}
    for split, some in parts.items():
        place = top / f"split={split}"
        place.mkdir(parents=True)
        table = pa.table({"text": [text for text, _ in some[5:]], "label": [label for _, label in some[5:]]})
        pq.write_table(table, place / "part-0.parquet")
        content = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in some[:3])
        (place / "part-1.jsonl.zst").write_bytes(pa.compress(content.encode(), "zstd", asbytes=True))
        buffer = io.StringIO()
        csv.writer(buffer).writerows([("text", "label"), *some[3:5]])
        (place / "part-2.csv.gz").write_bytes(gzip.compress(buffer.getvalue().encode()))
        (place / "_SUCCESS").touch()
        (place / "part-3.csv").touch()
    copies = top / "split=train" / ".ipynb_checkpoints"
    copies.mkdir()
    text, label = parts["train"][10]
    (copies / "part-0-checkpoint.csv").write_text(f'text,label\n"{text}",{LABELS[LABELS.index(label) - 1]}\n')
    (top / "_delta_log").mkdir()
    (top / "_delta_log" / "00000000000000000000.json").write_text('{"commitInfo": {}}')
    (top / "notes.docx").write_bytes(b"PK")
    return top


PUBLISHED: dict[str, Callable[[Path], Path]] = {
    each.__name__: each
    for each in (
        phrasebank_file,
        phrasebank_zip,
        phrasebank_kaggle,
        fiqa,
        twitter_financial_news,
        sentfin,
        hub_parquet,
        pandas_export,
        pandas_parquet,
        excel_export,
        excel_windows,
        lake,
    )
}
"""Each data set by name: a function that writes it into an empty folder and returns what a person would give."""

PROFILES = {
    "phrasebank_file": "known: financial_phrasebank",
    "phrasebank_zip": "known: financial_phrasebank",
    "phrasebank_kaggle": "known: financial_phrasebank_kaggle",
    "fiqa": "known: fiqa",
    "twitter_financial_news": "known: twitter_financial_news",
    "sentfin": "known: sentfin",
    "hub_parquet": "text: sentence, label: label, label_names: {bearish: negative, bullish: positive}",
    "pandas_export": "text: sentence, label: label, label_names: {0: negative, 1: neutral, 2: positive}",
    "pandas_parquet": "text: sentence, label: label, label_names: {0: negative, 1: neutral, 2: positive}",
    "excel_export": "text: Headline, label: Mood, delimiter: ;, label_names: {bearish: negative, bullish: positive}",
    "excel_windows": "text: Headline, label: Mood, delimiter: ;, encoding: windows-1252, "
    "label_names: {bearish: negative, bullish: positive}",
    "lake": "label: label, split: split",
}
"""What a profile says of each beside its path."""

UNLABELLED = {"fiqa": 1, "sentfin": 1, "hub_parquet": 1, "pandas_export": 1, "pandas_parquet": 1}
"""Rows of each without a label, or with targets that disagree; beside the 240 that have one."""
