"""Slurm's tree of switches as levels above cliques, by the reader and by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ray_dra
from ray_dra.cli.entry import app
from ray_dra.core.model.allocation import Allocation
from ray_dra.errors import InvalidSnapshot
from ray_dra.translate.files.slurm_tree import labels_of, read_tree
from ray_dra.translate.levels import MOST_LEVELS

TREE = r"""
# four racks below two leaves, and one apart
SwitchName=leaf1 Nodes=r1n[1-2],r2n[1-2]
SwitchName=leaf2 Nodes=r3n[1-2],\
r4n[1-2]   # goes on
switchname=spine SWITCHES=leaf[1-2] LinkSpeed=100
SwitchName=alone Nodes=x
"""
BLOCKS = "".join(f"BlockName=b{at} Nodes=r{at}n[1-2]\n" for at in (1, 3, 2, 4))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    file = tmp_path / "tree.conf"
    file.write_text(TREE)
    return file


def test_each_node_has_its_switches_the_nearest_first(tree: Path) -> None:
    found = read_tree(tree)
    assert found == {
        **{f"r{rack}n{at}": ("leaf1" if rack < 3 else "leaf2", "spine") for rack in (1, 2, 3, 4) for at in (1, 2)},
        "x": ("alone",),
    }
    assert labels_of(found["r1n1"]) == {"fabric.topograph.run/tier-0": "leaf1", "fabric.topograph.run/tier-1": "spine"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "No node hangs at a switch"),
        ("SwitchName=a Switches=b\nSwitchName=b Switches=a", "No node hangs at a switch"),
        ("BlockName=a Nodes=n1", "line 1"),
        ("SwitchName=a", "either nodes or switches"),
        ("SwitchName=a Nodes=n1 Switches=b", "either nodes or switches"),
        ("SwitchName=a Nodes=n1\nSwitchName=a Nodes=n2", "The switch is there twice"),
        ("SwitchName=a Nodes=n1\nSwitchName=b Nodes=n[1-2]", "It hangs at two switches"),
        ("SwitchName=a Nodes=n1\nSwitchName=b Switches=a,c", "There is no such switch"),
        ("SwitchName=a Nodes=n1\nSwitchName=b Switches=a,b", "no tree"),
        (
            "SwitchName=s0 Nodes=n1\n" + "".join(f"SwitchName=s{at + 1} Switches=s{at}\n" for at in range(MOST_LEVELS)),
            "no tree, or a higher one",
        ),
    ],
)
def test_what_is_no_tree_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "tree.conf"
    file.write_text(text)
    with pytest.raises(InvalidSnapshot, match=words) as refused:
        read_tree(file)
    assert str(file) in str(refused.value)


def test_a_snapshot_of_blocks_and_a_tree_is_planned_on_within_a_leaf(tree: Path, tmp_path: Path) -> None:
    """Without the tree the gang lies in the first two blocks by name, which are in two leaves."""
    blocks, plain, hung = tmp_path / "blocks.conf", tmp_path / "plain.yaml", tmp_path / "hung.yaml"
    blocks.write_text(BLOCKS.replace("r2n", "R2n").replace("r3n", "r2n").replace("R2n", "r3n"))
    for file, more in ((plain, []), (hung, ["--tree", str(tree)])):
        made = CliRunner().invoke(app, ["snapshot", str(file), "--slurm", str(blocks), *more])
        assert made.exit_code == 0, made.output
    leaves = []
    for file in (plain, hung):
        answer = ray_dra.plan([{"GPU": 4}] * 4, cluster=str(file))
        assert isinstance(answer, Allocation)
        leaves.append({read_tree(tree)[name][0] for name in answer.nodes})
    assert leaves == [{"leaf1", "leaf2"}, {"leaf1"}]


def test_a_tree_of_other_nodes_is_refused(tree: Path) -> None:
    made = CliRunner().invoke(app, ["snapshot", "--profile", "hgx-h100", "--tree", str(tree)])
    assert isinstance(made.exception, InvalidSnapshot)
    assert "none of the cluster's nodes" in str(made.exception)


def test_the_labels_are_listed_for_those_who_write_them(tree: Path) -> None:
    listed = CliRunner().invoke(app, ["levels", str(tree)])
    assert listed.exit_code == 0
    assert "r1n1 fabric.topograph.run/tier-0=leaf1,fabric.topograph.run/tier-1=spine" in listed.output.splitlines()
    told = json.loads(CliRunner().invoke(app, ["levels", str(tree), "-o", "json"]).output)
    assert {"node": "x", "labels": {"fabric.topograph.run/tier-0": "alone"}} in told
    assert CliRunner().invoke(app, ["levels", str(tree), "-o", "name"]).output.splitlines()[-1] == "x"
