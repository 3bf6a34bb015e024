"""The report on disk."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lrtune.reporting.document import Report, compose
from lrtune.reporting.json import render_json
from lrtune.reporting.result import runs_dataframe


def write_report(report: Report, folder: Path) -> Mapping[str, Path]:
    """Writes all the files of a report.

    They are `report.md`, `report.html`, `report.json`, `trials.csv`, and `plots/*.png` and
    `plots/*.svg`. Each file appears whole or not at all, over the one that was there before.

    Args:
        report: whatever stage its study is at.
        folder: made where it is missing.

    Returns:
        The files by their names relative to `folder`.

    Raises:
        OSError: `folder` cannot be written to.
    """
    # Templates and plots take a while to import, and a search needs them only when it is over.
    from lrtune.reporting.html import render_html
    from lrtune.reporting.markdown import render_markdown
    from lrtune.reporting.plots import draw

    document = compose(report)
    plots = draw(document)
    contents: dict[str, str | bytes] = {}
    for plot in plots:
        contents[f"plots/{plot.name}.png"] = plot.png
        contents[f"plots/{plot.name}.svg"] = plot.svg
    contents["trials.csv"] = runs_dataframe(report.state).to_csv(index=False)
    contents["report.json"] = render_json(document)
    contents["report.md"] = render_markdown(document, plots)
    contents["report.html"] = render_html(document, plots)
    written = {}
    for name, content in contents.items():
        written[name] = folder / name
        write_whole(written[name], content)
    return written


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all, and makes its folder where that is missing.

    A reader never sees half of it, not even after a power cut.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as file:
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)  # a temporary file is otherwise its owner's alone
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
