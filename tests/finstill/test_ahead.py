"""Making the next item while one is worked on."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from finstill.corpus.ahead import ahead


def test_the_next_item_is_made_while_one_is_worked_on() -> None:
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second.set()
        yield 2

    made = ahead(items())
    assert next(made) == 1
    assert second.wait(10)
    assert list(made) == [2]


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("torn")

    made = ahead(items())
    assert next(made) == 1
    with pytest.raises(ValueError, match="torn"):
        next(made)


def test_what_is_left_unfinished_does_not_wait_for_the_next_item() -> None:
    go_on, made = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 1
        go_on.wait(5)
        made.set()
        yield 2

    left = ahead(items())
    assert next(left) == 1
    # As garbage collection does.
    del left
    assert not made.is_set()
    go_on.set()
