"""Any tree of tensors and plain values is saved, loaded and put together again the same."""

import json
import tempfile
from pathlib import Path

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import SEEDS, few

from aeot import _io

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32]
DTYPES += [torch.uint8, torch.bool]
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
PLAIN |= st.floats(allow_nan=False)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    g = torch.Generator().manual_seed(draw(SEEDS))
    values = torch.randn(shape, generator=g) * 9
    values = values.to(draw(st.sampled_from(DTYPES)))
    return values.mT if values.ndim > 1 and draw(st.booleans()) else values


TREES = st.recursive(
    PLAIN | tensors(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text("$ab.t\u00e9", max_size=4) | st.integers(-9, 9), inner, max_size=3),
    ),
    max_leaves=12,
)


def same(a, b):
    """Whether two trees are equal: values, types, shapes."""
    if torch.is_tensor(a):
        return torch.is_tensor(b) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)  # which tells -0.0 from 0.0


def packed(tree):
    try:
        return _io.pack(tree)
    except TypeError as error:  # {"a.b": ..., "a": {"b": ...}}: refused, never mixed up
        assume("same name" not in str(error))
        raise


@given(TREES)
def test_what_is_packed_is_unpacked_the_same(tree):
    found, skeleton = packed(tree)
    assert same(_io.unpack(found, json.loads(json.dumps(skeleton))), tree)


@given(TREES)
@few(2)
def test_what_is_saved_is_loaded_the_same(tree):
    found, skeleton = packed(tree)
    with tempfile.TemporaryDirectory() as folder:
        _io.save(Path(folder) / "m", found, {"tree": skeleton}, kind="Tree")
        stored, config = _io.load(Path(folder) / "m", kind="Tree")
    assert _io.digest(stored) == _io.digest(found)
    assert same(_io.unpack(stored, config["tree"]), tree)


@given(SEEDS, st.sampled_from(["model.safetensors", "config.json", "manifest.json"]), st.booleans())
def test_a_flipped_bit_or_a_cut_is_named_or_was_white_space(seed, name, cut):
    g = torch.Generator().manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        place, tensor = Path(folder) / "m", torch.rand(5, generator=g)
        _io.save(place, {"a": tensor}, {"b": [1]}, kind="Thing")
        file = place / name
        body = bytearray(file.read_bytes())
        at = int(torch.randint(len(body), (), generator=g))
        if cut:
            del body[at:]
        else:
            body[at] ^= 1 << int(torch.randint(8, (), generator=g))
        file.write_bytes(body)
        error = None
        try:
            tensors, config = _io.load(place, kind="Thing")
        except ValueError as found:
            error = found
        if error is not None:
            assert str(place) in str(error)
        else:  # such as the manifest without its last line's end
            assert name == "manifest.json"
            assert torch.equal(tensors["a"], tensor)
            assert config == {"b": [1]}
