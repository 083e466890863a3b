"""Settings read from YAML into validated objects, with errors that name the line."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.tokens import ScalarToken

from finstill.errors import InputError

Settings = TypeVar("Settings", bound=BaseModel)

RENAMED: dict[str, dict[tuple[str, ...], str]] = {
    "ProfileFile": {
        ("other_origin",): "out_of_domain",
        ("teacher", "seen"): "trained_on",
        ("budgets", "divergence"): "kl_to_teacher",
        ("augmentation", "windowed"): "cropped",
    },
    "RecipeBook": {("*", "shape"): "architecture"},
    "Recipe": {("shape",): "architecture"},
    "TeacherGraph": {("seen",): "trained_on"},
}
"""The keys that an older version knew, by what holds them, as the path to each (`*` is any key), with today's name."""

logger = logging.getLogger(__name__)


def read_settings(
    path: Path, model: type[Settings], where: str | Path | None = None, context: Mapping[str, Any] | None = None
) -> Settings:
    """Read the YAML file `path` into `model`. A key's old name is understood, and a warning gives the new one.

    Args:
        where: how messages call the file, where not by its path.
        context: what the model's validators are told of other files.

    Raises:
        InputError: the file is missing, is not YAML, or holds a key or value that `model` does not allow, or a key
            under both names; the message names the line, what was given and, for a misspelt key, the nearest that
            exists.
    """
    where = where or path
    if not path.is_file():
        raise InputError("there is no such file", where=where)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the file is not UTF-8 ({error})", where=where) from error
    try:
        # The round-trip loader keeps line numbers, refuses duplicate keys and builds plain data only.
        document = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise InputError(f"not valid YAML: {error.problem}", where=where, line=line) from error
    except ReaderError as error:
        character, line = text[error.position], text.count("\n", 0, error.position) + 1
        raise InputError(
            f"not valid YAML: the character {character!r} is not allowed", where=where, line=line
        ) from error
    except ValueError as error:
        # YAML reads 2019-06-31 as a date, which does not exist.
        raise InputError(f"not valid YAML: {error}", where=where, line=_line_of_impossible_value(text)) from error
    values = _plain(document)
    as_written = rename_old_keys(values, model.__name__)
    for old, new in RENAMED.get(model.__name__, {}).items():
        if any(location[-1] == old[-1] for location in as_written.values()):
            _warn_once(where, old, new)
    try:
        return model.model_validate(values, context=context)
    except ValidationError as error:
        first = error.errors()[0]
        location = first["loc"]
        for new_location, old_location in as_written.items():
            if location[: len(new_location)] == new_location:
                location = (*old_location, *location[len(new_location) :])
        raise InputError(_explain(first, model), where=where, line=_line(document, location)) from error


def rename_old_keys(values: Any, holder: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Give the old keys in `values`, which is changed, the names of `RENAMED[holder]`.

    A key that stands beside its new name is left as it is.

    Returns:
        The location of each key that was renamed, by its new location.
    """
    renamed = {}
    for (*path, old), new in RENAMED.get(holder, {}).items():
        for location, section in _sections(values, path):
            if old in section and new not in section:
                section[new] = section.pop(old)
                renamed[*location, new] = (*location, old)
    return renamed


def _sections(
    values: Any, path: Sequence[str], location: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield location and content of each mapping at `path`."""
    if not isinstance(values, dict):
        return
    if not path:
        yield location, values
        return
    for key in values if path[0] == "*" else values.keys() & {path[0]}:
        yield from _sections(values[key], path[1:], (*location, key))


# Each step of a run reads its settings several times.
@functools.cache
def _warn_once(where: str | Path, old: tuple[str, ...], new: str) -> None:
    logger.warning(
        "%s: '%s' is called '%s' now; write that, for the next release knows it alone", where, *_both(old, new)
    )


def _both(old: tuple[str, ...], new: str) -> tuple[str, str]:
    """Return the old and the new name of a key as people write them."""
    sections = [part for part in old[:-1] if part != "*"]
    return ".".join((*sections, old[-1])), ".".join((*sections, new))


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
        for old, new in RENAMED.get(model.__name__, {}).items():
            if len(old) == len(location) and all(
                part in ("*", given) for part, given in zip(old, location, strict=True)
            ):
                old_name, new_name = _both((*location[:-1], old[-1]), new)
                return f"'{old_name}' is the old name of '{new_name}', and both are given: leave out '{old_name}'"
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


def _line_of_impossible_value(text: str) -> int | None:
    """Return the line, from 1, of the first value that looks like a date or a number and is none; None if it is none
    of the plain ones."""
    for token in YAML(typ="rt").scan(text):
        if isinstance(token, ScalarToken) and token.plain:
            try:
                YAML(typ="rt").load(token.value)
            except ValueError:
                return token.start_mark.line + 1
    return None


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
