"""Which students were made from something that has changed since: told by data versions, never by times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from dagster import AssetKey, AssetMaterialization, AssetRecordsFilter, DagsterInstance

from assets.evaluation import evaluation
from assets.students import PACKAGE_TAG, RECIPE_TAG, student, student_package
from finstill.config.profile import Profile
from finstill.config.recipe import Recipe

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

STAGES_OF_A_STUDENT = [student.key, student_package.key, evaluation.key]

DATA_VERSION = "dagster/data_version"
CODE_VERSION = "dagster/code_version"
INPUT_VERSION = "dagster/input_data_version"


def stale_students(
    graph: AssetGraph, recipes: Mapping[str, Recipe], settings: Profile, instance: DagsterInstance
) -> dict[str, str]:
    """Return the recipes whose student is not what it would be if it were made now, each with the reason.

    A student is stale where its recipe, what the profile says of decisions, the code of a stage, or the data version of
    anything a stage reads is another than the one that Dagster recorded with it, or where a stage was never
    materialized.
    """
    reasons = {name: next(_reasons(graph, name, recipe, settings, instance), "") for name, recipe in recipes.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def latest_materialization(
    instance: DagsterInstance, key: AssetKey, partition: str | None = None
) -> AssetMaterialization | None:
    """Return what Dagster recorded last of an asset, or of a partition of it."""
    wanted = AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
    found = instance.fetch_materializations(wanted, limit=1).records
    return found[0].asset_materialization if found else None


def _reasons(
    graph: AssetGraph, name: str, recipe: Recipe, settings: Profile, instance: DagsterInstance
) -> Iterator[str]:
    made = {key: latest_materialization(instance, key, name) for key in STAGES_OF_A_STUDENT}
    for key, materialization in made.items():
        if materialization is None:
            yield "new" if key == student.key else f"{key.to_user_string()} was never made"
            return
        tags = materialization.tags or {}
        if key == student.key and tags.get(RECIPE_TAG) != recipe.digest:
            yield "the recipe changed"
        if key == student_package.key and tags.get(PACKAGE_TAG, "") != settings.package_settings:
            yield "what the profile says of decisions changed"
        if tags.get(CODE_VERSION) != graph.get(key).code_version:
            yield f"the code of {key.to_user_string()} changed"
        # The first cause is the one to name: where the corpus changed, tokens and logits did too.
        for parent in sorted(graph.get(key).parent_keys, key=graph.toposorted_asset_keys.index):
            current = made[parent] if parent in made else latest_materialization(instance, parent)
            version = (current.tags or {}).get(DATA_VERSION) if current is not None else None
            if version is not None and parent in made:
                # What Dagster records of a partitioned input is the hash of its partitions' versions, here of one.
                version = sha256(version.encode()).hexdigest()
            if version != tags.get(f"{INPUT_VERSION}/{parent.to_user_string()}"):
                yield f"{parent.to_user_string()} changed"
