import os
import sys

import pytest
import torch


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
    if os.environ.get("PYTEST_XDIST_WORKER"):
        torch.set_num_threads(1)


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
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
