"""What a clique is comes from its devices, never from the text of its id."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from ray_dra.core.cluster.clique_state import CLIQUE, LOOSE_NODE, SPARES
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import FabricKind
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.topology import Topology
from ray_dra.core.plan import plan
from ray_dra.translate.files.snapshot import Snapshot, dump_snapshot, load_snapshot
from tests.core.machines import gang, node, one_clique, picture, rack

ODD_NAMES = ("box.a-t0", "box.", "#loose/a-t0", "a#spare", "#")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_fabric_may_have_any_name(name: str) -> None:
    nodes = rack(name, 2, prefix="a")
    (clique,) = Topology.of(nodes).cliques.values()
    assert clique.multi_node
    inventory = Inventory(nodes, Limits(compute_domains=True))
    answer = plan(inventory, gang(4, 4, locality=one_clique()))
    assert isinstance(answer, Allocation)
    assert answer.cliques == (name, name)
    assert {scope for (scope, what), _ in answer.counters if what == "imex"} == {f"node/{n.name}" for n in nodes}
    assert inventory.clique_count == 1


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_beside_loose_devices_and_spares(name: str) -> None:
    """A clique, the loose devices of a node and a clique's spares may have one name, and stay apart."""
    nodes = [*rack(name, 2, prefix="a"), replace(rack(name, 1, prefix="s")[0], spare=True), node(name, 2)]
    inventory = Inventory(nodes)
    assert {(c.name, c.kind): c.size for c in inventory.clique_states.values()} == {
        (name, CLIQUE): 8,
        (name, SPARES): 4,
        (name, LOOSE_NODE): 2,
    }
    before = picture(inventory)
    answer = plan(inventory, gang(4, 4, locality=Locality(cliques=1, exclusive=True)))
    assert isinstance(answer, Allocation)
    inventory.hold(answer)
    assert [(c.name, c.kind) for c in inventory.clique_states.values() if c.owner == "g"] == [(name, CLIQUE)]
    inventory.release("g")
    assert picture(inventory) == before


def test_the_spare_nodes_of_a_clique_can_be_had_alone() -> None:
    spares = [replace(n, spare=True) for n in rack("a", 2, prefix="s")]
    inventory = Inventory([*rack("a", 2), *spares])
    request = replace(gang(4, 4, locality=Locality(cliques=1, exclusive=True)), preemptible=True)
    answer = plan(inventory, request)
    assert isinstance(answer, Allocation)
    inventory.hold(answer)
    owned = {(c.name, c.kind): c.owner for c in inventory.clique_states.values()}
    assert owned == {("a", SPARES): "g", ("a", CLIQUE): None}
    inventory.release("g")
    assert not any(c.owner for c in inventory.clique_states.values())


def test_a_box_is_one_by_its_devices() -> None:
    box = node("b", 8, box=True)
    (clique,) = Topology.of([box]).cliques.values()
    assert not clique.multi_node
    renamed = replace(box, devices=tuple(replace(d, domains=("fabric-1.7",)) for d in box.devices))
    (clique,) = Topology.of([renamed]).cliques.values()
    assert clique.fabric_kind is FabricKind.BOX


def test_a_snapshot_keeps_the_kind_and_one_of_before_has_it_by_its_id() -> None:
    snapshot = Snapshot((node("b", 2, box=True), *rack("f", 2)))
    text = dump_snapshot(snapshot)
    assert load_snapshot(text) == snapshot
    before = yaml.safe_load(text)
    kinds = [d.pop("fabric_kind", None) for n in before["nodes"] for d in n["devices"]]
    assert kinds.count("box") == 2
    assert load_snapshot(yaml.safe_dump(before)) == snapshot
