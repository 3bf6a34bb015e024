"""The report as Markdown, with its plots beside it."""

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from lrtune.core.printing import printable
from lrtune.reporting.document import Document

if TYPE_CHECKING:
    from lrtune.reporting.sheet import Plot


def render_markdown(document: Document, plots: "Sequence[Plot]") -> str:
    """The document; plots are linked as `plots/<name>.png`.

    Every text is escaped, code alone goes in as it is.
    """
    images = {plot.name: plot for plot in plots}
    verbatim = {
        "code": fenced(document.code, "sh" if document.steers else "python"),
        "command": fenced(document.report.state.config.command),
    }
    text = _template().render(doc=document, plots=images, **verbatim)
    # One empty line between blocks, whatever the template left out; code keeps its own.
    blocks = re.compile(r"(^(`{3,}).*?^\2$)|\n{3,}", re.DOTALL | re.MULTILINE)
    return blocks.sub(lambda match: match[1] or "\n\n", text)


def fenced(code: str, language: str = "") -> Markup:
    """Code as a block, which none of its own backticks ends; empty where there is no code."""
    longest = max(map(len, re.findall("`+", code)), default=0)
    fence, lines = "`" * max(3, longest + 1), printable(code).rstrip("\n")
    return Markup(f"{fence}{language}\n{lines}\n{fence}" if code else "")  # noqa: S704  (verbatim)


def escape(text: object) -> Markup:
    """Text that Markdown shows as it is, in a table cell too."""
    one_line = " ".join(printable(str(text)).split())
    return Markup(re.sub(r"[\\`*<>|~$&]|(?<!\w)_|_(?!\w)|\](?=[(\[])", r"\\\g<0>", one_line))  # noqa: S704  (this is the escaping)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("lrtune.reporting"),
        autoescape=True,  # leaves alone what `finalize` has escaped
        finalize=lambda value: value if isinstance(value, Markup) else escape(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.md.j2")
