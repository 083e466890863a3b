"""Two machines and one volume: processes of different working folders carry on where the other stopped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from finstill.config.workspace import Workspace
from finstill.serving.package import Package
from tests.pipelines.house import Folder

ROOT = Path(__file__).parents[2]

RUN = """
import sys
from dagster import DagsterInstance
import pipelines.definitions
from assets.students import students
from pipelines.deployment import prepare_instance, profile_path
job, *partition = sys.argv[1:]
prepare_instance(profile_path())
with DagsterInstance.get() as instance:
    instance.add_dynamic_partitions(students.name, partition)
    result = pipelines.definitions.defs.resolve_job_def(job).execute_in_process(
        instance=instance, partition_key=partition[0] if partition else None
    )
    assert result.success
"""


def test_what_one_machine_labels_another_distils(tmp_path: Path, tiny_checkpoint: Path, furnished_home: Path) -> None:
    (tmp_path / "profiles").mkdir()
    folder = Folder(tmp_path / "profiles", tiny_checkpoint)
    volume, profile = tmp_path / "volume", folder.root / "mine.yaml"
    shutil.copytree(furnished_home, volume, symlinks=True)

    def run(machine: str, *job: str) -> None:
        (tmp_path / machine).mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FINSTILL_", "DAGSTER_"))}
        settings = {"FINSTILL_HOME": str(volume), "FINSTILL_PROFILE": str(profile), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", RUN, *job],
            cwd=tmp_path / machine,
            env={**kept, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout
        assert not list((tmp_path / machine).iterdir()), "nothing is written to where a process happens to run"

    run("one", "label")
    run("two", "distil", "small")
    assert Package.read(Workspace.of_profile(volume, profile).package("small")).labels


def test_what_a_run_downloads_from_the_hub_lies_on_the_volume_of_all_runs() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((ROOT / "deploy" / "values.yaml").read_text(encoding="utf-8"))
    (code_server,) = values["dagster-user-deployments"]["deployments"]
    assert code_server["includeConfigInLaunchedRuns"]["enabled"]
    for environment in (compose["services"]["code"]["environment"], code_server["env"]):
        assert Path(environment["HF_HOME"]).is_relative_to(environment["FINSTILL_HOME"])
