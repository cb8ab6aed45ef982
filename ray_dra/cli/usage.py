"""What `-h` says that an option takes: a word for people, as FILE or SECONDS, and nothing for a switch.

Each option names its word itself (`metavar=`). Typer would show Python's types, and take brackets in a help text for
its own marks. Neighbour: `entry.py`, which makes every command one of these.
"""

from __future__ import annotations

import enum
from typing import Any

from rich.markup import escape
from typer.core import TyperCommand, TyperGroup


def _worded(parameters: list[Any]) -> list[Any]:
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""
        elif each.param_type_name == "argument":
            each.metavar = each.metavar or str(each.name).upper()
            if not isinstance(each.default, enum.Enum):  # of these it tells the choices
                each.display_type_rich = _no_type
    return parameters


def _no_type(ctx: Any) -> str:
    return ""


class Command(TyperCommand):
    def get_params(self, ctx: Any) -> Any:
        return _worded(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        said = self.help
        self.help = said and escape(said)
        try:
            super().format_help(ctx, formatter)
        finally:
            self.help = said


class Group(TyperGroup):
    def get_params(self, ctx: Any) -> Any:
        return _worded(super().get_params(ctx))
