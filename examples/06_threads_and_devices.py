"""Threads, processes, a GPU
=========================

This page shows what runs in parallel, and what that changes. The number of threads changes no bit
of a solve. Several processes (`torchrun -m aeot fit ...`) share the work, and the first process
writes the files. A GPU is used if torch finds one; `device="cpu"` forbids it.
"""

import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

import aeot

OUT = Path("out")
OUT.mkdir(exist_ok=True)
quick = "--quick" in sys.argv  # fewer sites

# %%
sites = torch.randn(1000 if quick else 8000, 16, generator=aeot.generator(0))
source = aeot.UniformBox(dim=16)
aeot.solve_semidiscrete(source, sites, tol=0.2)  # loops are compiled once
seconds, heights = {}, {}
for threads in (1, 2):
    begun = time.perf_counter()
    solution = aeot.solve_semidiscrete(source, sites, tol=0.05, threads=threads, seed=0)
    seconds[f"{threads} thread(s)"] = time.perf_counter() - begun
    heights[threads] = solution.heights
print("the same bits:", torch.equal(heights[1], heights[2]))

# %%
# The device of the sites is where a solve runs.
if torch.cuda.is_available():
    begun = time.perf_counter()
    solution = aeot.solve_semidiscrete(source, sites.cuda(), tol=0.05, seed=0)
    seconds[torch.cuda.get_device_name()] = time.perf_counter() - begun
print(f"engine: {solution.engine}")
figure = Figure(figsize=(5.2, 2.4), layout="constrained")
axis = figure.add_subplot(xlabel="seconds by the clock, on a machine with other work")
axis.barh(list(seconds), list(seconds.values()), color="#1d5c9c")
path = OUT / "06_threads_and_devices.png"
figure.savefig(path, dpi=110)
print(path)
