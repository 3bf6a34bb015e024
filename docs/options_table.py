"""Writes options.md beside it, from the dataclasses that define the options.

python docs/options_table.py
"""

from pathlib import Path

from lrtune.cli import Option, lrtune

HEAD = """\
# Options

Every option of every command. In Python the options of `lrtune search` are the keyword arguments of
`lrtune.search`, by the names in the second column; the same holds for `lrtune.compare`,
`lrtune.resume`, `lrtune.report`, `lrtune.export` and `lrtune.find_lr` (`lrtune find`). What is
trained is their first argument: an `lrtune.Task`, the path of a file that defines one, an
`lrtune.NamedTask`, which has the options under *Task*, an `lrtune.CommandLine`, which has those
under *Command*, or a training function. `lrtune search --help` shows the options that matter most,
`--help-all` shows all of them.

This file is written by `python docs/options_table.py`, from the classes in `lrtune/core` that
define the options.
"""
COLUMNS = ("command line", "Python", "what it is", "default", "commands")


def document() -> str:
    """Returns the text of options.md: a table for each topic."""
    topics: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for name, command in lrtune.commands.items():
        for option in command.params:
            if isinstance(option, Option) and option.field is not None:
                topic = topics.setdefault(option.topic, {})
                topic.setdefault(row(option), []).append(name)
    tables = []
    for title, rows in topics.items():
        lines = [" | ".join(COLUMNS), " | ".join(["---"] * len(COLUMNS))]
        lines += [" | ".join((*cells, ", ".join(names))) for cells, names in rows.items()]
        tables.append("\n".join([f"## {title}", "", *(f"| {line} |" for line in lines), ""]))
    return "\n".join([HEAD, *tables])


def row(option: Option) -> tuple[str, ...]:
    """Returns the cells of an option's row, without the last one."""
    field = option.field
    assert field is not None
    flags = " ".join([*option.opts[:1], *option.secondary_opts])
    value = "" if option.is_flag else option.metavar or ", ".join(field.choices)
    typed = " ".join(f"`{part}`" for part in (flags, value) if part).replace("|", "\\|")
    texts = (field.help, field.default_text)
    return (typed, f"`{field.name}`", *(text.replace("|", "\\|") for text in texts))


if __name__ == "__main__":
    Path(__file__).with_name("options.md").write_text(document(), encoding="utf-8")
