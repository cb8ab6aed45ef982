"""The table of a gang's changes, and what no record may do."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.changes import ForbiddenChange, check_change
from ray_dra.core.gangs.gang import Change, Gang, OrdinaryGroup
from ray_dra.core.gangs.lifecycle import Observed, Step, next_step, phase
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.phases import ARROWS, Phase
from ray_dra.core.gangs.quota import Quota
from ray_dra.core.gangs.record_sense import sense_of
from ray_dra.core.gangs.stages import StageTimes
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.plan import plan
from tests.core.machines import gang, rack


def planned(epoch: int = 0) -> Allocation:
    answer = plan(Inventory(rack("a", 2)), gang(4, name="g"), epoch=epoch)
    assert isinstance(answer, Allocation)
    return answer


QUEUED = Gang(gang(4, name="g"), 1)
HELD = replace(QUEUED, allocation=planned())
PLACING = replace(HELD, group="first")
MOVED = replace(HELD, allocation=planned(1), moves=1, old_groups=("first",))
RELEASING = replace(PLACING, releasing=True)
NOTHING = None
ORDINARY_QUEUED = replace(QUEUED, ordinary=OrdinaryGroup("g"))
ORDINARY = replace(ORDINARY_QUEUED, allocation=planned(), group="g")
UNPAID = replace(QUEUED, quota=Quota("outside/q"))
PAID = replace(QUEUED, quota=Quota("outside/q", 0, ((),)))
PAID_HELD = replace(PAID, allocation=planned())
AGAIN = replace(UNPAID, quota=Quota("outside/q", 1), moves=1, gave_way=1)


def test_every_phase_is_reached_and_left_and_every_arrow_says_why() -> None:
    assert {to for _, to in ARROWS} == set(Phase)
    assert {was for was, _ in ARROWS} == set(Phase) - {Phase.GONE}
    assert all(why and not why.endswith(".") for why in ARROWS.values())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (NOTHING, QUEUED),
        (NOTHING, HELD),
        (QUEUED, HELD),
        (QUEUED, replace(QUEUED, releasing=True)),
        (QUEUED, NOTHING),
        (HELD, PLACING),
        (HELD, replace(MOVED, old_groups=())),
        (HELD, replace(QUEUED, moves=1)),
        (HELD, NOTHING),
        (PLACING, MOVED),
        (PLACING, replace(MOVED, gave_way=1)),
        (PLACING, replace(MOVED, allocation=None)),
        (PLACING, RELEASING),
        (PLACING, NOTHING),
        (RELEASING, replace(RELEASING, failed="no workers")),
        (RELEASING, NOTHING),
        (NOTHING, ORDINARY),
        (ORDINARY_QUEUED, ORDINARY),
        (ORDINARY_QUEUED, replace(ORDINARY, group=None)),
        (ORDINARY, replace(ORDINARY, moves=1)),
        (ORDINARY, replace(ORDINARY, releasing=True)),
        (ORDINARY, NOTHING),
        (NOTHING, UNPAID),
        (UNPAID, PAID),
        (UNPAID, replace(UNPAID, quota=Quota("outside/q", 1))),
        (UNPAID, replace(UNPAID, releasing=True)),
        (UNPAID, NOTHING),
        (PAID, PAID_HELD),
        (PAID, replace(UNPAID, quota=Quota("outside/q", 1))),
        (PAID_HELD, AGAIN),
        (replace(PAID_HELD, group="first"), replace(AGAIN, old_groups=("first",))),
        (PAID_HELD, replace(PAID_HELD, releasing=True)),
    ],
)
def test_what_a_record_may_do(before: Gang | None, after: Gang | None) -> None:
    check_change(before, after)


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (NOTHING, PLACING, "begins unpaid, queued or held"),
        (NOTHING, RELEASING, "begins unpaid, queued or held"),
        (QUEUED, PLACING, "no arrow leads from queued to placing"),
        (HELD, QUEUED, "without a move"),
        (HELD, replace(HELD, allocation=planned(1)), "without a move"),
        (PLACING, replace(PLACING, group="second", old_groups=("first",)), "without a move"),
        (PLACING, replace(MOVED, old_groups=()), "a placement group was forgotten"),
        (PLACING, replace(MOVED, group="second"), "outlived a move"),
        (MOVED, replace(HELD, old_groups=("first",)), "moves were taken back"),
        (PLACING, replace(MOVED, gave_way=2), "gave way without a move"),
        (PLACING, replace(PLACING, gave_way=1), "gave way without a move"),
        (replace(PLACING, moves=1, gave_way=1), replace(MOVED, moves=2), "gave way without a move"),
        (RELEASING, PLACING, "no arrow leads from releasing to placing"),
        (replace(QUEUED, releasing=True), QUEUED, "no arrow leads from releasing to queued"),
        (HELD, replace(HELD, owner="another"), "another gang's"),
        (HELD, replace(HELD, sequence=2), "another gang's"),
        (ORDINARY, replace(ORDINARY, ordinary=None), "another gang's"),
        (ORDINARY, replace(ORDINARY, moves=1, group=None, old_groups=("g",)), "the program's"),
        (ORDINARY, replace(ORDINARY, moves=1, allocation=None), "pinned it to its nodes"),
        (UNPAID, replace(UNPAID, quota=Quota("outside/other")), "another gang's"),
        (UNPAID, QUEUED, "another gang's"),
        (UNPAID, replace(UNPAID, quota=Quota("outside/q", 2)), "a request for its quota was forgotten"),
        (PAID, replace(PAID, quota=Quota("outside/q", 1, ((),))), "admitted before it was made"),
        (PAID, UNPAID, "its quota changed without a request"),
        (PAID, replace(PAID, quota=Quota("outside/q", 0, ((("zone", "a"),),))), "changed without a request"),
        (UNPAID, replace(UNPAID, allocation=planned()), "no arrow leads from quota to held"),
        (PAID_HELD, replace(PAID_HELD, quota=Quota("outside/q", 1)), "it holds what nobody pays for"),
    ],
)
def test_what_a_record_may_not_do_is_refused(before: Gang | None, after: Gang | None, why: str) -> None:
    with pytest.raises(ForbiddenChange, match=f"^gang g: .*{why}"):
        check_change(before, after)


@pytest.mark.parametrize("state", ["PENDING", "CREATED"])
def test_a_group_that_was_to_be_removed_and_is_there_is_removed_again(state: str) -> None:
    """The coordinator was killed between the record and the placement group."""
    assert next_step(RELEASING, Observed(group_state=state))[0] is Step.GIVE_BACK
    assert next_step(RELEASING, Observed(group_state="ABSENT"))[0] is Step.FORGET
    assert next_step(RELEASING, Observed(group_state="ABSENT", busy=True))[0] is Step.WAIT


def test_the_phase_is_read_off_record_and_world() -> None:
    assert phase(QUEUED, Observed()) is Phase.QUEUED
    assert phase(HELD, Observed(provisioned=False)) is Phase.PROVISIONING
    assert phase(HELD, Observed()) is Phase.HELD
    assert phase(HELD, Observed(lost=("node a is gone",))) is Phase.DEGRADED
    assert phase(PLACING, Observed(group_state="PENDING", provisioned=False)) is Phase.PLACING
    assert phase(PLACING, Observed(group_state="CREATED")) is Phase.READY
    assert phase(RELEASING, Observed(lost=("node a is gone",))) is Phase.RELEASING
    assert phase(None, Observed()) is Phase.GONE


def expected(given: Gang, seen: Observed, own_workers: bool) -> Step:
    """The next step, as docs/architecture.md tells it: what is asked for or gone first, then what takes too long."""
    there = given.group is not None and seen.group_state != "ABSENT"
    if given.releasing:
        if there:
            return Step.WAIT if seen.group_state is None else Step.GIVE_BACK
        return Step.WAIT if seen.busy else Step.FORGET
    if not (seen.owner_alive or given.detached):
        return Step.GIVE_BACK
    if given.allocation is None:
        return Step.WAIT
    if given.group is None:
        if given.ordinary is not None:  # the coordinator itself tells Ray of it
            return Step.WAIT
        return Step.GIVE_BACK if seen.provisioned and seen.held_for > 30 else Step.WAIT
    if not there:
        return Step.GIVE_BACK
    if seen.group_state != "PENDING" or seen.held_for <= seen.place_within:
        return Step.WAIT
    if given.ordinary is not None:
        return Step.OTHER_DEVICES
    if given.moves - given.gave_way < 5:
        return Step.PLAN_AGAIN
    return Step.GIVE_UP if own_workers else Step.WAIT


def test_every_step_of_every_gang() -> None:
    steps = set()
    moved = (replace(PLACING, moves=moves) for moves in (4, 5, 6))
    ordinary = (replace(given, ordinary=OrdinaryGroup("first")) for given in (QUEUED, HELD, PLACING, RELEASING))
    for given in (QUEUED, HELD, PLACING, *moved, *ordinary, RELEASING, replace(RELEASING, group=None, allocation=None)):
        for state, alive, busy, held_for, provisioned, own, detached, gave_way, patience in product(
            (None, "PENDING", "CREATED", "ABSENT"),
            (True, False),
            (True, False),
            (3.0, 3.5, 20.0, 20.5, 30.0, 30.5),
            (True, False),
            (True, False),
            (True, False),
            (0, 1),
            (3.0, 20.0),
        ):
            seen = Observed(state, alive, busy, (), held_for, provisioned, patience)
            asked = replace(given, detached=detached, gave_way=gave_way)
            step, why = next_step(asked, seen, own_workers=own)
            assert step is expected(asked, seen, own), (asked, seen)
            if step is Step.PLAN_AGAIN or (step is Step.GIVE_BACK and not given.releasing):
                assert why
            steps.add(step)
    assert steps == set(Step)


def test_who_says_nothing_of_itself_is_a_gang_of_its_program_with_nothing_amiss() -> None:
    """The defaults, which records of the store and the engine rely on."""
    assert next_step(QUEUED, Observed(owner_alive=False))[0] is Step.GIVE_BACK, "not detached"
    assert next_step(replace(HELD, group="g"), Observed(group_state="PENDING"))[0] is Step.WAIT
    assert next_step(HELD, Observed())[0] is Step.WAIT
    assert next_step(RELEASING, Observed(group_state="ABSENT"))[0] is Step.FORGET
    assert Gang(QUEUED.request, 1) == Gang(
        QUEUED.request, 1, "", "", "", False, 0, None, None, False, (), "", (), StageTimes(), None, 0
    )
    assert Observed() == Observed(None, True, False, (), 0.0, True, 3.0, False, True, ())


GROUP = "0123456789abcdef" * 2 + "0123"
AT = Change(0.0, None, Phase.QUEUED, "")


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (QUEUED, ""),
        (HELD, ""),
        (replace(HELD, group=GROUP, old_groups=(GROUP[::-1],)), ""),
        (replace(HELD, group=GROUP, old_groups=(GROUP,)), "a placement group twice"),
        (replace(QUEUED, group=GROUP), "no devices"),
        (replace(QUEUED, group=GROUP, releasing=True), ""),
        (replace(HELD, group=GROUP[1:]), "a placement group"),
        (replace(HELD, group=GROUP + "0"), "a placement group"),
        (replace(HELD, group=GROUP.upper()), "a placement group"),
        (replace(HELD, old_groups=(GROUP, "x")), "a placement group"),
        (replace(HELD, group=""), "a placement group"),
        (replace(HELD, history=(AT, replace(AT, at=253_402_300_799.0), replace(AT, at=-62_135_596_800.0))), ""),
        (replace(HELD, history=(AT, replace(AT, at=253_402_300_800.0))), "a time"),
        (replace(HELD, history=(AT, replace(AT, at=-62_135_596_801.0))), "a time"),
        (replace(HELD, history=(replace(AT, at=math.nan),)), "a time"),
        (replace(HELD, moves=2, gave_way=2), ""),
        (replace(HELD, moves=2, gave_way=3), "it gave way"),
        (replace(HELD, moves=2, gave_way=-1), "it gave way"),
        (replace(HELD, moves=1_000_000, sequence=2**53), ""),
        (replace(HELD, moves=1_000_001), "it has counted"),
        (replace(HELD, sequence=2**53 + 1), "it has counted"),
        (replace(HELD, sequence=-1), "it has counted"),
        (replace(QUEUED, request=gang(1, resources={"CPU": math.nan})), "an amount"),
        (replace(QUEUED, request=gang(1, resources={"CPU": math.inf, "GPU": 1.0})), "an amount"),
        (replace(HELD, allocation=planned()._replace(bundles=(Placed("a", (), {"CPU": -1.0}),))), "an amount"),
        (replace(HELD, allocation=planned()._replace(bundles=(Placed("a", (), {"CPU": -math.inf}),))), "an amount"),
    ],
)
def test_what_can_be_no_record(record: Gang, why: str) -> None:
    assert why in sense_of(record)
    assert bool(why) is bool(sense_of(record))


def test_a_gang_about_whose_loss_nothing_can_be_done_does_not_show_as_about_to_end() -> None:
    told = replace(PLACING, notice=Notice("lost: its pod", 5.0, (0,), 0.0, (0,)))
    ready = Observed(group_state="RESCHEDULING", placed_once=True)
    lost = replace(ready, lost=("its pod",))
    assert phase(told, lost) is Phase.DRAINING
    assert phase(told, replace(lost, at_loss=True)) is Phase.DEGRADED
    assert phase(told, replace(ready, at_loss=True)) is Phase.DRAINING, "it is only to be drained, and runs on"
    assert phase(replace(told, replacing=("n",)), replace(lost, at_loss=True)) is Phase.REPAIRING
