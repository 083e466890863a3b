"""How the student in service holds on what has arrived since: beside its teacher, night by night."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import bootstrap, fisher_exact, ttest_ind_from_stats
from tokenizers import Tokenizer

from finstill.config.task import Task
from finstill.corpus.merge import key_halves
from finstill.corpus.text import KEY_BYTES
from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import unknown_id
from finstill.evaluation.classes import wilson_interval
from finstill.files import read_json, whole_file, write_json
from finstill.metrics import agreement, row_kl
from finstill.serving.growing_table import read_scores
from finstill.serving.package import Package
from finstill.training.rows import training_rows

NIGHTS_FILE = "nights.json"

SEEN_FILE = "seen.parquet"
"""The keys of the texts that were there before."""

LEAST_TEXTS = 30
"""New texts that are compared at least: fewer say nothing of the others."""

SAMPLE = 1000
"""New texts that are compared at most."""

RESAMPLES = 2000

LEVEL = 0.05
"""A student that still holds is named in at most this share of the nights."""


@dataclass(frozen=True)
class Night:
    """What was measured of a night's new texts, those of the validation and test splits: no student learned from them.

    Attributes:
        recorded: when, ISO 8601.
        champion, digest: the student in service and its package.
        texts: new texts that were compared.
        agreement: share of them that get the teacher's class, with its 95% Wilson interval.
        kl_to_teacher: mean Kullback-Leibler divergence from the teacher, nats, with its 95% interval by the bootstrap.
        alerts_per_thousand: texts that are decided to have the label, with its 95% Wilson interval; None where the
            student decides about none.
        mean_tokens: number of tokens of a text, those of all its windows where it is read in several.
        unknown_share: share of the tokens that the vocabulary does not have.
        classes: share of the texts by the student's label.
        kl_deviation: standard deviation of the divergence over the texts, nats; None in a night of an older version.
        teacher: the fingerprint of the one it is measured beside; None in a night of an older version.
    """

    recorded: str
    champion: str
    digest: str
    texts: int
    agreement: tuple[float, float, float]
    kl_to_teacher: tuple[float, float, float]
    alerts_per_thousand: tuple[float, float, float] | None
    mean_tokens: float
    unknown_share: float
    classes: dict[str, float]
    kl_deviation: float | None = None
    teacher: str | None = None

    def is_of_another_teacher(self, champion: Package) -> bool:
        """Whether the champion was measured beside another teacher at its promotion; False where that is not known."""
        return self.teacher not in (None, champion.teacher)


def record_night(
    corpus: Path,
    tokens: Path,
    teacher_logits: Path,
    scores: Path,
    task: Task,
    champion: Package,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    teacher: str,
    recorded: str,
) -> list[Night]:
    """Measure the texts that came since the last call, and return all nights that were recorded.

    The teacher has answered them for the night's labelling, so nothing is run. The first call measures texts of both
    splits as they stand. Fewer than `LEAST_TEXTS` new ones wait for those of the next night.

    Args:
        corpus, tokens, teacher_logits: Parquet files as `training_rows` takes them.
        scores: the folder of the champion's answers, see `finstill.serving.growing_table`.
        tokenizer: the teacher's.
        folder: keeps the record.
        teacher: the fingerprint of the one whose logits these are; see `finstill.teacher.export.ensemble_fingerprint`.
        recorded: the time that stands in the record.

    Raises:
        InputError: the files do not belong together.
    """
    nights, seen_file = read_nights(folder), folder / SEEN_FILE
    seen = pq.read_table(seen_file)["key"] if seen_file.is_file() else pa.chunked_array([], pa.binary(KEY_BYTES))
    texts = pq.read_table(corpus, columns=["key", "text"])
    rows = training_rows(corpus, tokens, task, teacher_logits)
    keys, new = [], []
    for split in ("validation", "test"):
        own = texts["key"].take(pa.array(rows[split].places_among(texts["text"])))
        unseen = pc.invert(pc.is_in(own, seen.combine_chunks()))
        keys.append(own.filter(unseen))
        new.append(rows[split].texts_at(np.flatnonzero(unseen.to_numpy())))
    came = pa.chunked_array([chunk for each in keys for chunk in each.chunks], pa.binary(KEY_BYTES)).combine_chunks()
    if len(came) < LEAST_TEXTS:
        return nights
    # Keys are hashes, so that any of their bits make a random sample. The first ones may say the split.
    sample = np.sort(np.argsort(key_halves(pa.chunked_array([came]))[:, 1])[:SAMPLE])
    validation, test = new
    of_test = np.searchsorted(sample, len(keys[0]))
    chosen = [validation.texts_at(sample[:of_test]), test.texts_at(sample[of_test:] - len(keys[0]))]
    ids = TokenIds.joined([each.input_ids for each in chosen])
    read = [each.whole_texts().teacher_logits for each in chosen]
    logits = np.concatenate([each for each in read if each is not None])
    further = ["label", *(["decision"] if champion.decision else [])]
    probabilities, said = read_scores(scores, came.take(pa.array(sample)), task.labels, further)
    nights.append(_night(probabilities, said, logits, ids, champion, tokenizer, teacher, recorded))
    folder.mkdir(parents=True, exist_ok=True)
    # The record first: a night that was cut off between the two is measured once more, and none is lost.
    write_json(folder / NIGHTS_FILE, [asdict(night) for night in nights])
    with whole_file(seen_file) as unfinished:
        pq.write_table(pa.table({"key": pa.chunked_array([*seen.chunks, came])}), unfinished)
    return nights


def read_nights(folder: Path) -> list[Night]:
    """Return the nights that were recorded, the oldest first."""
    file = folder / NIGHTS_FILE
    if not file.is_file():
        return []
    measures = ("agreement", "kl_to_teacher", "alerts_per_thousand")
    return [
        Night(**{**values, **{name: values[name] and tuple(values[name]) for name in measures}})
        for values in read_json(file)
    ]


def left_the_promotion(night: Night, champion: Package) -> list[str]:
    """Return which measures of a night are not those of the student's promotion any more, as sentences.

    The night's texts and the test texts of the promotion are two samples, and chance is in both. Shares are set against
    each other by Fisher's exact test (Fisher 1934, "Statistical Methods for Research Workers"), mean divergences by
    Student's test (Student 1908, "The Probable Error of a Mean") with the variance of both samples together: a student
    that holds has one variance, and the texts of a night may be too few to tell it. Each is at `LEVEL` divided by the
    number of measures (Bonferroni), so that a student that holds is named in at most some 5% of the nights.

    A package or a night of an older version does not say how the divergence varies over texts. It has then left the
    promotion where the value of the promotion lies outside of the night's interval. Where the night is of another
    teacher, agreement and divergence are from two teachers, and the alert rate alone is tested.
    """
    measured = champion.measured
    at_promotion = {"alerts_per_thousand": (measured.get("decision") or {}).get("alerts_per_thousand")}
    if not night.is_of_another_teacher(champion):
        # An older version called the divergence otherwise.
        divergence = measured.get("kl_to_teacher", measured.get("divergence"))
        at_promotion = {"agreement": measured["agreement"], "kl_to_teacher": divergence, **at_promotion}
    both = {
        name: (getattr(night, name), before)
        for name, before in at_promotion.items()
        if before is not None and getattr(night, name) is not None
    }
    found = []
    for name, (now, before) in both.items():
        p = _p_of_no_change(name, now[0], before, night, measured)
        if not now[1] <= before <= now[2] if p is None else p < LEVEL / len(both):
            found.append(f"{name} is {now[0]:.3g} ({now[1]:.3g} to {now[2]:.3g}), and was {before:.3g} at promotion.")
    return found


def _p_of_no_change(name: str, now: float, before: float, night: Night, measured: dict[str, Any]) -> float | None:
    """Return the p-value of the test that a measure has not changed; None where its variance over texts is unknown."""
    texts, rows = night.texts, measured["test_rows"]
    if name == "kl_to_teacher":
        deviations = night.kl_deviation, measured.get("kl_deviation")
        if None in deviations:
            return None
        return float(ttest_ind_from_stats(now, deviations[0], texts, before, deviations[1], rows).pvalue)
    of = 1000 if name == "alerts_per_thousand" else 1
    hits, hits_before = round(now / of * texts), round(before / of * rows)
    return float(fisher_exact([[hits, texts - hits], [hits_before, rows - hits_before]]).pvalue)


def _night(
    probabilities: np.ndarray,
    said: pa.Table,
    teacher_logits: np.ndarray,
    ids: TokenIds,
    champion: Package,
    tokenizer: Tokenizer,
    teacher: str,
    recorded: str,
) -> Night:
    rows = said.num_rows
    student = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    kl = row_kl(student, teacher_logits)
    alerts = None if champion.decision is None else pc.sum(said["decision"]).as_py()
    unknown = unknown_id(tokenizer)
    return Night(
        recorded=recorded,
        champion=champion.name,
        digest=champion.digest,
        texts=rows,
        agreement=_share(round(rows * agreement(student, teacher_logits)), rows),
        kl_to_teacher=(float(kl.mean()), *_interval_of_mean(kl)),
        alerts_per_thousand=None if alerts is None else _share(alerts, rows, 1000),
        mean_tokens=float(ids.lengths.sum() / rows),
        unknown_share=0.0
        if unknown is None
        else sum(list(each).count(unknown) for each in ids) / int(ids.lengths.sum()),
        classes={each["values"]: each["counts"] / rows for each in pc.value_counts(said["label"]).to_pylist()},
        kl_deviation=float(kl.std()),
        teacher=teacher,
    )


def _share(hits: int, rows: int, of: int = 1) -> tuple[float, float, float]:
    low, high = wilson_interval(hits, rows)
    return of * hits / rows, of * low, of * high


def _interval_of_mean(values: np.ndarray) -> tuple[float, float]:
    drawn = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0).confidence_interval
    return float(drawn.low), float(drawn.high)


def table_of(nights: Sequence[Night]) -> list[dict[str, Any]]:
    """Return a row a night, the latest first."""
    return [
        {
            "recorded": night.recorded,
            "champion": night.champion,
            "texts": night.texts,
            **{
                name: "" if value is None else f"{value[0]:.3g} ({value[1]:.3g} to {value[2]:.3g})"
                for name, value in (
                    ("agreement", night.agreement),
                    ("kl_to_teacher", night.kl_to_teacher),
                    ("alerts_per_thousand", night.alerts_per_thousand),
                )
            },
            "mean_tokens": night.mean_tokens,
            "unknown_share": night.unknown_share,
            **{f"share_of_{label}": share for label, share in sorted(night.classes.items())},
        }
        for night in reversed(nights)
    ]
