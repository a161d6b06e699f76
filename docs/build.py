"""Turn the Markdown files beside this one, and the README, into a small site in docs/_build."""

import html
import re
import shutil
from pathlib import Path

import markdown

HERE = Path(__file__).resolve().parent
OUT = HERE / "_build"
ORDER = ("index", "guide", "math", "solver", "singular", "metrics", "engines", "reliability")
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --rule: #8884; --link: light-dark(#1a5fb4, #8ab8ff); }}
body {{ max-width: 52rem; margin: 0 auto; padding: 1rem 1.2rem 4rem;
       font: 1rem/1.6 system-ui, sans-serif; }}
nav {{ display: flex; flex-wrap: wrap; gap: 0 1.1rem; padding: .5rem 0 1rem;
      border-bottom: 1px solid var(--rule); }}
nav a[aria-current] {{ color: inherit; font-weight: 600; text-decoration: none; }}
a {{ color: var(--link); }}
h1, h2, h3 {{ line-height: 1.25; margin: 2rem 0 .6rem; }}
pre {{ overflow-x: auto; padding: .8rem 1rem; border: 1px solid var(--rule); border-radius: 6px; }}
code {{ font: .9em/1.5 ui-monospace, monospace; }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; }}
th, td {{ padding: .25rem .7rem; border-bottom: 1px solid var(--rule); text-align: left; }}
img {{ max-width: 100%; height: auto; background: white; }}
</style>
<nav>{nav}</nav>
<main>
{body}
</main>
</html>
"""


def pages():
    """Name -> Markdown, the README first, under the name of a site's first page."""
    # The pages stand one level deeper than their sources.
    found = {p.stem: p.read_text().replace("](../", "](../../") for p in sorted(HERE.glob("*.md"))}
    # The README links from one level up.
    readme = (HERE.parent / "README.md").read_text().replace("](docs/", "](")
    readme = readme.replace("](CHANGELOG.md)", "](changelog.md)")
    elsewhere = "examples/|benchmarks/|CONTRIBUTING|LICENSE"
    found["index"] = re.sub(rf"\]\((?={elsewhere})", "](../../", readme)
    found["changelog"] = (HERE.parent / "CHANGELOG.md").read_text()
    return {name: found[name] for name in sorted(found, key=_rank)}


def _rank(name):
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def title(name, text):
    first = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
    return first.group(1) if first else name


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    if (HERE / "images").is_dir():
        shutil.copytree(HERE / "images", OUT / "images")
    found = pages()
    for name, text in found.items():
        links = []
        for other in found:
            label = "aeot" if other == "index" else other
            current = ' aria-current="page"' if other == name else ""
            links.append(f'<a href="{other}.html"{current}>{html.escape(label)}</a>')
        body = markdown.markdown(text, extensions=["extra", "toc", "sane_lists"])
        body = re.sub(r'href="(?!https?:)([\w-]+)\.md(#[^"]*)?"', r'href="\1.html\2"', body)
        page = PAGE.format(title=html.escape(title(name, text)), nav=" ".join(links), body=body)
        (OUT / f"{name}.html").write_text(page)
    print(f"{len(found)} pages in {OUT}")


if __name__ == "__main__":
    main()
