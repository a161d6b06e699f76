"""Results never depend on what the caller set in torch or numpy, and every setting is put back."""

import contextlib
import inspect
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

import aeot
from aeot import _environment, metrics
from aeot.features import Classifier, Pixels, extract
from aeot.gan_diagnostics.critics import jensen_shannon, slopes
from aeot.gan_diagnostics.frequency import spectrum
from aeot.models.sharpening import sharpen, spectral_gain

SITES = torch.rand(40, 2, generator=aeot.generator(0, "sites"))
CODES = torch.randn(60, 5, generator=aeot.generator(0, "codes"))
POINTS = torch.rand(300, 2, generator=aeot.generator(0, "points"))
IMAGES = torch.rand(24, 1, 16, 16, generator=aeot.generator(0, "images")) * 2 - 1
RING = aeot.data.toy("ring", 64)
BOX = aeot.UniformBox(dim=2)
CRITIC = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 1))


def parts(value):
    """Everything inside a result, as bytes and plain values."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().cpu().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: parts(inner) for key, inner in value.items() if "second" not in str(key)}
    if isinstance(value, (list, tuple)):
        return [parts(inner) for inner in value]
    return repr(value)


def brenier(**options):
    return aeot.BrenierMap(BOX, SITES, -(SITES.double() ** 2).sum(1) / 2, **options)


def the_map():
    found = brenier()
    drawn = found.draw(30, generator=aeot.generator(1))
    return [
        *(found.cell(POINTS), found(POINTS), found.potential(POINTS), found.c_transform(POINTS)),
        *(found.extend(POINTS, method=m) for m in ("linear", "affine")),
        found.extend(POINTS, method="pair", weight=0.3),
        *(drawn.codes, found.costs(500), found.match_scale(held_out=POINTS)),
    ]


def a_gradient():
    points = POINTS.clone().requires_grad_()
    with torch.inference_mode(False), torch.enable_grad():
        return torch.autograd.grad(brenier().potential(points).sum(), points)[0]


def a_solution(**options):
    source = options.pop("source", aeot.UniformBox(dim=5))
    solution = aeot.solve_semidiscrete(source, CODES, tol=0.1, **options)
    return solution.heights, solution.mass_error_upper, solution.cell_masses, solution.n_samples


def an_exact_solution():
    solution = aeot.solve_exact(BOX, SITES)
    diagram = aeot.power_diagram(BOX, SITES, solution.heights)
    return solution.heights, diagram.masses, diagram.cost, diagram.polygons, diagram.facets.mass


def a_tree():
    tree = aeot.solve_hierarchical(aeot.UniformBox(dim=5), CODES, clusters=3, tol=0.2)
    return tree.cell(torch.full((2, 5), 0.5, dtype=torch.float32, device="cpu"))


def a_singular_set():
    found = aeot.find_singularities(brenier(), 0.3)
    diagram = aeot.power_diagram(BOX, SITES, brenier().heights)
    curves = aeot.singular_curves(diagram, diagram.facets.jumps > 0.3)
    return found.pairs, found.components, found.distance(POINTS), curves.lines


def an_sklearn_model():
    model = aeot.SemiDiscreteOT(tol=0.1).fit(SITES.numpy())
    return model.heights_, model.transform(POINTS.numpy()), model.pairs(5)


def measures():
    sources = [
        *(BOX, aeot.UniformBall(dim=2, center=[0.1, 0.7], radius=0.3), aeot.Gaussian(dim=2)),
        *(aeot.Gaussian(covariance=[[2.0, 0.3], [0.3, 1.0]]), aeot.Empirical(POINTS)),
        aeot.ConvexPolygon([[0, 0], [1, 0], [0, 1]]),
        aeot.GridDensity([[0.1, 1.0], [2.0, 0.7]], interpolation="linear"),
        aeot.Sampler(lambda n, g: torch.rand(n, 2, generator=g), dim=2),
    ]
    moments = [(s.mean, s.covariance) for s in sources[:-1]]
    return moments, [s.sample(9, generator=aeot.generator(3)) for s in sources]


def numbers():
    """What is given as numbers: no default dtype may round it."""
    box = aeot.UniformBox(low=[1e9, 0.1], high=[1e9 + 1, 0.3])
    return box.low, box.mean, brenier().potential([[0.1, 0.7]]), metrics.prdc(POINTS, SITES)


def the_metrics():
    a, b = POINTS[:100], SITES
    modes = {"modes": [[0.2, 0.2], [0.8, 0.8]], "std": 0.2}
    return [
        *(metrics.frechet_distance(a, b), metrics.kernel_distance(a, b), metrics.prdc(a, b)),
        *(metrics.sliced_wasserstein(a, b), metrics.memorisation(a, b, POINTS[100:200])),
        *(metrics.mode_coverage(a, **modes), metrics.prd_curve(a[:40], b, clusters=4)),
        metrics.class_divergence([0, 1, 1], [0, 1], classes=2),
    ]


def data_functions():
    pictures = aeot.tensors(np.linspace(-1, 1, 2 * 64).reshape(2, 8, 8))
    batches = aeot.loader(aeot.unpaired(RING, RING), 5, seed=1)
    big = aeot.data.resize(aeot.to_uint8(IMAGES), 9)
    toys = [aeot.data.toy(n, 20).values for n in ("grid", "swissroll", "lines", "islands")]
    return pictures.values, next(batches), big, toys, aeot.dataset("digits").values[:3]


def features():
    data = aeot.tensors(IMAGES, labels=[0, 1] * 12)
    model = Classifier(epochs=1, channels=4, width=8, batch_size=8).fit(data)
    return extract(model, data), model.predict(data), extract(Pixels(4), IMAGES)


def autoencoder(tmp_path):
    model = aeot.Autoencoder(latent_dim=2, width=8, batch_size=8, precision="float32")
    model.fit(aeot.tensors(IMAGES), steps=2, held_out=0.0)
    model.save(tmp_path / "m", overwrite=True)
    back = aeot.Autoencoder.load(tmp_path / "m")
    codes = back.encode(IMAGES)
    return codes, back.decode(codes), model.history_


def narrow_autoencoder():
    model = aeot.Autoencoder(latent_dim=2, width=8, batch_size=8, precision="bfloat16")
    return model.fit(aeot.tensors(IMAGES), steps=3, held_out=0.0).encode(IMAGES)


def aeot_model(tmp_path):
    model = aeot.AEOT(latent_dim=2, width=8, tol=0.3, precision="float32")
    model.fit(aeot.tensors(IMAGES), steps=2).save(tmp_path / "m", overwrite=True)
    back = aeot.AEOT.load(tmp_path / "m")
    path = back.interpolate(IMAGES[0], IMAGES[1], 3)
    return model.brenier_.heights, model.sample(3), back.sample(3), path


def the_pairs():
    pairs = aeot.coupling(brenier(), batch_size=30, flips=True, transform=lambda row: 2 * row)
    moved = aeot.cost_sites(SITES, [2.0, 0.5])
    single = next(iter(aeot.coupling(brenier())))
    return single, pairs.batch(1), pairs.noise([3, 4]), pairs.sample_plan(POINTS, POINTS), moved


def translator():
    model = aeot.TransportTranslator(latent_dim=2, tol=0.5)
    return model.fit(aeot.unpaired(IMAGES, -IMAGES), steps=2).translate(IMAGES[:2])


def generative(name, tmp_path):
    kind = getattr(aeot, name)
    data = aeot.tensors(IMAGES) if name in ("VAE", "GLO", "GLANN") else RING
    if name == "ConditionalWGANGP":
        data = aeot.tensors(RING.values, labels=RING.labels)
    model = kind(batch_size=8).fit(data, steps=1 if name == "WGAN" else 2)
    model.save(tmp_path / "m", overwrite=True)
    extra = [model.encode(RING.values[:4])] if hasattr(model, "encode") else []
    return model.history_, model.sample(3), kind.load(tmp_path / "m").sample(3), extra


def translated(name):
    pair = aeot.data.arrays.pairs if name == "Pix2Pix" else aeot.unpaired
    data = pair(aeot.tensors(IMAGES), aeot.tensors(-IMAGES))
    small = {"n_layers": 1, "filters": 4}
    model = getattr(aeot, name)(**small, **({} if name == "Pix2Pix" else {"n_blocks": 1}))
    return model.fit(data, steps=2).translate(IMAGES[:2])


def others():
    decoded = IMAGES * 0.5
    gain = spectral_gain(IMAGES, decoded)
    found = [spectrum(IMAGES), jensen_shannon([1, 2], [2, 1])]
    found += [slopes(CRITIC, POINTS[:5])]
    return sharpen(decoded, gain), found


GENERATIVE = [
    *("GAN", "PacGAN", "LSGAN", "DRAGAN", "BEGAN", "WGAN", "WGANGP", "ConditionalWGANGP"),
    *("VAE", "GLO", "GLANN", "IMLE", "FlowMatching", "ALI"),
]
CASES = {
    **{f.__name__: f for f in (the_map, a_gradient, an_exact_solution, a_tree, a_singular_set)},
    **{f.__name__: f for f in (an_sklearn_model, measures, numbers, the_metrics, features)},
    **{f.__name__: f for f in (data_functions, autoencoder, narrow_autoencoder, aeot_model)},
    **{f.__name__: f for f in (translator, others, the_pairs)},
    "numba": a_solution,
    "torch": lambda: a_solution(engine="torch"),
    "adam": lambda: a_solution(method="adam", max_samples=3e4),
    "ball": lambda: a_solution(source=aeot.UniformBall(dim=5), engine="kdtree"),
    **{n: lambda tmp_path, n=n: generative(n, tmp_path) for n in GENERATIVE},
    **{n: lambda n=n: translated(n) for n in ("CycleGAN", "Pix2Pix")},
}


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:  # of a test that fails, too: the next ones would fail with it
        torch.set_default_device(None)


@contextlib.contextmanager
def flags():
    """What is set and put back by functions."""
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)
    precision = torch.backends.mkldnn.matmul.fp32_precision
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision("highest")
        torch.backends.mkldnn.matmul.fp32_precision = precision


@contextlib.contextmanager
def strict():
    """Everything that turns a warning or a lost digit into an error."""
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*NVML")
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


STATES = {
    "autocast": [lambda: torch.autocast("cpu", torch.bfloat16)],
    "float64": [lambda: default_dtype(torch.float64)],
    "float16": [lambda: default_dtype(torch.float16)],
    "bfloat16": [lambda: default_dtype(torch.bfloat16)],
    "meta": [lambda: default_device("meta")],
    "meta context": [lambda: torch.device("meta")],
    "no_grad": [torch.no_grad],
    "inference_mode": [torch.inference_mode],
    "flags": [flags],
    "strict": [strict],
    "anomaly": [torch.autograd.detect_anomaly],
}
# The default run takes them four at a time, `make test-all` one by one.
TOGETHER = {
    "first": STATES["autocast"] + STATES["float64"] + STATES["no_grad"] + STATES["flags"],
    "second": STATES["inference_mode"] + STATES["float16"] + STATES["meta"] + STATES["strict"],
}


def computed(name, tmp_path, states=()):
    case = CASES[name]
    arguments = [tmp_path] if "tmp_path" in case.__code__.co_varnames[:1] else []
    with contextlib.ExitStack() as stack:
        for state in states:
            stack.enter_context(state())
        before = setting()
        found = case(*arguments)
        assert setting() == before
        return parts(found)


def setting():
    return (
        *(torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()),
        *(torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        *(torch.backends.mkldnn.matmul.fp32_precision, sys.float_info.min * 0.5),
        *(torch.are_deterministic_algorithms_enabled(), *np.geterr().values()),
    )


PUBLIC = [
    *((name, getattr(aeot, name)) for name in aeot.__all__ if name != "__version__"),
    *((name, getattr(part, name)) for part in (metrics, aeot.data) for name in part.__all__),
]
LAZY = {"loader", "indices", "generator", "alone"}  # iterators name device and dtype themselves
PLAIN = {"Dataset", "Domains", "Solution", "ConditionalSolution"}  # they hold what functions made


@pytest.mark.parametrize(("name", "thing"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_every_public_name_is_guarded(name, thing):
    if name in LAZY | PLAIN:
        return
    methods = [thing]
    if isinstance(thing, type):
        names = {"fit", "sample", "forward", "contains", "masses", "cell"} & set(dir(thing))
        methods = [inspect.getattr_static(thing, key) for key in sorted(names)]
        methods = [method for method in methods if inspect.isfunction(method)]
        assert methods
    for method in methods:
        assert method.__code__.co_filename == _environment.__file__


FORMS = {
    "of inference mode": lambda x: torch.inference_mode()(x.clone)(),
    "with a graph": lambda x: x.clone().requires_grad_(),
    "every other row": lambda x: x.repeat_interleave(2, 0)[::2],
    "columns first": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
    "channels last": lambda x: (
        x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    ),
    "a read-only array": lambda x: np.broadcast_to(x.numpy(), (1, *x.shape))[0],
    "big-endian": lambda x: x.numpy().astype(x.numpy().dtype.newbyteorder(">")),
}


@pytest.fixture(scope="module")
def fitted():
    found = aeot.find_singularities(brenier(), 0.3)
    small = {"latent_dim": 2, "width": 8, "batch_size": 8, "precision": "float32"}
    model = aeot.AEOT(tol=0.3, **small).fit(aeot.tensors(IMAGES), steps=2, held_out=0.0)
    return found, model


def everything(form, fitted):
    found, model = fitted
    heights, weights = brenier().heights, torch.full((40,), 1 / 40, dtype=torch.float64)
    given = aeot.BrenierMap(
        BOX, form(SITES), form(heights), masses=form(weights), centroids=form(SITES)
    )
    sampled = aeot.solve_semidiscrete(
        aeot.UniformBox(dim=5), form(CODES), tol=0.2, init=form(CODES[:, 0])
    )
    exact = aeot.solve_exact(BOX, form(SITES), form(weights))
    diagram = aeot.power_diagram(BOX, form(SITES), form(heights))
    sources = [
        aeot.UniformBox(low=form(SITES[0]), high=form(SITES[0] + 1)),
        aeot.UniformBall(dim=2, center=form(SITES[0])),
        aeot.Gaussian(mean=form(SITES[0]), covariance=form(torch.eye(2))),
        aeot.Empirical(form(SITES)),
        aeot.GridDensity(form(SITES[:4])),
        aeot.Sampler(lambda n, g: form(torch.rand(n, 2, generator=g)), dim=2),
    ]
    return [
        *(sampled.heights, sampled.mass_error_upper, exact.heights, exact.map().cell(POINTS)),
        *(diagram.masses, diagram.legendre(form(SITES[:3])), diagram.semidual(form(weights))),
        *(given.draw(9, generator=aeot.generator(0)).codes, given.match_scale(held_out=POINTS)),
        *(call(form(POINTS)) for call in (given.cell, given, given.potential, given.c_transform)),
        *(found.contains(form(POINTS)), found.distance(form(POINTS))),
        *(source.sample(5, generator=aeot.generator(0)) for source in sources),
        *(metrics.prdc(form(POINTS), form(SITES)), aeot.tensors(form(IMAGES)).values),
        *(metrics.mode_coverage(form(POINTS), form(SITES[:2]), form(SITES[0]) + 0.1),),
        *(aeot.to_uint8(form(IMAGES)), aeot.data.filters.low_pass(form(IMAGES), 0.2)),
        *(model.encode(form(IMAGES)), model.decode(form(SITES))),
        aeot.GAN(batch_size=8).fit(form(RING.values), steps=1).sample(3),
        aeot.VAE(batch_size=8).fit(form(IMAGES), steps=1).sample(3),
    ]


SLOW = pytest.mark.slow
QUICK = ("of inference mode", "with a graph", "a read-only array")


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=SLOW) for k in FORMS])
def test_the_bits_do_not_depend_on_the_form_of_arrays(kind, fitted, plain):
    if "forms" not in plain:
        plain["forms"] = parts(everything(lambda x: x, fitted))
    for k, (a, b) in enumerate(
        zip(parts(everything(FORMS[kind], fitted)), plain["forms"], strict=True)
    ):
        assert a == b, k


def test_threads_and_the_global_seed_change_nothing(plain, tmp_path):
    threads = torch.get_num_threads()
    try:
        for name in ("numba", "the_metrics", "FlowMatching"):
            torch.set_num_threads(1)
            torch.manual_seed(1)
            first = computed(name, tmp_path)
            torch.set_num_threads(2)
            torch.manual_seed(2)
            assert computed(name, tmp_path) == first
    finally:
        torch.set_num_threads(threads)


def test_settings_are_put_back_after_errors_and_between_threads():
    def work(k):
        with pytest.raises(ValueError, match="tol must"):
            aeot.solve_exact(BOX, SITES, tol=-1)
        return parts(aeot.solve_exact(BOX, SITES).heights)

    with default_dtype(torch.float64), flags():
        before = setting()
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(work, range(12)))
        assert setting() == before
    assert len({part[2] for part in found}) == 1


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return {}


# Every second of the baselines, which share one loop, takes every second group.
PAIRS = [
    (name, state)
    for k, name in enumerate(CASES)
    for state in TOGETHER
    if name not in GENERATIVE or state == list(TOGETHER)[k % 2]
]


@pytest.mark.parametrize(("name", "state"), PAIRS)
def test_the_bits_do_not_depend_on_the_callers_settings(name, state, plain, tmp_path):
    if name not in plain:
        plain[name] = computed(name, tmp_path)
    assert computed(name, tmp_path, TOGETHER[state]) == plain[name]


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", CASES)
def test_nor_on_each_of_them(name, state, plain, tmp_path):
    if name not in plain:
        plain[name] = computed(name, tmp_path)
    assert computed(name, tmp_path, STATES[state]) == plain[name]
