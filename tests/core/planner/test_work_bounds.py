"""No single request keeps the planner for long: what is huge is refused at once, searched within steps, or placed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import plan_and_explain
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest
from ray_dra.core.model.shortfall import ShortfallKind, Unsatisfiable
from ray_dra.core.plan import plan
from ray_dra.core.planner.work import MOST_CLASSES, Work
from tests.core.checks import check
from tests.core.machines import gang, node, one_clique, rack

SECONDS = 5.0
"""Of CPU, for a plan and its counterfactual; they take well under one, and took 50 before there were steps."""


def bundle(gpus: int, cpus: float, **labels: str) -> Bundle:
    return Bundle((DeviceRequest(gpus),) if gpus else (), {"CPU": cpus}, labels)


def different(count: int, gpus: int = 1) -> tuple[Bundle, ...]:
    return tuple(bundle(gpus, 1 + i / count) for i in range(count))


HUGE: dict[str, tuple[Sequence[Bundle], Locality]] = {
    "10,000 different ones": (different(10_000), Locality()),
    "10,000 different ones, one clique": (different(10_000), one_clique()),
    "100,000 different ones without GPUs": (different(100_000, 0), Locality()),
    "as many different ones as are searched": (different(MOST_CLASSES), Locality(segment=1)),
    "500 that each want a node of their own": (
        [bundle(1, 1.0, **{"ray.io/node-id": f"!n{i}"}) for i in range(500)],
        Locality(cliques=2),
    ),
    "100,000 alike": ([bundle(1, 1.0)] * 100_000, Locality()),
    "60,000 that could be halved": ([bundle(2, 1.0)] * 60_000, Locality()),
    "1,000 sizes that almost fit": ([bundle(1 + i % 4, 15.0 + i % 7) for i in range(1_000)], Locality(cliques=8)),
}


@pytest.mark.parametrize(
    "inventory", [Inventory(rack("a", 4)), Inventory(n for r in range(60) for n in rack(f"r{r}", 18))]
)
@pytest.mark.parametrize("name", HUGE)
def test_a_huge_request_is_answered_soon(name: str, inventory: Inventory) -> None:
    bundles, locality = HUGE[name]
    request = GangRequest("g", tuple(bundles), locality)
    began = time.process_time()
    answer = plan_and_explain(inventory, request)
    assert time.process_time() - began < SECONDS
    if isinstance(answer, Allocation):
        check(answer, inventory, request)
    else:
        assert answer.proven is (ShortfallKind.BOUND not in {s.kind for s in answer.shortfalls})
        assert answer.counterfactual is not None


def test_too_many_kinds_are_a_no_that_says_so() -> None:
    answer = plan(Inventory([node("a", 0, resources={"CPU": 1e6})]), GangRequest("g", different(MOST_CLASSES + 1, 0)))
    assert isinstance(answer, Unsatisfiable)
    assert not answer.proven
    assert [s.kind for s in answer.shortfalls] == [ShortfallKind.BOUND]
    assert answer.shortfalls[0].available == MOST_CLASSES


def test_thousands_of_two_kinds_are_placed_in_a_few_steps() -> None:
    """Best fit takes the bundles of a kind at once."""
    inventory = Inventory(n for r in range(100) for n in rack(f"r{r}", 18))
    request = GangRequest("g", (bundle(1, 1.0),) * 3_600 + (bundle(0, 1.0),) * 3_600)
    work = Work()
    answer = plan(inventory, request, work=work)
    assert isinstance(answer, Allocation)
    check(answer, inventory, request)
    assert work.left > 0


def test_without_any_steps_counting_still_answers_and_searching_says_it_did_not() -> None:
    inventory = Inventory(rack("a", 4))
    assert isinstance(plan(inventory, gang(4, 4), work=Work(1)), Allocation)
    assert isinstance(plan(inventory, gang(4, 4, 4, 4, 4), work=Work(1)), Unsatisfiable)
    answer = plan(inventory, gang(4, 3, 2), work=Work(1))
    assert isinstance(answer, Unsatisfiable)
    assert not answer.proven
