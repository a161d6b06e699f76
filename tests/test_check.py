import math

import numpy as np
import pytest
import torch

import aeot
from aeot import _check
from aeot._rng import forked, generator, stream_seed


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: _check.integer("n", 2.5), "n must be a whole number >= 1, got 2.5"),
        (lambda: _check.integer("n", True), "got True"),
        (lambda: _check.integer("n", 0), ">= 1, got 0"),
        (lambda: _check.real("tol", math.nan, above=0), "tol must be a finite number > 0, got nan"),
        (lambda: _check.real("tol", 0.0, above=0.0), "got 0.0"),
        (lambda: _check.real("tol", 2, minimum=0, maximum=1), ">= 0 and <= 1, got 2"),
        (lambda: _check.choice("m", "x", ["a", "b"]), "m must be one of 'a', 'b', got 'x'"),
        (lambda: _check.points("x", np.zeros((2, 3)), dim=4), "x must have 4 columns, got 3"),
        (lambda: _check.points("x", np.zeros((1, 3)), min_rows=2), "at least 2 row"),
        (lambda: _check.points("x", ["a"]), "x must be a numeric array"),
        (lambda: _check.array("x", [1.0, math.inf]), r"the first at index \(1,\)"),
        (lambda: _check.array("x", [1j]), "real array"),
        (lambda: _check.masses([0.5, 0.6], 2), "sum to 1, got 1.1; divide by masses.sum()"),
        (lambda: _check.masses([1.5, -0.5], 2), "positive, got -0.5 at index 1"),
        (lambda: _check.masses([1.0], 2), r"shape \(2,\)"),
    ],
)
def test_messages_say_what_came_and_the_way_out(call, words):
    with pytest.raises(ValueError, match=words.replace("masses.sum()", r"masses.sum\(\)")):
        call()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((3, 2)), "ndarray of shape (3, 2), float64"),
        (torch.zeros(4, requires_grad=True), "Tensor of shape (4,), torch.float32"),
        (torch.tensor(2), "Tensor 2 of shape (), torch.int64"),
        ([1] * 1000, "[1, 1, 1, 1, ...]"),
        ({"a": [1] * 1000}, "{'a': [1, 1, 1, 1, ...]}"),
        (float, "the class float"),
        (None, "None"),
        (np.float64(3.0), "np.float64(3.0)"),
        ("x" * 1000, None),
        (aeot.UniformBox(dim=1000), None),
    ],
)
def test_no_message_prints_a_whole_array(value, words):
    assert words in (None, _check.shown(value))
    assert len(_check.shown(value)) < 110


def test_a_mistyped_choice_is_told_what_was_meant():
    with pytest.raises(ValueError, match="got 'nwton'; did you mean 'newton'"):
        _check.choice("method", "nwton", ["adam", "newton"])
    with pytest.raises(ValueError, match="got 'zzz'$"):
        _check.choice("method", "zzz", ["adam", "newton"])


def test_dtypes_are_kept_and_integers_become_float32():
    assert _check.array("x", np.zeros(2)).dtype == torch.float64
    assert _check.array("x", np.zeros(2, np.float32)).dtype == torch.float32
    assert _check.array("x", [1, 2]).dtype == torch.float32


def test_masses_sum_to_one_in_float64():
    weights = _check.masses(np.array([1, 2, 4], np.float32) / 7, 3)
    assert weights.dtype == torch.float64
    assert abs(float(weights.sum()) - 1) < 1e-15


def test_streams_differ_by_seed_and_by_every_key():
    seeds = {stream_seed(s, *k) for s in (0, 1) for k in [(), ("a",), ("b",), ("a", 0), ("a", 1)]}
    assert len(seeds) == 10


def test_forked_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    with forked(7):
        a = torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    with forked(7):
        assert torch.equal(torch.rand(3), a)
    x, y = (torch.rand(3, generator=generator(7, "x")) for _ in range(2))
    assert torch.equal(x, y)
