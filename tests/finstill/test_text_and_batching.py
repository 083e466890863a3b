"""Normal form and key of a text; batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finstill.corpus.splits import SPLITS, split_of
from finstill.corpus.text import CHARACTERS_TO_LOOK_AT, MARKS_IN_A_ROW, normalise, text_key, unescaped
from finstill.corpus.windows import SENTENCE_END
from finstill.inference.batching import length_sorted_batches, pad


@given(st.text(st.characters(exclude_categories=())))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text("a\u0300\u0316\u0344\uff9e", min_size=MARKS_IN_A_ROW + 1, max_size=200))
def test_normalising_a_long_text_twice_changes_nothing_more(marks: str) -> None:
    once = normalise(marks + "b" * CHARACTERS_TO_LOOK_AT)
    assert normalise(once) == once


@pytest.mark.timeout(20)
def test_marks_in_a_row_take_no_more_time_than_letters() -> None:
    # Their number squared would be an hour.
    assert normalise("a" + "\u0300\u0316" * 1_000_000 + " b") == normalise("a" + "\u0300\u0316" * 15 + " b")


@pytest.mark.timeout(20)
def test_end_marks_in_a_row_take_no_more_time_than_letters() -> None:
    assert SENTENCE_END.search("!" * 1_000_000) is None
    assert SENTENCE_END.search("x" + "!?" * 3 + "\u6f22").span() == (1, 7)


def test_an_entity_whose_number_is_too_long_stays_as_it_is() -> None:
    number = "&#" + "1" * 5000 + ";"
    assert unescaped(f"{number} &amp; more") == f"{number} &amp; more"
    assert unescaped("&amp; more") == "& more"


def test_shares_of_the_splits() -> None:
    splits = [split_of(text_key(str(i))) for i in range(20_000)]
    shares = [splits.count(split) / len(splits) for split in SPLITS]
    assert shares == pytest.approx([0.70, 0.12, 0.18], abs=0.01)


@given(st.lists(st.integers(1, 128), min_size=1, max_size=200), st.integers(8, 2048))
def test_every_text_is_in_one_batch_and_no_batch_exceeds_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(length_sorted_batches(lengths, budget))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_padding_stands_at_the_end_and_is_masked() -> None:
    input_ids, mask = pad([[7, 8, 9], [5]])
    assert input_ids.tolist() == [[7, 8, 9], [5, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
