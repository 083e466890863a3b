"""A deployment in a folder: a profile with a CSV corpus and a small teacher, and its Dagster instance."""

from __future__ import annotations

from pathlib import Path

from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult

import pipelines.definitions
from assets.resources import ProfileResource
from tests.tiny_corpus import RECIPES, csv_rows


class Folder:
    """What a user has: a profile, recipes and a folder of texts. What is there already is left as it is."""

    def __init__(self, root: Path, checkpoint: Path):
        self.root = root
        self.corpus, self.recipes = root / "texts", root / "recipes.yaml"
        if self.corpus.exists():
            return
        self.corpus.mkdir()
        self.recipes.write_text(RECIPES)
        self.write_profile(checkpoint)
        self.add("first.csv", range(40))

    def write_profile(self, checkpoint: Path, extra: str = "") -> None:
        (self.root / "mine.yaml").write_text(
            "task: sentiment\ncorpus: {path: texts, text: body, label: tone}\n"
            f"teacher: {{checkpoint: {checkpoint}, max_length: 32}}\nrecipes: recipes.yaml\n{extra}"
        )

    def add(self, file: str, numbers: range, more: str = "") -> None:
        (self.corpus / file).write_text("body,tone\n" + csv_rows(numbers) + more)


class House(Folder):
    """Everything of one deployment in this process, and what a test looks at."""

    def __init__(self, root: Path, checkpoint: Path, instance: DagsterInstance):
        super().__init__(root, checkpoint)
        self.instance = instance

    def run(
        self, job: str, config: dict | None = None, partition: str | None = None, tags: dict[str, str] | None = None
    ) -> ExecuteInProcessResult:
        return pipelines.definitions.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            raise_on_error=False,
            partition_key=partition,
            tags=tags,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **(config or {})},
        )

    @property
    def profile(self) -> ProfileResource:
        return pipelines.definitions.defs.resources["profile"]

    def metadata(self, asset: str) -> dict:
        event = self.instance.get_latest_materialization_event(AssetKey(asset))
        assert event is not None
        assert event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}
