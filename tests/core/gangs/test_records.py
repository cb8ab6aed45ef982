"""The records in memory: what is looked up of them, and since when its time counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.changes import ForbiddenChange
from ray_dra.core.gangs.gang import Change, Gang
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.progress import STARTS, THERE
from ray_dra.core.gangs.records import Records
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.plan import plan
from tests.core.machines import gang, rack

BEGAN = (Change(0.0, None, Phase.QUEUED, "submitted"),)


def waiting(name: str, sequence: int, *, priority: int = 0, owner: str = "job") -> Gang:
    request = gang(4, name=name, priority=priority)
    return Gang(request, sequence, name, "", owner, history=BEGAN)


def test_who_waits_whose_and_in_which_order() -> None:
    records = Records(Inventory(rack("a", 2)), THERE)
    assert records.first is None
    assert records.next_sequence() == 1
    for at, (name, priority, owner) in enumerate((("a", 0, "x"), ("b", 1, "y"), ("c", 1, "x"), ("d", -1, "")), 1):
        records.put(waiting(name, at, priority=priority, owner=owner), float(at))
        records.validate()
    assert records.next_sequence() == 5
    assert records.first is records.gangs["b"]
    assert [records.ahead(records.gangs[name]) for name in "bcad"] == [0, 1, 2, 3]
    assert list(records.waiting_of("x")) == ["a", "c"]
    assert list(records.waiting_of("nobody")) == []
    assert [g.id for g in records.orphans({"y"})] == ["a", "c"], "the gang that is no program's has none that could end"
    assert records.named("c", "") == "c"
    assert records.named("c", "elsewhere") is None
    assert records.named("", "") is None
    assert records.past_queue() == records.wanted() == list(records.holders()) == []


def test_time_counts_anew_when_devices_or_the_group_change_and_then_alone() -> None:
    inventory = Inventory(rack("a", 2))
    records = Records(inventory, STARTS)
    records.put(waiting("g", 1), 1.0)
    notes = records.notes["g"]
    assert (notes.since, notes.progress, notes.ending) == (1.0, STARTS, False)
    notes.progress = THERE
    records.put(replace(records.gangs["g"]), 2.0)
    assert (notes.since, notes.progress) == (1.0, THERE), "nothing that counts has changed"
    answer = plan(inventory, records.gangs["g"].request)
    assert isinstance(answer, Allocation)
    records.put(replace(records.gangs["g"], allocation=answer), 3.0)
    assert (notes.since, notes.progress) == (3.0, STARTS), "new devices, new workers"
    assert [g.id for g, _ in records.holders()] == ["g"]
    assert records.wanted() == [answer]
    notes.progress = THERE
    records.put(replace(records.gangs["g"], group="group"), 4.0)
    assert (notes.since, notes.progress) == (4.0, THERE)
    assert records.of_group("group") is records.gangs["g"]
    records.put(replace(records.gangs["g"], releasing=True), 5.0)
    assert notes.since == 4.0
    assert records.wanted() == [answer]
    notes.ending = True
    assert records.wanted() == []
    assert [g.id for g in records.past_queue()] == ["g"]
    assert records.named("g", "") is None, "the name is free again"
    moved = replace(records.gangs["g"], group=None, old_groups=("group",), moves=1, allocation=None, releasing=False)
    with pytest.raises(ForbiddenChange):
        records.put(moved, 6.0)
    records.drop("g")
    assert inventory.free_devices == 8
    assert records.of_group("group") is None
    assert records.changed == {"g"}
    records.validate()


def test_a_record_that_claims_what_another_has_changes_nothing() -> None:
    inventory = Inventory(rack("a", 1))
    records = Records(inventory, THERE)
    answer = plan(inventory, gang(4, name="one"))
    assert isinstance(answer, Allocation)
    records.put(replace(waiting("one", 1), allocation=answer), 1.0)
    with pytest.raises(ValueError, match="held"):
        records.put(replace(waiting("two", 2), allocation=answer._replace(gang="two")), 2.0)
    assert list(records.gangs) == list(inventory.gangs) == ["one"]
    assert records.next_sequence() == 2
    records.validate()
