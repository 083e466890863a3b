"""Jobs: the stages that people run together."""

from __future__ import annotations

from dagster import AssetSelection, define_asset_job
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG

from assets.champion import champion
from assets.comparison import comparison
from assets.corpus import corpus
from assets.evaluation import evaluation
from assets.in_service import in_service
from assets.label_review import label_review
from assets.out_of_domain import out_of_domain
from assets.page import page
from assets.scores import scores
from assets.students import student
from assets.teacher_logits import teacher_logits
from assets.tuning import tuning

A_WEEK = {MAX_RUNTIME_SECONDS_TAG: str(7 * 86_400)}
"""The first labelling of a large corpus, or a search, may take longer than `dagster.yaml` lets another run last."""

LABELLED = AssetSelection.assets(teacher_logits, out_of_domain).upstream() | AssetSelection.assets(corpus)

label = define_asset_job(
    "label",
    LABELLED,
    description="From the corpus to the teacher's logits: only texts the cache has not seen reach the teacher.",
    tags=A_WEEK,
)

nightly_redistillation = define_asset_job(
    "nightly_redistillation",
    LABELLED,
    description="Begins a night: does what label does. When it has ended, the sensor continue_night starts a run of "
    "distil for each student whose inputs changed, then decide, and writes the asset night.",
    tags=A_WEEK,
)

tune = define_asset_job(
    "tune",
    AssetSelection.assets(tuning),
    description="Search for a better recipe on the validation split; what it finds is the student `tuned`.",
    tags=A_WEEK,
)

distil = define_asset_job(
    "distil",
    AssetSelection.assets(student).downstream() & AssetSelection.assets(evaluation).upstream(),
    description="One student from cached logits: train, package, evaluate.",
)

decide = define_asset_job(
    "decide",
    AssetSelection.assets(comparison, champion, scores, label_review, in_service, page),
    description="Compare all evaluated students, write the report, promote where one is shown to be better, score the "
    "texts that the champion has not scored, list the labels that look wrong, record how the champion holds on new "
    "texts, and write the page that runs it in a browser.",
)
