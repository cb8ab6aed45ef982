"""Values that a user's slip, a broken file or malice can put where another was meant, and what may come of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import ray_dra.api  # noqa: F401 - now: Ray's import would count as the first call's work
from ray_dra.errors import RayDraError

MOST_CPU_SECONDS = 6.0  # 2 on a core of its own; on a shared one the same work takes two or three times as long
MOST_ERROR_BYTES = 2048
MEGABYTE = 1 << 20


def nested(depth: int, kind: type = list) -> Any:
    """A list in a list in a list, or dicts."""
    found: Any = kind()
    for _ in range(depth):
        found = [found] if kind is list else {"a": found}
    return found


def in_itself() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


DEEP = (nested(1000), nested(1000, dict))
"""JSON, though whether it can be written depends on how deep the stack is just then: never ask while drawing."""

NUMBERS: list[Any] = [
    *(0, 1, 2, -1, 3, 7, 1.9, -0.0, 1e-9, 5e-324, 1e308, 2**31, 2**63, -(2**64), 10**400, -(10**400), 10**5000),
    *(float("nan"), float("inf"), float("-inf"), True, False, 1j),
    *(np.int64(2), np.uint8(3), np.float32(1.5), np.float64(2.0), np.float64("nan"), np.float16("inf"), np.bool_(True)),
]
TEXTS: list[Any] = [
    *("", "x", "GPU", "PACK", "in(a,b)", "!in(", "in(" + "a," * 9999, "\ud800", "a\udcffb", "\x00", "\n", "\u202e"),
    *("é", "$(reboot)", "`id`", "../../etc", "nan", "1", "true", "9" * 5000, "a" * MEGABYTE, "\ud800" * MEGABYTE),
]
OTHERS: list[Any] = [
    *(None, b"", b"PACK", b"\xff" * 9, bytearray(b"x"), (), [], {}, set(), frozenset({1}), object(), Exception, len),
    *(*DEEP, in_itself(), [[]], [None], [{}], {"": ""}, {None: 1}, {1: 2}, {"GPU": None}),
    *(np.array(4), np.array([1, 2]), np.array(["x"]), np.zeros((2, 2)), memoryview(b"x"), range(3), range(10**9)),
    *(iter([1]), ["x"] * 100_000, {str(i): i for i in range(10_000)}),
    [{"GPU": 1, "CPU": i + 1} for i in range(20_000)],  # different bundles
]
EXTREMES: list[Any] = [*NUMBERS, *TEXTS, *OTHERS]


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


JSON: list[Any] = [v for v in EXTREMES if any(v is deep for deep in DEEP) or _is_json(v)]
"""Of the extremes, what a file can have."""


def _one_of(values: list[Any]) -> st.SearchStrategy[Any]:
    """By number: hypothesis would write some of them down, which is not to be done."""
    return st.integers(0, len(values) - 1).map(lambda at: values[at])


def hostile(*, json_only: bool = False) -> st.SearchStrategy[Any]:
    """One of the above, or something JSON-like with them inside; `json_only`: something that a file can have.

    Nothing is drawn that is thrown away again (no filter, no `st.recursive`): what is drawn depends on nothing else.
    """
    few = [*NUMBERS, *TEXTS[:20], *OTHERS[:13]]
    small = _one_of(list(filter(_is_json, few)) if json_only else few) | st.text(st.characters(), max_size=9)
    if not json_only:
        small |= st.binary(max_size=5)
    names = st.sampled_from(["GPU", "CPU", "x", "\ud800", "", "a" * 300]) | st.text(max_size=3)
    tree = small
    for _ in range(2):
        tree = small | st.lists(tree, max_size=3) | st.lists(st.tuples(names, tree), max_size=3).map(dict)
    return _one_of(JSON if json_only else EXTREMES) | tree


def answers_or_refuses(call: Callable[[], Any]) -> Any:
    """What `call` returns, or its error of ours; anything else fails: another error, too long a text, too much CPU."""
    began = time.process_time()
    try:
        found = call()
    except RayDraError as error:
        found = error
        said = str(error).encode()  # it encodes
        assert len(said) <= MOST_ERROR_BYTES, said[:200]
        assert error.reason
        str(error.args).encode()
    except (MemoryError, RecursionError) as error:  # named, since pytest shows them badly
        pytest.fail(f"untyped: {type(error).__name__}")
    assert time.process_time() - began <= MOST_CPU_SECONDS
    return found
