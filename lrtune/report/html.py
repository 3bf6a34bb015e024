"""The report as one HTML file: no network, no script, readable in the dark, on a phone and on paper."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from lrtune.report.document import Document

if TYPE_CHECKING:
    from lrtune.report.plots import Plot


def render_html(document: Document, plots: "Sequence[Plot]") -> str:
    """The page, with its plots inside. Every text is escaped; only the plots go in as they are."""
    images = {plot.name: Markup(plot.inline_svg) for plot in plots}  # noqa: S704  (drawn and escaped in plots.py)
    return _template().render(doc=document, plots=images)


@cache
def _template() -> Template:
    loader = PackageLoader("lrtune.report")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html.j2")
