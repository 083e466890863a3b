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


class ProfileResource(ConfigurableResource):
    """The profile, read anew in each step, so that an edit counts from the next run on."""

    path: str = Field(description="The profile's YAML file: corpus, columns, task, teacher and recipes.")
    home: str = Field(description="The folder that holds all profiles' artefacts.")
    cache: str = Field(description="Folder or object-store URL of the soft labels, shared by all profiles.")
    study: str = Field("", description="SQLAlchemy URL of the tuning's database; without one, an SQLite file.")

    def profile(self) -> Profile:
        return read_profile(Path(self.path))

    def recipes(self) -> dict[str, Recipe]:
        """Return the recipes of the profile's file and, where the tuning has found one, `tuned`.

        A recipe of that name in the file goes first: so a find can be written down and kept.
        """
        found = self.workspace.tuning / "recipe.json"
        tuned = {TUNED: Recipe.from_stored(read_json(found))} if found.is_file() else {}
        recipes = read_recipes(self.profile().recipes)
        return recipes | {name: recipe for name, recipe in tuned.items() if name not in recipes}

    @property
    def workspace(self) -> Workspace:
        return Workspace(Path(self.home).resolve() / Path(self.path).stem)
