"""The field's data sets as they are published: what a profile need not say where it names one.

It imports nothing of Finstill, so that a profile can be read with it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class KnownDataSet:
    """How a data set is published.

    Attributes:
        files: pattern of the names of its files within a folder or a zip.
        settings: of a corpus in a profile, which the profile's own go before.
        quotes: whether cells may stand in double quotes.
        targets: returns the labels of all targets of a row from the value of its label column; None where a row has
            one label.
    """

    files: str
    settings: Mapping[str, Any]
    quotes: bool = True
    targets: Callable[[Any], list[str]] | None = field(default=None)


def _scores(info: Any) -> list[str]:
    """Return FiQA's sentiment scores of all targets of a sentence."""
    found = json.loads(info) if isinstance(info, str) else info
    return [str(target["sentiment_score"]) for target in found or []]


def _decisions(decisions: Any) -> list[str]:
    """Return SEntFiN's labels of all entities of a headline, from a dictionary that is written out as text."""
    return [str(label) for label in ast.literal_eval(decisions).values()]


KNOWN = {
    "financial_phrasebank": KnownDataSet(
        # The others hold subsets of its sentences, on which more annotators agree.
        files="Sentences_50Agree.txt",
        settings={
            "encoding": "iso-8859-1",
            "delimiter": "@",
            "columns": ("sentence", "label"),
            "text": "sentence",
            "label": "label",
            "name": "financial_phrasebank",
            "licence": "cc-by-nc-sa-3.0",
        },
        quotes=False,
    ),
    "financial_phrasebank_kaggle": KnownDataSet(
        files="all-data.csv",
        settings={
            "encoding": "iso-8859-1",
            "columns": ("label", "sentence"),
            "text": "sentence",
            "label": "label",
            "name": "financial_phrasebank",
            "licence": "cc-by-nc-sa-3.0",
        },
    ),
    "fiqa": KnownDataSet(
        files="*.json",
        settings={
            "text": "sentence",
            "label": "info",
            "id": "id",
            "thresholds": (-0.1, 0.1),
            "name": "fiqa",
        },
        targets=_scores,
    ),
    "twitter_financial_news": KnownDataSet(
        files="sent_*.csv",
        settings={
            "text": "text",
            "label": "label",
            "label_names": {"0": "negative", "1": "positive", "2": "neutral"},
            "name": "twitter_financial_news",
            "licence": "mit",
        },
    ),
    "sentfin": KnownDataSet(
        files="*.csv",
        settings={"text": "Title", "label": "Decisions", "id": "S No.", "name": "sentfin"},
        targets=_decisions,
    ),
}
"""The known data sets, by the name that `corpus.known` gives."""
