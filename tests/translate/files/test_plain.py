"""Text that is no file of ours: InvalidSnapshot with its place, and never a crash or a long wait."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.errors import InvalidSnapshot
from ray_dra.translate.files.plain import MAX_ALIASED, plain
from ray_dra.translate.files.snapshot import (
    load_request,
    load_snapshot,
)
from tests.edge.hostile import MEGABYTE, answers_or_refuses
from tests.translate.files.test_sense import judge

TEXTS: dict[str, Any] = {
    "deep lists": "[" * MEGABYTE,
    "deep maps": "{" * MEGABYTE,
    "deep json": '{"a":' * 200_000,
    "deep blocks": "- " * (MEGABYTE // 2),
    "deep keys": "? " * (MEGABYTE // 2),
    "deep indents": "\n".join(" " * i + "a:" for i in range(1400)),
    "a long list": "nodes: [" + "1," * (MEGABYTE // 2) + "]",
    "a long number": "nodes: " + "1" * MEGABYTE,
    "base 60": "nodes: " + "1:" * (MEGABYTE // 2) + "1",
    "laughs": "a: &a [1,1,1,1]\n"
    + "".join(f"x{i + 1}: &x{i + 1} [*x{i}, *x{i}]\n" for i in range(40)).replace("x0", "a"),
    "itself": "&a [*a]",
    "many aliases": "a: &a [" + "1," * 1000 + "]\nb: [" + "*a," * (MAX_ALIASED // 500) + "]",
    "devices by aliases": "nodes:\n- {name: n, devices: &d ["
    + ",".join(f"{{id: [d, p, x{i}], index: {i}, uuid: u{i}}}" for i in range(1000))
    + "]}\n"
    + "".join(f"- {{name: n{i}, devices: *d}}\n" for i in range(1000)),
    "a date": "nodes: 2001-99-99",
    "a timestamp": "nodes: !!timestamp x",
    "an empty int": 'nodes: !!int ""',
    "binary": "nodes: !!binary /w==x",
    "code": "!!python/object/apply:os.system [echo]",
    "a surrogate": '{"nodes": [{"name": "\\ud800"}]}',
    "another surrogate": 'nodes: [{name: "\\ud800"}]',
    "documents": "--- a\n" * 1000,
    "nothing": "",
    "zero": "\x00",
    "a mark": "\ufeff" * 9,
    "no utf-8": b"\xff\xfe\x00",
    "cut utf-8": "nodes: é".encode()[:-1],
    "a lone surrogate": "nodes: \ud800",
    "twice": "nodes: []\nnodes: []",
    "keys": "{[1]: 2}",
    "many keys": "\n".join(f"k{i}: 1" for i in range(MEGABYTE // 10)),
    "zig": "[" + "a #\n," * (MEGABYTE // 6) + "]",
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_file(name: str, tmp_path: Path) -> None:
    for load in (load_snapshot, load_request):
        found = answers_or_refuses(lambda load=load: load(TEXTS[name]))  # type: ignore[misc]
        assert isinstance(found, InvalidSnapshot)
        assert found.place


@pytest.mark.parametrize("name", ["laughs", "many aliases"])
def test_aliases_stand_for_no_more_than_a_file_could_hold(name: str) -> None:
    with pytest.raises(InvalidSnapshot, match="aliases"):
        plain(TEXTS[name], "something")


@given(st.text(st.sampled_from("{}[]:,-?&*!|>'\"%@`# \n\tab10.~<=\\")) | st.binary(max_size=40))
@settings(max_examples=800, deadline=None)
def test_any_text_at_all(text: str | bytes) -> None:
    judge(answers_or_refuses(lambda: plain(text, "something")))


# What Python's JSON reads as numbers and YAML as texts: `[Infinity]` is either, and is read as the first.
EITHER = ("Infinity", "-Infinity", "NaN")
TEXT = st.text(max_size=8).filter(lambda text: text not in EITHER)
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSONISH)
@settings(max_examples=200, deadline=None)
def test_files_are_read_as_their_libraries_read_them(value: Any) -> None:
    assert repr(plain(json.dumps([value]), "it")) == repr([value])
    for flow in (None, True, False):
        text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
        assert repr(plain(text, "it")) == repr(yaml.safe_load(text))


def test_a_deep_file_does_not_end_the_process(tmp_path: Path) -> None:
    """libyaml's recursion is C's: it was a SIGSEGV."""
    for at, text in enumerate(("[" * 1_000_000, '{"a":' * 1_000_000, "# yaml\n" + "{a: " * 1_000_000)):
        path = tmp_path / f"deep{at}"
        path.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "ray_dra.cli", "plan", str(path)], capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stdout) == (4, ""), done
        assert "nested too deep" in done.stderr
        assert "Traceback" not in done.stderr
