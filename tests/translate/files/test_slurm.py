"""Slurm's topology.conf as a cluster: lists of hosts, blocks, and what is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest, InvalidSnapshot
from ray_dra.translate.files.slurm import hostnames, read_slurm
from tests.core.machines import gang

BLOCKS = r"""
# three racks of seventeen
BlockName=rack1 Nodes=n[001-017]
blockname=rack2  NODES=n[018-030],\
n[031-034]      # goes on
BlockName=rack3 Nodes=n[035-050],spare-1
BlockSizes=17,34
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    file = tmp_path / "topology.conf"
    file.write_text(BLOCKS)
    return file


def test_blocks_are_cliques_of_their_nodes_in_order(conf: Path) -> None:
    nodes = read_slurm(conf, 4)
    assert len(nodes) == 51
    assert {node.devices[0].clique: 0 for node in nodes} == {"rack1": 0, "rack2": 0, "rack3": 0}
    assert [n.name for n in nodes if n.devices[0].clique == "rack2"] == [f"n{i:03}" for i in range(18, 35)]
    assert (nodes[-1].name, nodes[-1].order, len(nodes[-1].devices)) == ("spare-1", 16, 4)


def test_a_mark_of_the_byte_order_is_not_of_the_text(tmp_path: Path) -> None:
    """Editors of Windows write one, before a comment as before a block."""
    file = tmp_path / "topology.conf"
    file.write_text("# racks\r\nBlockName=a Nodes=n[1-2]\r\n", encoding="utf-8-sig", newline="")
    assert [node.name for node in read_slurm(file, 4)] == ["n1", "n2"]


def test_segments_lie_in_blocks_as_slurm_has_them(conf: Path) -> None:
    """36 nodes in segments of 12 on three blocks of 17: one in each; in segments of 18 nothing."""
    inventory = Inventory(read_slurm(conf, 4))
    answer = plan(inventory, gang(*[4] * 36, locality=Locality(segment=12)))
    assert isinstance(answer, Allocation)
    assert [len({n for p in answer.bundles[at : at + 12] for n in [p.node]}) for at in (0, 12, 24)] == [12, 12, 12]
    assert len(set(answer.cliques)) == 3
    assert not isinstance(plan(inventory, gang(*[4] * 36, locality=Locality(segment=18))), Allocation)


@pytest.mark.parametrize(
    ("hosts", "names"),
    [
        ("a", ["a"]),
        ("a,b-1.c", ["a", "b-1.c"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-10,2]", ["n08", "n09", "n10", "n2"]),
        ("r[1-2]n[01-02]x,z", ["r1n01x", "r1n02x", "r2n01x", "r2n02x", "z"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
    ],
)
def test_lists_of_hosts(hosts: str, names: list[str]) -> None:
    assert list(hostnames(hosts)) == names


@given(
    prefix=st.from_regex(r"[a-z][a-z0-9-]{0,5}", fullmatch=True),
    first=st.integers(0, 500),
    more=st.integers(0, 40),
    width=st.integers(1, 5),
)
def test_a_range_is_its_numbers(prefix: str, first: int, more: int, width: int) -> None:
    begin = str(first).zfill(width)
    names = list(hostnames(f"{prefix}[{begin}-{first + more}]"))
    assert [int(name[len(prefix) :]) for name in names] == list(range(first, first + more + 1))
    assert all(len(name) >= len(prefix) + len(begin) for name in names)


@given(st.text("[],-09ab", max_size=20))
def test_any_text_is_a_list_or_is_refused(hosts: str) -> None:
    try:
        names = list(hostnames(hosts))
    except InvalidSnapshot:
        return
    assert names
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in names)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SwitchName=s1 Nodes=n[1-4]", "line 1"),
        ("BlockName=a Nodes=n1\nBlockName=a Nodes=n2", "there twice"),
        ("BlockName=a Nodes=n[1-2]\nBlockName=b Nodes=n2", "in two blocks"),
        ("BlockName=a Nodes=n[3-1]", "ends before it begins"),
        ("BlockName=a Nodes=n[1-9999999999]", "no range"),
        ("BlockName=a Nodes=n[0-99999],m[0-99999]", "too many nodes"),
        pytest.param(f"BlockName=a Nodes=n[{'1-99999,' * 9_999}1]", "too many nodes", id="a thousand million numbers"),
        pytest.param(f"BlockName=a Nodes={'n[1-99999]' * 9_999}", "too many nodes", id="as many, multiplied"),
        pytest.param(f"BlockName=a {'n' * 2_000_000}", "no block", id="a long word"),
        ("BlockName=a Nodes=n[1-2", "bracket"),
        ("BlockName=a", "no block"),
        ("Nodes=n1", "no block"),
        ("BlockSizes=4", "no block in it"),
        ("", "no block in it"),
        ("BlockName=a Nodes=../etc", "no name of a host"),
    ],
)
def test_what_is_no_topology_of_blocks_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "topology.conf"
    file.write_text(text)
    with pytest.raises(InvalidSnapshot, match=said):
        read_slurm(file, 4)


@pytest.mark.parametrize("gpus", [0, -1, 65])
def test_a_node_has_gpus(conf: Path, gpus: int) -> None:
    with pytest.raises(InvalidRequest, match="from 1 to 64"):  # said by an option, not by the file
        read_slurm(conf, gpus)


def test_there_are_as_many_gpus_as_a_snapshot_may_have(conf: Path) -> None:
    conf.write_text("BlockName=a Nodes=n[1-15626]\n")
    with pytest.raises(InvalidSnapshot, match=r"too many GPUs.*\n.*line 1"):
        read_slurm(conf, 64)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidSnapshot, match="cannot be read"):
        read_slurm(tmp_path / "none", 4)


def test_no_more_of_a_file_is_read_than_it_may_have(tmp_path: Path) -> None:
    """A device that never ends, or a wrong file of many gigabytes, is refused before it fills the memory."""
    large = tmp_path / "topology.conf"
    large.touch()
    os.truncate(large, 1 << 40)  # takes no room on the disk, and no memory has it
    with pytest.raises(InvalidSnapshot, match="too large"):
        read_slurm(large, 4)
