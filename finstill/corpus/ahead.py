"""Making the next of some items while one is worked on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items, of which a thread makes the next one meanwhile: reading and writing leave it the interpreter."""
    end = object()
    pool = ThreadPoolExecutor(1)
    try:
        following: Future[Any] = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item
    finally:
        # Without waiting: where an error left this unfinished, garbage collection ends it, in whichever thread. One
        # that just starts holds the lock that Python takes when a thread has been waited for.
        pool.shutdown(wait=False)
