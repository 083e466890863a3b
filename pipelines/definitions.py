"""The code location: every asset, check, job, schedule and sensor, bound to one profile."""

from __future__ import annotations

from datetime import timedelta

from dagster import (
    AssetSpec,
    Definitions,
    FreshnessPolicy,
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
import assets.in_service
import assets.label_review
import assets.out_of_domain
import assets.page
import assets.scores
import assets.students
import assets.teacher
import assets.teacher_logits
import assets.tuning
from assets.resources import ProfileResource
from pipelines.deployment import cache_root, drop, home, profile_path, ray_address, study
from pipelines.jobs import decide, distil, label, nightly_redistillation, tune
from pipelines.nights.summary import NIGHT
from pipelines.operations.new_recipe import add_recipe
from pipelines.operations.retention import retention
from pipelines.schedules import nightly, weekly_retention
from pipelines.sensors import continue_night, dropped_files, failure_webhook, new_recipes, recovery

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
    assets.label_review,
    assets.in_service,
    assets.page,
]

READ_BY_PEOPLE = {assets.comparison.comparison.key, assets.champion.champion.key}

# A corpus that does not grow for a week is a source that has run dry, and someone should know.
FRESHNESS = FreshnessPolicy.time_window(fail_window=timedelta(days=7), warn_window=timedelta(days=3))


def with_freshness(spec: AssetSpec) -> AssetSpec:
    """Return an asset's spec, with the freshness policy where people read it."""
    return spec.replace_attributes(freshness_policy=FRESHNESS) if spec.key in READ_BY_PEOPLE else spec


defs = Definitions(
    assets=[*map_asset_specs(with_freshness, load_assets_from_modules(STAGES)), NIGHT],  # type: ignore[arg-type]
    asset_checks=load_asset_checks_from_modules(STAGES),
    jobs=[label, nightly_redistillation, tune, distil, decide, add_recipe, retention],
    schedules=[nightly, weekly_retention],
    sensors=[continue_night, new_recipes, dropped_files, recovery, failure_webhook],
    resources={
        "profile": ProfileResource(
            path=str(profile_path()),
            home=str(home()),
            cache=cache_root(),
            study=study(),
            ray=ray_address(),
            drop=drop(),
        )
    },
    # A run does one step at a time: most use all cores, and two that share them take longer than one after the other.
    executor=multiprocess_executor.configured(
        {"max_concurrent": 1, "start_method": {"forkserver": {"preload_modules": PRELOADED}}}
    ),
)
