"""What every asset is given: the profile of this deployment and the folder its artefacts live in."""

from __future__ import annotations

from pathlib import Path

from dagster import ConfigurableResource
from pydantic import Field

from finstill.profile import Profile, read_profile
from finstill.students.recipe import Recipe, read_recipes
from finstill.workspace import Workspace


class ProfileResource(ConfigurableResource):
    """The profile, read anew in each step, so that an edit counts from the next run on."""

    path: str = Field(description="The profile's YAML file: corpus, columns, task, teacher and recipes.")
    home: str = Field(description="The folder that holds all profiles' artefacts.")
    cache: str = Field(description="Folder or object-store URL of the soft labels, shared by all profiles.")

    def profile(self) -> Profile:
        return read_profile(Path(self.path))

    def recipes(self) -> dict[str, Recipe]:
        return read_recipes(self.profile().recipes)

    @property
    def workspace(self) -> Workspace:
        return Workspace(Path(self.home).resolve() / Path(self.path).stem)
