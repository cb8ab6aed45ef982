"""The guard for what users type: one value of the right type and size, or InvalidRequest with its place.

A number is an int, a float, or one of numpy's; True and False are not. Text is what encodes to UTF-8, since it goes
into records, Kubernetes objects and other processes. Neighbours: `request.py` holds the model's limits by these,
`translate/` and the api use them for the parameters that the model does not have.
"""

from __future__ import annotations

import enum
import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ray_dra.errors import InvalidRequest, shown

MAX_NAME = 253
"""Characters of a name: of a gang, a namespace, a resource, a product."""


def text(value: object, place: str, *, most: int = MAX_NAME, empty: bool = False) -> str:
    """A str of at most `most` characters that encodes; `empty`: may be ''."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{place} is text.", place=place, wanted=shown(value), available="a str")
    if not value and not empty:
        raise InvalidRequest(f"{place} is empty.", place=place, wanted="''", available="a str")
    if len(value) > most:
        raise InvalidRequest(
            f"{place} is too long.", place=place, wanted=f"{len(value)} characters", available=f"at most {most}"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{place} is no text that can be written as UTF-8.", place=place, wanted=ascii(value), available="UTF-8"
        ) from error
    return str(value)


def flag(value: object, place: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InvalidRequest(f"{place} is True or False.", place=place, wanted=shown(value), available="a bool")
    return value


def whole(value: object, place: str, *, least: int, most: int) -> int:
    """An int of this range."""
    if type(value) is not int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise InvalidRequest(
                f"{place} is a whole number.",
                place=place,
                wanted=shown(value),
                available=f"an int from {least} to {most}",
            )
        value = int(value)
    if not least <= value <= most:
        raise InvalidRequest(
            f"{place} is out of range.", place=place, wanted=shown(value), available=f"{least} to {most}"
        )
    return value


def number(value: object, place: str, *, least: float, most: float) -> float:
    """A finite number of this range."""
    found = math.nan
    if not isinstance(value, bool) and isinstance(value, numbers.Real):
        try:
            found = float(value)
        except (OverflowError, ValueError, ArithmeticError):
            pass
    if not least <= found <= most:  # nor for nan
        raise InvalidRequest(
            f"{place} is a number from {least:.15g} to {most:.15g}.",  # not 1e+09, which YAML would read as a text
            place=place,
            wanted=shown(value),
            available=f"{least:.15g} to {most:.15g}",
        )
    return found


def one_of(enumeration: type[enum.Enum], value: object, place: str) -> None:
    """A member of the enum."""
    if not isinstance(value, enumeration):
        raise InvalidRequest(
            f"{place} is not known.",
            place=place,
            wanted=shown(value),
            available=", ".join(f"{enumeration.__name__}.{name}" for name in enumeration.__members__),
        )


def many(value: object, place: str, *, most: int) -> Sequence[Any]:
    """A list or tuple, or another sequence that is no text, of at most `most` things."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray, memoryview)):
        raise InvalidRequest(f"{place} is a list.", place=place, wanted=shown(value), available="a list")
    _few(value, place, most)
    return value


def table(value: object, place: str, *, most: int) -> Mapping[Any, Any]:
    """A dict, or another mapping, of at most `most` entries."""
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{place} is a dict.", place=place, wanted=shown(value), available="a dict")
    _few(value, place, most)
    return value


def _few(held: Collection[Any], place: str, most: int) -> None:
    if len(held) > most:
        raise InvalidRequest(
            f"{place} has too many entries.", place=place, wanted=str(len(held)), available=f"at most {most}"
        )
