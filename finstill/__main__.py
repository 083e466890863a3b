"""The command `finstill`. Scoring works wherever the runtime does; everything else is the pipeline's."""

from __future__ import annotations

import sys


def main() -> None:
    if sys.argv[1:2] == ["score"]:
        from finstill.serving.command import main as score

        sys.exit(score(sys.argv[2:]))
    try:
        from finstill.cli import app
    except ModuleNotFoundError as error:
        sys.exit(
            f"error: {error}. Here `finstill score` works alone; for everything else: pip install 'finstill[pipeline]'"
        )
    app()


if __name__ == "__main__":
    main()
