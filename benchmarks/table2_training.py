"""The adversarial rows of the 2-D benchmark: which class with which settings, epoch by epoch."""

import contextlib
import fcntl
import json
import os
import time

import numpy as np
import torch

import aeot
from aeot.metrics import mode_coverage

POINTS, SAMPLES = 100_000, 2_500
SHOWN = (1, 2, 5, 10, 25, 50, 100, 200, 400)  # epochs whose samples are kept

MIXTURES = {  # the 2-D experiments of PacGAN
    "latent_dim": 2, "prior": "normal", "batch_size": 100, "learning_rate": 1e-4,
    "betas": (0.8, 0.999), "simultaneous": True,
}  # fmt: skip
TOYS = {"latent_dim": 2, "prior": "normal", "batch_size": 256, "architecture": "mlp"}  # WGAN-GP's
GAMES = {
    "GAN": (aeot.GAN, MIXTURES),
    "ALI": (aeot.ALI, {"latent_dim": 2}),
    "MD": (aeot.GAN, MIXTURES | {"kernels": 20}),
    "PacGAN2": (aeot.PacGAN, {"latent_dim": 2, "packing": 2}),
    "PacGAN3": (aeot.PacGAN, {"latent_dim": 2, "packing": 3}),
    "PacGAN4": (aeot.PacGAN, {"latent_dim": 2, "packing": 4}),
    "WGAN": (aeot.WGAN, TOYS | {"warm_up_steps": 5}),
    "WGAN-GP": (aeot.WGANGP, TOYS | {"penalty": 0.1}),
}


def estimator(row, seed=0):
    """The library's class of a row, with the settings of its authors."""
    kind, arguments = GAMES[row]
    return kind(seed=seed, **arguments)


def updates(model, points=POINTS):
    """Steps of `fit` in an epoch of `points` real rows; a pack of rows counts as one of them."""
    return points // (model.batch_size * getattr(model, "critic_steps", 1))


def mixture(name, row="GAN"):
    """The data set in the scaling of the row's own experiments."""
    return aeot.data.toy(name, POINTS, scaling="wgan-gp" if row.startswith("WGAN") else "raw")


def judge(samples, data, reference=None):
    """All metrics of one sample, with both readings of the divergence."""
    modes, std = data.info["modes"], data.info["std"]
    scores = mode_coverage(samples, modes, std, reference=reference)
    other = mode_coverage(samples, modes, std, reference=reference, count="high-quality")
    return scores | {"reverse_kl_high_quality": other["reverse_kl"]}


def save_record(path, record, **samples):
    """Write a record and the samples kept beside the target, then rename."""
    fresh = path.with_suffix(".writing.npz")
    np.savez(fresh, record=np.array(json.dumps(record)), **samples)
    os.replace(fresh, path)


def stand(name, row, seed, folder, points=POINTS):
    """The record of a row and seed, and the samples kept: as last saved, or the beginning."""
    path = folder / f"{name}-{row}-{seed}.npz"
    if not path.exists():
        record = {"set": name, "row": row, "seed": seed, "aeot": aeot.__version__}
        return record | {"points": points, "epochs": 0, "seconds": 0.0, "history": []}, {}
    way_out = "choose another --folder"
    if not path.with_suffix("").exists():  # where `fit` keeps the networks
        raise ValueError(f"{path.with_suffix('')} must stand beside {path}; {way_out}")
    with np.load(path) as stored:
        record = json.loads(str(stored["record"]))
        shown = {key: stored[key] for key in stored if key != "record"}
    if record["points"] != points:
        began = f"{record['points']} as {path} began"
        raise ValueError(f"--points must be {began}, got {points}; {way_out}")
    return record, shown


def train(name, row, seed, epochs, folder, deadline=float("inf"), points=POINTS, device="cpu"):
    """Train a row and seed up to `epochs`, from where its checkpoint stands; return its record.

    Raises:
        FloatingPointError: If numbers cease to be finite; the last good state is kept.
    """
    record, shown = stand(name, row, seed, folder, points)
    data, model = mixture(name, row), estimator(row, seed)
    clock = time.process_time if device == "cpu" else time.perf_counter
    path, rows = folder / f"{name}-{row}-{seed}.npz", data.to(device)
    if device != "cpu":
        record["device"] = torch.cuda.get_device_name(device)
    while record["epochs"] < epochs and time.time() < deadline:
        number, begun = record["epochs"] + 1, clock()
        model.fit(rows, steps=number * updates(model, points), checkpoint=path.with_suffix(""))
        seconds = clock() - begun  # of an epoch taken up in its middle: of the rest
        samples = model.sample(SAMPLES, seed=seed).cpu()  # of the same noise in every epoch
        scores = judge(samples, data, data.labels.bincount())
        last = model.history_[-1] | {"epoch": number, "seconds": seconds}
        record["history"].append(last | scores)
        record["epochs"] = number
        record["seconds"] += seconds
        if number in SHOWN:
            shown[f"samples{number}"] = samples.numpy()
        save_record(path, record, **shown)
    return record


def single_threaded():
    """Give every worker a thread: what is set here is inherited."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


@contextlib.contextmanager
def alone(path):
    """Hold a lock that dies with its process; yields whether it could be had."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
