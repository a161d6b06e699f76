"""How the pages are built: `make docs`, or `python -m sphinx -W docs build/docs`."""

import importlib
import re
import shutil
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.inspect import signature as sphinx_signature
from sphinx.util.inspect import stringify_signature
from sphinx_gallery.scrapers import figure_rst

import aeot

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

project = "aeot"
author = "the aeot developers"
copyright = author  # noqa: A001 - sphinx names it so
version = release = aeot.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["api/uses/*"]
suppress_warnings = ["config.cache"]  # functions in the gallery's settings cannot be pickled
templates_path = ["templates"]
html_theme = "furo"
html_title = f"aeot {release}"
html_static_path = ["static"]
html_css_files = ["aeot.css"]
html_show_sourcelink = False
html_show_search_summary = False  # it would fetch pages, which a browser forbids on a disk
bibtex_bibfiles = ["references.bib"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Single backticks in docstrings are links where they name something public, code elsewhere.
default_role = "py:obj"
add_module_names = False
maximum_signature_line_length = 80  # longer ones: an argument a line
autosummary_generate = True
autosummary_imported_members = False
# Of classes of others the methods are described by them.
FOREIGN = (
    "Module,Mapping,Enum,BaseEstimator,TransformerMixin,ClassNamePrefixFeaturesOutMixin,"
    "_MetadataRequester,_SetOutputMixin,IterableDataset,Dataset,tuple"
)
autodoc_default_options = {
    "members": True,
    "inherited-members": FOREIGN,
    "exclude-members": "set_fit_request",
}
autodoc_member_order = "bysource"
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "Measure": "Measure"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False


def _pictures():
    """When each picture that examples have saved was written."""
    return {path: path.stat().st_mtime for path in (ROOT / "examples" / "out").glob("*.png")}


SHOWN = _pictures()  # those of earlier runs are not of this one


def saved_pictures(block, block_vars, gallery_conf):
    """The pictures that a part of an example has just saved, each shown below it."""
    new = sorted(_pictures().items() - SHOWN.items(), key=lambda item: item[1])
    SHOWN.update(new)
    shown = [str(next(block_vars["image_path_iterator"])) for _ in new]
    for (source, _), target in zip(new, shown, strict=True):
        shutil.copy(source, target)
    return figure_rst(shown, gallery_conf["src_dir"])


sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    # Networks that a few steps do not train would fill the others' pages with noise.
    "filename_pattern": r"/(?!44|63|64|65|68)\d\d_",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": (saved_pictures,),
    "reset_modules": (),
    "reset_argv": lambda conf, variables: ["--quick"],
    "abort_on_example_error": True,
    "backreferences_dir": "api/uses",
    "doc_module": ("aeot",),
    "remove_config_comments": True,
    "show_memory": False,
    "write_computation_times": False,
    "download_all_examples": False,
    "default_thumb_file": str(HERE / "images" / "grid_of_modes.png"),
}


def _mathml(visitor, node, display):
    """Formulas as MathML, which browsers set by themselves: nothing to load, nothing to run."""
    # A pair of bars as one fence: a power then stands at the whole of it, and both are of one size.
    text = node.astext().replace(r"\lvert", r"\left|").replace(r"\rvert", r"\right|")
    math = tex2mathml(text, as_block=display)
    visitor.body.append(f'<div class="math">{math}</div>' if display else math)
    raise nodes.SkipNode


def _plain_bars(app, what, name, obj, options, lines):
    """|x - y| in a docstring is a norm, not a substitution of reStructuredText."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(`+[^`]+`+)", line)
            parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
            lines[i] = "".join(parts)


def _related():
    """What belongs to a name: those that speak of each other, and its neighbours on the page."""
    page = (HERE / "api.md").read_text()
    groups = [re.findall(r"^   ~(aeot\S*)$", part, re.M) for part in page.split("```")]
    names = {full.rpartition(".")[2]: full for group in groups for full in group}
    related = {full: [] for group in groups for full in group}
    for full in related:
        name = full.rpartition(".")[2]
        thing = getattr(importlib.import_module(full.rpartition(".")[0]), name)
        members = vars(thing).items() if isinstance(thing, type) else ()
        texts = [thing, *(member for key, member in members if key[0] != "_" and callable(member))]
        text = " ".join(one.__doc__ or "" for one in texts)
        linked = re.findall(r"(?<!`)`(?:aeot\.)?(\w+)[\w.]*`(?!`)", text)
        words = {*linked, *re.findall(r"(?<![\w.`])(\w+)\(", text)} & names.keys()
        for word in sorted(words - {name}):
            related[full].append(names[word])
            related[names[word]].append(full)
    for group in groups:
        for k, full in enumerate(group):
            near = sorted(group, key=lambda other, k=k: abs(group.index(other) - k))[1:5]
            others = dict.fromkeys(related[full])
            related[full] = [*others, *(n for n in near if n not in others)][: max(4, len(others))]
    return related


def _see_also(app, what, name, obj, options, lines):
    """End a page of the reference with the names that belong to it."""
    if not app.related:
        app.related = _related()
    if others := app.related.get(name):
        links = ", ".join(f":py:obj:`~{other}`" for other in others)
        lines += ["", ".. seealso::", "", f"   {links}", ""]


def _named_types(app, what, name, obj, options, signature, returns):
    """An alias beside another type, as in `ArrayLike | None`, by its name alone.

    What an estimator is made with are its fields, not what its `__new__` looks at. A default
    that is made anew for each is "...", which sphinx can read.
    """
    if what == "class" and "**given" in (signature or ""):
        made = sphinx_signature(obj.__init__, bound_method=True)
        signature, returns = stringify_signature(made, unqualified_typehints=True), None
        signature = signature.removesuffix(" -> None")
    return tuple(
        text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text).replace("<factory>", "...")
        for text in (signature, returns)
    )


def _outside(app, docname, source):
    """Links out of docs/ lead to the page here, or to a copy of the file; examples have pages."""
    text = source[0].replace("](../CONTRIBUTING.md", "](contributing.md")
    text = text.replace("](../examples/)", "](gallery/index)")
    text = re.sub(r"\]\(\.\./examples/(\w+)\.py\)", r"](gallery/\1)", text)
    source[0] = re.sub(r"\]\((\.\./[\w/.-]+\.md)\)", r"](path:\1)", text)


def _whole_numbers(app, doctree, docname):
    """The digits of a number, its error and its % stay on one line; code is left as it is."""
    gaps = re.compile(r"(?<=\d) (?=\d{3}(?!\d)|[%±])|(?<=±) (?=\d)")
    for text in list(doctree.findall(nodes.Text)):
        if not isinstance(text.parent, nodes.literal | nodes.literal_block | nodes.math):
            whole = gaps.sub("\N{NO-BREAK SPACE}", text.astext())
            if whole != text.astext():
                text.parent.replace(text, nodes.Text(whole))


def _breakable_names(app, pagename, templatename, context, doctree):
    """Names and paths in tables may end a line behind a dot, slash, underscore or bracket."""

    def broken(cell):
        return re.sub(
            r'(?<=<span class="pre">)[^<]+',
            lambda name: re.sub(r"(?<=\w)([/._(=])(?=[\w\"&])", r"\1<wbr>", name[0]),
            cell[0],
        )

    if "body" in context:
        context["body"] = re.sub(r"<td\b.*?</td>", broken, context["body"], flags=re.DOTALL)


def _at_full_size(app, docname, source):
    """Show what `benchmarks/bench_examples.py` has kept of a whole script on its page."""
    kept = ROOT / "benchmarks" / "results" / "examples"
    name = docname.removeprefix("gallery/")
    if not docname.startswith("gallery/") or not (kept / f"{name}.txt").is_file():
        return
    shown = ["The whole script, with the command, the machine and its seconds:", ""]
    shown += [f".. literalinclude:: /../benchmarks/results/examples/{name}.txt"]
    shown += ["   :language: none", ""]
    for picture in sorted(kept.glob(f"{name[:3]}*.png")):
        shown += [f".. image:: /../benchmarks/results/examples/{picture.name}"]
        shown += ["   :alt: what the whole script draws", ""]
    marker = ".. GENERATED FROM PYTHON SOURCE LINES"  # of the first lines of code
    text, found, code = source[0].partition(marker)
    source[0] = "\n".join([text, *shown, found + code])


def setup(app):
    """Hook the functions above into the build."""
    app.related = {}
    app.connect("source-read", _outside)
    app.connect("source-read", _at_full_size)
    app.connect("doctree-resolved", _whole_numbers)
    app.connect("html-page-context", _breakable_names)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda self, node: _mathml(self, node, False), None),
        block_renderers=(lambda self, node: _mathml(self, node, True), None),
    )
    app.connect("autodoc-process-docstring", _plain_bars)
    app.connect("autodoc-process-docstring", _see_also)
    app.connect("autodoc-process-signature", _named_types)


html_math_renderer = "mathml"
