"""`python -m finstill` is the command `finstill`."""

from __future__ import annotations

import sys

from finstill.cli import main

if __name__ == "__main__":
    sys.exit(main())
