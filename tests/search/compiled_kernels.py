"""Compile the kernels of the GPU engine for cards that need not be there; one JSON line each.

Run by test_triton_compile.py in a process of its own: in that of the tests they are interpreted.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from aeot.search import triton_engine as engine  # noqa: E402
from aeot.search.triton_engine import CERTIFY, CHUNK, FINE, STEER  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
INDICES = ("chunk", "other", "edges", "site", "runner", "first")
POINTERS = ("best", "value", "gap", "top", "h", "x", "y", "xl", "xr", "yl", "yr", "out", "shift")
COUNTED = ("HGMMA", "HMMA", "LDL", "STL")
TILES = {"num_warps": 8, "num_stages": 2}
CASES = {
    "best_chunks steer": ("best_chunks", engine.whole_tile(64, STEER, CHUNK), TILES),
    "best_chunks certify": ("best_chunks", engine.whole_tile(64, CERTIFY, CHUNK), TILES),
    "best_chunks steer wide": ("best_chunks", engine.whole_tile(512, STEER, CHUNK), TILES),
    "best_chunks certify wide": ("best_chunks", engine.whole_tile(512, CERTIFY, CHUNK), TILES),
    "maxima steer": ("maxima", engine.whole_tile(64, STEER, FINE), {**TILES, "num_warps": 4}),
    "maxima certify wide": (
        "maxima",
        engine.whole_tile(512, CERTIFY, FINE),
        {**TILES, "num_warps": 4},
    ),
    "halves": ("halves", engine.halves_tile(32, 16, CHUNK, STEER, track=True), TILES),
    "halves of eight": ("halves", engine.halves_tile(16, 8, CHUNK, STEER, track=True), TILES),
    "halves of products": ("halves", engine.halves_tile(32, 16, CHUNK, CERTIFY, track=True), TILES),
    "halves for lists": ("halves", engine.halves_tile(32, 16, FINE, STEER, track=False), TILES),
    "refined": ("refined", {"D": 64, "BK": 64, "C": CHUNK, "S": 1, "TWO": True}, {"num_warps": 4}),
    "expanded": ("expanded", {"D": 64, "BK": 64, "C": FINE, "S": 1}, {"num_warps": 1}),
    "relisted": ("relisted", {"BM": 128}, {"num_warps": 4}),
}


def kind(name, kernel):
    """The type that the engine passes an argument with."""
    if name == "start":
        return "*i64"
    if name == "second":  # a site in lists, a score elsewhere
        return "*i32" if kernel == "relisted" else "*fp32"
    return "*i32" if name in INDICES else "*fp32" if name in POINTERS else "i32"


def compiled(name, constants, options, arch):
    kernel = getattr(engine, name)
    kinds = {x: "constexpr" if x in constants else kind(x, name) for x in kernel.arg_names}
    # As at a call: tensors begin at multiples of 16 bytes, and sites are filled up.
    aligned = [k for k, x in enumerate(kinds) if kinds[x].startswith("*") or x in ("n", "each")]
    attributes = {(k,): [["tt.divisibility", 16]] for k in aligned}
    source = ASTSource(kernel, kinds, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def report(case, arch):
    name, constants, options = CASES[case]
    made = compiled(name, constants, options, arch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(made.asm["cubin"])
        use, code = (
            subprocess.run(
                [TOOLS / tool, flag, path], capture_output=True, text=True, check=True
            ).stdout
            for tool, flag in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", use).groups()
    row = {"case": case, "arch": arch, "registers": int(registers), "stack": int(stack)}
    row |= {"shared": made.metadata.shared}
    row |= {word: len(re.findall(rf"\b{word}\b", code)) for word in COUNTED}
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    arch, *cases = sys.argv[1:]
    for case in cases or CASES:
        report(case, int(arch))
