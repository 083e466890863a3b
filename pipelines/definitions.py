"""The code location: every asset, check, job and sensor, bound to one profile."""

from __future__ import annotations

from dagster import Definitions, load_asset_checks_from_modules, load_assets_from_modules, multiprocess_executor

import assets.checks
import assets.comparison
import assets.corpus
import assets.other_origin
import assets.page
import assets.scores
import assets.students
import assets.teacher
import assets.tuning
from assets.resources import ProfileResource
from pipelines.deployment import cache_root, home, profile_path, study
from pipelines.jobs import decide, distil, label, tune
from pipelines.sensors import new_recipes

defs = Definitions(
    assets=load_assets_from_modules(
        [
            assets.corpus,
            assets.teacher,
            assets.other_origin,
            assets.tuning,
            assets.students,
            assets.comparison,
            assets.scores,
            assets.page,
        ]
    ),
    asset_checks=load_asset_checks_from_modules([assets.checks]),
    jobs=[label, tune, distil, decide],
    sensors=[new_recipes],
    resources={
        "profile": ProfileResource(path=str(profile_path()), home=str(home()), cache=cache_root(), study=study())
    },
    # One step at a time: each uses all cores, and two that share them take longer than one after the other.
    executor=multiprocess_executor.configured({"max_concurrent": 1}),
)
