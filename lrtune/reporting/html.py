"""The report as one HTML file without scripts or anything to fetch.

It can be read in the dark, on a phone and on paper.
"""

from collections.abc import Sequence
from functools import cache
from shlex import quote
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from lrtune.core.printing import printable
from lrtune.reporting.document import Document

if TYPE_CHECKING:
    from lrtune.reporting.sheet import Plot


def render_html(document: Document, plots: "Sequence[Plot]") -> str:
    """The page, with its plots inside. Every text is escaped; only the plots go in as they are."""
    from lrtune.reporting.sheet import WIDTHS  # matplotlib takes a while to import

    images = {plot.name: Markup("".join(map(plot.inline_svg, WIDTHS))) for plot in plots}  # noqa: S704  (escaped in sheet.py)
    return _template().render(
        doc=document, plots=images, study=quote(document.report.state.config.name)
    )


@cache
def _template() -> Template:
    loader = PackageLoader("lrtune.reporting")
    return Environment(
        loader=loader,
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.j2")
