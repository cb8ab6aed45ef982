"""Values that a user's slip, a broken file or malice can put where another was meant, and what may come of them."""

from __future__ import annotations

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
    *(nested(1000), nested(1000, dict), in_itself(), [[]], [None], [{}], {"": ""}, {None: 1}, {1: 2}, {"GPU": None}),
    *(np.array(4), np.array([1, 2]), np.array(["x"]), np.zeros((2, 2)), memoryview(b"x"), range(3), range(10**9)),
    *(iter([1]), ["x"] * 100_000, {str(i): i for i in range(10_000)}),
    [{"GPU": 1, "CPU": i + 1} for i in range(20_000)],  # different bundles
]
EXTREMES: list[Any] = [*NUMBERS, *TEXTS, *OTHERS]


def _one_of(values: list[Any]) -> st.SearchStrategy[Any]:
    """By number: hypothesis would write some of them down, which is not to be done."""
    return st.integers(0, len(values) - 1).map(lambda at: values[at])


def hostile() -> st.SearchStrategy[Any]:
    """One of the above, or something JSON-like with them inside."""
    small = _one_of([*NUMBERS, *TEXTS[:20], *OTHERS[:13]]) | st.text(st.characters(), max_size=9)
    names = st.sampled_from(["GPU", "CPU", "x", "\ud800", "", "a" * 300]) | st.text(max_size=3)
    tree = st.recursive(
        small | st.binary(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=6,
    )
    return _one_of(EXTREMES) | tree


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
