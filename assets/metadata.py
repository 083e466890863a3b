"""How things are shown on an asset's page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from dagster import MetadataValue, TableMetadataValue, TableRecord

OWNERS = ["team:finstill"]

CELL_CHARACTERS = 160


def shortened(text: str, characters: int) -> str:
    """Return a text of so many characters at most."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def cell(text: str, characters: int = CELL_CHARACTERS) -> str:
    """Return a text of the corpus as it may stand in a table: short, and nothing that Markdown or HTML draws."""
    return shortened(text, characters).translate(_ESCAPES)


_ESCAPES = str.maketrans({"<": "‹", ">": "›", "`": "ʼ", "|": "¦", "[": "⁅", "]": "⁆"})


def table(rows: Sequence[Mapping[str, Any]]) -> TableMetadataValue | str:
    """Return rows as a table; floats are cut to four digits, and a cell that a row lacks is empty."""
    if not rows:
        return "none"
    columns = dict.fromkeys(name for row in rows for name in row)
    return MetadataValue.table([TableRecord({name: _short(row.get(name, "")) for name in columns}) for row in rows])


def picture(title: str, png: bytes) -> MetadataValue:
    return MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
