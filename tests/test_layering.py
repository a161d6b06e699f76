"""Who may import whom: CONTRIBUTING.md draws the same table."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "aeot"

# A package imports from the lines above its own and from itself, and never in a circle.
LAYERS = [
    "_check _rng _io _loop _compile _environment _ranks _estimator",
    "measures metrics networks data training search",
    "geometry",
    "maps",
    "singular",
    "solvers",
    "gan models features",
    "gan_diagnostics comparison",
    "plotting",
    "report",
    "commands",
    "cli",
    "__main__",
]
SIDEWAYS = {("metrics", "search")}  # within a line, only these
ONLY = {  # a package that one place alone may import
    "matplotlib": ("plotting",),
    "torch.distributed": ("_ranks",),
    "argparse": ("cli",),
    "jsonargparse": ("cli",),
}
LAZY = {  # imports inside a function: what compiles, or is asked for by name
    "data.named": {"torchvision"},
    "search.engines": {
        "aeot.search." + name for name in ("numba_engine", "triton_engine", "keops_engine", "line")
    },
}
FREE = {"cli", "__init__"}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def layer(module):
    first = module.split(".")[0]
    return next(k for k, line in enumerate(LAYERS) if first in line.split())


def imported(tree):
    """Yield (name, inside a function) of every import, those for type checkers too."""
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in inside


def resolve(name, known):
    """The module of this package that an imported dotted name stands for, or None."""
    parts = name.split(".")
    if parts[0] != "aeot":
        return None
    for stop in range(len(parts), 1, -1):
        candidate = ".".join(parts[1:stop])
        if candidate in known:
            return candidate
    return "__init__"


KNOWN = dict(modules())
PACKAGES = {name for name, path in KNOWN.items() if path.name == "__init__.py"}


@functools.cache
def imports(module):
    return list(imported(ast.parse(KNOWN[module].read_text())))


@pytest.mark.parametrize("module", sorted(set(KNOWN) - PACKAGES))
def test_imports_follow_the_layers(module):
    for name, inside in imports(module):
        target = resolve(name, KNOWN)
        if inside and module not in FREE:
            allowed = LAZY.get(module, set())
            assert {name, name.split(".")[0]} & allowed, (
                f"{module} imports {name} inside a function"
            )
        for package, owners in ONLY.items():
            if name == package or name.startswith(package + "."):
                assert module.split(".")[0] in owners, f"{module} imports {name}"
        if target in (None, "__init__"):
            continue
        here, there = module.split(".")[0], target.split(".")[0]
        if here != there and (here, there) not in SIDEWAYS:
            private = layer(here) == layer(there) == 0
            assert layer(there) < layer(here) or private, f"{module} may not import {target}"


def test_no_circle():
    graph = {
        module: {target for name, _ in imports(module) if (target := resolve(name, KNOWN)) in KNOWN}
        - {module, "__init__"}
        for module in KNOWN.keys() - PACKAGES
    }
    graph = {module: targets & graph.keys() for module, targets in graph.items()}
    while graph:
        free = [module for module, targets in graph.items() if not targets]
        assert free, f"a circle among {sorted(graph)}"
        graph = {m: targets - set(free) for m, targets in graph.items() if m not in free}


@pytest.mark.parametrize("package", sorted(PACKAGES - {"__init__"}))
def test_packages_only_reexport(package):
    for node in ast.parse(KNOWN[package].read_text()).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        listing = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        assert docstring or listing or isinstance(node, (ast.Import, ast.ImportFrom)), package
