"""Check that every link between built pages leads somewhere.

    python docs/check_links.py build/docs

Files and anchors are looked up on the disk; addresses elsewhere are not asked. Exit status 1, and a
line for each link that leads nowhere.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and the anchors it has."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = set(), {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


def broken(folder):
    """Return (page, link) of every link that leads nowhere."""
    pages = {path.resolve(): Page(path) for path in Path(folder).rglob("*.html")}
    found = []
    for path, page in sorted(pages.items()):
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target in pages or target.exists()
            # Pages of source code link back by a name's module, where its page has the public name.
            if target in pages and "_modules" not in path.parts:
                there = unquote(parts.fragment) in pages[target].anchors
            if not there:
                found.append((path.relative_to(Path(folder).resolve()), link))
    return found


if __name__ == "__main__":
    found = broken(sys.argv[1] if len(sys.argv) > 1 else "build/docs")
    for page, link in found:
        print(f"{page}: {link} leads nowhere")
    sys.exit(bool(found))
