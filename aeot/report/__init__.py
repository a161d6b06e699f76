"""One self-contained HTML page from fitted models and comparisons."""

from aeot.report.build import write_page

__all__ = ["write_page"]
