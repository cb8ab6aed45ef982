"""What is told of a snapshot: all of it, in topology order."""

from __future__ import annotations

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.kept import KeptPlaces
from ray_dra.core.gangs.standing import TeamStanding
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from ray_dra.translate.map.view import of_snapshot, plain_pools, plain_teams
from tests.core.machines import gang, held, rack


def test_a_snapshot_is_told_whole_in_topology_order() -> None:
    inventory = Inventory(reversed(rack("r", 3)))
    held(inventory, gang(2, 2, name="train"))
    view = of_snapshot(inventory)
    assert view.again
    assert not view.more
    assert [row.name for row in view.nodes] == ["r-t0", "r-t1", "r-t2"]
    assert view.gangs == {"train": {"phase": "held", "bundles": 2, "gpus": 4, "nodes": 1, "cliques": ["r"]}}


def test_teams_are_plain() -> None:
    team = TeamStanding("a", True, 8.0, 1.0, None, 4.0, 0.0, 1, 4.0, False)
    assert plain_teams([team])[0]["guarantee"] == 8.0
    assert plain_pools([]) == []


def test_what_is_held_beside_a_gangs_devices_is_no_gang() -> None:
    """Spares of its own, and a place that is kept after a fault; their cells say whose they are."""
    inventory = Inventory(rack("r", 3))
    answer = held(inventory, gang(4, name="train"))
    inventory.hold(plan_of(inventory, gang(4, name="spares/train")))
    kept = KeptPlaces(inventory)
    kept.keep("01000000", plan_of(inventory, gang(4, name="old")), until=60.0)
    view = of_snapshot(inventory)
    assert list(view.gangs) == [answer.gang]
    assert sorted(row.cells[0].gang for row in view.nodes) == ["kept/old", "spares/train", "train"]


def plan_of(inventory: Inventory, request: GangRequest) -> Allocation:
    answer = plan(inventory, request)
    assert isinstance(answer, Allocation)
    return answer
