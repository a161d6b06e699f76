"""What a GPU makes of the solver and the networks: correctness, throughput, solves, peers, memory.

Parts run one after the other, each in a process of its own and for a bounded time, under eight
minutes in all; every row is appended to the results as it comes, so that nothing measured is lost.

    python benchmarks/bench_gpu.py                     # on a card: `make gpu`
    python benchmarks/bench_gpu.py --small             # the same at small size, anywhere
    python benchmarks/bench_gpu.py --parts throughput solve
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch

import aeot
from aeot import Gaussian, UniformBox, generator
from aeot._environment import environment, resolve_device
from aeot.search.engines import installed
from aeot.solvers.certificate import certify, tally
from aeot.solvers.problem import standardise
from aeot.solvers.scorer import Scorer
from aeot.solvers.solve import choose_split
from aeot.solvers.starts import gaussian_heights

RESULTS = Path(__file__).parent / "results" / "gpu.jsonl"
# Part -> seconds it may take. What it has printed until then stays.
PARTS = {"correct": 50, "throughput": 60, "solve": 60, "million": 120, "wide": 130, "networks": 50}
TOL = 0.05


def mixture(n, d, device, seed=0):
    """Sites (n, d) of a mixture of thirty stretched Gaussians, float32."""
    g = generator(seed, "mixture", n, d)
    modes, rank = 30, min(8, d)
    centres = 1.2 * torch.randn(modes, d, generator=g)
    axes = torch.randn(modes, rank, d, generator=g) / rank**0.5
    pick = torch.randint(modes, (n,), generator=g)
    inside = torch.zeros(n, d)
    for k in range(modes):
        own = (pick == k).nonzero()[:, 0]
        inside[own] = 0.6 * torch.randn(len(own), rank, generator=g) @ axes[k]
    return (centres[pick] + inside + 0.1 * torch.randn(n, d, generator=g)).to(device)


def codes(n, device):
    """Principal components (n, 64) of real images, tiled and jittered; a mixture without them."""
    try:
        x = aeot.dataset("fashion-mnist")[:].flatten(1)
    except Exception:  # noqa: BLE001 - not on this machine, which may have no network either
        return "mixture", mixture(n, 64, device)
    x = x.to(device) - x.mean(0).to(device)
    x = x @ torch.linalg.svd(x[:10_000], full_matrices=False)[2][:64].T
    g = generator(1, "jitter")
    again = torch.arange(n) % len(x)
    return "fashion-mnist", x[again.to(device)] + (
        0.05 * float(x.std()) * torch.randn(n, 64, generator=g).to(device)
    )


def synchronised(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(device, work, seconds=1.0):
    """Seconds of one call, the least of those that fit into a time; the first does not count."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = synchronised(device)
        work()
        best = min(best, synchronised(device) - begun)
    return best


def peak(device):
    if device.type != "cuda":
        return None
    found = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return round(found, 3)


def scorer_of(source, sites, engine, split=None):
    nu = torch.full((len(sites),), 1 / len(sites), dtype=torch.float64)
    problem = standardise(source, sites, nu, 0)
    split = choose_split(problem.law, *problem.sites.shape) if split is None else split
    return Scorer(problem, engine=engine, split=split)


def engines_on(device):
    names = ["triton", "torch"] if device.type == "cuda" and installed("triton") else ["torch"]
    return [*names, "keops"] if device.type == "cuda" and installed("pykeops") else names


def correct(device, small):
    """Winners of real sizes against all scores in float64, and the bias of masses that steer."""
    for (n, d), split in itertools.product(
        [(2000, 16), (500, 300)] if small else [(60_000, 64), (10_000, 3072)], [None, 1]
    ):
        sites = mixture(n, d, device)
        for engine in engines_on(device):
            scorer = scorer_of(UniformBox(dim=d), sites, engine, split)
            p = scorer.problem
            h = gaussian_heights(p.sites)
            won = next(scorer.winners(h, "correct", range(1), runners=True, doubts=True))
            fast = next(scorer.winners(h, "correct", range(1), runners=True))
            some = torch.arange(min(4096, len(won.site)), device=device)
            x = won.block.some(some).double()
            y, order = p.sites.double(), scorer.order.to(device)
            parts = [part @ y[:, order].T + h for part in x.split(max(1, (1 << 26) // n))]
            value, best = (torch.cat(q) for q in zip(*[s.max(1) for s in parts], strict=True))
            sure = torch.ones(len(won.site), dtype=torch.bool, device=device)
            sure[won.unsure] = False
            rows = [(w.site[some].long() != best) for w in (won, fast)]
            yield {
                "case": f"winners {n} x {d}",
                "engine": engine,
                "split": scorer.split,
                "samples": len(some),
                "wrong": int((rows[0] & sure[some]).sum()),  # must be none
                "unsure": float((~sure).double().mean()),
                "wrong_steering": float(rows[1].double().mean()),
                "worst_value": float((won.value[some] - value).abs().max()),
            }
    n = 500 if small else 20_000
    scorer = scorer_of(UniformBox(dim=64), mixture(n, 64, device), "auto")
    h, blocks = gaussian_heights(scorer.problem.sites), scorer.blocks_for(1e5 if small else 1e7)
    counts = torch.zeros(2, n, dtype=torch.int64, device=device)
    for k, doubts in enumerate((False, True)):
        for won in scorer.winners(h, "bias", range(blocks), doubts=doubts):
            counts[k] += torch.bincount(won.site, minlength=n)
    shares = counts.double() / counts[0].sum()
    yield {
        "case": "steering against certified masses",
        "samples": int(counts[0].sum()),
        "tv": float((shares[0] - shares[1]).abs().sum()) / 2,
        "noise": float((shares[1] * (1 - shares[1]) / counts[0].sum()).sqrt().sum()) * 0.4,
    }


def throughput(device, small):
    """Scores a second of every engine, beside the bare product of the same run."""
    n, d = (2000, 16) if small else (60_000, 64)
    rows = 256 if small else 16_384
    for kind, tf32 in (("float32", False), ("float32", True), ("bfloat16", False)):
        dtype = getattr(torch, kind)
        a, b = (torch.randn(k, 64 if small else 4096, device=device).to(dtype) for k in (rows, n))
        setting = torch.backends.cuda.matmul
        before, setting.fp32_precision = setting.fp32_precision, "tf32" if tf32 else "ieee"
        seconds = timed(device, lambda a=a, b=b: a @ b.T, 0.2 if small else 1.0)
        setting.fp32_precision = before
        flops = 2 * a.shape[0] * b.shape[0] * a.shape[1] / seconds
        yield {"case": "product", "kind": "tf32" if tf32 else kind, "tflops": flops / 1e12}
    for split, engine, doubts in itertools.product((None, 1), engines_on(device), (False, True)):
        scorer = scorer_of(UniformBox(dim=d), mixture(n, d, device), engine, split)
        h = gaussian_heights(scorer.problem.sites)
        raised, block = scorer.engine.raised(scorer.planes, h), scorer.draw("throughput", 0)
        slack = scorer._slack(h)(block) if doubts else None

        def work(s=scorer, r=raised, b=block, k=slack):
            return s.engine.winners(s.planes, r, b, runners=False, slack=k)

        seconds = timed(device, work, 0.2 if small else 1.0)
        yield {
            "case": f"winners {n} x {d}",
            "engine": engine,
            "certified": doubts,
            "split": scorer.split,
            "scores_per_second": n * scorer.block_samples / seconds,
            "peak_gib": peak(device),
        }


def solved(device, name, source, sites, tol=TOL):
    stages = []
    begun = synchronised(device)

    def on_step(record):
        stages.append((record["stage"], round(time.perf_counter() - begun, 3)))

    s = aeot.solve_semidiscrete(source, sites, tol=tol, on_step=on_step, progress=False)
    seconds = synchronised(device) - begun
    row = {
        "case": name,
        "solver": "aeot",
        "seconds": seconds,
        "converged": s.converged,
        "error": s.mass_error,
        "upper": s.mass_error_upper,
        "samples": s.n_samples,
        "engine": s.engine,
        "stages": stages,
        "peak_gib": peak(device),
    }
    return row, s


def solve(device, small):
    """Sixty thousand codes, twice: the first time kernels are compiled."""
    n = 1000 if small else 60_000
    for k in (1, 2):
        name, sites = codes(n, device) if not small else ("mixture", mixture(n, 16, device))
        row, _ = solved(device, f"{name} {n} x {sites.shape[1]}, call {k}", box(sites), sites)
        yield row


def million(device, small):
    """A million codes."""
    n = 1500 if small else 1_000_000
    for name, sites in (
        (("mixture", mixture(n, 16, device)),)
        if small
        else (codes(n, device), ("mixture", mixture(n, 64, device)))
    ):
        row, _ = solved(device, f"{name} {n} x {sites.shape[1]}", box(sites), sites)
        yield row


def box(sites):
    return UniformBox(dim=sites.shape[1])


def wide(device, small):
    """Pixels, and what others need for the same held-out error."""
    n, d = (600, 40) if small else (100_000, 3072)
    source, sites = Gaussian(dim=d), mixture(n, d, device)
    row, solution = solved(device, f"mixture {n} x {d}", source, sites)
    yield row
    scorer = scorer_of(source, sites, "auto")
    h = scorer.problem.to_standard(solution.heights.cpu()).to(device)
    m = scorer.blocks_for(32 * n)

    def error(h):
        return certify(tally(scorer, h, "judge", range(m)), scorer.problem.masses.numpy())

    wanted = error(h).mass_error
    yield {"case": row["case"], "solver": "aeot", "judged": wanted}
    limit = 3.0 if small else 30.0
    peers = {"adam, tuned": tuned, "adam, three stages": three_stages}
    if installed("ott"):
        peers["ott"] = ott
    for name, peer in peers.items():
        yield {"case": row["case"], "solver": name, "wanted": wanted} | raced(
            device, peer, scorer.problem, error, wanted, limit
        )


def raced(device, peer, problem, error, wanted, limit):
    """Let a peer run until it has the error wanted, or its time is over; judging does not count."""
    spent, begun, due, steps = 0.0, synchronised(device), limit / 8, 0
    for h in peer(problem, limit):
        steps += 1
        now = synchronised(device)
        if spent + now - begun < due:
            continue
        spent += now - begun
        found = error(h).mass_error
        if found <= wanted or spent >= limit:
            break
        due, begun = 1.5 * spent, synchronised(device)
    reached = {"error": found, "reached": found <= wanted}
    return {"seconds": spent, "steps": steps, **reached, "peak_gib": peak(device)}


def adam_steps(problem, batch, rate_of):
    """Adam (beta_2 = 0.5) on fresh samples and dense scores, heights after every step."""
    y = problem.sites
    n, device = len(y), y.device
    h = gaussian_heights(y)
    first, second = torch.zeros_like(h), torch.zeros_like(h)
    nu = problem.masses.to(device)
    for k in itertools.count():
        z = problem.draw(batch, "peer", k)
        best = torch.addmm(h.float(), z, y.T).argmax(1)
        gradient = torch.bincount(best, minlength=n) / batch - nu
        first = 0.9 * first + 0.1 * gradient
        second = 0.5 * second + 0.5 * gradient.square()
        step = first / (1 - 0.9 ** (k + 1)) / ((second / (1 - 0.5 ** (k + 1))).sqrt() + 1e-12)
        h = h - rate_of(k) * step
        yield h


def tuned(problem, limit):
    """A decaying rate, and the mean of the late heights, as a careful user would do it."""
    begun, mean = time.perf_counter(), None

    def rate(_):
        done = min((time.perf_counter() - begun) / limit, 1.0)
        return 0.1 * (1 - done)

    for k, h in enumerate(adam_steps(problem, 4096, rate), 1):
        mean = h if mean is None else mean + (h - mean) * max(1 / k, 0.01)
        yield mean


def three_stages(problem, limit):
    """The published rule: three stages, each with a tenth of the rate before."""
    begun = time.perf_counter()

    def rate(_):
        stage = min(int(3 * (time.perf_counter() - begun) / limit), 2)
        return 0.1 / 10**stage

    yield from adam_steps(problem, 4096, rate)


def ott(problem, limit):
    """OTT's stochastic solver without entropy, in ever longer runs."""
    from transport_peers import ott as rival

    source = Gaussian(dim=problem.sites.shape[1])
    for k in range(1, 6):
        dual, *_ = rival(source, problem.sites.cpu().numpy(), limit * k / 6, True, 0)
        yield torch.from_numpy(dual).to(problem.sites.device)


def networks(device, small):
    """An epoch of the autoencoder, a step of WGAN-GP, ten thousand samples."""
    n, side = (64, 8) if small else (60_000, 32)
    x = torch.rand(n, 1 if small else 3, side, side, generator=generator(0)) * 2 - 1
    data = aeot.tensors(x)
    model = aeot.AEOT(latent_dim=8 if small else 64, tol=0.2 if small else TOL)
    batch = min(model.batch_size, n)
    steps = max(2, n // batch)
    begun = synchronised(device)
    model.fit_autoencoder(data, steps=steps)
    seconds = synchronised(device) - begun
    yield {"case": "autoencoder, an epoch", "steps": steps, "seconds": seconds, "images": n}
    model.fit_transport(data)
    count = 100 if small else 10_000
    model.sample(count)
    begun = synchronised(device)
    model.sample(count, seed=1)
    yield {"case": f"{count} samples", "seconds": synchronised(device) - begun}
    gan, times = aeot.WGANGP(batch_size=16 if small else 64), []

    def on_step(step, record):
        times.append(synchronised(device))

    gan.fit(data, steps=4 if small else 60, on_step=on_step, progress=False)
    late = times[len(times) // 2 :]
    pace = (late[-1] - late[0]) / max(len(late) - 1, 1)
    yield {"case": "WGAN-GP, a step", "seconds": pace, "peak_gib": peak(device)}


def worker(part, small, out):
    """Write the rows of one part as they come."""
    device = resolve_device(None)
    warnings.simplefilter("ignore")
    about = environment(device)
    keys = {"versions": about["versions"], "gpus": about["gpus"], "processor": about["processor"]}
    for row in globals()[part](device, small):
        row = {"part": part, "small": small, **row, "device": str(device), "seed": 0, **keys}
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")


def run(parts, small, out):
    """Run every part in a process of its own; return how many failed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.touch()
    failed = 0
    for part in parts:
        begun, written = time.perf_counter(), len(out.read_text().splitlines())
        command = [sys.executable, __file__, "--worker", part, "--out", out]
        process = subprocess.Popen([*command, *(["--small"] if small else [])])
        try:
            status = process.wait(PARTS[part])
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = f"stopped after {PARTS[part]} s"
        rows = [json.loads(line) for line in out.read_text().splitlines()[written:]]
        wrong = sum(row.get("wrong", 0) for row in rows)
        failed += bool(wrong or status)
        state = f"FAILED: {wrong} wrong winners, status {status}" if wrong or status else "done"
        print(
            f"{part}: {len(rows)} rows in {time.perf_counter() - begun:.0f} s, {state}", flush=True
        )
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--small", action="store_true", help="small sizes, for a test on any machine"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--worker", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.small, args.out)
    else:
        sys.exit(run(args.parts, args.small, args.out))
