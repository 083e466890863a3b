"""Progress of long work, as log lines: they read the same on a terminal, in Dagster's event log and in a file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 2.0


def progress_logger(logger: logging.Logger, stage: str, total: int, unit: str) -> Callable[[int], None]:
    """Return a function to call with the number of `unit` just finished.

    At most every two seconds, and at the end, it logs how many of `total` are done, the rate and the time left.
    """
    started = last_line = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last_line
        done += count
        now = time.monotonic()
        if done < total and now - last_line < SECONDS_BETWEEN_LINES:
            return
        last_line = now
        rate = done / max(now - started, 1e-9)
        left = f"{(total - done) / rate:,.0f} s left" if done < total else f"took {now - started:,.1f} s"
        logger.info("%s: %s of %s %s, %s a second, %s", stage, f"{done:,}", f"{total:,}", unit, f"{rate:,.0f}", left)

    return advance
