"""Links that topology agents publish."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ray_dra.ports.nvml import GpuReading, LinkReading, NodeReading
from ray_dra.translate.kube.published_links import read_topology, topology_map, with_links
from ray_dra.translate.kube.shapes import UNREADABLE
from ray_dra.translate.nvml.reading import node_from_reading


def test_links_that_an_agent_publishes_are_read_in_the_order_of_the_slices() -> None:
    """The agent numbers GPUs as NVML does; a driver may publish them in another order, and fewer."""
    bus = [f"00000000:{0x10 + i:x}:00.0" for i in range(4)]
    pairs = [1, 0, 3, 2]  # bridged: 0 with 1, 2 with 3
    gpus = tuple(
        GpuReading(i, f"GPU-{i}", "NVIDIA A100", bus[i], links=(LinkReading(True, "gpu", bus[pairs[i]]),) * 12)
        for i in range(4)
    )
    p2p = tuple(tuple(pairs[i] == j for j in range(4)) for i in range(4))
    reading = NodeReading("580", gpus, p2p, tuple((40,) * 4 for _ in range(4)))
    made = topology_map("dgx1", "n", reading, {"kind": "Pod", "name": "p", "uid": "u"})
    assert made is not None
    assert made["metadata"]["ownerReferences"][0]["name"] == "p"
    uneven = {**made, "data": {"topology": json.dumps({"uuids": ["a", "b"], "links": [[1], [1]], "ancestors": []})}}
    for odd in (uneven, {"metadata": {}, "data": {"topology": "no json"}}, {**made, "metadata": {}}):
        with pytest.raises(UNREADABLE):
            read_topology(odd)
    published = read_topology(made)
    assert published.node == "dgx1"
    full = node_from_reading("dgx1", reading)
    assert published.links == full.links == ((0, 12, 0, 0), (12, 0, 0, 0), (0, 0, 0, 12), (0, 0, 12, 0))
    backwards = replace(full, devices=full.devices[:0:-1], links=(), ancestors=())
    linked = with_links(backwards, published)
    for i, a in enumerate(linked.devices):
        for j, b in enumerate(linked.devices):
            assert a.index is not None
            assert b.index is not None
            assert linked.links[i][j] == full.links[a.index][b.index]
    other = replace(full, devices=(replace(full.devices[0], uuid="GPU-other"),), links=())
    assert with_links(other, published) is other
    more = replace(full, devices=(*full.devices[:1], replace(full.devices[1], uuid="GPU-other")), links=())
    assert with_links(more, published) is more, "where one GPU is another, none of the links is taken"
    assert with_links(full, None) is full
    assert topology_map("dgx1", "n", replace(reading, error="hung"), {}) is None
