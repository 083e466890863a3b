"""Settings read from YAML into validated objects, with errors that name the line."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from finstill.errors import InputError

Settings = TypeVar("Settings", bound=BaseModel)


def read_settings(path: Path, model: type[Settings]) -> Settings:
    """Read the YAML file `path` into `model`.

    Raises:
        InputError: the file is missing, is not YAML, or holds a key or value that `model` does not allow; the message
            names the line, what was given and, for a misspelt key, the nearest that exists.
    """
    if not path.is_file():
        raise InputError("there is no such file", where=path)
    try:
        # The round-trip loader keeps line numbers, refuses duplicate keys and builds plain data only.
        document = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"the file is not UTF-8 ({error})", where=path) from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise InputError(f"not valid YAML: {error.problem}", where=path, line=line) from error
    try:
        return model.model_validate(_plain(document))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(_explain(first, model), where=path, line=_line(document, first["loc"])) from error


def _plain(node: Any) -> Any:
    """Return ruamel's containers as dicts and lists, merge keys (``<<``) resolved."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return node


def _explain(error: Any, model: type[BaseModel]) -> str:
    location = [str(part) for part in error["loc"]]
    name = ".".join(location)
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], _field_names(model), n=1)
        return f"unknown key '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")
    if error["type"] == "missing":
        return f"'{name}' is missing"
    given = f" (given: {error['input']!r})" if not isinstance(error["input"], dict) else ""
    return f"'{name}': {error['msg'].removeprefix('Value error, ')}{given}" if name else error["msg"]


def _field_names(model: type[BaseModel]) -> list[str]:
    """Return every property name in `model`'s schema, nested models included."""
    schema = model.model_json_schema()
    return [name for part in (schema, *schema.get("$defs", {}).values()) for name in part.get("properties", {})]


def _line(document: Any, location: tuple[int | str, ...]) -> int | None:
    """Return the line, from 1, of the deepest part of `location` that stands in the document."""
    node: Any = document
    line = None
    for part in location:
        try:
            position = (node.lc.key if hasattr(node, "keys") else node.lc.item)(part)
            node = node[part]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
        line = position[0] + 1
    return line
