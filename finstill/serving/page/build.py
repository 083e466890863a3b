"""Writing the page."""

from __future__ import annotations

import base64
import importlib.resources
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from finstill.corpus.wordpiece import BERT, TOKENIZER_FILE, kinds
from finstill.files import read_json, whole_folder
from finstill.serving.package import Package
from finstill.serving.page.onnxruntime_web import FILES, VERSION, NoPageError

PAGE_FILE = "index.html"
SCRIPTS = ("wordpiece.js", "page.js")


@dataclass(frozen=True)
class Sample:
    """A test text, its label where it has one, and what the teacher said of it."""

    text: str
    truth: str | None
    teacher: str


def write_page(package: Package, samples: Sequence[Sample], runtime: Path, folder: Path) -> Path:
    """Write the page of a student to `folder`, whole or not at all, and return the path of its HTML.

    The int8 graph answers. Everything is in scripts beside the page, so that it opens from a disk too.

    Args:
        runtime: the folder of onnxruntime-web's files.

    Raises:
        NoPageError: the student's tokenizer is none that the page can read.
    """
    tokenizer = read_json(package.folder / TOKENIZER_FILE)
    _require_word_pieces(tokenizer, package.folder)
    loader = PackageLoader("finstill.serving.page", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("page.html.j2").render(
        name=package.name, task=package.task, labels=package.labels, samples=samples, runtime_version=VERSION
    )
    student = {
        "labels": package.labels,
        "max_length": package.max_length,
        "cut": package.long == "cut",
        "unescape": package.unescape,
        "temperature": package.temperature,
        "decision": asdict(package.decision) if package.decision else None,
        "graph": _base64(package.graph_of("int8")),
        "tokenizer": tokenizer,
        "samples": [asdict(sample) for sample in samples],
    }
    module, wasm = (runtime / file for file in FILES)
    engine = {"module": module.read_text(encoding="utf-8"), "wasm": _base64(wasm)}
    with whole_folder(folder) as unfinished:
        (unfinished / PAGE_FILE).write_text(page, encoding="utf-8")
        (unfinished / "student.js").write_text(_script("STUDENT", student), encoding="utf-8")
        (unfinished / "onnxruntime.js").write_text(_script("ONNXRUNTIME", engine), encoding="utf-8")
        for script in SCRIPTS:
            source = importlib.resources.files("finstill.serving.page") / script
            (unfinished / script).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return folder / PAGE_FILE


def _require_word_pieces(tokenizer: dict[str, Any], folder: Path) -> None:
    if (found := kinds(tokenizer)) != BERT:
        raise NoPageError(f"the page reads BERT's tokenizers ({BERT}), and this is {found}", where=folder)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _script(name: str, value: object) -> str:
    return f"const {name} = {json.dumps(value, ensure_ascii=False)};\n"
