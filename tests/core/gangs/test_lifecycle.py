"""The table of a gang's changes, and what no record may do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.lifecycle import (
    ARROWS,
    ForbiddenChange,
    Gang,
    Observed,
    Phase,
    Step,
    check_change,
    next_step,
    phase,
)
from ray_dra.core.model.allocation import Allocation
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
        (PLACING, replace(MOVED, allocation=None)),
        (PLACING, RELEASING),
        (PLACING, NOTHING),
        (RELEASING, replace(RELEASING, failed="no workers")),
        (RELEASING, NOTHING),
    ],
)
def test_what_a_record_may_do(before: Gang | None, after: Gang | None) -> None:
    check_change(before, after)


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (NOTHING, PLACING, "begins queued or held"),
        (NOTHING, RELEASING, "begins queued or held"),
        (QUEUED, PLACING, "no arrow leads from queued to placing"),
        (HELD, QUEUED, "without a move"),
        (HELD, replace(HELD, allocation=planned(1)), "without a move"),
        (PLACING, replace(PLACING, group="second", old_groups=("first",)), "without a move"),
        (PLACING, replace(MOVED, old_groups=()), "a placement group was forgotten"),
        (PLACING, replace(MOVED, group="second"), "outlived a move"),
        (MOVED, replace(HELD, old_groups=("first",)), "moves were taken back"),
        (RELEASING, PLACING, "no arrow leads from releasing to placing"),
        (replace(QUEUED, releasing=True), QUEUED, "no arrow leads from releasing to queued"),
        (HELD, replace(HELD, owner="another"), "another gang's"),
        (HELD, replace(HELD, sequence=2), "another gang's"),
    ],
)
def test_what_a_record_may_not_do_is_refused(before: Gang | None, after: Gang | None, why: str) -> None:
    with pytest.raises(ForbiddenChange, match=why):
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
