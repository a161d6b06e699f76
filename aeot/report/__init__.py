"""One self-contained HTML page from finished runs and comparisons."""

from aeot.report.build import report, write_page

__all__ = ["report", "write_page"]
