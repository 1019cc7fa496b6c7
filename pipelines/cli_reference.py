"""docs/cli.md: every command with its arguments and options, from the commands themselves.

`python -m pipelines.cli_reference > docs/cli.md`; a test keeps the two the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from pipelines.cli import app

HEAD = """# Commands

`heliograph COMMAND --help` says the same on the terminal. The commands that only read import no torch and answer in
under a second.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a crash, with Python's traceback: please report it |
| 2 | something that you can mend; the message says what, where, and the way out |
| 75 | waiting for people; the same command goes on |
| 130 | stopped with Ctrl-C; the same command goes on |
"""


def cli_reference() -> str:
    """The page, ending in one newline."""
    return "\n".join([HEAD, *_group(typer.main.get_command(app), "heliograph")]).rstrip() + "\n"


def _group(command: Any, name: str) -> Iterator[str]:
    if hasattr(command, "commands"):
        for below in sorted(command.commands):
            yield from _group(command.commands[below], f"{name} {below}")
        return
    given: list[Any] = [one for one in command.params if not getattr(one, "hidden", False)]
    arguments = [one for one in given if one.param_type_name == "argument"]
    options = [one for one in given if one.param_type_name == "option"]
    usage = " ".join([name, *("[OPTIONS]" for _ in options[:1]), *(_shape(one) for one in arguments)])
    yield f"## {name}\n"
    yield f"{_flat(command.help)}\n"
    yield f"```text\n{usage}\n```\n"
    if given:
        yield "| | |\n|---|---|"
        yield from (f"| {_named(one)} | {_about(one)} |" for one in (*arguments, *options))
        yield ""


def _shape(argument: Any) -> str:
    shape = argument.metavar or argument.name.upper()
    return shape if argument.required or shape.startswith("[") else f"[{shape}]"


def _named(one: Any) -> str:
    if one.param_type_name == "argument":
        return f"`{one.metavar or one.name.upper()}`"
    names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
    word = one.metavar or one.opts[0].rpartition("-")[2].upper()
    takes = "" if one.is_flag else f" `{word}`"
    return names + takes


def _about(one: Any) -> str:
    text = _flat(getattr(one, "help", None))
    if one.param_type_name == "option" and one.required:
        return f"{text} Must be given.".strip()
    default = one.default
    plain = default is not None and default != "" and not callable(default) and not isinstance(default, bool)
    return f"{text} Default: `{default}`.".strip() if plain and not one.multiple else text


def _flat(text: str | None) -> str:
    """One line, as a cell of a table takes it."""
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    print(cli_reference(), end="")
