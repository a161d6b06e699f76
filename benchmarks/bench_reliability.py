"""Is anything lost, or wrong in silence? Kills, signals, damage, full disks, bad files, bounds.

A part a question, and a line of JSON a part: what was tried, what held, and cases that did not.

    python benchmarks/bench_reliability.py kills            # SIGKILL at random moments, then go on
    python benchmarks/bench_reliability.py certificates --count 20
    python benchmarks/bench_reliability.py all --out benchmarks/results/reliability.jsonl

Finished cases are kept in out/reliability (--work) and not run again; --seconds ends a part early,
and the same command goes on with it.
"""

import argparse
import contextlib
import ctypes
import errno
import functools
import io
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork cannot use the threads of its parent

import numpy as np
import torch

import aeot
from aeot import _io, cli, training
from aeot._environment import environment
from aeot._rng import generator
from aeot.data.toys import toy
from aeot.features import Classifier

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # some cases are made where the tests make them


# What is run, killed and stopped: each job goes on from what it finds in its folder, and returns
# the tensors that it made.


def _rows(n, d, seed):
    return torch.randn(n, d, generator=generator(seed, "rows"))


def _images(n, side=16):
    return torch.rand(n, 1, side, side, generator=generator(0, "images")) * 2 - 1


def solve(folder):
    sites = _rows(1500, 8, 1)
    options = {"tol": 0.03, "threads": 1, "checkpoint": folder / "checkpoint"}
    solution = aeot.solve_semidiscrete(aeot.UniformBox(dim=8), sites, **options)
    return {"heights": solution.heights, "masses": solution.cell_masses}


def fit(folder):
    model = aeot.AEOT(latent_dim=5, batch_size=64, width=16, tol=0.04)
    model.fit(_rows(900, 7, 2), steps=200, checkpoint=folder / "checkpoint")
    return _io.pack(model.state())[0]


def _generative(model, data, steps, folder):
    model.fit(data, steps=steps, checkpoint=folder / "checkpoint")
    return _io.pack(model.state())[0]


def wgan_gp(folder):
    return _generative(aeot.WGANGP(batch_size=32, hidden=24), toy("ring", 256), 60, folder)


def flow(folder):
    return _generative(aeot.FlowMatching(batch_size=64, hidden=32), toy("ring", 256), 500, folder)


def autoencoder(folder):
    model = aeot.Autoencoder(latent_dim=3, batch_size=64, width=16)
    return _generative(model, _rows(900, 7, 2), 700, folder)


def cyclegan(folder):
    data = aeot.unpaired(_images(32), -_images(32))
    model = aeot.CycleGAN(n_layers=1, filters=4, n_blocks=1, device="cpu")
    return _generative(model, data, 60, folder)


def _command(*argv):
    status = cli.main([str(word) for word in argv])
    if status:
        raise SystemExit(status)


def command_fit(folder):
    np.save(folder / "rows.npy", _rows(700, 6, 2).numpy())
    options = ["--latent_dim", 5, "--steps", 200, "--tol", 0.05, "--out", folder / "run"]
    _command("fit", "--data", folder / "rows.npy", *options)
    return _io.load(folder / "run" / "model", kind="AEOT")[0]


def command_compare(folder):
    if not (folder / "net").exists():
        some = aeot.dataset("digits", size=8).subset(slice(0, 300))
        Classifier(channels=4, width=8, epochs=1).fit(some).save(folder / "net")
    options = ["--data", "digits", "--size", 8, "--images_seen", 4000, "--n_samples", 50]
    options += ["--metrics", "sliced", "--features", folder / "net", "--out", folder / "run"]
    _command("compare", "VAE", *options)
    found = _io.load(folder / "run" / "models" / "VAE-0", kind="VAE")[0]
    rows = json.loads((folder / "run" / "comparison.json").read_text())["rows"]
    values = [row["metrics"]["sliced"]["mean"] for row in rows]
    return found | {"sliced": torch.tensor(values, dtype=torch.float64)}


KILLED = {"solve": solve, "fit": fit, "WGAN-GP": wgan_gp}
FILLED = {"solve": solve, "WGAN-GP": wgan_gp, "aeot fit": command_fit}
STOPPED = {
    "solve": solve,
    "WGAN-GP": wgan_gp,
    "autoencoder": autoencoder,
    "flow matching": flow,
    "CycleGAN": cyclegan,
    "aeot fit": command_fit,
    "aeot compare": command_compare,
}


def begun(job, folder, *, every_step):
    """Start a job in a process of its own; return its number. It writes its digest when done."""
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        # A shell starts what runs in the background with signals ignored, which aeot respects.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number, name in ((1, "printed"), (2, "errors")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        if every_step:
            training.run = functools.partial(training.run, checkpoint_seconds=0)
        text = _io.digest(job(folder))
        (folder / "digest").write_text(text)
        status = 0
    except KeyboardInterrupt as stopped:
        status = 128 + getattr(stopped, "number", signal.SIGINT)
    except SystemExit as left:
        status = left.code
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        status = 2 if error.filename else 1
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(child):
    """Wait for a process; return its exit status, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def reference(job, folder, *, every_step):
    """Run a job to its end; return its digest and how long it took."""
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    status = ended(begun(job, folder, every_step=every_step))
    if status:
        raise RuntimeError(f"{job.__name__} ended with {status}: {(folder / 'errors').read_text()}")
    return (folder / "digest").read_text(), time.perf_counter() - start


class Cases:
    """The cases of a part, kept in a file, and when to stop."""

    def __init__(self, options, part):
        self.part, self.options, self.rows = part, options, []
        self.folder = options.work / part
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "cases.jsonl"
        if options.fresh:
            self.file.unlink(missing_ok=True)
        mark = [aeot.__version__, options.seed]
        if self.file.exists():
            found = [json.loads(line) for line in self.file.read_text().splitlines()]
            self.rows = [row for row in found if row.pop("mark") == mark]
        self.mark, self.begun = mark, time.perf_counter()
        options.spent = sum(row.get("seconds", 0.0) for row in self.rows)  # by earlier runs

    def open(self, count):
        """Yield the numbers of the cases that are still to be run, until the time is over."""
        done = {row["case"] for row in self.rows}
        for case in range(count):
            if time.perf_counter() - self.begun > self.options.seconds:
                return
            if case not in done:
                yield case

    def add(self, case, since, **row):
        row = {"case": case, **row, "seconds": round(time.perf_counter() - since, 3)}
        self.rows.append(row)
        with self.file.open("a") as file:
            file.write(json.dumps({**row, "mark": self.mark}) + "\n")

    def stream(self, *keys):
        return np.random.default_rng([self.options.seed, *keys])

    def summary(self, count, **values):
        """What is told of a part: how many cases held, and those that did not."""
        bad = [row for row in self.rows if not row["held"]]
        told = {"cases": len(self.rows), "of": count, "held": len(self.rows) - len(bad)}
        return told | values | {"failed": bad[:10]}


# The parts


def kills(options, count):
    """SIGKILL at a random moment, go on, be killed again; at last the same bytes as without."""
    cases, jobs = Cases(options, "kills"), list(KILLED.items())
    for case in cases.open(count):
        since = time.perf_counter()
        name, job = jobs[case % len(jobs)]
        expected, duration = wanted(cases, name, job, every_step=True)
        rng, folder = cases.stream(1, case), cases.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        killed, moments = 0, []
        while killed < 3:  # of one chain
            child = begun(job, folder, every_step=True)
            moment = float(rng.uniform(0, 0.9 * duration))
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
            if ended(child) == 0:
                break  # it was done before
            killed += 1
            moments.append(round(moment, 2))
        status = 0 if (folder / "digest").exists() else ended(begun(job, folder, every_step=True))
        found = (folder / "digest").read_text() if status == 0 else f"status {status}"
        cases.add(case, since, job=name, kills=killed, at=moments, held=found == expected)
    n = sum(row["kills"] for row in cases.rows)
    return cases.summary(count, kills=n, jobs=list(KILLED))


_known = {}


def wanted(cases, name, job, *, every_step):
    """What a job makes when nothing disturbs it, and how long it takes, once a process."""
    if (name, every_step) not in _known:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            job(Path(folder))  # here, so that processes to come have everything loaded
        found = reference(job, cases.folder / "warm", every_step=every_step)
        _known[name, every_step] = found
    return _known[name, every_step]


def signals(options, count):
    """SIGINT and SIGTERM in seven loops: stopped soon, with a checkpoint, and gone on from."""
    cases, jobs = Cases(options, "signals"), list(STOPPED.items())
    for case in cases.open(count):
        since = time.perf_counter()
        name, job = jobs[case // 2 % len(jobs)]
        number = (signal.SIGINT, signal.SIGTERM)[case % 2]
        expected, duration = wanted(cases, name, job, every_step=False)
        rng, folder = cases.stream(2, case), cases.folder / "run"
        for _ in range(20):  # a signal before or after the loop says nothing of it
            shutil.rmtree(folder, ignore_errors=True)
            child = begun(job, folder, every_step=False)
            time.sleep(float(rng.uniform(0.1, 0.9)) * duration)
            sent = time.perf_counter()
            os.kill(child, number)
            status = ended(child)
            took = time.perf_counter() - sent
            saved = [
                p
                for p in folder.rglob("*")
                if p.name == "manifest.json" and not {"net", "data"} & {*p.parts}
            ]
            if status not in (0, -number) and (status != 128 + number or saved):
                break  # else it was done, or had not begun: outside of the loop
        resumed = ended(begun(job, folder, every_step=False))
        found = (folder / "digest").read_text() if resumed == 0 else f"status {resumed}"
        held = status == 128 + number and bool(saved) and found == expected and took < 1 + 0.2
        told = {"job": name, "signal": signal.Signals(number).name, "status": status}
        told |= {"took": round(took, 3), "checkpoint": bool(saved), "same": found == expected}
        cases.add(case, since, **told, held=held)
    slowest = max((row["took"] for row in cases.rows), default=None)
    return cases.summary(count, loops=list(STOPPED), slowest_stop=slowest)


def corruption(options, count):
    """A flipped bit or a cut in the newest of two saves: found, and the older one is used."""
    since, rng = time.perf_counter(), np.random.default_rng([options.seed, 3])
    told = {"older used": 0, "refused": 0, "white space": 0}
    failed, done = [], 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "checkpoint"
        saves = [{"weights": _rows(40, 7, k), "count": torch.tensor(k)} for k in range(2)]
        for k, tensors in enumerate(saves):
            _io.save(place, tensors, {"step": k}, kind="Thing", keep_previous=True)
        files = {path: path.read_bytes() for path in sorted(place.iterdir()) if path.is_file()}
        for case in range(count):
            if time.perf_counter() - since > options.seconds:
                break
            path = list(files)[int(rng.integers(len(files)))]
            body = bytearray(files[path])
            cut, at = bool(rng.integers(2)), int(rng.integers(len(body)))
            if cut:
                del body[at:]
            else:
                body[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(body)
            try:
                tensors, config = _io.load(place, kind="Thing")
                whole = _io.digest(tensors) == _io.digest(saves[config["step"]])
                kind = ["older used", "white space"][config["step"]] if whole else "wrong"
                if kind == "white space" and path.name != "manifest.json":
                    kind = "missed"
            except ValueError:
                kind = "refused"
            except Exception as error:  # noqa: BLE001 - what must not come out
                kind = repr(error)
            path.write_bytes(files[path])
            if kind in told:
                told[kind] += 1
            if kind != "older used" and kind != "white space":
                failed.append({"case": case, "file": path.name, "cut": cut, "at": at, "got": kind})
            done += 1
    summary = {"cases": done, "of": count, "held": done - len(failed), **told}
    return summary | {"failed": failed[:10]}


def _refusing(job, k):
    """The job on a disk whose k-th write from now on is refused; -1: none, and they are counted."""
    import pytest
    from test_io import Refusing

    def run(folder):
        with pytest.MonkeyPatch.context() as patch:
            disk = Refusing(patch, k, errno.ENOSPC)
            found = job(folder)
        (folder / "writes").write_text(str(disk.calls))
        return found

    run.__name__ = job.__name__
    return run


def disk(options, count):
    """A disk that is full at one write of a job: one line, nothing cut, and it can go on."""
    cases, jobs = Cases(options, "disk"), list(FILLED.items())
    known = {}
    for case in cases.open(count):
        since = time.perf_counter()
        name, job = jobs[case % len(jobs)]
        often = job is not command_fit  # which has enough to write besides
        if name not in known:
            expected, _ = wanted(cases, name, job, every_step=often)
            reference(_refusing(job, -1), cases.folder / "count", every_step=often)
            known[name] = expected, int((cases.folder / "count" / "writes").read_text())
        expected, writes = known[name]
        rounds = -(-count // len(jobs))
        k = round((case // len(jobs) + 0.5) / rounds * writes)
        folder = cases.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        status = ended(begun(_refusing(job, k), folder, every_step=often))
        lines = (folder / "errors").read_text().splitlines()
        told = [line for line in lines if "No space left" in line]
        litter = [str(p) for p in folder.rglob("*writing-*")]
        resumed = ended(begun(job, folder, every_step=often)) if status else 0
        same = resumed == 0 and (folder / "digest").read_text() == expected
        faults = [line for line in lines if "aeot: error" in line or not line.startswith("aeot: ")]
        clear = (status, faults, len(told)) == (2, told, 1) or status == 0  # or done without it
        row = {"job": name, "write": k, "of": writes, "status": status, "lines": lines[:3]}
        cases.add(case, since, **row, litter=litter, same=same, held=clear and same and not litter)
    stopped = sum(row["status"] != 0 for row in cases.rows)
    return cases.summary(count, jobs=list(FILLED), stopped_with_one_line=stopped)


def files(options, count):
    """Damaged and hostile images, each beside a good one: one line, and the good one is read."""
    import hostile_images

    cases, made = Cases(options, "files"), list(hostile_images.spoilt().items())
    count = min(count, len(made))
    for case in cases.open(count):
        since, (name, body) = time.perf_counter(), made[case]
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            good = hostile_images.saved("PNG")
            hostile_images.write(folder, {"good.png": good, name: body})
            try:
                data = aeot.images(folder, size=8)
                got = [len(data), len(data.info["skipped"]), len(said)]
            except Exception as error:  # noqa: BLE001 - what must not come out
                got = repr(error)
            held = got == [1, 1, 1] and "\n" not in str(said[0].message)
        cases.add(case, since, name=name, got=got, held=held)
    return cases.summary(count)


def memory(options, count):
    """Peak memory of a solve over what its docstring says, for 2 000, 20 000 and 60 000 sites."""
    cases = Cases(options, "memory")
    tried = [(n, budget) for budget in (1 << 24, 1 << 28) for n in (2_000, 20_000, 60_000)]
    for case in cases.open(min(count, len(tried))):
        since, (n, budget), d = time.perf_counter(), tried[case], 16
        folder = cases.folder / f"{n}-{budget}"  # of a case that was ended, which goes on
        folder.mkdir(exist_ok=True)
        child = os.fork()
        if not child:
            _solved_in_memory(n, d, budget, folder)
        status, told = ended(child), json.loads((folder / "told").read_text())
        told = told if status == 0 else {"status": status, **told}
        since -= told.pop("earlier")
        shutil.rmtree(folder)
        cases.add(case, since, n=n, d=d, memory=budget, **told)
    for row in cases.rows:
        n, d = row["n"], row["d"]
        lists = 24 * n * (20 + 8 * 16) + 1200 * n  # k = 16: the longest; facets
        said = row["memory"] + 4 * n * d + lists + 8 * n * d + 800 * n + 16 * n * (d + 60)
        row["said_mb"] = round(said / 1e6, 1)  # without the 20 MB of any solve
        row["held"] = "status" not in row and row["peak_mb"] <= 1.1 * row["said_mb"]
    rows = [{k: v for k, v in row.items() if k != "case"} for row in cases.rows]
    return cases.summary(min(count, len(tried)), measured=rows)


def _solved_in_memory(n, d, budget, folder):
    """In a process of its own: solve, write the peak of its memory over the start, and leave."""
    begun, told = time.perf_counter(), {"peak_mb": 0.0, "earlier": 0.0}
    if (folder / "told").exists():
        told = json.loads((folder / "told").read_text())
    before, code = 0, 1

    def status(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

    try:
        options = {"threads": 1, "progress": False}
        warnings.simplefilter("ignore")
        aeot.solve_semidiscrete(aeot.UniformBox(dim=d), _rows(40, d, 0), tol=0.3, **options)
        sites, tol = _rows(n, d, 1), {2_000: 0.05, 20_000: 0.1}.get(n, 0.2)
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is not there any more
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        source = aeot.UniformBox(dim=d)
        options |= {"memory": budget, "checkpoint": folder / "checkpoint"}
        told["converged"] = aeot.solve_semidiscrete(source, sites, tol=tol, **options).converged
        code = 0
    finally:
        if before:
            peak = round((status("VmHWM") - before) / 1e6, 1)
            told["peak_mb"] = max(told["peak_mb"], peak)
        if code:
            told["earlier"] += time.perf_counter() - begun
        (folder / "told").write_text(json.dumps(told))
        os._exit(code)


SOURCES = ("box", "ball", "normal", "polygon", "picture", "points", "sampler")
SITES = ("normal", "near", "curve", "outlier", "heavy", "clusters", "lattice")


def _source(name, d, rng):
    if name == "box":
        low = rng.normal(size=d)
        return aeot.UniformBox(low=low, high=low + rng.uniform(0.2, 3, size=d))
    if name == "ball":
        return aeot.UniformBall(dim=d, center=rng.normal(size=d), radius=float(rng.uniform(0.1, 9)))
    if name == "normal":
        factor = rng.normal(size=(d, d)) / d**0.5 + np.eye(d)
        return aeot.Gaussian(mean=rng.normal(size=d), covariance=factor @ factor.T)
    if name == "polygon":
        angles = np.sort(rng.uniform(0, 2 * np.pi, size=3)) + np.array([0, 0.1, 0.2])
        return aeot.ConvexPolygon(np.c_[np.cos(angles), np.sin(angles)] * rng.uniform(0.5, 4))
    if name == "picture":
        return aeot.GridDensity(rng.uniform(0.05, 1, size=(5, 4)), low=[-1, 0], high=[1, 3])
    if name == "points":
        return aeot.Empirical(rng.standard_t(4, size=(50_000, d)))
    skew = torch.from_numpy(rng.uniform(0.5, 2, size=d))

    def draw(n, stream):  # a skewed mixture of two
        x = torch.randn(n, d, generator=stream, dtype=torch.float64).exp().clamp(max=20) * skew
        return x + 3 * (torch.rand(n, 1, generator=stream, dtype=torch.float64) < 0.3)

    return aeot.Sampler(draw, dim=d)


def _sites(kind, n, d, rng):
    y = rng.normal(size=(n, d))
    if kind in ("near", "twins"):
        y = y.astype(np.float32)
        twin = rng.permutation(n // 2)[: max(1, n // 20)]
        near = y[twin] + 10.0 ** rng.uniform(-5, -2, size=(len(twin), 1)) * rng.normal(size=d)
        if kind == "twins":  # one unit in the last place
            near = np.c_[np.nextafter(y[twin, :1], np.float32(9)), y[twin, 1:]]
        y[n - len(twin) :] = near
    if kind == "curve":
        t = rng.uniform(0, 2 * np.pi, size=(n, 1))
        y = np.sin(t * rng.integers(1, 4, size=d) + rng.uniform(0, 6, size=d)) * rng.normal(size=d)
        y = y + 1e-3 * rng.normal(size=(n, d))
    if kind == "outlier":
        y[0] *= 10.0 ** rng.integers(2, 9)
    if kind == "heavy":
        y = y / np.abs(rng.normal(size=(n, 1)))
    if kind == "clusters":
        y = 6 * rng.normal(size=(5, d))[rng.integers(5, size=n)] + 0.1 * y
    if kind == "lattice":
        y = np.unique(rng.integers(-3, 4, size=(n, d)), axis=0).astype(float)
    return y


def certificates(options, count, part="certificates", kinds=SITES):
    """Random problems: the bound covers what is counted with the returned heights in float64."""
    cases = Cases(options, part)
    for case in cases.open(count):
        since, rng = time.perf_counter(), cases.stream(4, case)
        name, kind = SOURCES[case % len(SOURCES)], kinds[case // 7 % len(kinds)]
        d = 2 if name in ("polygon", "picture") else int(rng.choice([1, 2, 3, 5, 8, 16, 32]))
        y = _sites(kind, int(rng.integers(20, 300)), d, rng)
        n, tol = len(y), float(rng.choice([0.05, 0.1]))
        masses = np.ones(n) if rng.integers(2) else 0.3 + 10 * rng.dirichlet(np.ones(n)) * n / 10
        masses = torch.from_numpy(masses / masses.sum())
        source = _source(name, d, rng)
        method = "newton" if case % 2 else "auto"  # "auto" is exact where that can be
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            s = aeot.solve_semidiscrete(
                source, y, masses, tol=tol, method=method, seed=case, threads=1, progress=False
            )
        counted, noise, deviation, void = _counted(source, y, s.heights, masses, case)
        # The count's own noise is taken off its bound, and three times its deviation is allowed.
        covered = counted <= (s.mass_error_upper**2 + noise**2) ** 0.5 + 3 * deviation
        told = {"source": name, "sites": kind, "n": n, "d": d, "tol": tol, "method": s.method}
        told |= {"converged": s.converged, "bound": s.mass_error_upper, "counted": counted}
        told |= {"noise": noise, "covered": covered, "empty": void}
        cases.add(case, since, **told, held=covered and not (s.converged and void))
    rows = cases.rows
    return cases.summary(
        count,
        covered=sum(row["covered"] for row in rows),
        converged=sum(row["converged"] for row in rows),
        converged_with_an_empty_cell=sum(row["converged"] and row["empty"] > 0 for row in rows),
    )


def twins(options, count):
    """The same of sites of which some differ in the last place of a float32, converged or not."""
    return certificates(options, count, "twins", ("twins",))


def _counted(source, y, heights, masses, seed, m=1 << 18):
    """Total variation counted on fresh points, its mean and deviation by noise, empty cells."""
    y = torch.as_tensor(y, dtype=torch.float64)
    counts, middle = torch.zeros(len(y), dtype=torch.int64), y.median(0).values
    for block in range(m >> 13):
        x = source.sample(1 << 13, generator=generator(seed, "count", block)).double()
        scores = x @ (y - middle).T + heights.double()  # the same for all sites is added to each
        counts += scores.argmax(1).bincount(minlength=len(y))
    error = float((counts / m - masses).abs().sum()) / 2
    # Means and variances of |a normal| with the variances of the counts.
    variance = masses * (1 - masses) / m
    noise = float((2 * variance / np.pi).sqrt().sum()) / 2
    deviation = float(((1 - 2 / np.pi) * variance).sum().sqrt()) / 2
    return error, noise, deviation, int(((counts == 0) & (m * masses >= 30)).sum())


def states(options, count):
    """The public face under settings of torch and numpy that callers have: the same bits."""
    import test_torch_state as made

    cases = Cases(options, "states")
    names = list(made.CASES)
    for case in cases.open(min(count, len(names))):
        since, name, plain, differ = time.perf_counter(), names[case], None, []
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = made.computed(name, Path(folder))
            for state, settings in made.STATES.items():
                try:
                    same = made.computed(name, Path(folder), settings) == plain
                except Exception as error:  # noqa: BLE001 - counted
                    same = False
                    state = f"{state}: {error!r}"[:200]
                if not same:
                    differ.append(state)
        cases.add(case, since, name=name, differ=differ, held=not differ)
    return cases.summary(min(count, len(names)), states=list(made.STATES))


PARTS = {  # name -> (function, cases at full length)
    "kills": (kills, 32),
    "signals": (signals, 14),
    "corruption": (corruption, 2000),
    "disk": (disk, 30),
    "files": (files, 1000),
    "certificates": (certificates, 200),
    "twins": (twins, 28),
    "memory": (memory, 6),
    "states": (states, 1000),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--count", type=int, help="cases; by default as many as are published")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600, help="of each part; go on later")
    parser.add_argument("--fresh", action="store_true", help="run finished cases again, too")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "reliability")
    parser.add_argument("--out", help="append the lines to this file as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("aeot").setLevel(logging.ERROR)  # what is taken up, and from where
    for name in PARTS if options.part == "all" else [options.part]:
        part, full = PARTS[name]
        begun_at, options.spent = time.perf_counter(), 0.0
        told = part(options, options.count or full)
        line = {"part": name, "seed": options.seed, **told}
        line["seconds"] = round(options.spent + time.perf_counter() - begun_at, 1)
        text = json.dumps({**line, "environment": environment()})
        print(text, flush=True)
        if options.out:
            with open(options.out, "a") as file:
                file.write(text + "\n")


if __name__ == "__main__":
    main()
