"""The terminal, or the file that the output goes to."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lrtune.core.printing import printable


class PlainConsole(Console):
    """A console that escapes what is not visible in a text, so that no name can control it."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Renders like rich's method."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
