"""The page itself: pieces of HTML, every string escaped, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Any

import torch
from PIL import Image

from aeot.comparison.result import told
from aeot.data import to_uint8
from aeot.plotting.images import mosaic
from aeot.plotting.svg import svg


@dataclass
class Page:
    """A page in the making: sections of HTML and the data its script reads."""

    title: str
    subtitle: str = ""
    sections: list[tuple[str, str]] = field(default_factory=list)
    galleries: list[dict[str, Any]] = field(default_factory=list)
    explorers: list[dict[str, Any]] = field(default_factory=list)
    drawn: int = 0

    def add(self, heading: str, *pieces: str) -> None:
        """Add a section: a heading (plain text) and pieces of HTML."""
        self.sections.append((heading, "\n".join(pieces)))

    def charts(self, figures: Mapping[str, Any]) -> str:
        """Return figures by title, side by side where there is room."""
        parts = []
        for title, figure in figures.items():
            self.drawn += 1
            drawn = svg(figure, label=title, key=f"chart{self.drawn}")
            caption = f"<figcaption>{escape(title)}</figcaption>"
            parts.append(f'<figure class="chart">{caption}{drawn}</figure>')
        return f'<div class="charts">{"".join(parts)}</div>'

    def gallery(self, name: str, samples: torch.Tensor, nearest: torch.Tensor, known: str) -> str:
        """Add images (B, C, H, W) and the `known` one nearest to each; return their place."""
        grid = {"samples": sprite(samples, 8), "nearest": sprite(nearest, 8)}
        self.galleries.append({"name": name, **grid, "known": known})
        return f'<div class="gallery" data-gallery="{len(self.galleries) - 1}"></div>'

    def explorer(self, prepared: dict[str, Any]) -> str:
        """Add a latent explorer, as `explorer.explorer` prepared it; return its place."""
        self.explorers.append(prepared)
        return _EXPLORER.format(number=len(self.explorers) - 1)

    def html(self) -> str:
        """Return the whole document."""
        script = _read("page.js")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        data = {"galleries": self.galleries, "explorers": self.explorers}
        names = [f"section-{k}" for k in range(len(self.sections))]
        body = "\n".join(
            f'<section id="{name}"><h2>{escape(heading)}</h2>\n{content}\n</section>'
            for name, (heading, content) in zip(names, self.sections, strict=True)
        )
        nav = "".join(
            f'<a href="#{name}">{escape(heading)}</a>'
            for name, (heading, _) in zip(names, self.sections, strict=True)
        )
        parts = {
            "title": escape(self.title),
            "subtitle": escape(self.subtitle),
            "style": _read("page.css"),
            "script_hash": f"sha256-{digest}",
            "nav": nav if len(names) > 1 else "",
            "body": body,
            "footer": "Made by aeot. This file needs no server and fetches nothing.",
            "data": _script_safe(json.dumps(data, separators=(",", ":"))),
            "script": script,
        }
        # In one pass, so that nothing put in is looked at again.
        return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _read("page.html"))


def _read(name: str) -> str:
    return resources.files("aeot.report").joinpath(name).read_text(encoding="utf-8")


def _script_safe(text: str) -> str:
    """Keep JSON from ending its script element, or being read as a comment in it."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def facts(pairs: dict[str, Any]) -> str:
    """Return a list of names and values."""
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(told(v))}</dd>" for k, v in pairs.items())
    return f'<dl class="facts">{rows}</dl>'


def note(text: str) -> str:
    """Return a paragraph of plain text."""
    return f'<p class="note">{escape(text)}</p>'


def subheading(text: str) -> str:
    """Return a heading below the section's."""
    return f"<h3>{escape(text)}</h3>"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    best: Sequence[Sequence[bool]] | None = None,
    baselines: Sequence[bool] | None = None,
) -> str:
    """Return a table that scrolls by itself where the page is narrow.

    Args:
        head: Headings.
        rows: Cells, as text.
        best: Which cells carry a star.
        baselines: Which rows are no contestants.
    """
    lines = []
    for i, row in enumerate(rows):
        cells = "".join(
            f"<td{' class=best' if best and best[i][j] else ''}>{escape(cell)}</td>"
            for j, cell in enumerate(row)
        )
        lines.append(f"<tr{' class=baseline' if baselines and baselines[i] else ''}>{cells}</tr>")
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table"><table><thead><tr>{top}'
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def sprite(images: torch.Tensor, columns: int) -> dict[str, Any]:
    """Lay images out in rows of one PNG.

    Args:
        images: (B, C, H, W), uint8 or floats in [-1, 1], one or three channels.
        columns: Images a row.

    Returns:
        ``uri``, ``width`` and ``height`` of one image in pixels, ``columns``, ``count``.
    """
    images = images if images.dtype == torch.uint8 else to_uint8(images)
    count, channels, height, width = images.shape
    columns = max(1, min(columns, count))
    sheet = mosaic(images, columns, gap=0)
    buffer = io.BytesIO()
    Image.fromarray(sheet.squeeze(2) if channels == 1 else sheet).save(buffer, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"uri": uri, "width": width, "height": height, "columns": columns, "count": count}


_EXPLORER = """
<div class="explorer" data-explorer="{number}">
<div>
<canvas tabindex="0" role="application" aria-label="Plane picture of the codes. Arrow keys move
from code to code, Enter starts and ends a path, Escape removes it."></canvas>
<div class="tools">
<label><input type="checkbox" data-crossing checked> pairs across the singular set</label>
<label>colour by <select data-by><option value="class">class</option>
<option value="mode">mode</option></select></label>
</div>
<div class="swatches" data-swatches></div>
<p class="note">Click a point to see its image and its neighbours. Drag from one point to another to
see two paths between the ringed codes nearest to them; or choose the ends here:</p>
<div class="tools">
<label>from <select data-end></select></label>
<label>to <select data-end></select></label>
</div>
<p class="note">Keyboard: <kbd>Tab</kbd> to the picture, arrow keys move, <kbd>Enter</kbd> twice for
a path, <kbd>Esc</kbd> removes it.</p>
</div>
<div>
<div data-details></div>
<div data-path></div>
<p class="note" data-say aria-live="polite"></p>
</div>
</div>
"""
