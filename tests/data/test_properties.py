"""Data of any shape and type: what goes in comes out, and batches cut one row of permutations."""

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from strategies import SEEDS

import aeot
from aeot.data import filters
from aeot.data.arrays import digest, distinct, indices, resize

BYTES = arrays.arrays(
    np.uint8, st.tuples(*[st.integers(1, 4), st.sampled_from([1, 3]), *[st.integers(2, 7)] * 2])
)


@given(BYTES)
def test_bytes_come_back_unchanged_in_every_order_of_axes(images):
    tensor = torch.from_numpy(images)
    data = aeot.tensors(images)
    assert torch.equal(data.values, tensor)
    rows = data[:]
    assert rows.dtype == torch.float32
    assert float(rows.abs().max()) <= 1
    assert torch.equal(aeot.to_uint8(rows), tensor)
    assert torch.equal(aeot.to_uint8(filters.quantise(rows)), tensor)
    last = np.moveaxis(images, 1, -1)
    if last.shape[1] not in (1, 3):  # else the axes could be read either way
        assert torch.equal(aeot.tensors(last).values, tensor)
    flipped = aeot.tensors(images[:, :, ::-1])
    assert torch.equal(flipped.values, tensor.flip(2))


@given(BYTES, st.sampled_from([(0.0, 1.0), (0.0, 255.0), (-3.0, 5.0)]))
def test_floats_of_a_range_become_the_same_images_as_bytes(images, value_range):
    black, white = value_range
    floats = black + (white - black) * images.astype(np.float64) / 255
    data = aeot.tensors(np.clip(floats, black, white), value_range=value_range)
    assert torch.equal(aeot.to_uint8(data[:]), torch.from_numpy(images))


@given(
    arrays.arrays(
        np.int64, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=st.integers(-2, 2)
    ),
    st.booleans(),
)
def test_equal_rows_are_found_as_a_dict_finds_them(table, floating):
    rows = torch.from_numpy(table)
    rows = rows / 2 * -1.0 if floating else rows  # halves, and zeros with a sign
    first, kind = distinct(rows)
    known = {}
    expected = [known.setdefault(tuple(row), len(known)) for row in (rows + 0).tolist()]
    assert kind.tolist() == expected
    assert [expected.index(k) for k in range(len(known))] == first.tolist()


@given(st.integers(1, 40), st.integers(1, 50), SEEDS, st.integers(0, 9))
def test_batches_cut_one_row_of_permutations_and_go_on_anywhere(n, size, seed, start):
    epochs = 3
    batches = list(itertools.islice(indices(n, size, seed=seed), -(-epochs * n // size)))
    row = torch.cat(batches)[: epochs * n].reshape(epochs, n)
    assert all(sorted(epoch) == list(range(n)) for epoch in row.tolist())
    assert all(len(batch) == size for batch in batches)
    resumed = itertools.islice(indices(n, size, seed=seed, start=start), 2)
    straight = itertools.islice(indices(n, size, seed=seed), start, start + 2)
    assert all(torch.equal(a, b) for a, b in zip(resumed, straight, strict=True))


@given(BYTES, SEEDS)
def test_a_digest_is_of_the_values_in_their_order(images, seed):
    data = aeot.tensors(images)
    assert digest(aeot.tensors(images.copy())) == digest(data)
    changed = images.copy()
    changed.flat[np.random.default_rng(seed).integers(images.size)] ^= 1
    assert digest(aeot.tensors(changed)) != digest(data)


@given(BYTES, st.floats(0, 0.8))
def test_low_pass_is_an_orthogonal_projection(images, cutoff):
    rows = aeot.tensors(images)[:].double()
    kept = filters.low_pass(rows, cutoff)
    assert torch.allclose(filters.low_pass(kept, cutoff), kept, atol=1e-12)
    assert abs(float((kept * (rows - kept)).sum())) < 1e-9 * rows.numel()
    assert torch.allclose(kept.mean((2, 3)), rows.mean((2, 3)), atol=1e-12)


@given(
    st.integers(1, 4), st.integers(2, 9), st.integers(2, 9), st.integers(1, 12), st.integers(0, 255)
)
def test_one_gray_stays_that_gray_at_any_size(n, height, width, size, gray):
    images = torch.full((n, 3, height, width), gray, dtype=torch.uint8)
    resized = resize(images, size)
    assert resized.shape == (n, 3, size, size)
    assert bool((resized == gray).all())
