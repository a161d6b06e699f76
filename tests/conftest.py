import gc
import importlib.util
import os
import sys

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same few examples at every run; `--hypothesis-profile=long` looks for new ones, and prints how
# to repeat a failure. No deadline: the first example may be the one that compiles.
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
_COMMON = {"deadline": None, "suppress_health_check": _SLOW}
settings.register_profile("quick", derandomize=True, max_examples=20, **_COMMON)
settings.register_profile("long", max_examples=500, print_blob=True, **_COMMON)
settings.load_profile("quick")

# A script that a test runs: imported for its doctests, it would switch off Triton's interpreter.
collect_ignore = ["search/compiled_kernels.py"]


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device of the tests that take one")
    parser.addoption("--dtype", default="float64", choices=["float32", "float64"])
    parser.addoption(
        "--without-keops",
        action="store_true",
        help="make pykeops unimportable, as if not installed",
    )


def pytest_configure(config):
    if config.getoption("--without-keops"):
        sys.modules["pykeops"] = None  # "import pykeops" now raises ImportError
        engine = config.rootpath / "aeot" / "search" / "keops_engine.py"  # imports it
        config.option.ignore = [*(config.option.ignore or []), engine]
    if importlib.util.find_spec("triton") is None:
        engine = config.rootpath / "aeot" / "search" / "triton_engine.py"
        config.option.ignore = [*(config.option.ignore or []), engine]
    elif not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # read where kernels are defined
    if getattr(config.option, "dist", None) == "load":
        config.option.dist = "worksteal"  # tests of a file stay together, and with its fixtures
    if os.environ.get("PYTEST_XDIST_WORKER"):
        torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keep the garbage collector from what lives to the end: modules, tests, their parameters.

    Going over all of that again and again took a third of the time in which tests are found, and
    a second each time while they ran.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture
def device(request):
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def dtype(request):
    return getattr(torch, request.config.getoption("--dtype"))


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):  # keywords are names of folders, too
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
