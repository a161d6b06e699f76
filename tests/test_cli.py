import importlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import aeot
from aeot import cli


def aeot_command(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "aeot", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        **options,
    )


def test_help_lists_every_command_without_loading_torch():
    script = (
        "import sys; from aeot.cli import main; main(['--help']);"
        "heavy = {'torch', 'numpy', 'jsonargparse', 'matplotlib'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, entry in cli.COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert entry[1] in done.stdout


def test_importing_the_package_loads_nothing_heavy():
    script = (
        "import sys, aeot; heavy = {'torch', 'numpy', 'matplotlib'} & set(sys.modules);"
        "assert 'AEOT' in dir(aeot); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"aeot {aeot.__version__}\n"


def test_every_command_leads_to_a_function_with_a_docstring():
    for place, _, *estimator in cli.COMMANDS.values():
        for target in (place, *estimator):
            module, name = target.split(":")
            assert getattr(importlib.import_module(module), name).__doc__


def test_both_spellings_of_an_option_are_read():
    assert cli._underscored("--latent-dim=3-4") == "--latent_dim=3-4"
    assert cli._underscored("a-b") == "a-b"


def test_doctor_names_what_is_installed(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"torch {torch.__version__.split('+')[0]}" in out
    assert f"numpy {np.__version__}" in out
    assert "digits" in out
