"""Where memory does not suffice for a block, smaller ones give the same results."""

import importlib
import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import aeot
from aeot import _environment, cli
from aeot._rng import generator
from aeot.features import Classifier, extract
from aeot.maps.extension import match_scale
from aeot.metrics import precision_recall
from aeot.models.sharpening import sharpen
from aeot.search.engines import top_k
from aeot.search.nearest import nearest

POINTS = torch.randn(300, 2, generator=generator(0, "points"))
IMAGES = torch.rand(300, 1, 16, 16, generator=generator(0, "images")) * 2 - 1
PRODUCTS = ("addmm", "mm.", "conv", "linear", "fft", "bmm")


class Allocator(TorchDispatchMode):
    """Refuses the results of products and transforms that have more than `most` bytes."""

    def __init__(self, most=float("inf")):
        super().__init__()
        self.most, self.largest, self.refused = most, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and any(name in str(func) for name in PRODUCTS):
            size = made.numel() * made.element_size()
            self.largest = max(self.largest, size)
            if size > self.most:
                self.refused += 1
                told = f"can't allocate memory: you tried to allocate {size} bytes"
                raise RuntimeError(f"[enforce fail] DefaultCPUAllocator: {told}.")
        return made


def autoencoder():
    model = aeot.Autoencoder(latent_dim=2, batch_size=32).fit(IMAGES, steps=2)
    return lambda: (model.encode(IMAGES), model.decode(POINTS))


def sampled(kind, data, **options):
    model = kind(batch_size=32, **options).fit(data, steps=3)
    return lambda: (model.sample(300, seed=1),)


def translated():
    model = aeot.CycleGAN(n_blocks=1, n_layers=1, filters=2)
    model.fit(aeot.unpaired(IMAGES[:8], IMAGES[8:16]), steps=1)
    return lambda: (model.translate(IMAGES[:64], to="b"),)


def measured():
    data = aeot.tensors(IMAGES, labels=torch.arange(300) % 2)
    net = Classifier(channels=2, width=4, epochs=1).fit(data, data)
    return lambda: (extract(net, data),)


def compared():
    left, right = POINTS[:150].double(), POINTS[150:].double()
    return lambda: tuple(map(torch.tensor, precision_recall.prdc(left, right).values()))


def sharpened():
    gain = torch.rand(1, 32, 17, generator=generator(0, "gain"))
    return lambda: (sharpen(IMAGES, gain),)


def solved():
    box = aeot.UniformBox(dim=5)
    codes = torch.randn(60, 5, generator=generator(0, "codes"))
    return lambda: (aeot.solve_semidiscrete(box, codes, tol=0.3, engine="torch").heights,)


WORK = {
    "autoencoder": autoencoder,
    "GAN": lambda: sampled(aeot.GAN, POINTS, hidden=8),
    "VAE": lambda: sampled(aeot.VAE, IMAGES, latent_dim=2),
    "GLO": lambda: sampled(aeot.GLO, IMAGES, latent_dim=2),
    "flow matching": lambda: sampled(aeot.FlowMatching, POINTS, hidden=8),
    "translator": translated,
    "features": measured,
    "precision and recall": compared,
    "sharpening": sharpened,
    "solver": solved,
}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", WORK)
def test_blocks_are_halved_where_memory_is_short_and_change_nothing(name):
    work = WORK[name]()
    with Allocator() as free:
        whole = work()
    with Allocator(free.largest * 0.6) as short:
        again = work()
    assert short.refused
    assert all(map(torch.equal, whole, again))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("rows", [256, 300, 500])
@pytest.mark.parametrize("columns", [(784, 2), (784, 10), (100, 50), (2, 784)])
def test_rows_of_a_part_round_as_among_all(columns, rows, count, threads):
    threads(count)
    layer = torch.nn.Linear(*columns)
    x = torch.randn(rows, columns[0], generator=generator(0, "x"))
    sizes = []

    def work(some):
        sizes.append(len(some))
        if len(some) > 24:  # as a convolution behind the layer would
            raise MemoryError
        return layer(some)

    assert torch.equal(_environment.in_parts(work, x), layer(x))
    assert sizes[0] == rows
    assert min(sizes) < 24


def test_where_the_product_of_all_rows_does_not_fit_that_of_the_part_is_taken():
    layer, x = torch.nn.Linear(9, 50), torch.randn(256, 9, generator=generator(0, "x"))
    with Allocator(30_000) as short:
        again = _environment.in_parts(layer, x)
    assert short.refused
    assert torch.allclose(again, layer(x), rtol=0, atol=1e-6)


class Short:
    """Stands for a function of an engine that has no memory for more than `most` rows."""

    def __init__(self, work, rows, most):
        self.work, self.rows, self.most, self.refused = work, rows, most, 0

    def __call__(self, *args, **kwargs):
        if self.rows(*args) > self.most:
            self.refused += 1
            raise MemoryError(f"Unable to allocate {self.rows(*args)} rows")
        return self.work(*args, **kwargs)


# Engine, the function in it that takes the memory, and how many rows its arguments ask for.
ENGINES = {
    "numba": ("numba_engine", "_buffer", lambda planes, name, rows: planes.slice),
    "torch": ("torch_engine", "_scores", lambda planes, heights, block: planes.slice),
    "kdtree": ("kdtree_engine", "_query", lambda tree, points, k: len(points)),
    "keops": ("keops_engine", "_highest", lambda x, y, h, k: len(x)),
}


@pytest.mark.parametrize(
    ("engine", "halves"),
    [(name, False) for name in ENGINES] + [("numba", True), ("torch", True)],
)
def test_every_engine_works_on_parts_of_a_block_where_memory_is_short(engine, halves, monkeypatch):
    if engine == "keops":
        pytest.importorskip("pykeops")
    name, function, rows = ENGINES[engine]
    module = importlib.import_module(f"aeot.search.{name}")
    n, d = (512, 8) if halves else (60, 5)
    codes = torch.randn(n, d, generator=generator(0, "codes"))
    box, options = aeot.UniformBox(dim=d), {"tol": 0.6, "engine": engine, "threads": 1}
    whole = aeot.solve_semidiscrete(box, codes, **options)
    short = Short(getattr(module, function), rows, 40 if halves else 200)
    monkeypatch.setattr(module, function, short)
    again = aeot.solve_semidiscrete(box, codes, **options)
    assert short.refused
    assert torch.equal(whole.heights, again.heights)
    assert torch.equal(whole.cell_masses, again.cell_masses)
    assert torch.equal(whole.cell_centroids, again.cell_centroids)
    monkeypatch.setattr(short, "most", 0)
    with pytest.raises(MemoryError, match="rows"):
        aeot.solve_semidiscrete(box, codes, **options)


@pytest.mark.parametrize("engine", ENGINES)
def test_searches_take_fewer_points_where_memory_is_short(engine, monkeypatch):
    if engine == "keops":
        pytest.importorskip("pykeops")
    module = importlib.import_module(f"aeot.search.{ENGINES[engine][0]}")
    codes = torch.randn(300, 3, generator=generator(0, "codes"))
    points = torch.rand(3000, 3, generator=generator(0, "x"))
    heights = torch.rand(300, generator=generator(0, "heights")).double()
    brenier = aeot.BrenierMap(aeot.UniformBox(dim=3), codes, heights, engine=engine)

    def found():
        return (
            *nearest(points, codes, 3, engine=engine),
            *top_k(points, codes, heights, 2, engine=engine),
            brenier.cell(points),
            brenier.potential(points),
            match_scale(codes[:200], points[:200], codes, 0.3, engine=engine),
        )

    whole = found()
    short = Short(module.top_k, lambda points, *rest: len(points), 100)
    monkeypatch.setattr(module, "top_k", short)
    again = found()
    assert short.refused
    assert all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        for a, b in zip(whole, again, strict=True)
    )


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9")],
)
@pytest.mark.parametrize("name", ["autoencoder", "GAN", "translator", "classifier"])
def test_a_training_step_that_does_not_fit_names_the_size_of_its_batches(name, error, monkeypatch):
    def exhausted(*_, **__):
        raise error

    monkeypatch.setattr(torch.Tensor, "backward", exhausted)
    labelled = aeot.tensors(IMAGES, labels=torch.arange(300) % 2)
    fit = {
        "autoencoder": lambda: aeot.Autoencoder(latent_dim=2, batch_size=23).fit(IMAGES, steps=2),
        "GAN": lambda: aeot.GAN(batch_size=23, hidden=8).fit(POINTS, steps=1),
        "translator": lambda: aeot.CycleGAN(batch_size=23, n_blocks=1, n_layers=1, filters=2).fit(
            aeot.unpaired(IMAGES[:40], IMAGES[40:80]), steps=1
        ),
        "classifier": lambda: Classifier(channels=2, width=4, epochs=1, batch_size=23).fit(
            labelled, labelled
        ),
    }[name]
    with pytest.raises(MemoryError, match="step 1 of .*: batch_size must be below 23") as told:
        fit()
    assert "\n" not in str(told.value)


def test_parts_of_several_tensors_are_joined_and_other_errors_pass():
    sizes = []

    def work(x, y):
        sizes.append(len(x))
        if len(x) > 64:
            raise MemoryError
        return x + y, y

    x = torch.arange(300.0)
    total, same = _environment.in_parts(work, x, -x)
    assert torch.equal(total, 0 * x)
    assert torch.equal(same, -x)
    assert max(sizes[-3:]) <= 64
    with pytest.raises(MemoryError):
        _environment.in_parts(lambda x: work(x.repeat(99), x), x)
    for error in (RuntimeError("shapes differ"), ValueError("out of memory")):

        def failing(x, error=error):
            sizes.append(-1)
            raise error

        before = len(sizes)
        with pytest.raises(type(error)):
            _environment.in_parts(failing, x)
        assert len(sizes) == before + 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3 TiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_command_names_what_to_lower(monkeypatch, capsys, error):
    def exhausted(*_, **__):
        raise error

    monkeypatch.setattr(cli, "_load", lambda place: exhausted)
    assert cli.main(["fit", "--data", "digits"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("aeot: error: out of memory (")
    assert told.endswith("; lower --batch_size, --size, --width, --latent_dim\n")
    assert cli.main(["sample", "run"]) == 2
    assert capsys.readouterr().err.endswith("; lower --n\n")


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the address space as Linux does")
def test_torch_says_so_where_its_allocator_fails():
    script = (
        "import torch, resource\n"
        "from aeot._environment import is_out_of_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 33, resource.RLIM_INFINITY))\n"
        "x = torch.empty(9).numpy()\n"
        "for make in (lambda: torch.empty(1 << 40), lambda: x.repeat(1 << 38)):\n"
        "    try: make()\n"
        "    except Exception as error: print(is_out_of_memory(error))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "True\nTrue\n", done.stderr
