import dataclasses
import shutil

import numpy as np
import pytest
import scipy.sparse
import torch

import aeot
from aeot import generator
from aeot.geometry.diagram import laplacian
from aeot.measures import Empirical, Gaussian, Sampler, UniformBall, UniformBox
from aeot.solvers.certificate import Certificate
from aeot.solvers.state import Drawn, State, load, placed, save
from aeot.solvers.torch_laplacian import TorchLaplacian


def draw(*shape):
    return torch.randn(*shape, generator=generator(0, str(shape))).double()


def test_every_field_of_a_checkpoint_comes_back(tmp_path):
    c = Certificate(0.1, 0.2, 0.3, 1.4, 1, draw(5).abs(), 77)
    state = State(
        phase="stream",
        heights=draw(5),
        split=8,
        sums=(1e9 * draw(5, 3)).long(),
        counts=torch.arange(5),
        step=3,
        unit=0.7,
        local=draw(3, 5)[2],
        lowest=2.5,
        stalled=1,
        weight=9.5,
        lists=Drawn("grow 0.1", draw(1, 5)[0], 0.4, 16, 4096),
        returns=2,
        looks=3,
        inflation=1.5,
        facets=(draw(4), torch.arange(4).int(), torch.tensor([0, 1, 2, 3, 4, 4]).int()),
        edged=12.0,
        n_samples=5000,
        best=c,
        best_heights=draw(2, 5)[1],
        history=({"stage": "grow", "error": None},),
        seconds=2.5,
    )
    for part in (state, state.lists):  # a field that is added must be set above
        for f in dataclasses.fields(part):
            assert f.default is dataclasses.MISSING or repr(getattr(part, f.name)) != repr(
                f.default
            )
    problem = {"shape": [5, 3]}
    save(tmp_path / "s", state, problem)
    back = load(tmp_path / "s", problem, torch.device("cpu"))

    def same(a, b):
        if dataclasses.is_dataclass(a):
            return type(a) is type(b) and all(
                same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)
            )
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and torch.equal(a, b)
        if isinstance(a, tuple):
            return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
        return a == b

    for f in dataclasses.fields(State):
        assert same(getattr(state, f.name), getattr(back, f.name)), f.name


@pytest.mark.parametrize("whole", [torch.int32, torch.int64])  # of more than 2^31 entries
def test_a_rank_takes_its_rows_of_the_laplacian_of_the_host_alone(whole, monkeypatch):
    monkeypatch.setattr("aeot.solvers.state.own_rows", lambda _: range(1, 3))
    i, j, weight = torch.tensor([0, 1, 1]), torch.tensor([1, 2, 3]), draw(3).abs()
    of_host = laplacian(i.numpy(), j.numpy(), weight.numpy(), 4)
    state = State("grow", draw(4), 8, torch.zeros(4, 3).long(), torch.zeros(4).long())

    def restored(graph):
        data, *others = map(torch.as_tensor, (graph.data, graph.indices, graph.indptr))
        kept = dataclasses.replace(state, facets=(data, *(x.to(whole) for x in others)))
        return [x.numpy() for x in placed(kept, (4, 3), torch.device("cpu")).facets]

    rows = scipy.sparse.csr_matrix(tuple(restored(of_host)), shape=(2, 4)).toarray()
    assert rows.tolist() == of_host.toarray()[1:3].tolist()
    on_device = TorchLaplacian.of_pairs(i, j, weight, 4)
    assert restored(on_device)[0].tolist() == on_device.data.tolist()
    assert len(restored(on_device)[2]) == 5


BOXES = "the unit cube"
SITES = np.random.default_rng(0).normal(size=(40, 4))
MASSES = np.arange(1.0, 41) / 820
POINTS = np.random.default_rng(1).normal(size=(20_000, 4))
OTHER_POINT = POINTS.copy()
OTHER_POINT[17, 2] += 1e-6
COVARIANCE = np.eye(4) + 0.5
VARIANTS = {
    "gaussian": (Gaussian(mean=[0.0] * 4), SITES, None, {}),
    "its mean": (Gaussian(mean=[0.0, 0.0, 0.0, 1e-6]), SITES, None, {}),
    "its covariance": (Gaussian(mean=[0.0] * 4, covariance=COVARIANCE), SITES, None, {}),
    "box": (UniformBox(dim=4), SITES, None, {}),
    "wider box": (UniformBox(low=[0.0] * 4, high=[1.0, 1, 1, 1.0001]), SITES, None, {}),
    "ball": (UniformBall(dim=4), SITES, None, {}),
    "points": (Empirical(POINTS), SITES, None, {}),
    "one other point": (Empirical(OTHER_POINT), SITES, None, {}),
    "points in another order": (Empirical(POINTS[::-1].copy()), SITES, None, {}),
    "sampler": (Sampler(lambda m, g: torch.rand(m, 4, generator=g) ** 2, dim=4), SITES, None, {}),
    "swapped columns": (UniformBox(dim=4), SITES[:, [1, 0, 2, 3]], None, {}),
    "one unit in one site": (UniformBox(dim=4), np.nextafter(SITES, 9), None, {}),
    "one site less": (UniformBox(dim=4), SITES[1:], None, {}),
    "masses": (UniformBox(dim=4), SITES, MASSES, {}),
    "masses permuted": (UniformBox(dim=4), SITES, MASSES[::-1].copy(), {}),
    "seed": (UniformBox(dim=4), SITES, None, {"seed": 1}),
    "tol": (UniformBox(dim=4), SITES, None, {"tol": 0.06}),
    "method": (UniformBox(dim=4), SITES, None, {"method": "lbfgs"}),
    "engine": (UniformBox(dim=4), SITES, None, {"engine": "torch"}),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    for name, (source, sites, masses, options) in VARIANTS.items():
        given = {"tol": 0.05, "engine": "numba", "progress": False} | options
        path = folder / name
        stop = {"checkpoint": path, "on_step": lambda r: True}
        aeot.solve_semidiscrete(source, sites, masses, **given | stop)
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_no_checkpoint_is_taken_up_by_another_problem(checkpoints, name):
    source, sites, masses, options = VARIANTS[name]
    given = {"tol": 0.05, "engine": "numba", "progress": False} | options
    for other in VARIANTS:
        if other == name:
            continue
        steps = []
        with pytest.raises(
            ValueError, match="checkpoint must belong to the same problem"
        ) as caught:
            aeot.solve_semidiscrete(
                source, sites, masses, checkpoint=checkpoints / other, on_step=steps.append, **given
            )
        assert steps == []
        said = str(caught.value)
        assert f"in {checkpoints / other}; choose another directory" in said
        assert "\n" not in said
        differs = said.split("got another ")[1].split(" in ")[0].split(", ")
        assert set(differs) == set(expected(name, other)), f"{name} against {other}: {differs}"


def expected(name, other):
    """What differs between two variants, told by their definitions."""
    one, two = VARIANTS[name], VARIANTS[other]
    plain = {"seed": 0, "tol": 0.05, "method": "newton", "engine": "numba"}
    options = [plain | v[3] for v in (one, two)]
    sources = [
        BOXES if type(v[0]) is UniformBox and "wider" not in n else n
        for v, n in ((one, name), (two, other))
    ]
    if sources[0] != sources[1]:
        yield "source"
    if one[1] is not two[1]:
        yield "sites"
    if one[2] is not two[2] or len(one[1]) != len(two[1]):
        yield "masses"
    yield from (k for k in plain if options[0][k] != options[1][k])


def test_the_same_problem_in_another_order_and_dtype_is_the_same(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "masses", tmp_path / "s")
    order = np.random.default_rng(3).permutation(40)
    s = aeot.solve_semidiscrete(
        UniformBox(dim=4),
        torch.from_numpy(SITES[order]),
        list(MASSES[order]),
        tol=0.05,
        engine="numba",
        progress=False,
        checkpoint=tmp_path / "s",
    )
    whole = aeot.solve_semidiscrete(
        UniformBox(dim=4), SITES, MASSES, tol=0.05, engine="numba", progress=False
    )
    assert torch.equal(s.heights, whole.heights[order])
    assert s.history == whole.history
