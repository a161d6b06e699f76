"""The pages name files and functions: they have to be there."""

import ast
import importlib.util
import inspect
import pkgutil
import pydoc
import re
from pathlib import Path

import pytest

import aeot

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


TEXTS = (ROOT / "docs/paper.md").read_text()  # names stand there without aeot before them


@pytest.mark.parametrize(
    "code",
    sorted(
        code
        for code in set(re.findall(r"`([^`\n]+)`", TEXTS))
        if not ("/" in code or code.startswith(("aeot ", '"')) or code.endswith("_"))
    ),
)
def test_every_name_and_argument_of_the_texts_is_there(code):
    """`module.function`, `Class.method` or `Class(argument=...)`; no file, command or result."""
    name, _, arguments = code.partition("(")
    found = aeot
    for part in name.removeprefix("aeot.").split("."):
        if not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    for argument in re.findall(r"(\w+)=", arguments):
        assert argument in inspect.signature(found).parameters


@pytest.mark.parametrize(
    ("title", "least"),
    [
        ("The paper's mathematics", 20),
        ("The algorithms", 8),
        ("The paper's figures", 9),
        ("The other texts", 30),
    ],
)
def test_every_line_of_the_texts_names_a_test_a_page_or_a_result(title, least):
    table = TEXTS.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(lines) >= least
    for line in lines:
        assert re.search(r"`(tests|examples)/\w|\]\(\.\./benchmarks/results/", line), line


def test_the_reference_has_every_public_name_once():
    listed = re.findall(
        r"^ +~(aeot\.[\w.]+)$", (ROOT / "docs/api.md").read_text(), flags=re.MULTILINE
    )
    assert len(listed) == len(set(listed))
    public = {f"aeot.{name}" for name in aeot.__all__ if name != "__version__"}
    public |= {f"aeot.metrics.{name}" for name in aeot.metrics.__all__}
    # A name of aeot.data that aeot has, too, stands there as aeot's.
    public |= {f"aeot.data.{name}" for name in aeot.data.__all__ if name not in aeot.__all__}
    assert public <= set(listed)
    for name in listed:
        module, _, last = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), last))


def used(path):
    """Dotted names of aeot in a script, whatever it calls them."""
    nodes, names = list(ast.walk(ast.parse(path.read_text()))), {"aeot": "aeot"}
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        if isinstance(node, ast.ImportFrom):
            names |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    for node in nodes:
        if isinstance(node, (ast.Name, ast.Attribute)):
            first, *rest = ast.unparse(node).split(".")
            yield ".".join([names.get(first, first), *rest])


def test_the_reference_has_every_function_and_class_that_examples_and_the_texts_use():
    listed = re.findall(r"~(aeot\.[\w.]+)$", (ROOT / "docs/api.md").read_text(), flags=re.MULTILINE)
    given = {id(pydoc.locate(name)) for name in listed}
    names = {name for path in ROOT.glob("examples/*.py") for name in used(path)}
    names |= {f"aeot.{name.removeprefix('aeot.')}" for name in re.findall(r"`([\w.]+)[`(]", TEXTS)}
    found = {name: pydoc.locate(name) for name in names if re.fullmatch(r"aeot(\.\w+)+", name)}
    for module in pkgutil.iter_modules(aeot.gan_diagnostics.__path__, "aeot.gan_diagnostics."):
        for name, thing in vars(importlib.import_module(module.name)).items():
            if name[0] != "_" and getattr(thing, "__module__", "") == module.name:
                found[f"{module.name}.{name}"] = thing
    missing = {
        name
        for name, thing in found.items()
        if (inspect.isfunction(thing) or inspect.isclass(thing))
        and thing.__module__.startswith("aeot")
        and "." not in thing.__qualname__  # methods stand with their classes
        and id(thing) not in given
    }
    assert len(found) > 100
    assert not missing


def test_every_page_is_in_the_contents():
    contents = re.findall(
        r"```{toctree}\n(.+?)```", (ROOT / "docs/index.md").read_text(), flags=re.S
    )
    named = {line for block in contents for line in block.splitlines() if line and line[0] != ":"}
    pages = {path.stem for path in ROOT.glob("docs/*.md")} - {"index"}
    assert named == pages | {"gallery/index"}


def test_links_between_pages_lead_somewhere():
    """A heading's anchor is its words in lower case, joined by hyphens; underscores stay."""
    for page in ROOT.glob("docs/*.md"):
        links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)(?:#([^)\s]+))?\)", page.read_text())
        for path, anchor in links:
            target = page.parent / path
            assert target.exists(), f"{page.name} links to {path}"
            if anchor:
                heads = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in slugs, f"{page.name} links to {path}#{anchor}"


def test_every_example_begins_as_a_page():
    """With a title underlined in its docstring, which the gallery takes for the page's."""
    for path in ROOT.glob("examples/*.py"):
        title, rule, *_ = ast.get_docstring(ast.parse(path.read_text())).splitlines()
        assert len(rule) >= len(title), path.name
        assert set(rule) == {"="}, path.name


def test_every_example_is_in_a_section_of_the_gallery():
    header = (ROOT / "examples/GALLERY_HEADER.rst").read_text()
    globs = re.findall(r"minigallery:: \.\./examples/(.+)", header)
    examples = sorted(path.name for path in ROOT.glob("examples/*.py"))
    shown = sorted(path.name for glob in globs for path in ROOT.glob(f"examples/{glob}"))
    assert shown == examples  # each once
    assert len(examples) >= 30


def test_links_of_built_pages_are_followed(tmp_path):
    check = importlib.util.spec_from_file_location("check", ROOT / "docs/check_links.py")
    module = importlib.util.module_from_spec(check)
    check.loader.exec_module(module)
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.html").write_text('<h1 id="top-of-a">A</h1><a href="deep/b.html#there">b</a>')
    (tmp_path / "deep/b.html").write_text(
        '<p id="there"><a href="../a.html#top-of-a">1</a><a href="../a.html#gone">2</a>'
        '<a href="gone.html">3</a><img src="gone.png"><a href="https://example.org">4</a></p>'
    )
    assert [link for _, link in module.broken(tmp_path)] == [
        "../a.html#gone",
        "gone.html",
        "gone.png",
    ]


def _blocks():
    """The Python blocks of the guides that need neither a folder of images nor minutes."""
    for page in ("start", "coming-from"):
        for block in re.findall(
            r"```python\n(.+?)```", (ROOT / f"docs/{page}.md").read_text(), flags=re.DOTALL
        ):
            if "images(" not in block and "dataset(" not in block:
                yield pytest.param(block, id=f"{page}: {block.splitlines()[-1]}")
    page = (ROOT / "docs/flow_matching.md").read_text()  # whose blocks go on with each other
    yield "\n".join(re.findall(r"```python\n(.+?)```", page, flags=re.DOTALL))


@pytest.mark.parametrize("block", list(_blocks()))
def test_the_blocks_of_the_guides_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {"__name__": "block"})


def test_kept_output_of_an_example_names_its_command_and_has_a_page():
    """The pages show what bench_examples.py has kept of scripts that take minutes."""
    kept = ROOT / "benchmarks/results/examples"
    for path in kept.glob("*.txt"):
        assert (ROOT / f"examples/{path.stem}.py").is_file()
        command, where, *printed = path.read_text().splitlines()
        assert command == f"$ python examples/{path.stem}.py"
        assert re.fullmatch(
            r"# aeot \S+, torch \S+; .+, threads: \d+, \d+ processor seconds", where
        )
        assert printed
