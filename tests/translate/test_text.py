"""Answers and topologies as people read them, whole; and the same for programs, which have the values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.gangs.forecast import Expected, Unreckoned
from ray_dra.core.gangs.notice import Notice
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.shapes import ReshapeStage
from ray_dra.core.gangs.stages import StageTimes
from ray_dra.core.gangs.standing import Standing
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.shortfall import Place, PlaceKind, Shortfall, ShortfallKind, Unsatisfiable, short
from ray_dra.core.plan import plan
from ray_dra.translate.text import (
    answer_as_json,
    explain_answer,
    explain_expected,
    explain_gang,
    explain_notice,
    explain_standing,
    explain_times,
)
from tests.core.machines import gang, node, one_clique, rack
from tests.core.parted import bundle as part_bundle
from tests.core.parted import parted_node

NODES = [*rack("r", 2), node("box", 4, box=True, sick=[1])]
SMALL, LARGE = gang(4, 2, name="small", locality=one_clique()), gang(4, 4, locality=one_clique())


def answers() -> tuple[Allocation, Unsatisfiable]:
    """A yes, and the no to the next one."""
    inventory = Inventory(NODES)
    yes = plan_and_explain(inventory, SMALL)
    assert isinstance(yes, Allocation)
    inventory.hold(yes)
    no = plan_and_explain(inventory, LARGE)
    assert isinstance(no, Unsatisfiable)
    return yes, no


YES, NO = answers()


def test_a_yes_names_each_bundles_gpus_under_its_clique() -> None:
    assert explain_answer(YES, SMALL).splitlines() == [
        "fits: 2 bundles, 6 GPUs, one clique",
        "  clique r",
        "    bundle 0 on r-t1: GPU 0 (GPU-r-t1-0), 1 (GPU-r-t1-1), 2 (GPU-r-t1-2), 3 (GPU-r-t1-3)",
        "    bundle 1 on r-t0: GPU 0 (GPU-r-t0-0), 1 (GPU-r-t0-1)",
    ]
    told = json.loads(answer_as_json(YES))
    assert told["fits"] is True
    assert [(b["node"], b["clique"], [g["index"] for g in b["gpus"]]) for b in told["bundles"]] == [
        ("r-t1", "r", [0, 1, 2, 3]),
        ("r-t0", "r", [0, 1]),
    ]
    assert [[g["uuid"] for g in b["gpus"]] for b in told["bundles"]] == [
        [g.uuid for g in placed.grants] for placed in YES.bundles
    ]


def test_a_no_says_what_is_missing_and_who_would_have_to_leave() -> None:
    first, *rest, last = explain_answer(NO, LARGE).splitlines()
    assert first == "does not fit: 2 bundles, 8 GPUs, one clique"
    assert rest == [f"  {shortfall}" for shortfall in NO.shortfalls]
    assert last == "  would fit without: small (6 GPUs; the smallest set)"
    told = json.loads(answer_as_json(NO))
    assert (told["fits"], told["proven"], told["instead"]) == (False, True, [])
    assert told["leaving"] == {"gangs": ["small"], "gpus": 6, "smallest": True}
    for plain, shortfall in zip(told["shortfalls"], NO.shortfalls, strict=True):
        assert plain["text"] == str(shortfall)
        assert (plain["kind"], plain["wanted"], plain["available"]) == (
            shortfall.kind.value,
            shortfall.wanted,
            shortfall.available,
        )
        assert plain["place"] == {"kind": shortfall.place.kind.value, "id": shortfall.place.id}


def test_a_no_says_what_would_fit_instead_and_where() -> None:
    inventory = Inventory(rack("r", 2) + rack("s", 2))
    request = gang(4, 4, 4, locality=one_clique())
    no = plan_and_explain(inventory, request)
    assert isinstance(no, Unsatisfiable)
    assert no.counterfactual is not None
    assert explain_answer(no, request).splitlines()[-2:] == [
        "  would fit now: 2 of the 3 bundles (on 2 nodes, 1 clique)",
        "  would fit now: on 2 cliques (on 3 nodes, 2 cliques)",
    ]
    told = json.loads(answer_as_json(no))
    assert [each["change"] for each in told["instead"]] == [each.change for each in no.counterfactual.instead]


def test_a_no_within_the_bound_of_work_says_that_it_is_none_for_sure() -> None:
    unsure = replace(NO, proven=False)
    assert explain_answer(unsure, LARGE).startswith("does not fit (not found within the bound): ")
    assert json.loads(answer_as_json(unsure))["proven"] is False


def test_one_of_a_thing_is_not_said_to_be_many() -> None:
    one = gang(1)
    found = plan_and_explain(Inventory([node("n", 1)]), one)
    assert explain_answer(found, one).splitlines() == [
        f"fits: 1 bundle, 1 GPU, {Locality()}",
        "  in no clique",
        "    bundle 0 on n: GPU 0 (GPU-n-0)",
    ]


def test_a_bundle_without_gpus_has_none() -> None:
    found = plan_and_explain(Inventory(NODES), gang(0, 1, resources={"CPU": 1.0}))
    assert isinstance(found, Allocation)
    assert sum("GPU no GPU" in line for line in explain_answer(found, gang(0, 1)).splitlines()) == 1


@dataclass
class Status:
    phase: Phase
    allocation: Allocation | None = None
    moves: int = 0
    lost: tuple[str, ...] = ()
    waits_for: tuple[Shortfall, ...] = ()
    said: str = ""
    times: StageTimes = field(default=StageTimes())
    other_work: tuple[str, ...] = ()
    notice: Notice | None = None
    standing: Standing | None = None
    reshape: ReshapeStage | None = None
    shape_failed: str = ""
    preempted: int = 0
    consolidated: int = 0
    shrunk: str = ""
    spares: tuple[str, ...] = ()


def test_a_gang_is_told_by_its_phase() -> None:
    head = "2 bundles, 6 GPUs, one clique"
    queued = explain_gang(Status(Phase.QUEUED, waits_for=NO.shortfalls, said="unsaid"), SMALL).splitlines()
    assert queued == [f"queued: {head}", *(f"  waits for {shortfall}" for shortfall in NO.shortfalls)]
    made = explain_gang(Status(Phase.PROVISIONING, YES, said="pods: 1 of 2"), SMALL).splitlines()
    assert made == [f"provisioning: {head}", "  pods: 1 of 2", *explain_answer(YES, SMALL).splitlines()[1:]]
    moved = explain_gang(Status(Phase.DEGRADED, YES, moves=2, lost=("r-t0 is gone",), said="unsaid"), SMALL)
    assert moved.splitlines()[:2] == [f"degraded: {head}, planned again 2 times", "  lost: r-t0 is gone"]
    assert "unsaid" not in moved
    victim = explain_gang(Status(Phase.QUEUED, moves=3, preempted=1, consolidated=2), SMALL)
    told = f"queued: {head}, planned again 3 times, preempted 1 time, moved 2 times for others"
    assert victim.splitlines()[0] == told


def test_where_a_gang_stands_in_the_queue_is_told_in_numbers() -> None:
    first = Standing(0, 60.0, ("train", "e\nval"))
    told = explain_gang(Status(Phase.QUEUED, standing=first), SMALL).splitlines()
    when = "should start by 1970-01-01 00:01:00 UTC"
    assert told[-1] == f"  {when}, once train, e val ended, if all run as long as they said"
    assert explain_standing(Standing(0, 60.0)) == [f"{when}, if all run as long as they said"]
    (many,) = explain_standing(Standing(0, 60.0, tuple("abcdefg")))
    assert "once a, b, c, d, e and others ended" in many
    (takes,) = explain_standing(Standing(0, 60.0, takes=("batch", *"abcdef")))
    assert takes == f"{when}, with GPUs of batch, a, b, c, d and others, which end or move for it"
    (hint,) = explain_standing(Standing(3))
    assert "runs_for=" in hint
    for silent in (None, Standing(0), Standing(3, guessed=True)):
        assert explain_standing(silent) == []


def test_what_of_a_gang_will_end_is_told() -> None:
    whole = Notice("it is\nover", None, (0, 1), 7.0)
    told = explain_gang(Status(Phase.READY, YES, notice=whole), SMALL).splitlines()
    assert told[1] == "  notice: the gang will end: it is over"
    part = explain_notice(Notice("t1 is drained", 60.0, (1,), 7.0), 2)
    assert part == "notice: bundle 1 will end from 1970-01-01 00:01:00 UTC on: t1 is drained"


def test_a_change_of_shape_is_told() -> None:
    for stage, failed, said in (
        (None, "", ""),
        (ReshapeStage.DRAINS, "", "has time to end"),
        (ReshapeStage.COMES, "", "place the next one"),
        (ReshapeStage.RETURNS, "Ray was\nlate", "gets its old shape back: Ray was late"),
        (None, "Ray was late", "has its old shape, as the next one could not be had: Ray was late"),
    ):
        told = explain_gang(Status(Phase.READY, YES, reshape=stage, shape_failed=failed), SMALL)
        assert said in told
        assert ("shape" in told) == bool(said)


def test_the_time_to_readiness_is_told_by_stage() -> None:
    on_its_way = StageTimes((("queued", 2.0), ("pods", 0.25)), "bound", 7.0)
    told = explain_gang(Status(Phase.PROVISIONING, YES, times=on_its_way), SMALL)
    assert told.splitlines()[-1] == "  2.2 s so far: queued 2.0, pods 0.2; now bound"
    assert explain_times(StageTimes(on_its_way.spent, "", 7.0)) == ["ready 2.2 s after the call: queued 2.0, pods 0.2"]
    assert explain_times(StageTimes((), "queued", 7.0)) == []


def test_parts_of_gpus_are_told_by_profile_and_gpu() -> None:
    inventory = Inventory([parted_node("n", 1)])
    request = GangRequest("g", (part_bundle("1g.10gb"),) * 2)
    answer = plan(inventory, request)
    text = explain_answer(answer, request)
    assert text.startswith("fits: 2 bundles, 2 parts, anywhere")
    assert "    bundle 1 on n: 1g.10gb of GPU-n-0" in text.splitlines()
    (first, _) = json.loads(answer_as_json(answer))["bundles"]
    assert first["gpus"] == [{"index": None, "uuid": None, "profile": "1g.10gb", "parent": "GPU-n-0"}]
    no = GangRequest("g", (part_bundle("1g.10gb"),) * 8)
    refused = plan(inventory, no)
    assert "does not fit: 8 bundles, 8 parts" in explain_answer(refused, no)
    assert json.loads(answer_as_json(refused))["shortfalls"][0]["available"] == 7


def test_it_is_told_when_a_gang_should_start() -> None:
    inventory = Inventory(rack("a", 2))
    allocation = plan(inventory, gang(4, name="one"))
    assert isinstance(allocation, Allocation)
    inventory.hold(allocation)
    ahead = (("both", 8), ("a\nb", 4))
    expected = Expected(7, ahead, 170.0, ("next",), (), False, plan_and_explain(inventory, gang(4, 4)))
    assert explain_expected(expected) == [
        "turn 8 in the queue, after both (8 GPUs), a b (4 GPUs), and 5 more",
        "should start by 1970-01-01 00:02:50 UTC, once next ended, if all run as long as they said",
        "sooner: would fit now: 1 of the 2 bundles",
        "sooner: would fit without one (4 GPUs; the smallest set)",
        "sooner: could start before its turn if it said how long it runs (runs_for=)",
    ]
    silent = replace(expected, starts=None, silent=("last",), now=allocation, guessed=True)
    assert explain_expected(silent)[1:] == [
        "nobody can tell when it starts: last did not say how long they run",
        "sooner: it fits now, and waits for its turn",
    ]
    assert explain_expected(replace(silent, ahead=0, first=(), silent=())) == [
        "turn 1 in the queue",
        "nobody can tell when it starts: it is too far behind, or does not fit",
    ]
    limit = short(ShortfallKind.LIMIT, Place(PlaceKind.QUEUE, "a"), 8.0, 4.0, limit=8.0, used=4.0)
    assert explain_expected(replace(silent, silent=(), limit=limit))[1:] == [
        "nobody can tell when it starts: it is not known when its team has so much of its limit left",
    ], "and that it fits is no help"
    takes = replace(expected, ahead=0, first=(), after=(), takes=("one",), unreckoned=tuple(Unreckoned))
    assert explain_expected(takes)[:3] == [
        "turn 1 in the queue",
        "should start by 1970-01-01 00:02:50 UTC, with GPUs of one, which would end for it",
        "not reckoned with: gangs that end for others, which wait again before others of their priority;"
        " gangs that are moved for others",
    ]
