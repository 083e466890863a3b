"""Which students were made from something that has changed since: told by data versions, never by times.

Dagster records what was made, and not what was lost since: so it is also looked whether the files stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from dagster import AssetKey, AssetMaterialization, AssetRecordsFilter, DagsterInstance
from dagster._core.definitions.data_version import CODE_VERSION_TAG, DATA_VERSION_TAG, INPUT_DATA_VERSION_TAG_PREFIX

from assets.evaluation import evaluation
from assets.resources import ProfileResource
from assets.students import CHECKPOINT_TAG, PACKAGE_TAG, RECIPE_TAG, student, student_package
from finstill.config.profile import Profile
from finstill.config.recipe import Recipe
from finstill.config.workspace import Workspace
from finstill.corpus.state import checkpoint_state

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

STAGES_OF_A_STUDENT = [student.key, student_package.key, evaluation.key]


def stale_students(
    graph: AssetGraph, recipes: Mapping[str, Recipe], profile: ProfileResource, instance: DagsterInstance
) -> dict[str, str]:
    """Return the recipes whose student is not what it would be if it were made now, each with the reason.

    A student is stale where its recipe, the folder that this names as its checkpoint, what the profile says of
    decisions, HTML entities and the teacher's classes, the code of a stage, or the data version of anything a stage
    reads is another than the one that Dagster recorded with it, where a stage was never materialized, or where what it
    made is gone.
    """
    settings, workspace = profile.profile(), profile.workspace
    reasons = {
        name: next(_reasons(graph, name, recipe, settings, workspace, instance), "") for name, recipe in recipes.items()
    }
    return {name: reason for name, reason in reasons.items() if reason}


def latest_materialization(
    instance: DagsterInstance, key: AssetKey, partition: str | None = None
) -> AssetMaterialization | None:
    """Return what Dagster recorded last of an asset, or of a partition of it."""
    wanted = AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
    found = instance.fetch_materializations(wanted, limit=1).records
    return found[0].asset_materialization if found else None


def _reasons(
    graph: AssetGraph,
    name: str,
    recipe: Recipe,
    settings: Profile,
    workspace: Workspace,
    instance: DagsterInstance,
) -> Iterator[str]:
    folders = [workspace.student(name), workspace.package(name), workspace.evaluation(name)]
    made = {key: latest_materialization(instance, key, name) for key in STAGES_OF_A_STUDENT}
    for (key, materialization), folder in zip(made.items(), folders, strict=True):
        if materialization is None:
            yield "new" if key == student.key else f"{key.to_user_string()} was never made"
            return
        if not folder.is_dir():
            yield "its files are gone"
        tags = materialization.tags or {}
        if key == student.key and tags.get(RECIPE_TAG) != recipe.digest:
            yield "the recipe changed"
        if key == student.key and tags.get(CHECKPOINT_TAG, "") != checkpoint_state(recipe.architecture.checkpoint):
            yield "the folder of the recipe's checkpoint changed"
        if key == student_package.key and tags.get(PACKAGE_TAG, "") != settings.package_settings:
            yield "what the profile says of labels, decisions, entities or the teacher's classes changed"
        if tags.get(CODE_VERSION_TAG) != graph.get(key).code_version:
            yield f"the code of {key.to_user_string()} changed"
        # The first cause is the one to name: where the corpus changed, tokens and logits did too.
        for parent in sorted(graph.get(key).parent_keys, key=graph.toposorted_asset_keys.index):
            current = made[parent] if parent in made else latest_materialization(instance, parent)
            version = (current.tags or {}).get(DATA_VERSION_TAG) if current is not None else None
            if version is not None and parent in made:
                # What Dagster records of a partitioned input is the hash of its partitions' versions, here of one.
                version = sha256(version.encode()).hexdigest()
            if version != tags.get(f"{INPUT_DATA_VERSION_TAG_PREFIX}/{parent.to_user_string()}"):
                yield f"{parent.to_user_string()} changed"
