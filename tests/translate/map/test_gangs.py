"""A gang's card and details are its status, with nothing that JSON does not have; a what-if has its ghost cells."""

from __future__ import annotations

import json
from dataclasses import replace

from ray_dra.coordinator.status import Status
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.gangs.forecast import Expected
from ray_dra.core.gangs.gang import Change
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.stages import StageTimes
from ray_dra.core.gangs.standing import Standing
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.plan import plan
from ray_dra.translate.map.gangs import MOST_RANKS, gang_card, gang_details, ranks, what_if
from ray_dra.translate.text import explain_answer
from tests.core.machines import gang, held, one_clique, rack, shares

WAITS = StageTimes((("quota", 2.0),), "queued", 100.0)


def status(**more: object) -> Status:
    usual = Status("id", Phase.QUEUED, "", None, (), None, 0, (), (), bundles=2, gpus=8, times=WAITS)
    return replace(usual, **more)  # type: ignore[arg-type]


def test_a_card_of_one_that_waits() -> None:
    card = gang_card(
        status(name="train", standing=Standing(1, 160.0, ("other",), True), priority=3, owner="01000000"), team="a"
    )
    assert card == {
        "name": "train",
        "owner": "01000000",
        "team": "a",
        "phase": "queued",
        "stage": "queued",
        "since": 100.0,
        "spent": [["quota", 2.0]],
        "asked": 98.0,
        "bundles": 2,
        "gpus": 8,
        "priority": 3,
        "ahead": 1,
        "starts": 160.0,
        "after": ["other"],
    }


def test_a_card_of_one_that_runs_says_where_and_that_it_ends() -> None:
    answer = plan(Inventory(rack("r", 2)), gang(4, 4))
    assert isinstance(answer, Allocation)
    notice = Notice("drained", None, (0,), 30.0)
    card = gang_card(status(phase=Phase.DRAINING, allocation=answer, lost=("n is gone",), notice=notice))
    assert (card["nodes"], card["cliques"], card["lost"]) == (2, ["r"], 1)
    assert card["notice"] == "notice: bundle 0 will end: drained"
    assert json.loads(json.dumps(card)) == card


def test_details_have_ranks_and_history() -> None:
    inventory = Inventory(rack("r", 2))
    answer = held(inventory, gang(2, 2, 2))
    history = (Change(5.0, None, Phase.QUEUED, "asked"), Change(6.0, Phase.QUEUED, Phase.HELD, "its turn"))
    found = gang_details(status(phase=Phase.HELD, allocation=answer, history=history), None)
    assert [(each["rank"], each["node"], each["clique"]) for each in found["ranks"]] == [
        (0, "r-t0", "r"),
        (1, "r-t0", "r"),
        (2, "r-t1", "r"),
    ]
    assert [gpu["number"] for gpu in found["ranks"][1]["gpus"]] == [2, 3]
    assert found["history"][1] == {"at": 6.0, "was": "queued", "to": "held", "why": "its turn"}
    assert found["waits"] == []


def test_details_of_one_that_waits_tell_whose_leaving_would_help() -> None:
    inventory = Inventory(rack("r", 1))
    held(inventory, gang(4, name="big"))
    expected = Expected(0, (), None, (), ("big",), False, plan_and_explain(inventory, gang(2)))
    lines = gang_details(status(standing=Standing(0)), expected)["waits"]
    assert lines[0] == "turn 1 in the queue"
    assert any("would fit without big" in line for line in lines)


def test_shares_and_the_most_ranks() -> None:
    answer = plan(Inventory(rack("r", 2)), shares(250, 250))
    assert isinstance(answer, Allocation)
    assert [each["gpus"][0]["share"] for each in ranks(answer)["ranks"]] == [0.25, 0.25]
    many = answer._replace(bundles=answer.bundles[:1] * (MOST_RANKS + 5))
    found = ranks(many)
    assert (len(found["ranks"]), found["more_ranks"]) == (MOST_RANKS, 5)


def test_a_what_if_has_ghost_cells_of_the_answer_or_of_what_is_nearest() -> None:
    inventory = Inventory(rack("r", 2))
    held(inventory, gang(4, name="big"))
    asked = gang(2, 2, locality=one_clique())
    yes = plan_and_explain(inventory, asked)
    found = what_if(yes, explain_answer(yes, asked), asked)
    assert (found["fits"], found["ghost"], found["leaving"]) == (True, {"r-t1": [0, 1, 2, 3]}, [])
    asked = gang(2, 2, 2, locality=one_clique())
    no = plan_and_explain(inventory, asked)
    found = what_if(no, explain_answer(no, asked), asked)
    assert not found["fits"]
    assert found["ghost"] == {"r-t1": [0, 1, 2, 3]}
    assert "2 of the 3 bundles" in found["instead"]
    assert found["leaving"] == ["big"]
    assert json.loads(json.dumps(found)) == found
