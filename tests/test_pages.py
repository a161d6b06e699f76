"""The pages name files and functions: they have to be there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = {
    (page, code)
    for page in (
        "README.md",
        "CONTRIBUTING.md",
        *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
    )
    for code in re.findall(r"`([^`\n]+)`", (ROOT / page).read_text())
}


@pytest.mark.parametrize(
    ("page", "path"),
    sorted(c for c in CODE if re.match(r"(aeot|benchmarks|docs|examples|tests)/[\w/.]+$", c[1])),
)
def test_every_file_is_there(page, path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize(
    ("page", "name"), sorted(c for c in CODE if re.match(r"aeot\.\w[\w.]*$", c[1]))
)
def test_every_name_is_there(page, name):
    found, *rest = name.split("(")[0].split(".")
    found = importlib.import_module(found)
    for part in rest:
        if not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
