import math
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
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
        (lambda: _check.masses([1.0, 0.0], 2), "positive, got 0 at index 1; drop the sites"),
        (lambda: _check.masses([0.5, 0.50001], 2), "sum to 1, got 1.00001"),
        (lambda: _check.points("x", [[0.0], [-1e200]]), "below 1e150 .*, got 1e.200; use another"),
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


FLOATS = np.random.default_rng(0).normal(size=(5, 3))


@pytest.mark.parametrize(
    "given",
    [
        pd.DataFrame(FLOATS),
        pd.DataFrame(np.r_[FLOATS, FLOATS])[lambda t: t.index >= 5],
        pd.DataFrame(FLOATS, dtype="Float64"),
        pl.DataFrame(FLOATS),
        FLOATS.astype(">f8"),
        np.r_[FLOATS, FLOATS][5:],
        FLOATS[::-1][::-1],
        np.repeat(FLOATS, 2, axis=1)[:, ::2],
        FLOATS.astype(object),
        FLOATS.astype(np.longdouble),
        list(FLOATS),
        [pd.Series(row) for row in FLOATS],
        [torch.from_numpy(row) for row in FLOATS],
        np.ma.MaskedArray(FLOATS),
        np.asmatrix(FLOATS),
        np.broadcast_to(FLOATS, (2, 5, 3))[1],
    ],
    ids=lambda given: type(given).__name__,
)
def test_one_door_takes_all_that_is_like_an_array(given):
    for value in (given, given if isinstance(given, list) else given[:]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = _check.array("x", value)
        assert found.dtype == torch.float64
        assert np.array_equal(found.numpy(), FLOATS)


def test_series_of_a_filtered_table_are_read_by_position():
    series = pd.Series(np.arange(6.0))
    assert _check.array("x", series[series > 2]).tolist() == [3, 4, 5]
    assert _check.masses(series[series > 2] / 12, 3).tolist() == [0.25, 4 / 12, 5 / 12]


def test_read_only_arrays_are_shared_without_a_warning():
    code = "import numpy as np; from aeot import _check; x = np.arange(3.); x.flags.writeable = 0"
    code += "; assert _check.array('x', x).data_ptr() == x.ctypes.data"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)  # torch warns once only


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (scipy.sparse.eye(3, format="csr"), "dense array, got csr_matrix.*x.toarray"),
        (torch.eye(3).to_sparse(), "dense array.*x.to_dense"),
        (np.ma.MaskedArray([1.0, 2], [True, False]), "no masked entries, got 1 of them"),
        ([[1.0], [2.0, 3.0]], "numeric array, got list"),
        (pd.DataFrame({"a": ["b"]}), "numeric array, got DataFrame"),
        (pd.Series([1, None], dtype="Int64"), "finite"),
        (pd.Series([1.0, None]), "finite"),
        (pl.Series([1.0, None]), "finite"),
        ([10**400], "numeric array, got list"),
        ({"a": 1}, "numeric array, got dict"),
        (None, "numeric array, got NoneType"),
        ("abc", "numeric array, got str"),
        (np.array([object()]), "numeric array, got ndarray"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "numeric array, got ndarray"),
        (lambda: 0, "numeric array, got function"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(value, words):
    with pytest.raises(ValueError, match=f"x must (be|have) .*{words}") as error:
        _check.array("x", value)
    assert "\n" not in str(error.value)


ROWS = [[1_700_000_000, 2], [1_700_000_007, 3], [-5, 2**30 + 1]]  # no float32 holds them


def of_frame(package):
    columns = {name: [row[k] for row in ROWS] for k, name in enumerate("ab")}
    return pytest.importorskip(package).DataFrame(columns)


def locked(rows):
    rows.flags.writeable = False
    return rows


CONTAINERS = {
    "list": lambda: ROWS,
    "tuple of lists": lambda: tuple(ROWS),
    "floats": lambda: [[float(x) for x in row] for row in ROWS],
    "int64": lambda: np.array(ROWS),
    "uint64": lambda: np.array(ROWS[:2] + [[7, 8]], np.uint64),
    "float64": lambda: np.array(ROWS, float),
    "longdouble": lambda: np.array(ROWS, np.longdouble),
    "objects": lambda: np.array(ROWS, object),
    "big-endian": lambda: np.array(ROWS, ">i8"),
    "big-endian floats": lambda: np.array(ROWS, ">f8"),
    "read-only": lambda: locked(np.array(ROWS, float)),
    "backwards": lambda: np.array(ROWS[::-1], float)[::-1],
    "every other": lambda: np.repeat(np.array(ROWS, float), 2, 0)[::2],
    "Fortran order": lambda: np.asfortranarray(np.array(ROWS, float)),
    "a field of records": lambda: np.array(
        [(0, row) for row in ROWS], dtype=[("tag", "i1"), ("row", "f8", (2,))]
    )["row"],
    "broadcast": lambda: np.broadcast_to(np.array(ROWS[0]), (3, 2)),
    "int64 tensor": lambda: torch.tensor(ROWS),
    "tensor": lambda: torch.tensor(ROWS, dtype=torch.float64),
    "list of tensors": lambda: [torch.tensor(row) for row in ROWS],
    "list of numbers and tensors": lambda: [ROWS[0], torch.tensor(ROWS[1]), ROWS[2]],
    "list of arrays": lambda: [np.array(row) for row in ROWS],
    "graph": lambda: torch.tensor(ROWS, dtype=torch.float64, requires_grad=True),
    "pandas": lambda: of_frame("pandas"),
    "polars": lambda: of_frame("polars"),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_of_numbers_keeps_double_precision(kind):
    value = CONTAINERS[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _check.points("x", value)
    expected = {"uint64": ROWS[:2] + [[7, 8]], "broadcast": [ROWS[0]] * 3}.get(kind, ROWS)
    assert found.dtype == torch.float64
    assert found.tolist() == expected
    assert found.requires_grad == (kind == "graph")


def test_floats_keep_their_dtype_and_short_ones_become_float32():
    for dtype in (np.float64, np.float32, ">f4"):
        expected = torch.float64 if dtype is np.float64 else torch.float32
        assert _check.array("x", np.zeros(2, dtype)).dtype == expected
    for dtype in (torch.float16, torch.bfloat16):
        assert _check.array("x", torch.zeros(2, dtype=dtype)).dtype == torch.float32
    assert _check.tensor("x", np.zeros(2, np.uint8)).dtype == torch.uint8
    assert _check.tensor("x", np.zeros(2, np.uint16)).dtype == torch.int64


def test_tensors_of_inference_mode_can_be_differentiated():
    with torch.inference_mode():
        made = torch.rand(4, 2)
    weight = torch.ones(2, requires_grad=True)
    (_check.points("x", made) @ weight).sum().backward()
    assert torch.equal(weight.grad, made.sum(0))


@pytest.mark.parametrize(
    "value",
    [
        *(["1", "2"], np.array(["1"]), [None, 1.0], np.array(["1", 2], object), None, {1, 2}),
        *({"a": 1}, [[1], [2, 3]], np.array(["2020-01-01"], "M8[D]"), 1j, [10**400], object()),
        *(torch.zeros(2, device="meta"), torch.eye(2).to_sparse(), np.ma.masked_equal([1, 2], 2)),
    ],
)
def test_what_holds_no_numbers_is_named(value):
    with pytest.raises(ValueError, match="^x must "):
        _check.array("x", value)


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


@pytest.mark.parametrize("value", ["", "a\0b", "~nobody-of-that-name/x", 3, None, b"x", ["a"]])
def test_a_path_is_one_that_a_file_can_have(value):
    with pytest.raises(ValueError, match=r"^out must (be a path|begin with a home)[^\0]*$"):
        _check.path("out", value)
    assert _check.path("out", "~/x").is_absolute()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1.0, float("inf")], "be whole numbers or texts, got inf; .*drop rows without a class"),
        ([1.0, 2e300], r"be whole numbers below 2\*\*63, got 2"),
        ([1, 2**70], r"be whole numbers below 2\*\*63, got 1180591620717411303424"),
        (
            np.array([1, 2**63 + 5], dtype=np.uint64),
            r"be whole numbers below 2\*\*63, got 9223372036854775813",
        ),
        (np.ma.masked_array([1, 2], [False, True]), "have no masked entries, got 1 of them"),
        (torch.ones(2).to_sparse(), r"be a dense array.*to_dense\(\)"),
        (torch.ones(2, device="meta"), "hold values, got a tensor on the device 'meta'"),
        (["a", float("nan")], "be whole numbers or texts, got nan; drop rows without a class"),
        (["a", 1], "be whole numbers or texts, got both; .*all classes as texts or all as numbers"),
        (("a", 1.5), "be whole numbers or texts, got 1.5"),
    ],
)
def test_classes_that_are_none_are_refused_not_made_up(given, words):
    with pytest.raises(ValueError, match="labels must " + words):
        _check.labels("labels", given)


@pytest.mark.parametrize(
    "given",
    [
        [3, 1],
        [3.0, 1.0],
        np.array([3.0, 1], dtype=object),
        np.array([3, 1], dtype=np.uint64),
        np.array([3, 1], dtype=">f2"),
        torch.tensor([3, 1], dtype=torch.bfloat16),
        [torch.tensor(3), torch.tensor(1)],
        pd.Series([3, 1], dtype="Int8"),
    ],
)
def test_classes_may_be_whole_numbers_of_any_kind(given):
    found = _check.labels("labels", given)
    assert (found.dtype, found.tolist()) == (np.int64, [3, 1])


def test_classes_may_be_texts_of_any_kind():
    texts = ["b", "aa"]
    kinds = [texts, np.array(texts, dtype=object), pd.Series(texts), pl.Series(texts)]
    if hasattr(np.dtypes, "StringDType"):  # from NumPy 2 on
        kinds.append(np.array(texts, dtype=np.dtypes.StringDType()))
    for given in kinds:
        assert _check.labels("labels", given).tolist() == texts
