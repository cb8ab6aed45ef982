"""How commands print: answers to stdout, errors and warnings to stderr, tables for people and values for programs."""

from __future__ import annotations

import enum
import io
import json
import os
import sys
import unicodedata
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ray_dra.cli.exit_codes import NO_READER
from ray_dra.errors import InvalidSnapshot

STANDARD = Path("-")
"""In a file's place: standard input where one is read, standard output where one is written."""


class Output(str, enum.Enum):
    """kubectl's words."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"

    @property
    def plain(self) -> bool:
        """Whether it is for programs."""
        return self in (Output.JSON, Output.YAML)


OutputOption = Annotated[
    Output,
    typer.Option(
        "-o",
        "--output",
        metavar="table|wide|json|yaml|name",
        help="As table, wide (more columns, whole names), json, yaml, or name (names alone, one a line).",
    ),
]


def said_options(context: typer.Context) -> set[str]:
    """The long names of the options that stand on the command line."""
    sources = {p: context.get_parameter_source(p.name) for p in context.command.params if p.name is not None}
    return {
        max(p.opts, key=len) for p, source in sources.items() if source is not None and source.name == "COMMANDLINE"
    }


def refuse_idle(said: Collection[str], options: Iterable[str], why: str) -> None:
    """An option that changes nothing is a slip: whoever says it expects another answer.

    Raises:
        BadParameter: one of these was said.
    """
    idle = [option for option in options if option in said]
    if idle:
        raise typer.BadParameter(f"it would change nothing: {why}", param_hint=", ".join(idle))


def write_what_the_terminal_lacks() -> None:
    """What the terminal's encoding lacks is written as \\udcff: a file's name, a gang's on an ASCII terminal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    say_as_it_is(_shown(text, "\n") + "\n")


def say_as_it_is(text: str | bytes) -> None:
    """To stdout, as it is.

    Raises:
        InvalidSnapshot: it cannot be written, e.g. into a file on a disk that is full.
        Exit: nobody reads it. Left to Click that would end with 1, which is a no.
    """
    try:
        typer.echo(text, nl=False)
    except OSError as error:
        _write_nowhere()
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(NO_READER) from None
        raise InvalidSnapshot("The answer cannot be written.", place="stdout", available=str(error)) from error


def write_file(path: Path, data: bytes) -> None:
    """An answer into a file.

    Raises:
        InvalidSnapshot: it cannot be written.
    """
    try:
        path.write_bytes(data)
    except (OSError, ValueError) as error:
        raise InvalidSnapshot("The file cannot be written.", place=str(path), available=str(error)) from error


def say_lines(lines: Iterable[str]) -> None:
    for line in lines:
        say_as_it_is(_shown(line) + "\n")


def warn(text: str) -> None:
    """To stderr: errors, and what is amiss beside the answer."""
    with suppress(OSError):  # nobody can be told, and the exit code says it as well
        typer.secho(_shown(text, "\n"), err=True, fg=typer.colors.RED)


def _shown(text: str, but: str = "") -> str:
    """Names come from programs and files: one with a terminal's control characters would draw what it likes."""
    if text.isprintable():
        return text
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter)[0] == "C" and letter not in but
        else letter
        for letter in text
    )


def _write_nowhere() -> None:
    """What is still in the buffer would be a second error, at the interpreter's end."""
    if sys.stdout is not sys.__stdout__ or not isinstance(sys.stdout, io.TextIOWrapper):
        return  # somebody else's: a test's, a program's
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def say_plain(values: Any, output: Output) -> None:
    """Values for programs: JSON on one line, or YAML."""
    text = json.dumps(values)
    say(text if output is Output.JSON else yaml.safe_dump(json.loads(text), sort_keys=False).rstrip("\n"))
