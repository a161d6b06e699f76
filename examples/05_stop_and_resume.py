"""Stop and resume, to the same bits
=================================

A solve with a checkpoint may be stopped at any time, by Ctrl-C, a scheduler or a power cut. The
same call resumes where it was, and ends with exactly the heights of a solve that was never stopped.
"""

import shutil
from pathlib import Path

import torch

import aeot
from aeot.plotting import images as plots

OUT = Path("out")
OUT.mkdir(exist_ok=True)
place = OUT / "checkpoint"
shutil.rmtree(place, ignore_errors=True)

# %%
# `on_step` sees every record of the history; returning True stops the solve.
sites = torch.randn(400, 6, generator=aeot.generator(0))
source = aeot.UniformBox(dim=6)
seen = []


def stop_early(record):
    seen.append(record)
    return len(seen) == 3


aeot.solve_semidiscrete(source, sites, tol=0.05, checkpoint=place, on_step=stop_early)
print(f"stopped after {len(seen)} steps")

# %%
resumed = aeot.solve_semidiscrete(source, sites, tol=0.05, checkpoint=place)
whole = aeot.solve_semidiscrete(source, sites, tol=0.05)
same = torch.equal(resumed.heights, whole.heights)
print(f"{len(whole.history)} steps in all; the same bits: {same}")

# %%
# What the steps came to. Finished models are kept by `save`: safetensors and JSON, nothing pickled.
drawn = [record["samples"] for record in whole.history]
path = OUT / "05_stop_and_resume.png"
plots.training_curves(
    {"samples of the source so far": (range(1, len(drawn) + 1), drawn)},
    marks={"stopped here": 3},
    xlabel="step of the solver",
    ylabel="samples",
    path=path,
)
print(path)
