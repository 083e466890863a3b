"""What every asset is given: the profile of this deployment and the folder its artefacts live in."""

from __future__ import annotations

from pathlib import Path

from dagster import ConfigurableResource
from pydantic import Field

from finstill.config.profile import Profile, read_profile
from finstill.config.recipe import Recipe, read_recipes
from finstill.config.workspace import Workspace
from finstill.files import read_json

TUNED = "tuned"
"""The name of the recipe that tuning finds."""

TUNED_FILE = "recipe.json"


class ProfileResource(ConfigurableResource):
    """The profile, read anew in each step, so that an edit counts from the next run on."""

    path: str = Field(description="The profile's YAML file: corpus, columns, task, teacher and recipes.")
    home: str = Field(description="The folder that holds all profiles' artefacts.")
    cache: str = Field(description="Folder or object-store URL of the soft labels, shared by all profiles.")
    study: str = Field("", description="SQLAlchemy URL of the tuning's database; without one, an SQLite file.")
    ray: str = Field("", description="Address of the Ray cluster that labels; empty for this machine.")
    drop: str = Field("", description="Folder or object-store URL where files for the corpus arrive; empty for none.")

    def profile(self) -> Profile:
        return read_profile(Path(self.path))

    def recipes(self) -> dict[str, Recipe]:
        """Return the recipes of the profile's file and, where the tuning has found one, `tuned`.

        A recipe of that name in the file goes first: so a find can be written down and kept.
        """
        profile = self.profile()
        found = self.workspace.tuning / TUNED_FILE
        tuned = {TUNED: Recipe.from_stored(read_json(found))} if found.is_file() else {}
        recipes = read_recipes(profile.recipes, labels=profile.task.labels)
        return recipes | {name: recipe for name, recipe in tuned.items() if name not in recipes}

    def inputs(self) -> str:
        """Return a digest of all that students are made from, without reading a text or a weight.

        Raises:
            InputError: a source does not exist, or an imported teacher.
            UnreachableError: the hub does not answer.
        """
        import finstill
        from finstill.corpus.state import checkpoint_state, files_state, source_state
        from finstill.files import digest

        settings = self.profile()
        sources = [source for source in (settings.corpus, settings.out_of_domain) if source is not None]
        members = settings.teacher.ensemble
        checkpoints = [settings.teacher.starting_checkpoint, *(each.checkpoint for each in members if each.checkpoint)]
        states = [*map(source_state, sources), *map(checkpoint_state, checkpoints)]
        states += [files_state(settings.corrections.rglob("*")), *self._imported_rows()]
        return digest(finstill.__version__, Path(self.path), settings.recipes, *states)

    def _imported_rows(self) -> list[str]:
        """Return fingerprint and number of rows of each imported teacher: more rows may have come."""
        from finstill.cache.imported import find_imported

        teacher = self.profile().teacher
        caches = [find_imported(self.cache, each.imported) for each in (teacher, *teacher.ensemble) if each.imported]
        return [f"{cache.fingerprint} {cache.query(lambda cached: cached.count_rows())}" for cache in caches]

    @property
    def workspace(self) -> Workspace:
        return Workspace.of_profile(Path(self.home), Path(self.path))
