import dataclasses

import torch

from aeot import generator
from aeot.solvers.certificate import Certificate
from aeot.solvers.state import Drawn, State, load, save


def draw(*shape):
    return torch.randn(*shape, generator=generator(0, str(shape))).double()


def test_every_field_of_a_checkpoint_comes_back(tmp_path):
    c = Certificate(0.1, 0.2, 0.3, 1.4, 1, draw(5).abs(), 77)
    state = State(
        phase="stream",
        heights=draw(5),
        split=8,
        sums=draw(5, 3),
        counts=torch.arange(5),
        step=3,
        unit=0.7,
        lowest=2.5,
        stalled=1,
        weight=9.5,
        lists=Drawn("grow 0.1", draw(1, 5)[0], 0.4, 16, 4096),
        returns=2,
        inflation=1.5,
        facets=(draw(4), torch.arange(4).int(), torch.tensor([0, 1, 2, 3, 4, 4]).int()),
        edged=12.0,
        n_samples=5000,
        best=c,
        best_heights=draw(2, 5)[1],
        history=({"stage": "grow", "error": None},),
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
