"""`python -m pipelines.dev`: the Dagster UI and daemon on the profile's own instance."""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path

from dagster import DagsterInstance

from finstill.errors import InputError
from pipelines.deployment import prepare_instance, profile_path
from pipelines.recovery import note_lost_runs


def main() -> None:
    """Become `dg dev`, which also ends the runs that another left when it was killed."""
    try:
        profile = profile_path()
        os.environ["FINSTILL_PROFILE"] = str(profile)
        lock = (prepare_instance(profile) / "serving.lock").open("w")
    except InputError as error:
        sys.exit(f"Stopped. {error}")
    # It stays open in what this process becomes: the system gives the lock up when that has ended.
    os.set_inheritable(lock.fileno(), True)
    with suppress(BlockingIOError), DagsterInstance.get() as instance:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        note_lost_runs(instance)
    dg = Path(sys.executable).parent / "dg"
    os.execv(dg, [str(dg), "dev", *sys.argv[1:]])


if __name__ == "__main__":
    main()
