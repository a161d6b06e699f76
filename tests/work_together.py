"""What tests let several processes do together: ``python work_together.py FILE RANK SIZE WHAT``.

Every process prints what it found as one line of JSON. `run` starts them.
"""

import contextlib
import gc
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import aeot
from aeot import _loop, _ranks, cli
from aeot.commands import compare
from aeot.search.planes import Block
from aeot.solvers import laplacian
from aeot.solvers import scorer as scores
from aeot.solvers import solve as solving
from aeot.solvers.problem import standardise
from aeot.solvers.scorer import Scorer
from aeot.solvers.state import State


def start(size, what, *arguments):
    """Start the ranks; return their processes."""
    folder = Path(tempfile.mkdtemp())
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(Path(aeot.__file__).parents[1])
    names = [str(folder / "store"), *map(str, (size, what, *arguments))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen([sys.executable, __file__, str(rank), *names], env=environment, **pipes)
        for rank in range(size)
    ]


def ended(processes, seconds):
    """Wait for the ranks; return (status, last line of stdout, stderr) of each."""
    found = []
    try:
        for process in processes:
            out, told = process.communicate(timeout=seconds)
            lines = out.strip().splitlines()
            found.append((process.returncode, lines[-1] if lines else "", told))
    finally:
        for process in processes:
            process.kill()
    return found


def run(size, what, *arguments, seconds=400):
    """Return what each rank found; all have to end well, and in time."""
    found = ended(start(size, what, *arguments), seconds)
    for status, _, told in found:
        assert status == 0, told
    return [json.loads(line) for _, line, _ in found]


def digest(*tensors):
    """Return the SHA-256 of the bytes of tensors."""
    raw = b"".join(x.detach().cpu().contiguous().numpy().tobytes() for x in tensors)
    return hashlib.sha256(raw).hexdigest()


def normal(n, d, key=0):
    return torch.randn(n, d, generator=aeot.generator(key), dtype=torch.float64)


def told(solution):
    """Return what is to be equal, bit by bit, and what every rank counts alike."""
    marks = digest(solution.heights, solution.cell_masses, solution.cell_centroids)
    return [marks, solution.n_samples, solution.mass_error_upper, len(solution.history)]


def clumps(n, generator):
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return x + 3.0 * torch.randint(0, 2, (n, 1), generator=generator)


def few():
    """Return what solves of every kind come to, small."""
    solve, box = aeot.solve_semidiscrete, aeot.UniformBox(dim=8)
    y, masses = normal(600, 8), torch.rand(600, generator=aeot.generator(1)).double() + 0.1
    found = {"halves": told(solve(box, y, masses / masses.sum(), tol=0.1))}
    torch_way = solve(aeot.Gaussian(dim=5), normal(150, 5), tol=0.12, engine="torch", threads=1)
    found["torch"] = told(torch_way)
    near = torch.cat([normal(60, 5), normal(60, 5) + 1e-5])
    found["twins"] = told(solve(aeot.Sampler(clumps, dim=5), near, tol=0.12))
    tree = aeot.solve_hierarchical(box, y, masses / masses.sum(), clusters=12, tol=0.15)
    found["tree"] = [told(s) for s in (tree.coarse, tree._inside)]
    found["trained"] = trained()
    return found


def whole_numbers(block, d):
    """Return samples of whole numbers: their scores are exact, and many are equal."""
    rng = aeot.generator(7, block)
    rows = torch.randint(-2, 3, (256, d), generator=rng).float()
    return Block(rows, rows.new_zeros(1, 0), 256)


def everything(parts, columns):
    """Return a mark of what all ranks found, of tuples of so many tensors; a rank may have none."""
    raw = [torch.cat(x).view(-1).view(torch.uint8) for x in zip(*parts, strict=True)]
    return digest(*_ranks.joined(*(raw or [torch.zeros(0, dtype=torch.uint8)] * columns)))


def shared():
    """Return what is found where each rank holds some of the sites, and how many those are."""
    rng, found, held = aeot.generator(3), {}, {}
    sites = {
        "ties": torch.randint(-2, 3, (2500, 9), generator=rng).double(),
        "few": torch.randn(1537, 4, generator=rng).double(),
        "halves": torch.randn(2100, 12, generator=rng).double(),
    }
    for name, y in sites.items():
        n, d = y.shape
        problem = standardise(aeot.UniformBox(dim=d), y, torch.full((n,), 1 / n).double(), 0)
        h = torch.randint(-2, 3, (n,), generator=rng).double() / 4
        with _ranks.together("shared"):
            split = 8 if name == "halves" else 1
            scorer = Scorer(problem, engine="numba", split=split, memory=1 << 14, threads=1)
            held[name] = len(scorer.planes.sites)
            if name == "ties":
                scorer.problem = replace(problem, sites=y.float())
                scorer.planes = scorer.engine.arrange(
                    y.float()[scorer.own], split=1, rows=256, memory=1 << 14
                )
                scorer.draw = lambda stage, block, d=d: whole_numbers(block, d)
                scorer.rows = scorer.block_samples = 256
            for runners, doubts in ((False, False), (True, False), (True, True)):
                won = scorer.winners(h, "won", range(7), runners=runners, doubts=doubts)
                parts = [(w.site, w.value, w.second, w.gap, w.unsure) for w in won]
                found[f"{name}: {runners}, {doubts}"] = everything(parts, 5)
            for least, longest, radius in ((4, 16, 0.5), (8, 32, 1e-3), (1, 4, 1e20)):
                options = {"radius": radius, "least": least, "longest": longest}
                lists = scorer.candidates(h, "lists", range(5), **options)
                parts = [(x.start.diff(), x.site, x.value, x.bound) for x in lists]
                found[f"{name}: {options}"] = everything(parts, 4)
            if split == 1:
                edges = np.array([0, 3, 500, 1100, n])
                maxima = scorer.cluster_maxima(h, edges, "maxima", range(5))
                found[f"{name}: clusters"] = everything([(x,) for x in maxima], 1)
    box, y = aeot.UniformBox(dim=200), normal(1100, 200)
    options = {"tol": 0.3, "memory": 1 << 20, "max_samples": 1e5}
    found["solve"] = told(aeot.solve_semidiscrete(box, y, **options))
    found["pruned"] = pruned(box, y, **options)
    found["rows"], held["rows"] = divided()
    return found, held


def divided():
    """Return the same of solves whose ranks divide the Laplacian, and how many rows there are.

    A signal stops each between a step and the gathering of its rows, which are written at the end
    alone: the second in a part of its start. They go on: together, and in one process with what
    the first rank kept.
    """
    before, held, found = (laplacian.DIVIDED, State.with_facets), [], []

    def noted(state, matrix, samples):
        held.append(len(matrix.indptr) - 1)
        return before[1](state, matrix, samples)

    laplacian.DIVIDED, State.with_facets = 0, noted
    tight = normal(6, 6).repeat_interleave(50, 0) + 1e-4 * normal(300, 6, 1)
    try:
        for y, tol in ((normal(600, 6), 0.04), (tight, 0.1)):
            found += stopped_before_gathering(aeot.UniformBox(dim=6), y, tol)
        first = aeot.solve_semidiscrete(aeot.UniformBox(dim=6), normal(600, 6), tol=0.1)
        found.append(told(aeot.update_solution(first, remove=[3, 9])))
        whole = {"tol": 0.12, "engine": "torch", "threads": 1}  # whose facets no rank divides
        found.append(told(aeot.solve_semidiscrete(aeot.Gaussian(dim=5), normal(150, 5), **whole)))
    finally:
        laplacian.DIVIDED, State.with_facets = before
    return found, held[0]


def stopped_before_gathering(box, y, tol):
    """Return what a solve comes to that a signal has stopped, and the steps that it still took."""
    before, made = (solving.advance, _loop.Pace.due), []
    options = {"tol": tol, "checkpoint": Path(tempfile.mkdtemp(), "state")}
    one = f"{options['checkpoint']} of one"

    def stopped(task, steps, state):
        after = before[0](task, steps, state)
        if state.phase == "stream":
            os.kill(os.getpid(), signal.SIGTERM)
        return after

    solving.advance, _loop.Pace.due = stopped, lambda _: False
    try:
        assert "Stopped" in raised(aeot.solve_semidiscrete, box, y, **options)
    finally:
        solving.advance, _loop.Pace.due = before
    if options["checkpoint"].exists():
        shutil.copytree(options["checkpoint"], one)
    again = told(aeot.solve_semidiscrete(box, y, **options, on_step=made.append))
    with aeot.alone():
        assert told(aeot.solve_semidiscrete(box, y, **options | {"checkpoint": one})) == again
    return [again, len(made)]


def pruned(box, y, **options):
    """Return the same of a solve whose candidate lists come from a few leaves of trees."""
    before, made = (scores._MANY, scores._pays), []
    scores._MANY, scores._pays = 0, lambda *given: made.append(given) or True
    try:
        found = told(aeot.solve_semidiscrete(box, y, **options))
    finally:
        scores._MANY, scores._pays = before
    assert made
    return found


def many():
    """Return the same of the other methods and calls."""
    solve, box = aeot.solve_semidiscrete, aeot.UniformBox(dim=4)
    y = normal(200, 4)
    found = {method: told(solve(box, y, tol=0.1, method=method)) for method in ("lbfgs", "adam")}
    found["limited"] = told(solve(box, y, tol=0.01, max_samples=1e5))
    found["line"] = told(
        solve(
            aeot.Sampler(lambda n, g: torch.randn(n, 1, generator=g) ** 3, dim=1),
            y[:, :1],
            tol=0.05,
        )
    )
    plane = aeot.Sampler(lambda n, g: torch.randn(n, 2, generator=g).exp(), dim=2)
    found["plane"] = told(solve(plane, y[:, :2], tol=0.05))
    found["exact"] = told(solve(aeot.UniformBox(dim=2), y[:, :2]))
    found["pruned"] = pruned(aeot.UniformBox(dim=8), normal(1600, 8), tol=0.2)
    found["kdtree"] = told(solve(box, y, tol=0.1, engine="kdtree"))
    first = solve(box, y, tol=0.1)
    found["init"] = told(solve(box, y, tol=0.1, init=first.heights + 1e-3 * normal(200, 1)[:, 0]))
    after = aeot.update_solution(first, add=normal(5, 4, 2), remove=[3, 9])
    found["update"] = told(after)
    classes = aeot.solve_conditional(box, y, [0] * 80 + [1] * 120, tol=0.1)
    found["classes"] = [told(s) for s in classes.solutions]
    estimator = aeot.SemiDiscreteOT(tol=0.1, random_state=0).fit(y)
    found["estimator"] = digest(torch.from_numpy(estimator.heights_))
    return found


def images(n=48, side=8):
    x = torch.rand(n, 1, side, side, generator=aeot.generator(5))
    return aeot.tensors(x * 2 - 1)


def losses(model):
    """Return the numbers of the last record, and a mark of the weights: alike on all ranks."""
    last = {k: v for k, v in model.history_[-1].items() if k != "seconds"}
    networks = [x for x in vars(model).values() if isinstance(x, torch.nn.Module)]
    weights = [w for network in networks for w in network.state_dict().values()]
    return [last, digest(*weights)]


def trained(steps=10):
    """Return the losses of networks that are trained together: both kinds of second derivatives."""
    steps, found = int(steps), {}
    plain = {"precision": "float32", "batch_size": 10, "latent_dim": 3}
    found["residual"] = losses(aeot.Autoencoder(width=4, **plain).fit(images(), steps=steps))
    ring = aeot.data.toy("ring", 64)
    found["plain"] = losses(aeot.Autoencoder(**plain | {"latent_dim": 1}).fit(ring, steps=steps))
    small = {"hidden": 8, "batch_size": 9, "latent_dim": 2}
    found["penalty"] = losses(aeot.WGANGP(**small).fit(ring, steps=steps))
    return found


def trained_all(steps=100):
    """Return the losses of every class that trains on this package's loop."""
    steps, ring = int(steps), aeot.data.toy("ring", 64)
    small, found = {"hidden": 8, "batch_size": 9, "latent_dim": 2}, trained(steps)
    pictures = {"batch_size": 6, "latent_dim": 3}
    for kind in ("GAN", "LSGAN", "DRAGAN", "BEGAN"):
        found[kind] = losses(getattr(aeot, kind)(**small).fit(ring, steps=steps))
    # Without the first rounds, of a hundred critic steps each.
    found["WGAN"] = losses(aeot.WGAN(warm_up_steps=5, **small).fit(ring, steps=steps))
    found["PacGAN"] = losses(
        aeot.PacGAN(hidden=8, latent_dim=2, batch_size=8).fit(ring, steps=steps)
    )
    found["kernels"] = losses(aeot.GAN(kernels=3, **small).fit(ring, steps=steps))
    found["spectral"] = losses(aeot.GAN(spectral=True, **small).fit(ring, steps=steps))
    short = min(steps, 12)
    found["images"] = losses(aeot.GAN(**pictures).fit(images(), steps=short))
    found["VAE"] = losses(aeot.VAE(latent_dim=2, batch_size=9).fit(ring, steps=steps))
    found["ALI"] = losses(aeot.ALI(latent_dim=2, batch_size=9).fit(ring, steps=steps))
    found["GLO"] = losses(aeot.GLO(latent_dim=2, batch_size=9).fit(ring, steps=steps))
    found["GLANN"] = losses(aeot.GLANN(latent_dim=2, batch_size=9).fit(ring, steps=steps))
    found["IMLE"] = losses(aeot.IMLE(batch_size=9).fit(ring, steps=steps))
    found["FlowMatching"] = losses(aeot.FlowMatching(hidden=8, batch_size=9).fit(ring, steps=steps))
    low = aeot.Autoencoder(latent_dim=2, batch_size=10, precision="float32")
    found["two numbers"] = losses(low.fit(ring, steps=steps))
    return found


def rounded():
    """Return the losses of the same networks, step by step, in float32 and in bfloat16."""
    ring, found = aeot.data.toy("ring", 64), {}
    for precision in ("float32", "bfloat16"):
        small = aeot.Autoencoder(latent_dim=2, batch_size=10, precision=precision)
        seen = []
        small.fit(ring, steps=20, on_step=lambda step, record, s=seen: s.append(record["loss"]))
        found[precision] = seen
    return found


def compare_command(folder, out):
    """Return the command that compares two small models, measured by a network that is kept."""
    command = ["compare", "VAE", "GAN", "--images-seen", "320", "--latent-dim", "4", "--size", "8"]
    command += ["--n-samples", "60", "--metrics", "sliced", "--features", str(Path(folder, "net"))]
    return [*command, "--out", str(Path(folder, out))]


def compared(folder, failing):
    """Return what the ranks say of a comparison that one of them cannot go on with, and then can.

    Args:
        folder: Where the network is, and the comparison comes.
        failing: The rank that fails in its first training; -1: none.
    """
    rank, train, trained, told = torch.distributed.get_rank(), compare.budget.train, [], []

    def noted(model, data, **limit):
        trained.append(type(model).__name__)
        if rank == int(failing) and len(trained) == 1:
            raise FloatingPointError("the loss is nan")
        return train(model, data, **limit)

    compare.budget.train = noted
    for _ in range(1 + (int(failing) >= 0)):
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = cli.main(compare_command(folder, "together"))
        lines = errors.getvalue().splitlines()
        told.append([status, [line for line in lines if line.startswith("aeot: error: ")]])
    return told, trained


SAID = []  # of every error raised: whether another rank says it


def raised(call, *arguments, **options):
    """Return what a call raises, in words."""
    try:
        call(*arguments, **options)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        SAID.append(getattr(error, "said", False))
        return f"{type(error).__name__}: {error}"
    return None


def troubles(folder):
    """Return what becomes of calls that differ between the ranks, and of signals."""
    rank, found = torch.distributed.get_rank(), {}
    solve, box, y = aeot.solve_semidiscrete, aeot.UniformBox(dim=4), normal(200, 4)
    found["sites"] = raised(solve, box, normal(50, 4, rank))
    found["exact"] = raised(solve, aeot.UniformBox(dim=2), normal(50, 2, rank))
    found["bad"] = raised(solve, box, y, tol=0.1 if rank else -1.0)
    found["classes"] = raised(aeot.solve_conditional, box, y, [0] * (200 - 90 * rank), tol=0.1)
    found["labels"] = raised(aeot.solve_conditional, box, y, [0] * 99 + [rank] * 101, tol=0.1)
    found["seed"] = raised(aeot.solve_hierarchical, box, y, seed=rank, tol=0.1)
    found["calls"] = raised(aeot.solve_hierarchical if rank else solve, box, y, tol=0.1)
    found["rows"] = raised(aeot.GAN(batch_size=4).fit, aeot.data.toy("ring", 40 + rank), steps=2)

    def fails(record):
        if rank == 1 and record["step"] > 0:
            raise LookupError("a callback of ours")

    found["callback"] = raised(solve, box, y, tol=0.05, on_step=fails)
    ended = solve(box, y, tol=0.05, on_step=lambda r: rank == 1 and r["stage"] == "grow")
    found["ended"] = [told(ended), ended.history[-1]["stage"]]

    found["memory"] = raised(aeot.update_solution, ended, remove=[3], memory=1 << (20 + rank))

    def slow_and_stopped(record):
        if rank == 1:
            time.sleep(0.05)
            if record["stage"] == "settle":
                os.kill(os.getpid(), signal.SIGTERM)

    options = {"tol": 0.05, "checkpoint": folder}
    found["stopped"] = raised(solve, box, y, on_step=slow_and_stopped, **options)
    found["resumed"] = told(solve(box, y, **options))
    found["alone"] = None
    if rank == 1:
        with aeot.alone():
            found["alone"] = told(solve(box, y, tol=0.1))
    found["said"] = list(SAID)
    torch.distributed.barrier()
    with out_of_memory(rank == 1):
        found["lost"] = raised(solve, box, y, tol=0.05)
    found["after"] = raised(solve, box, y, tol=0.05)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    connect(rank, f"{folder}.store", 2)

    def asked_twice(*_):
        if rank == 1:
            for wait in (2 * _loop._TWICE, 0):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(wait)

    ring = aeot.data.toy("ring", 40)
    found["twice"] = raised(aeot.GAN(batch_size=4).fit, ring, steps=3, on_step=asked_twice)
    torch.distributed.barrier()  # no process has ended by then
    return found


@contextlib.contextmanager
def out_of_memory(here):
    """Let memory end where the other ranks wait for what this one was to add."""
    before, times = _ranks._Call.reduced, []

    def reduced(self, x):
        times.append(None)
        if here and len(times) == 3:
            raise MemoryError("no memory for sums")
        return before(self, x)

    _ranks._Call.reduced = reduced
    yield
    _ranks._Call.reduced = before


def killed(folder, answer):
    """Die in the middle of a solve, on one rank and the first time."""
    rank, first = torch.distributed.get_rank(), os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"

    steps = []

    def on_step(record):
        steps.append(record["stage"])
        if first and rank == 1 and record["stage"] == "grow":
            os.kill(os.getpid(), signal.SIGKILL)

    y, options = normal(400, 6), {"tol": 0.04, "checkpoint": folder, "on_step": on_step}
    found = told(aeot.solve_semidiscrete(aeot.UniformBox(dim=6), y, **options))
    if rank == 0:
        Path(answer).write_text(json.dumps([found, first, len(steps)]))


def connect(rank, store, size):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size
    )


def main(rank, store, size, what, *arguments):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if rank == "torchrun":
        torch.distributed.init_process_group("gloo")
    else:
        connect(int(rank), store, int(size))
    np.random.seed(torch.distributed.get_rank())  # which decides nothing
    print(json.dumps(globals()[what](*arguments)), flush=True)
    # A group that outlives its destruction may abort the process.
    ours = _ranks._groups[0][1] if _ranks._groups else None  # of one rank there is none
    torch.distributed.destroy_process_group()
    gc.collect()
    assert ours is None or ours() is None


if __name__ == "__main__":
    main(*sys.argv[1:])
