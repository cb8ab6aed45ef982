"""What is judged of a gang's ranks, and on which GPUs gangs are tried."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.plan import plan
from ray_dra.operate.rank_checks import Rank, RankView
from ray_dra.operate.validate import CliqueReport, Verdict, judge_fabric, judge_gpus, judge_imex, targets
from ray_dra.ports.nvml import FabricReading, GpuReading, NodeReading
from tests.core.machines import gang, held, node, one_clique, rack

RACK = "7b7b7b7b-0000-0000-0000-000000000000"


def planned() -> Allocation:
    """Two bundles of two GPUs on a rack."""
    answer = plan(Inventory(rack("r", 2)), gang(2, 2, locality=one_clique()))
    assert isinstance(answer, Allocation)
    return answer


def views(answer: Allocation, **fabric: int) -> list[RankView]:
    """What ranks see where all is well: NVML has one GPU more than each of them."""
    found = []
    for placed in answer.bundles:
        uuids = [grant.uuid for grant in placed.grants]
        gpus = [
            GpuReading(i, uuid, fabric=replace(FabricReading(3, 0, RACK, 1), **fabric))  # type: ignore[arg-type]
            for i, uuid in enumerate(["GPU-other", *uuids])
        ]
        visible = tuple(str(i) for i in range(1, len(gpus)))
        found.append(RankView("host", visible, NodeReading("580", tuple(gpus)), 1))
    return found


def test_ranks_that_see_what_was_planned_are_well() -> None:
    answer = planned()
    assert judge_gpus(answer, views(answer)).ok is True
    assert judge_fabric(views(answer)) == Verdict("fabric", True, f"completed, clique {RACK}.1")
    assert judge_imex(views(answer), domains=True).ok is True


def test_another_gpu_another_order_and_no_answer_are_named() -> None:
    answer = planned()
    first, second = views(answer)
    swapped = judge_gpus(answer, [first, replace(second, visible=second.visible[::-1])])
    assert (swapped.ok, "rank 1 on host" in swapped.said) == (False, True)
    less = judge_gpus(answer, [replace(first, visible=first.visible[:1]), second])
    assert (less.ok, "rank 0 on host" in less.said) == (False, True)
    by_uuid = replace(first, visible=tuple(str(uuid) for uuid in first.uuids))
    assert judge_gpus(answer, [by_uuid, second]).ok is True
    silent = judge_gpus(answer, [replace(first, reading=NodeReading(error="it hangs")), second])
    assert (silent.ok, "it hangs" in silent.said) == (False, True)


@pytest.mark.parametrize("amiss", [{"state": 2}, {"status": 1}])
def test_a_fabric_that_is_not_up_is_named(amiss: dict[str, int]) -> None:
    verdict = judge_fabric(views(planned(), **amiss))
    assert (verdict.ok, "rank 0 on host: GPU 1" in verdict.said) == (False, True)


def test_ranks_in_two_cliques_are_not_one_fabric() -> None:
    answer = planned()
    first, second = views(answer)[0], views(answer, clique_id=2)[1]
    assert judge_fabric([first, second]).ok is False
    box = replace(first, reading=NodeReading("580", (GpuReading(1, first.uuids[0]),)))
    assert judge_fabric([box]).ok is None


def test_a_channel_that_is_lacking_matters_where_one_is_needed() -> None:
    first, second = views(planned())
    lacking = [first, replace(second, channels=0)]
    assert judge_imex(lacking, domains=True) == Verdict("IMEX", False, "no channel in ranks 1")
    assert judge_imex(lacking, domains=False).ok is None


def test_a_report_is_as_bad_as_its_worst_and_nothing_where_nothing_was_tried() -> None:
    def report(*oks: bool | None) -> bool | None:
        return CliqueReport("c", "rack", (), 0, 0.0, tuple(Verdict("", ok, "") for ok in oks)).ok

    assert [report(True, None), report(True, False), report(None)] == [True, False, None]


def test_gangs_are_tried_on_what_is_free_of_each_clique() -> None:
    labels = [replace(n, labels={"ray-dra.io/node": n.name}) for n in rack("r", 2)]
    away = [replace(n, ready=False) for n in rack("t", 1)]
    inventory = Inventory([*labels, *rack("s", 1), node("loose", 2), *away])
    held(inventory, gang(4, name="a", locality=one_clique()))
    found = [(t.clique, t.kind, [n.name for n in t.nodes], t.free) for t in targets(inventory)]
    assert found == [
        ("loose", "node", ["loose"], (2,)),
        ("r", "rack", [n.name for n in labels], (4, 4)),
        ("s", "rack", [], ()),
        ("t", "rack", [], ()),
    ]
    whole = next(target for target in targets(Inventory(labels)))
    assert whole.selectors == [{"ray-dra.io/node": n.name} for n in labels]
    assert next(targets(Inventory(rack("s", 1)))).selectors is None


@pytest.mark.parametrize("count", [2, 5])
def test_a_sum_goes_around_all_ranks(count: int) -> None:
    ranks = [Rank() for _ in range(count)]
    places = [("127.0.0.1", rank._listener.getsockname()[1]) for rank in ranks]
    answers: dict[int, int] = {}

    def run(at: int) -> None:
        answers[at] = ranks[at].sum_over(places[(at + 1) % count], count, at * at + 1, 30.0)[0]

    threads = [threading.Thread(target=run, args=(at,)) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == dict.fromkeys(range(count), sum(at * at + 1 for at in range(count)))


def test_a_rank_whose_neighbour_is_not_there_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        place = ("127.0.0.1", gone.getsockname()[1])
    with pytest.raises(ConnectionRefusedError):
        Rank().sum_over(place, 2, 1, 1.0)
