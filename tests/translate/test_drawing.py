"""Drawings of topologies say what is there: of each machine profile whole, and of any cluster, cell by cell."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.model.device import Health
from ray_dra.core.model.node import Links, Node
from ray_dra.core.model.topology import Topology
from ray_dra.simulated.profile import drawing, profile_names
from ray_dra.simulated.topology import simulated_topology
from ray_dra.translate.drawing import WIDTH, draw, draw_topology, mark_names
from tests.core.machines import DGX1, node, rack

PAIRS: Links = tuple(tuple(12 * (i != j and i // 2 == j // 2) for j in range(8)) for i in range(8))


def test_a_topology_is_drawn_by_clique_with_what_is_held_and_what_is_not_well() -> None:
    lost = replace(node("lost", 2), ready=False, reason="its raylet is lost")
    held = {f"GPU-r-t0-{at}": "A" for at in range(2)}
    nodes = [*rack("r", 2), node("box", 4, box=True, sick=[1]), lost]
    assert draw_topology(Topology.of(nodes), held=held).splitlines() == [
        "clique r: 2 nodes, 8 GPUs",
        "  r-t0  [ A A | 2 3 ]",
        "  r-t1  [ 0 1 | 2 3 ]",
        "each box a clique of its own:",
        "  box   [ 0 x | 2 3 ]",
        "in no clique:",
        "  lost  0 | 1",
        "        (its raylet is lost)",
        "legend: [ ] one NVLink clique; outside of brackets: no NVLink; | between",
        "        CPUs; numbers: free GPUs; x: not well",
        "14 GPUs on 4 nodes, 2 cliques: 9 free, 2 held, 3 out (not well, or their",
        "node is not ready)",
    ]


MACHINES = {
    "a100-pcie-bridged": "0=1 2=3 | 4=5 6=7",
    "dgx-a100": "[ 0 1 2 3 | 4 5 6 7 ]",
    "dgx-v100": "( 0 1 2 3 | 4 5 6 7 )",
    "gb200-nvl72": "[ 0 1 | 2 3 ]",
    "gb300-nvl72": "[ 0 1 | 2 3 ]",
    "hgx-b200": "[ 0 1 2 3 | 4 5 6 7 ]",
    "hgx-b200-degraded": "[ 0 1 3 | 4 5 6 7 ] 2",
    "hgx-h100": "[ 0 1 2 3 | 4 5 6 7 ]",
    "l40s-pcie": "0 1 2 3 | 4 5 6 7",
}


@pytest.mark.parametrize("profile", [name for name in profile_names() if name != "mixed"])
def test_each_profile_is_drawn_as_it_is_linked(profile: str) -> None:
    """Read through the simulated NVML library, as an agent would."""
    nodes = simulated_topology(profile, nodes=1)
    rows = [line for line in draw(Topology.of(nodes), {}).splitlines() if line.startswith(f"  {nodes[0].name} ")]
    assert [row.removeprefix(f"  {nodes[0].name}  ") for row in rows] == [MACHINES[profile]]


@pytest.mark.parametrize("profile", profile_names())
def test_a_profiles_own_drawing_fits_a_terminal(profile: str) -> None:
    assert max(map(len, drawing(profile).splitlines())) <= WIDTH


def test_what_is_linked_in_part_is_not_drawn_as_if_it_were_linked() -> None:
    for links, row in ((DGX1, "( 0 1 2 3 | 4 5 6 7 )"), (PAIRS, "0=1 2=3 | 4=5 6=7"), ((), "0 1 2 3 | 4 5 6 7")):
        assert f"  n  {row}" in draw(Topology.of([node("n", 8, links=links)]), {}).splitlines()
    # A GPU that left its clique and keeps some links is linked in part, not without NVLink.
    left = node("n", 4, clique="c", loose=[3])
    some = tuple(tuple(1 * (i != j) for j in range(4)) for i in range(4))
    assert "  n  [ 0 1 | 2 ] ( 3 )" in draw(Topology.of([replace(left, links=some)]), {}).splitlines()


def test_marks_do_not_repeat() -> None:
    marks = list(itertools.islice(mark_names(), 500))
    assert len(set(marks)) == 500
    assert "x" not in marks


CELL = re.compile(r"x|[A-Z]{1,2}|[0-9]+")


@st.composite
def clusters(draw: st.DrawFn) -> list[Node]:
    nodes: list[Node] = []
    for at in range(draw(st.integers(1, 5))):
        gpus = draw(st.sampled_from([1, 2, 4, 8, 16]))
        some = st.lists(st.integers(0, gpus - 1), max_size=3, unique=True)
        kind = draw(st.sampled_from(["rack", "box", "none"]))
        name = (
            draw(st.sampled_from(["n", "a-very-long-name-of-a-node-such-as-clouds-give-to-their-machines"])) + f"-{at}"
        )
        made = node(
            name,
            gpus,
            clique=f"c{draw(st.integers(0, 1))}" if kind == "rack" else None,
            box=kind == "box",
            loose=draw(some),
            sick=draw(some),
            links=draw(st.sampled_from([None, ()])) if gpus != 8 else draw(st.sampled_from([None, (), DGX1, PAIRS])),
        )
        nodes.append(
            replace(made, ready=draw(st.booleans()), reason="it is being looked after " * draw(st.integers(0, 6)))
        )
    return nodes


@given(clusters(), st.booleans(), st.data())
@settings(max_examples=150, deadline=None)
def test_every_gpu_is_drawn_once_inside_its_clique_or_outside_of_all(
    nodes: list[Node], long: bool, data: st.DataObject
) -> None:
    devices = [(n.name, at, d) for n in nodes for at, d in enumerate(n.devices)]
    held = data.draw(st.lists(st.sampled_from(devices), unique_by=lambda found: found[2].uuid))
    marks = {d.uuid or "": data.draw(st.sampled_from("ABZ")) + "B" * long for _, _, d in held}
    text = draw(Topology.of(nodes), marks)
    assert all(len(line) <= WIDTH for line in text.splitlines())
    whole = draw(Topology.of(nodes), marks, whole=True).splitlines()
    inside, outside = 0, 0
    for each in nodes:
        (row,) = (line for line in whole if line.startswith(f"  {each.name} "))
        cells = row[len(each.name) + 2 :]
        brackets = " ".join(re.findall(r"\[(.*?)\]", cells))
        rest = re.sub(r"\[.*?\]", " ", cells)
        for shown, members in (
            (brackets, [d for d in each.devices if d.clique is not None]),
            (rest, [d for d in each.devices if d.clique is None]),
        ):
            wanted = ["x" if d.health is not Health.OK else marks.get(d.uuid or "", str(d.index)) for d in members]
            assert sorted(CELL.findall(shown)) == sorted(wanted)
        inside += len(CELL.findall(brackets))
        outside += len(CELL.findall(rest))
    assert inside + outside == len(devices)
    free = sum(n.ready and d.health is Health.OK and (d.uuid or "") not in marks for n in nodes for d in n.devices)
    assert f" {free} free, " in " ".join(text.splitlines())
