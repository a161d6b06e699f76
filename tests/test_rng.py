"""Streams of one seed: distinct for distinct keys, the same for the same, and nothing global."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS

from aeot import _rng

KEYS = st.lists(st.integers(0, 99) | st.text(max_size=3), max_size=3)


@given(st.tuples(SEEDS, KEYS), st.tuples(SEEDS, KEYS))
def test_streams_are_distinct_unless_seed_and_keys_are_the_same(first, second):
    a, b = ((seed, tuple(keys)) for seed, keys in (first, second))
    assert (_rng.stream_seed(a[0], *a[1]) == _rng.stream_seed(b[0], *b[1])) == (a == b)
    draws = [torch.rand(4, generator=_rng.generator(seed, *keys)) for seed, keys in (a, b, a)]
    assert torch.equal(draws[0], draws[2])
    assert torch.equal(draws[0], draws[1]) == (a == b)


@given(SEEDS, KEYS)
def test_what_is_drawn_inside_leaves_the_global_generator_alone(seed, keys):
    before = torch.random.get_rng_state()
    with _rng.forked(seed, *keys):
        inside = torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    with _rng.forked(seed, *keys):
        assert torch.equal(torch.rand(3), inside)


def test_ten_thousand_neighbouring_streams_are_distinct():
    found = {
        _rng.stream_seed(seed, key, step)
        for seed in range(10)
        for key in ("a", "b")
        for step in range(500)
    }
    assert len(found) == 10_000
