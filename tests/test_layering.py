"""Who may import whom. Change the table only together with the layout page in docs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "aeot"

# A layer is a list of ranks; a module may import lower layers and, in its own layer, lower ranks.
LAYERS = [
    [["_check", "_rng", "_io", "_environment"]],
    [
        ["networks.blocks", "data.arrays", "distances"],
        [
            "measures",
            "networks.*",
            "gan.constraints",
            "gan.losses",
            "gan.updates",
            "gan.sinkhorn",
            "metrics",
            "data.*",
            "filters",
        ],
        ["precision_recall", "planar"],
    ],
    [
        ["transport.heights", "transport.minimize", "transport.kernels"],
        ["transport.blocks", "transport.segments"],
        ["transport.neighbours", "transport.pixels", "transport.polygons", "transport.polyhedra"],
        ["transport.spheres"],
        ["transport.plane", "transport.space"],
        ["transport.tessellation"],
        ["transport.cells", "transport.geometry", "transport.lists"],
        ["transport.curves", "transport.oracles", "transport.extension"],
        ["transport.regularity", "transport.affine", "transport.triangulation"],
        ["transport.generation", "transport.estimates"],
        ["transport.coarse", "transport.certificate"],
        ["transport.stages"],
        ["transport.descent"],
        ["transport.brenier"],
        ["transport.solution", "transport.facets"],
        ["transport.exact", "transport.singular"],
        ["transport.starts"],
        ["transport.solve"],
        ["transport.hierarchy"],
        ["transport.estimator"],
    ],
    [["training"]],
    [
        ["gan.fitted"],
        ["gan.estimator", "gan.translator"],
        ["gan.generate", "gan.likelihood"],
        ["rows", "sharpening"],
        ["autoencoder"],
        ["model_files"],
        ["gan.*", "model", "translation", "features", "diagnostics.*"],
    ],
    [
        ["plotting._style", "plotting.images", "budget", "comparison"],
        ["plotting.transport", "entries"],
        ["plotting.*", "protocol"],
        ["runs"],
        ["translator_runs"],
        ["report.charts", "report.pictures", "report.page"],
        ["report.explorer"],
        ["report.models", "report.comparisons"],
        ["report.build", "report.plans"],
        ["report.commands"],
        ["cli"],
        ["__main__"],
    ],
]
ONLY = {  # a package that one place alone may import
    "matplotlib": ("plotting",),
    "argparse": ("cli",),
    "jsonargparse": ("cli",),
}
LAZY = {
    "data.named": {"torchvision"},
    "transport.cells": {"pykeops"},
    "transport.segments": {"aeot.transport.kernels"},
}
FREE = {"cli", "__init__"}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def place(module):
    package = module.split(".")[0] + ".*"
    for pattern in (module, package):
        for layer, ranks in enumerate(LAYERS):
            for rank, names in enumerate(ranks):
                if pattern in names:
                    return layer, rank
    return None


def imported(tree):
    """Yield (name, inside a function) of every import that runs."""
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
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


@pytest.mark.parametrize("module", sorted(set(KNOWN) - PACKAGES))
def test_imports_follow_the_layers(module):
    here = place(module)
    assert here is not None, f"{module} stands in no layer"
    for name, inside in imported(ast.parse(KNOWN[module].read_text())):
        target = resolve(name, KNOWN)
        if inside and module not in FREE:
            allowed = LAZY.get(module, set())
            assert {name, name.split(".")[0]} & allowed, (
                f"{module} imports {name} inside a function"
            )
        for package, owners in ONLY.items():
            if name == package or name.startswith(package + "."):
                assert module.split(".")[0] in owners, f"{module} imports {name}"
        if target in (None, "__init__") or target in PACKAGES:
            continue
        there = place(target)
        assert there is not None, f"{target} stands in no layer"
        assert there < here, f"{module} may not import {target}"


@pytest.mark.parametrize("package", sorted(PACKAGES - {"__init__"}))
def test_packages_only_reexport(package):
    for node in ast.parse(KNOWN[package].read_text()).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        listing = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        assert docstring or listing or isinstance(node, (ast.Import, ast.ImportFrom)), package
