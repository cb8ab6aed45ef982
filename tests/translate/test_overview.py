"""Large clusters are drawn a line a clique."""

from __future__ import annotations

from dataclasses import replace

from ray_dra.core.model.topology import Topology
from ray_dra.translate.drawing import WIDTH, draw
from tests.core.machines import node, rack


def test_a_large_cluster_is_a_line_a_rack_and_racks_that_are_alike_are_one() -> None:
    racks = [n for at in range(10) for n in rack(f"r{at}", 18)]
    boxes = [node(f"h{at}", 8, box=True) for at in range(3)]
    cpus = node("head", 0)
    lost = replace(racks[17], ready=False, reason="gone")
    nodes = [*racks[:17], lost, *racks[18:], *boxes, cpus]
    marks = {f"GPU-r0-t{tray}-{gpu}": "A" for tray in range(3) for gpu in range(4)} | {"GPU-r0-t3-0": "B"}
    text = draw(Topology.of(nodes), marks, {"A": "train", "B": "serve"})
    assert text.splitlines() == [
        "clique           nodes    GPUs    free    held   out  a letter a node",
        "r0                  18      72      55      13     4  AAA+.............x",
        "r1                  18      72      72       0     0  ..................",
        "  so are r2 to r9 (8)",
        "boxes of 8 GPUs      3      24      24       0     0  ...",
        "in no clique         1       0       0       0     0  .",
        "legend: . free; a gang's letter: all of the node is its; + part of it is",
        "        held; x not ready, or a GPU not well",
        "held by: A train, B serve",
        "744 GPUs on 184 nodes, 13 cliques: 727 free, 13 held, 4 out (not well, or",
        "their node is not ready)",
    ]


def test_a_hundred_thousand_gpus_fit_a_screen_or_two() -> None:
    racks = [n for at in range(200) for n in rack(f"dc1-row{at // 20}-rack{at}", 18)]
    boxes = [node(f"h{at}", 1, box=True) for at in range(5000)]
    marks = {f"GPU-dc1-row0-rack{at}-t0-0": "ABC" for at in range(0, 200, 40)}
    lines = draw(Topology.of([*racks, *boxes]), marks).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) < 40
