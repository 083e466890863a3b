"""Progress of long work, as log lines: they read the same on a terminal, in Dagster's event log and in a file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 2.0


def progress_logger(logger: logging.Logger, stage: str, total: int | None, unit: str) -> Callable[[int], None]:
    """Return a function to call with the number of things just finished.

    At most every two seconds, and at the end, it logs how many of `total` are done, the pace and the time left. The
    pace is a number a second, or, where one thing takes longer than a second, the seconds that it takes.

    Args:
        total: None where nobody knows it yet; then the line says how many are done, and at what pace.
        unit: what is counted, a plural in -s such as `train rows`.
    """
    started = last_line = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last_line
        done += count
        now = time.monotonic()
        if (total is None or done < total) and now - last_line < SECONDS_BETWEEN_LINES:
            return
        last_line = now
        rate = done / max(now - started, 1e-9)
        slow = 0 < rate < 1
        pace = f"{1 / rate:,.1f} s a {unit.removesuffix('s')}" if slow else f"{rate:,.0f} a second"
        if total is None:
            logger.info("%s: %s %s, %s", stage, f"{done:,}", unit, pace)
            return
        left = f"{(total - done) / rate:,.0f} s left" if done < total else f"took {now - started:,.1f} s"
        logger.info("%s: %s of %s %s, %s, %s", stage, f"{done:,}", f"{total:,}", unit, pace, left)

    return advance


@contextmanager
def progress_to(handler: logging.Handler) -> Iterator[None]:
    """Give Finstill's log lines to `handler` while the block runs."""
    logger = logging.getLogger("finstill")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
