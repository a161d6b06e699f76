"""The command `aeot doctor`: what this installation can use."""

from __future__ import annotations

import importlib.util
import shutil

import aeot
from aeot._environment import environment
from aeot.data import dataset
from aeot.data.named import NAMES


def doctor() -> str:
    """Say what this installation can use: versions, devices, compilers, data sets.

    Returns:
        Plain lines.
    """
    facts = environment()
    lines = [
        f"aeot {aeot.__version__}, Python {facts['python']}, {facts['platform']}",
        f"processor   {facts['processor']}, {facts['cores']} cores, {facts['threads']} threads",
        f"memory      {facts['memory_gib']} GiB",
        f"GPUs        {', '.join(facts['gpus']) or 'none'}",
        f"KeOps       {_keops()}",
        "versions    " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items()),
        "data sets",
        *(f"  {name:<14}{_found(name)}" for name in NAMES),
    ]
    return "\n".join(lines)


def _found(name: str) -> str:
    if name == "celeba":  # reading it takes minutes
        return "not looked for; pass root=FOLDER when you use it"
    try:
        count = len(dataset(name, split="train"))
    except ValueError as error:
        return "not found; " + str(error).partition("; ")[2]
    return f"{count} training images"


def _keops() -> str:
    # Not imported: the first import compiles for half a minute.
    if importlib.util.find_spec("pykeops") is None:
        return "not installed; the other engines do without"
    compiler = next((c for c in ("g++", "clang++", "c++") if shutil.which(c)), None)
    return f"installed, compiler {shutil.which(compiler)}" if compiler else "installed, no compiler"
