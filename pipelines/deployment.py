"""What a deployment sets by environment variables.

FINSTILL_PROFILE is the name of a built-in profile or the path of a profile's YAML file, `embedded` by default.
FINSTILL_HOME is the folder of all artefacts, `.finstill` by default.
FINSTILL_CACHE is the folder or object-store URL of the soft labels, `cache` in FINSTILL_HOME by default.
FINSTILL_RAY is the address of the Ray cluster on which teachers label, `auto` or `host:port`; by default they label on
this machine.
FINSTILL_STUDY is the database of tuning's studies, an SQLite file beside the artefacts by default.
FINSTILL_NIGHTLY is the cron expression of the nights, in the time zone FINSTILL_TIMEZONE, an IANA name, `UTC` by
default. Where it is set the schedule is on by default; where it is not, it is `0 2 * * *` and off.
FINSTILL_DROP is the folder or object-store URL where new files for the corpus arrive; by default there is none.
FINSTILL_WEBHOOK is the URL that failures are posted to; by default there is none.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dagster import DagsterInstance, EnvVar

from finstill.config.workspace import Workspace
from finstill.errors import InputError

PROFILES = Path(__file__).parent / "profiles"


def profile_path() -> Path:
    """Return the path of this deployment's profile.

    Raises:
        InputError: it is neither a built-in profile nor a file.
    """
    name = os.environ.get("FINSTILL_PROFILE", "embedded")
    for path in (Path(name), PROFILES / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    built_in = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    raise InputError(
        f"'{name}' is neither a file nor a built-in profile",
        where="FINSTILL_PROFILE",
        remedy=f"Built in are {built_in}",
    )


def home() -> Path:
    return Path(os.environ.get("FINSTILL_HOME", ".finstill")).resolve()


def cache_root() -> str:
    return os.environ.get("FINSTILL_CACHE", str(home() / "cache"))


def ray_address() -> str:
    return os.environ.get("FINSTILL_RAY", "")


def study() -> str:
    """Return the URL of tuning's studies as Dagster keeps a secret, by the name of its variable; none is ""."""
    return EnvVar("FINSTILL_STUDY") if "FINSTILL_STUDY" in os.environ else ""


def nightly_cron() -> str | None:
    return os.environ.get("FINSTILL_NIGHTLY") or None


def time_zone() -> str:
    """Return the IANA name of the time zone that schedules are read in.

    Raises:
        InputError: there is no such time zone.
    """
    name = os.environ.get("FINSTILL_TIMEZONE") or "UTC"
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InputError(
            f"'{name}' is not a time zone", where="FINSTILL_TIMEZONE", remedy="Give an IANA name, as Europe/Zurich"
        ) from error
    return name


def drop() -> str:
    return os.environ.get("FINSTILL_DROP", "")


def webhook() -> str | None:
    return os.environ.get("FINSTILL_WEBHOOK") or None


def prepare_instance(profile: Path) -> Path:
    """Point DAGSTER_HOME at the profile's own Dagster instance where it is not set, and return it.

    Each profile has an instance of its own: asset keys are the same for all, and what was materialized for one says
    nothing about another. A new instance starts from the `dagster.yaml` beside this file, and lets as many students
    train at once as there are cores.
    """
    folder = Path(os.environ.setdefault("DAGSTER_HOME", str(Workspace.of_profile(home(), profile).root / "dagster")))
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "dagster.yaml"
    if not settings.exists():
        from joblib import cpu_count

        shutil.copy(Path(__file__).parent / "dagster.yaml", settings)
        with DagsterInstance.from_config(str(folder)) as instance:
            instance.event_log_storage.set_concurrency_slots("training", cpu_count())
    return folder
