"""What may be declared to be done about faults, what of a gang a fault ends, and when it is time."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.drains import TO_DRAIN
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.lifecycle import Observed, fault_is_due
from ray_dra.core.gangs.notice import Ending, Notice, noticed
from ray_dra.core.gangs.record_sense import is_group
from ray_dra.core.gangs.repair import (
    DEGRADE,
    GRACE_SECONDS,
    FaultRule,
    OnFault,
    Way,
    declared_for,
    fault_of,
    for_fault,
    group_after,
    on_fault,
    without,
)
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.plan import plan
from ray_dra.errors import InvalidRequest
from tests.core.machines import gang, group_id, rack


@pytest.mark.parametrize(
    ("ways", "grace"),
    [
        ("mend", 1.0),
        ((), 1.0),
        (("restart", "restart"), 1.0),
        (("degrade", "restart"), 1.0),
        (5, 1.0),
        ("restart", -1.0),
        ("restart", "1"),
    ],
)
def test_what_is_no_way_is_refused(ways: object, grace: object) -> None:
    with pytest.raises(InvalidRequest):
        on_fault(ways, grace)


def test_ways_in_order_and_degrade_the_last() -> None:
    assert on_fault("degrade") == DEGRADE == OnFault()
    assert on_fault(["restart", "degrade"], 5) == OnFault((Way.RESTART, Way.DEGRADE), 5.0)
    assert (on_fault("restart").acts, DEGRADE.acts) == (True, False)
    assert on_fault("restart").grace == GRACE_SECONDS


def test_all_of_a_gang_that_is_started_again_ends_at_once_and_it_says_for_what() -> None:
    declared = on_fault("restart", 7.0)
    draining = Ending(f"{TO_DRAIN}node b: cordoned", None, (2,))
    nodes = ("a", "a", "b", "b")
    assert fault_of(declared, [], None, nodes) is None
    assert fault_of(declared, [], draining, nodes) == Ending(draining.reason, 7.0, (0, 1, 2, 3), (2,))
    found = fault_of(declared, [(1, "node a is gone"), (1, "node a is gone")], draining, nodes)
    assert found == Ending("lost: node a is gone", 7.0, (0, 1, 2, 3), (1, 2))
    assert for_fault(found)
    assert not for_fault(Ending("RayCluster c is deleted", 0.0, (0,)))
    many = fault_of(declared, [(0, f"node {at} is gone") for at in range(9)], None, nodes)
    assert many is not None
    assert many.reason.endswith("; and 5 more")


def test_of_a_gang_whose_lost_slots_are_replaced_these_end_and_no_others() -> None:
    declared = on_fault(("replace", "restart"), 7.0)
    nodes = ("a", "a", "b", "b")
    found = fault_of(declared, [(2, "b/gpu-0: XID 79")], None, nodes)
    assert found == Ending("lost: b/gpu-0: XID 79", 7.0, (2, 3), (2,))


@pytest.mark.parametrize(
    ("declared", "way", "left"),
    [
        (("replace", "restart"), Way.REPLACE, ("restart",)),
        (("replace", "restart"), Way.RESTART, ("replace",)),
        (("replace", "restart"), Way.DEGRADE, ("replace", "restart")),
        ("replace", Way.REPLACE, ("degrade",)),
        ("degrade", Way.REPLACE, ("degrade",)),
    ],
)
def test_what_is_not_possible_is_left_out(
    declared: str | tuple[str, ...], way: Way, left: str | tuple[str, ...]
) -> None:
    assert without(on_fault(declared, 3.0), way) == on_fault(left, 3.0)


@given(
    rules=st.lists(st.tuples(st.sampled_from(["", "a*", "?b", "[a]b", "c"]), st.sampled_from(["restart", "replace"]))),
    name=st.sampled_from(["", "ab", "cb", "c", "abc"]),
)
def test_a_rule_for_the_name_comes_before_what_is_said_of_all(rules: list[tuple[str, str]], name: str) -> None:
    made = [FaultRule(pattern, on_fault(way)) for pattern, way in rules]
    found = declared_for(name, made)
    named = [rule.declared for rule in made if rule.pattern and fnmatchcase(name, rule.pattern)]
    of_all = [rule.declared for rule in made if not rule.pattern]
    assert found == next(iter([*named, *of_all]), None)


@given(within=st.floats(0, 1e6), wall=st.floats(0, 1e9), passed=st.floats(0, 1e6))
def test_another_fault_never_puts_a_deadline_off(within: float, wall: float, passed: float) -> None:
    first = noticed(None, Ending("lost: a", within, (0, 1), (0,)), wall)
    second = noticed(first, Ending("lost: a; b", within, (0, 1), (0, 1)), wall + passed)
    assert first is not None
    assert first.deadline is not None
    assert second is not None
    assert second.deadline == first.deadline


def placed() -> Gang:
    request = gang(4, name=group_id("g"))
    answer = plan(Inventory(rack("a", 2)), request)
    assert isinstance(answer, Allocation)
    told = Notice("lost: a", 10.0, (0,), 5.0, (0,))
    return Gang(request, 1, allocation=answer, group=group_id("g"), notice=told, on_fault=on_fault("restart", 5.0))


def test_it_is_time_only_if_everything_says_so() -> None:
    """Each thing that may speak against it, alone and with the others."""
    ending = Ending("lost: a", 5.0, (0,), (0,))
    against_gang: list[dict[str, object]] = [
        {"releasing": True},
        {"group": None},
        {"notice": None},
        {"on_fault": DEGRADE},
        {"notice": Notice("RayCluster c is deleted", 10.0, (0,), 5.0)},
    ]
    against_seen: list[dict[str, object]] = [{"breaker": "a wave"}, {"ending": None}, {"placed_once": False}]
    seen = Observed(group_state="CREATED", placed_once=True, lost=("a",), ending=ending)
    assert fault_is_due(placed(), seen, 10.0)
    assert not fault_is_due(placed(), seen, 9.9)
    for one, other in product([{}, *against_gang], [{}, *against_seen]):
        if one or other:
            assert not fault_is_due(replace(placed(), **one), replace(seen, **other), 10.0)  # type: ignore[arg-type]


@given(moves=st.integers(0, 1000), other=st.integers(0, 1000))
def test_a_placement_group_that_is_made_again_has_an_id_of_its_own_of_the_same_job(moves: int, other: int) -> None:
    job = "0b000000"
    first = f"{17:028x}{job}"
    found = group_after(first, moves)
    assert is_group(found)
    assert found.endswith(job)
    assert found != first
    assert (found == group_after(first, other)) is (moves == other)
