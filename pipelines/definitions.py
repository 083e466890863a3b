"""The code location: every asset, check, job, schedule and sensor, bound to one profile."""

from __future__ import annotations

from dagster import (
    Definitions,
    load_asset_checks_from_modules,
    load_assets_from_modules,
    map_asset_specs,
    multiprocess_executor,
)

import assets.augmented_corpus
import assets.champion
import assets.comparison
import assets.corpus
import assets.evaluation
import assets.out_of_domain
import assets.page
import assets.scores
import assets.students
import assets.teacher
import assets.teacher_logits
import assets.tuning
from assets.resources import ProfileResource
from pipelines.automation import automation, looked_after
from pipelines.deployment import cache_root, home, profile_path, study
from pipelines.jobs import decide, distil, label, tune
from pipelines.new_recipe import add_recipe
from pipelines.nightly import nightly_redistillation
from pipelines.retention import retention, weekly_retention
from pipelines.schedules import nightly
from pipelines.sensors import dropped_files, failure_webhook, new_recipes
from pipelines.summary import NIGHT

# A run loads these once, and forks each step's process from there: torch and transformers take longer to import than
# most steps take. The threads that stand before the fork are OpenBLAS's and jemalloc's, which both know of forks.
PRELOADED = [
    "pipelines.definitions",
    "finstill.packaging.champion",
    "finstill.training.distil",
    "finstill.evaluation.report",
    "finstill.cache.labelling",
    "finstill.teacher.export",
    "finstill.corpus.tokens",
]

# A file a stage, with the checks of what it makes.
STAGES = [
    assets.corpus,
    assets.teacher,
    assets.augmented_corpus,
    assets.teacher_logits,
    assets.out_of_domain,
    assets.tuning,
    assets.students,
    assets.evaluation,
    assets.comparison,
    assets.champion,
    assets.scores,
    assets.page,
]

defs = Definitions(
    assets=[*map_asset_specs(looked_after, load_assets_from_modules(STAGES)), NIGHT],  # type: ignore[arg-type]
    asset_checks=load_asset_checks_from_modules(STAGES),
    jobs=[label, tune, distil, decide, nightly_redistillation, add_recipe, retention],
    schedules=[nightly, weekly_retention],
    sensors=[new_recipes, dropped_files, failure_webhook, automation],
    resources={
        "profile": ProfileResource(path=str(profile_path()), home=str(home()), cache=cache_root(), study=study())
    },
    # One step at a time: each uses all cores, and two that share them take longer than one after the other.
    executor=multiprocess_executor.configured(
        {"max_concurrent": 1, "start_method": {"forkserver": {"preload_modules": PRELOADED}}}
    ),
)
