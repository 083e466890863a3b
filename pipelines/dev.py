"""`python -m pipelines.dev`: the Dagster UI and daemon on the profile's own instance."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from finstill.errors import InputError
from pipelines.deployment import prepare_instance, profile_path


def main() -> None:
    """Become `dg dev`."""
    try:
        profile = profile_path()
        os.environ["FINSTILL_PROFILE"] = str(profile)
        prepare_instance(profile)
    except InputError as error:
        sys.exit(f"Stopped. {error}")
    dg = Path(sys.executable).parent / "dg"
    os.execv(dg, [str(dg), "dev", *sys.argv[1:]])


if __name__ == "__main__":
    main()
