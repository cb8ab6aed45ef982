"""JSON or YAML from a file as plain values, whatever is in the file.

PyYAML's own constructors are not used: they are recursive in C, where a hundred thousand "[" end the process, they
unfold aliases without end, and they read dates and base-60 numbers, which nothing here has. Its parser gives events
instead, one after the other, and the values are built here, within limits.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.resolver import Resolver

from ray_dra.errors import InvalidSnapshot, shown

MAX_BYTES = 64 << 20
MAX_DEPTH = 64
MAX_ALIASED = 100_000
"""Values that all aliases together stand for."""
MAX_SCALAR = 16_384
"""Characters of one text or number."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_file(path: object) -> bytes:
    """A file's bytes. Raises InvalidSnapshot where it cannot be read, or is too large."""
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidSnapshot(
            "A file's path was expected.", place="path", wanted=shown(path), available="a str or Path"
        )
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path that is none, e.g. with a zero in it
        raise InvalidSnapshot("The file cannot be read.", place=str(path) or "path", available=str(error)) from error
    if len(data) > MAX_BYTES:
        raise InvalidSnapshot("The file is too large.", place=str(path), available=f"at most {MAX_BYTES >> 20} MiB")
    return data


def plain(data: object, what: str) -> Any:
    """Dicts, lists, texts, numbers, booleans and None, as JSON has them.

    Args:
        data: the text, or its bytes in UTF-8.
        what: that was expected, for the message.

    Raises:
        InvalidSnapshot: it is neither JSON nor YAML, no UTF-8, or larger or deeper than anything of ours.
    """
    try:
        found = _parsed(_decoded(data))
    except InvalidSnapshot:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, RecursionError, MemoryError) as error:
        said = str(error) if isinstance(error, yaml.YAMLError) else type(error).__name__
        raise InvalidSnapshot(
            f"This is neither JSON nor YAML; {what} was expected.", place="file", available=said
        ) from error
    return found


def _decoded(data: object) -> str:
    if not isinstance(data, (str, bytes)):
        raise InvalidSnapshot("Text was expected.", place="file", wanted=shown(data), available="a str or bytes")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        if len(text.encode()) > MAX_BYTES:
            raise InvalidSnapshot("The text is too large.", place="file", available=f"at most {MAX_BYTES >> 20} MiB")
    except UnicodeError as error:
        raise InvalidSnapshot("This is no UTF-8.", place="file", available=str(error)) from error
    return text


def _parsed(text: str) -> Any:
    if text.lstrip()[:1] in ("{", "["):
        try:
            found = json.loads(text)
        except RecursionError as error:
            raise InvalidSnapshot("This is nested too deep.", place="file") from error
        except ValueError:
            pass  # YAML, perhaps, which says better what is wrong
        else:
            if _SURROGATE.search(text):
                json.dumps(found, ensure_ascii=False).encode()  # raises UnicodeEncodeError, a ValueError
            return found
    return _Builder(yaml.parse(text, Loader=_LOADER)).document()


class _Builder:
    """Values from a parser's events; no recursion."""

    def __init__(self, events: Iterator[Any]) -> None:
        self.events = events
        self.known: dict[str, Any] = {}  # plain text -> its value
        self.anchors: dict[str, tuple[Any, int]] = {}  # with how many values are in it
        self.aliased = 0

    def document(self) -> Any:
        """The one document.

        Each open collection is [the values so far, whether it is a mapping, its anchor, the count before it].
        """
        stack: list[tuple[list[Any], bool, str | None, int]] = []
        documents: list[Any] = []
        count = 0
        for event in self.events:
            event_type = type(event)
            if event_type is yaml.ScalarEvent:
                value = self._scalar(event)
                count += 1
                if event.anchor is not None:
                    self.anchors[event.anchor] = value, 1
            elif event_type is yaml.MappingStartEvent or event_type is yaml.SequenceStartEvent:
                _check_tag(event, "map" if event_type is yaml.MappingStartEvent else "seq")
                if len(stack) >= MAX_DEPTH:
                    raise InvalidSnapshot(
                        "This is nested too deep.", place=_line(event), available=f"at most {MAX_DEPTH} levels"
                    )
                stack.append(([], event_type is yaml.MappingStartEvent, event.anchor, count))
                count += 1
                continue
            elif event_type is yaml.MappingEndEvent or event_type is yaml.SequenceEndEvent:
                values, mapping, anchor, before = stack.pop()
                value = _mapping(values, event) if mapping else values
                if anchor is not None:
                    self.anchors[anchor] = value, count - before
            elif event_type is yaml.AliasEvent:
                value, inside = self._aliased(event)
                count += inside
            else:  # of the stream and the document
                continue
            (stack[-1][0] if stack else documents).append(value)
        if len(documents) != 1:
            raise InvalidSnapshot("One document was expected.", place="file", available=str(len(documents)))
        return documents[0]

    def _aliased(self, event: Any) -> tuple[Any, int]:
        if event.anchor not in self.anchors:
            raise InvalidSnapshot("An alias of nothing.", place=_line(event), wanted=shown(event.anchor))
        value, inside = self.anchors[event.anchor]
        self.aliased += inside
        if self.aliased > MAX_ALIASED:
            raise InvalidSnapshot(
                "The aliases stand for too much.", place=_line(event), available=f"at most {MAX_ALIASED} values"
            )
        return value, inside

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if len(text) > MAX_SCALAR:
            raise InvalidSnapshot(
                "A text is too long.",
                place=_line(event),
                wanted=f"{len(text)} characters",
                available=f"at most {MAX_SCALAR}",
            )
        if not event.implicit[0]:  # quoted, or with a tag
            if event.tag is None or event.tag in ("!", _TAG + "str"):
                return text
            return _read(text, _check_tag(event, "null", "bool", "int", "float"))
        if text in self.known:
            return self.known[text]
        first = text[0] if text else ""
        for tag, pattern in Resolver.yaml_implicit_resolvers.get(first, ()):
            if pattern.match(text):
                found = _read(text, tag.removeprefix(_TAG))
                break
        else:
            found = text
        self.known[text] = found
        return found


_BOOLS = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}


def _read(text: str, tag: str) -> Any:
    """As PyYAML reads it, but for dates and numbers to the base 60, which stay text."""
    if tag == "null":
        return None
    if tag == "bool":
        return _BOOLS.get(text.lower(), text)
    if tag not in ("int", "float") or ":" in text:
        return text
    digits = text.replace("_", "").lower()
    if tag == "int":
        sign, bare = (digits[0], digits[1:]) if digits[:1] in ("-", "+") else ("", digits)
        base = 10 if bare == "0" or not bare.startswith("0") else {"b": 2, "x": 16}.get(bare[1:2], 8)
        return int(sign + bare, base)
    if digits.lstrip("+-") in (".inf", ".nan"):
        return math.nan if digits.endswith("nan") else -math.inf if digits[0] == "-" else math.inf
    return float(digits)


def _mapping(values: list[Any], event: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for at in range(0, len(values), 2):
        key = values[at]
        if isinstance(key, (list, dict)):
            raise InvalidSnapshot("A key is no text.", place=_line(event), wanted=shown(key))
        if key in found:
            raise InvalidSnapshot("A key is given twice.", place=_line(event), wanted=shown(key))
        found[key] = values[at + 1]
    return found


def _check_tag(event: Any, *kinds: str) -> str:
    tag = event.tag
    if tag in (None, "!"):
        return kinds[0]
    if tag.removeprefix(_TAG) not in kinds or not tag.startswith(_TAG):
        raise InvalidSnapshot(
            "This tag is not read.", place=_line(event), wanted=shown(tag), available=", ".join(kinds)
        )
    return str(tag.removeprefix(_TAG))


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"
