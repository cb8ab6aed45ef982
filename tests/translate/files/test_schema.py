"""docs/snapshot.md tells every field of the file, and its example is a file."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ray_dra.cli import app
from ray_dra.core.model.allocation import Allocation, Grant, Placed
from ray_dra.core.model.device import Device
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.node import Node
from ray_dra.core.model.parts import Part, PartedGpu
from ray_dra.translate.files.sense import NODE_CLIQUE
from ray_dra.translate.files.snapshot import Others, Snapshot

PAGE = (Path(__file__).parents[3] / "docs" / "snapshot.md").read_text()
MORE: dict[type, list[str]] = {Node: [NODE_CLIQUE]}


@pytest.mark.parametrize("kind", [Snapshot, Node, Device, PartedGpu, Part, Others, Limits])
def test_every_field_is_told(kind: type) -> None:
    section = PAGE.split(f"\n## {kind.__name__}\n")[1].split("\n## ")[0]
    told = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(told) == sorted([field.name for field in dataclasses.fields(kind)] + MORE.get(kind, []))
    needed = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
    if kind in (Node, Device):
        assert set(re.findall(r"^\| `(\w+)` \|.*must be there", section, re.MULTILINE)) == needed


@pytest.mark.parametrize("kind", [Allocation, Placed, Grant])
def test_lists_have_the_order_that_is_told(kind: type[tuple[object, ...]]) -> None:
    (row,) = re.findall(rf"^\| {kind.__name__}\b.*?\|(.*)\|$", PAGE, re.MULTILINE)
    assert tuple(re.findall(r"`(\w+)`", row)) == getattr(kind, "_fields")  # noqa: B009 - of a NamedTuple


def test_the_example_is_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    Path("rack.yaml").write_text(example)
    (commands,) = re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for typed in commands.removeprefix("$ ").split("\n$ "):
        words, _, wanted = typed.partition("\n")
        done = CliRunner().invoke(app, shlex.split(words)[1:])
        assert done.exit_code == 0, done.output
        assert done.output.rstrip("\n") == wanted.rstrip("\n")
