"""Normal form and key of a text; batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finstill.corpus.splits import SPLITS, split_of
from finstill.corpus.text import normalise, text_key
from finstill.inference.batching import length_sorted_batches, pad


@given(st.text(st.characters(exclude_categories=())))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


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
