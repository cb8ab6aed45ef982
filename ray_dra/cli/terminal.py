"""How commands print: answers to stdout, errors and warnings to stderr, tables for people and values for programs."""

from __future__ import annotations

import enum
import io
import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer
import yaml


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
        "-o", "--output", help="table, wide (more columns, whole names), json, yaml, or name: names alone, one a line."
    ),
]


def write_what_the_terminal_lacks() -> None:
    """What the terminal's encoding lacks is written as \\udcff: a file's name, a gang's on an ASCII terminal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    typer.echo(text)


def say_lines(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


def warn(text: str) -> None:
    """To stderr: errors, and what is amiss beside the answer."""
    typer.secho(text, err=True, fg=typer.colors.RED)


def say_plain(values: Any, output: Output) -> None:
    """Values for programs: JSON on one line, or YAML."""
    text = json.dumps(values)
    say(text if output is Output.JSON else yaml.safe_dump(json.loads(text), sort_keys=False).rstrip("\n"))
