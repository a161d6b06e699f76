import time

import numpy as np
import pytest
import torch

import aeot
from aeot import _check, generator
from aeot.measures import Empirical, Gaussian, Radial, Sampler, UniformBall, UniformBox

N = 200_000
MATRIX = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
CLOUD = torch.tensor([[0.0, 1.0], [2.0, -1.0], [4.0, 0.5]])
MEASURES = [
    UniformBox(dim=3),
    UniformBox(low=[-2.0, 1.0], high=[4.0, 1.5]),
    UniformBall(dim=2, center=[1.0, -1.0], radius=2.0),
    UniformBall(dim=5),
    Gaussian(dim=4),
    Gaussian(mean=[1.0, 2.0, 3.0], covariance=MATRIX),
    Empirical(CLOUD),
    aeot.ConvexPolygon([[0.0, 0], [3, 0], [2, 2]]),
    aeot.Polygon([[0.0, 0], [3, 0], [3, 1], [1, 1], [1, 4], [0, 4]]),
]


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_sample_moments_match_the_closed_forms(measure):
    x = measure.sample(N, generator=generator(3, "moments")).to(torch.float64)
    mean = measure.mean.to(torch.float64)
    covariance = measure.covariance.to(torch.float64)
    spread = covariance.diagonal().max().sqrt()
    assert x.shape == (N, measure.dim)
    # five standard errors; an entry of a sample covariance varies by at most spread^2 sqrt(3 / N)
    assert ((x.mean(0) - mean).abs() < 5 * spread / N**0.5).all()
    assert ((torch.cov(x.T) - covariance).abs() < 5 * spread**2 * (3 / N) ** 0.5).all()


def test_ball_is_uniform_in_volume():
    x = UniformBall(dim=3, radius=2.0).sample(N, generator=generator(0))
    assert float(x.norm(dim=1).max()) <= 2.0 + 1e-6
    inner = float((x.norm(dim=1) < 1.0).double().mean())
    assert abs(inner - 1 / 8) < 5 * (1 / 8 * 7 / 8 / N) ** 0.5


def test_radial_is_a_sphere_or_has_the_lengths_asked_for():
    x = Radial(dim=4, radius=3.0, center=1.0).sample(N, generator=generator(0)).double() - 1
    assert float((x.norm(dim=1) - 3).abs().max()) < 1e-5
    # A coordinate on the unit sphere has variance 1 / d and fourth moment 3 / (d^2 + 2 d).
    assert ((x / 3).square().mean(0) - 1 / 4).abs().max() < 5 * (1 / 8 / N) ** 0.5
    assert ((x / 3).pow(4).mean(0) - 1 / 8).abs().max() < 5 * (1 / 16 / N) ** 0.5

    def lengths(n, g):
        return 1 + torch.rand(n, generator=g)

    shell = Radial(dim=4, radius=lengths)
    r = shell.sample(N, generator=generator(0)).norm(dim=1).double()
    assert float((r - 1.5).mean().abs()) < 5 * (1 / 12 / N) ** 0.5
    assert float(r.min()) >= 1 - 1e-6
    assert torch.equal(
        shell.sample(9, generator=generator(1)), shell.sample(9, generator=generator(1))
    )
    with pytest.raises(ValueError, match=r"must return shape \(5,\), got shape \(5, 1\)"):
        Radial(dim=2, radius=lambda n, g: torch.ones(n, 1)).sample(5)
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        Radial(dim=2, radius=lambda n, g: -torch.ones(n)).sample(5)


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_same_generator_same_points(measure):
    a, b = (measure.sample(5, generator=generator(1)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, measure.sample(5, generator=generator(2)))


def test_dtype_is_the_callers():
    low = torch.zeros(2, dtype=torch.float64)
    assert UniformBox(low=low, high=low + 1).sample(3).dtype == torch.float64
    assert UniformBox(dim=2).sample(3).dtype == torch.float32
    assert UniformBox(low=[0, 0], high=[0.1, 1.0]).sample(3).dtype == torch.float32


FAR = 1_700_000_000  # float32 knows its neighbours 128 below and above


@pytest.mark.parametrize(
    ("make", "mean", "covariance"),
    [
        (lambda: UniformBox(low=[FAR], high=[FAR + 7]), FAR + 3.5, 49 / 12),
        (lambda: UniformBox(dim=1, low=FAR, high=FAR + 7.0), FAR + 3.5, 49 / 12),
        (lambda: UniformBall(dim=1, center=FAR, radius=2), FAR, 4 / 3),
        (lambda: Gaussian(dim=1, mean=FAR), FAR, 1.0),
        (lambda: Gaussian(mean=[FAR], covariance=[[4]]), FAR, 4.0),
        (lambda: Empirical([[FAR], [FAR + 7]]), FAR + 3.5, 49 / 4),
        (lambda: Empirical(torch.tensor([[FAR], [FAR + 7]])), FAR + 3.5, 49 / 4),
    ],
)
def test_whole_numbers_and_lists_keep_double_precision(make, mean, covariance):
    source = make()
    x = source.sample(20_000, generator=generator(0))
    assert source.mean.dtype == source.covariance.dtype == x.dtype == torch.float64
    assert float(source.mean) == mean
    assert float(source.covariance) == covariance
    assert abs(float(x.mean() - mean)) < 5 * (covariance / 20_000) ** 0.5
    # five standard errors of a variance whose kurtosis is at most three
    assert abs(float(x.var()) - covariance) < 5 * covariance * (2 / 20_000) ** 0.5


@pytest.mark.parametrize("corner", [0.1, 1 / 3])
def test_parameters_are_not_rounded(corner):
    assert UniformBox(dim=2, low=-corner, high=corner).high.tolist() == [corner] * 2
    assert Gaussian(mean=[corner, 0]).mean.tolist() == [corner, 0]
    square = aeot.ConvexPolygon([[0, 0], [corner, 0], [corner, 1], [0, 1]])
    assert square.vertices.max(0).values.tolist() == [corner, 1]
    density = aeot.GridDensity([[1, corner]], low=[0, corner])
    assert density.low.tolist() == [0, corner]
    assert abs(float(density.mean[0]) - (0.25 + 0.75 * corner) / (1 + corner)) < 1e-15


def test_a_network_can_be_the_source():
    net = torch.nn.Linear(2, 3)
    source = Sampler(lambda n, g: net(torch.randn(n, 2, generator=g)), dim=3)
    x = source.sample(4, generator=generator(0))
    assert not x.requires_grad
    assert torch.equal(x, net(torch.randn(4, 2, generator=generator(0))))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UniformBox(dim=0), "dim must be a whole number >= 1, got 0"),
        (lambda: UniformBox(), "dim must be given"),
        (lambda: UniformBox(low=[0.0, 1.0], high=[1.0, 1.0]), "on axis 1"),
        (lambda: UniformBox(low=[0.0, 1.0], high=[1.0]), "shape"),
        (lambda: UniformBall(dim=2, radius=0.0), "radius must be a finite number > 0"),
        (lambda: Gaussian(), "dim must be given"),
        (lambda: Gaussian(covariance=[[1.0, 2.0], [2.0, 1.0]]), "least eigenvalue -1"),
        (lambda: Gaussian(covariance=[[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (lambda: Sampler("no", dim=2), "callable"),
        (lambda: Empirical([1.0, 2.0]), r"points\[:, None\]"),
        (lambda: Empirical([[float("nan")]]), "NaN or infinite"),
        (lambda: Sampler(lambda n, g: torch.zeros(n, 3), dim=2).sample(4), "2 columns"),
        (lambda: Sampler(lambda n, g: torch.zeros(n + 1, 2), dim=2).sample(4), "4 rows"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "corners",
    [
        [[0, 0], [1, 1], [1, 0], [0, 1]],  # edges cross
        [[0, 0], [2, 0], [2, 2], [1, 0], [0, 2]],  # a corner on another edge
        [[0, 0], [2, 0], [1, 0], [1, 2]],  # back along an edge
        [[0, 0], [1, 1], [2, 2]],  # no area
        [[0, 0], [0, 0], [1, 1]],
        [[0, 0], [4, 0], [4, 4], [0, 4], [0, 1], [3, 1], [3, 3], [0, 3]],  # touches itself
    ],
)
def test_polygons_that_are_not_simple_are_refused(corners):
    with pytest.raises(
        ValueError, match=r"vertices must go once around a simple polygon, got edge"
    ):
        aeot.Polygon(corners)


@pytest.mark.parametrize("seed", range(6))
def test_ears_cover_any_simple_polygon(seed):
    # Star-shaped around the origin, with corners in a row and every other one doubled.
    g = torch.Generator().manual_seed(seed)
    angle = torch.rand(30, generator=g, dtype=torch.float64).sort().values * 6.28
    corners = torch.stack([angle.cos(), angle.sin()], 1)
    corners = corners * torch.rand(30, 1, generator=g, dtype=torch.float64).add(0.05)
    corners = torch.stack([corners, (corners + corners.roll(-1, 0)) / 2], 1).reshape(-1, 2)
    shoelace = (corners[:, 0] * corners.roll(-1, 0)[:, 1]).sum() - (
        corners[:, 1] * corners.roll(-1, 0)[:, 0]
    ).sum()
    for vertices in (corners, corners.flip(0)):
        polygon = aeot.Polygon(vertices)
        assert polygon.area == pytest.approx(float(shoelace) / 2, rel=1e-12)
    # No point lies in two triangles: then, with the right total area, they cover the polygon.
    x = torch.rand(4000, 1, 2, generator=g, dtype=torch.float64) * 2 - 1
    a, b = polygon.triangles, polygon.triangles.roll(-1, 1)
    turns = (b - a)[..., 0] * (x[:, None] - a)[..., 1] - (b - a)[..., 1] * (x[:, None] - a)[..., 0]
    assert int((turns > 0).all(2).sum(1).max()) == 1


def test_public_names_resolve_lazily():
    assert aeot.UniformBox is UniformBox
    with pytest.raises(AttributeError):
        _ = aeot.no_such_name


@pytest.mark.parametrize("kind", [aeot.UniformBox, aeot.UniformBall, aeot.Radial, aeot.Gaussian])
def test_a_measure_of_a_million_dimensions_costs_vectors_and_one_of_too_many_says_so(kind):
    begun = time.process_time()
    source = kind(dim=10**6)
    assert source.mean.shape == (10**6,)
    assert source.sample(2, generator=generator(0)).shape == (2, 10**6)
    assert len(repr(source)) < 200
    assert time.process_time() - begun < 3.0
    if kind is not aeot.Radial:
        with pytest.raises(ValueError, match="covariance must be at most .* got 1000000; mean"):
            source.covariance  # noqa: B018
    for dim in (10**12, 10**18):
        with pytest.raises(ValueError, match="dim must be at most .*take fewer dimensions"):
            kind(dim=dim)


def test_a_round_gaussian_draws_what_one_with_the_identity_draws():
    mean = torch.arange(5.0)
    round_, full = aeot.Gaussian(mean=mean), aeot.Gaussian(mean=mean, covariance=torch.eye(5))
    draws = [s.sample(100, generator=aeot.generator(3)) for s in (round_, full)]
    assert torch.equal(*draws)
    assert torch.equal(round_.covariance, full.covariance)
    assert torch.equal(round_.factor, full.factor)


def test_memory_counts_what_a_container_may_take(tmp_path, monkeypatch):
    whole = _check._main_memory()
    for text, expected in (("max\n", whole), ("1000000000\n", 10**9), (f"{1 << 62}\n", whole)):
        (tmp_path / "limit").write_text(text)
        monkeypatch.setattr(_check, "_LIMITS", (str(tmp_path / "limit"), str(tmp_path / "none")))
        assert _check._main_memory.__wrapped__() == expected


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e300, 1.7e308])
@pytest.mark.parametrize("interpolation", ["constant", "linear"])
def test_a_density_of_any_scale_is_that_of_its_ratios(scale, interpolation):
    values = np.array([[1.0, 0.5], [0.25, 0.0]])
    one = aeot.GridDensity(values, interpolation=interpolation)
    other = aeot.GridDensity(values * scale, interpolation=interpolation)
    assert torch.allclose(other.mean, one.mean, rtol=1e-3)  # 1e-320 has three digits
    assert torch.allclose(other.covariance, one.covariance, rtol=1e-3)
    points = [m.sample(50, generator=generator(0)) for m in (one, other)]
    assert torch.allclose(*points, atol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda scale: UniformBox(low=[0.0, 0.0], high=[scale, scale]),
        lambda scale: UniformBall(dim=2, radius=scale),
        lambda scale: Radial(dim=2, radius=scale),
        lambda scale: aeot.GridDensity([[1.0]], high=scale),
    ],
)
@pytest.mark.parametrize("scale", [1e-140, 1e-40, 1e-25, 1e25, 1e40, 1e140])
def test_points_in_another_unit_are_neither_zeros_nor_infinite(make, scale):
    points = make(scale).sample(200, generator=generator(0)).double() / scale
    length = points.norm(dim=1)
    assert 0.5 < float(length.mean()) < 1.1
    assert float(length.max()) < 1.5


def test_sides_and_areas_that_are_no_numbers_are_refused():
    with pytest.raises(
        ValueError, match="high must be no more than 1.8e308 above low, got low -1.5"
    ):
        UniformBox(low=[-1.5e308], high=[1.5e308])
    for side in (1e-300, 1e300):
        with pytest.raises(ValueError, match="high must leave pixels an area .* sides of"):
            aeot.GridDensity([[1.0]], high=side)
