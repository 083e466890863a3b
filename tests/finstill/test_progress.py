"""Progress lines say how far a stage is, at what pace, and how long it still takes."""

from __future__ import annotations

import logging

import pytest

from finstill.progress import progress_logger


@pytest.mark.parametrize(
    ("unit", "counts", "seconds", "line"),
    [
        ("texts", [4000], 4.0, "4,000 of 10,000 texts, 1,000 a second, 6 s left"),
        ("train rows", [3], 3.0, "3 of 10,000 train rows, 1 a second, 9,997 s left"),
        ("steps", [1], 4.2, "1 of 10,000 steps, 4.2 s a step, 41,996 s left"),
        ("train rows", [1, 1], 5.0, "2 of 10,000 train rows, 5.0 s a train row, 49,990 s left"),
        ("steps", [9999, 1], 20_000, "10,000 of 10,000 steps, 4.0 s a step, took 40,000.0 s"),
    ],
)
def test_a_line_gives_things_a_second_or_where_that_is_below_one_seconds_a_thing(
    unit: str,
    counts: list[int],
    seconds: float,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = 100.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    caplog.set_level(logging.INFO)
    advance = progress_logger(logging.getLogger("progress"), "student", 10_000, unit)
    for count in counts:
        clock += seconds
        advance(count)
    assert caplog.messages[-1] == f"student: {line}"


def test_a_stage_with_nothing_to_do_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    progress_logger(logging.getLogger("progress"), "scores", 0, "texts")(0)
    (message,) = caplog.messages
    assert message.startswith("scores: 0 of 0 texts, 0 a second, took 0")


def test_of_an_unknown_number_the_pace_alone_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = 100.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    caplog.set_level(logging.INFO)
    advance = progress_logger(logging.getLogger("progress"), "corpus", None, "rows read")
    advance(5)
    clock += 3
    advance(25)
    assert caplog.messages == ["corpus: 30 rows read, 10 a second"]
