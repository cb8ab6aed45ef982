"""What holds of the port `Quotas` with Kueue behind it: asked of the fake (`test_quota.py`) and of the real one
(`tests/cluster/test_kueue.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from ray_dra.coordinator.backends.kubernetes.kueue import Kueue
from ray_dra.core.gangs.quota import Answer, Quota, Said
from ray_dra.core.model.request import GangRequest
from ray_dra.translate.kube.kueue import request_name
from ray_dra.translate.ray.bundles import request_from_bundles

Quotas = Mapping[str, Mapping[str, int]]


class Side(Protocol):
    """The port, and the queues behind it."""

    kueue: Kueue

    def queue(self, name: str, quotas: Quotas, labels: Mapping[str, Mapping[str, str]]) -> None:
        """A queue: flavour -> resource -> quota, and the labels of the flavours' nodes. Its members preempt by
        priority."""

    def turn(self) -> None:
        """Time passes, and the world is looked at again."""

    def deactivate(self, request: str) -> None:
        """Somebody turns a request off."""

    def until(self, condition: Callable[[], bool]) -> None: ...


def gang(name: str, gpus: int, *, count: int = 1, priority: int = 0, **more: float) -> GangRequest:
    bundles: list[dict[str, float]] = [{"GPU": float(gpus), **more}] * count
    return replace(request_from_bundles(bundles), gang=name, priority=priority)


class Asked:
    """One gang's request."""

    def __init__(self, side: Side, queue: str, request: GangRequest, asks: int = 0) -> None:
        self.side, self.quota, self.request = side, Quota(f"kueue/{queue}", asks), request
        side.kueue.ask(self.quota, request)

    @property
    def key(self) -> tuple[str, int]:
        return self.request.gang, self.quota.asks

    @property
    def name(self) -> str:
        return request_name(*self.key)

    def answer(self) -> Answer:
        found = self.side.kueue.answer(self.quota, self.request)
        return found if found is not None else Answer(Said.WAITS)

    def until(self, said: Said, *words: str) -> Answer:
        def holds() -> bool:
            answer = self.answer()
            return answer.said is said and all(word in answer.why for word in words)

        try:
            self.side.until(holds)
        except Exception as error:
            raise AssertionError(f"{self.name}: {self.answer()}, not {said} {words}") from error
        return self.answer()


RACK, OTHER = {"rack": "a"}, {"rack": "b"}
FULL: dict[str, Any] = {"nvidia.com/gpu": 8, "cpu": 100, "memory": 1 << 40}


def asked_admitted_and_given_up(side: Side) -> None:
    side.queue("plain", {"plain-racks": FULL}, {"plain-racks": RACK})
    first = Asked(side, "plain", gang("plain-first", 4, count=2))
    assert first.until(Said.ADMITTED).granted == ((("rack", "a"),),)
    side.kueue.ask(first.quota, first.request)
    side.turn()
    assert first.answer().said is Said.ADMITTED
    assert not side.kueue.idle
    side.kueue.keep([first.key])
    side.turn()
    assert first.answer().said is Said.ADMITTED
    side.kueue.keep([])
    first.until(Said.NOTHING)
    assert side.kueue.idle


def over_quota_it_waits_in_the_queues_words(side: Side) -> None:
    side.queue("full", {"full-racks": FULL}, {})
    first = Asked(side, "full", gang("full-first", 4))
    first.until(Said.ADMITTED)
    second = Asked(side, "full", gang("full-second", 4, count=2))
    second.until(Said.WAITS, "insufficient unused quota for nvidia.com/gpu in flavor full-racks, 4 more needed")
    side.kueue.keep([second.key])
    assert second.until(Said.ADMITTED).granted == ((),)
    side.kueue.keep([])
    second.until(Said.NOTHING)


def what_can_never_be_says_so(side: Side) -> None:
    side.queue("small", {"small-racks": FULL}, {})
    large = Asked(side, "small", gang("small-large", 4, count=3))
    large.until(Said.WAITS, "insufficient quota for nvidia.com/gpu in flavor small-racks", "maximum capacity (8)")
    side.queue("bare", {"bare-racks": {"cpu": 100, "memory": 1 << 40}}, {})
    uncovered = Asked(side, "bare", gang("bare-one", 1))
    uncovered.until(Said.WAITS, "resource nvidia.com/gpu unavailable in ClusterQueue")
    nowhere = Asked(side, "nobodys", gang("nobodys-one", 1))
    nowhere.until(Said.WAITS, "LocalQueue nobodys")  # Kueue may say nothing of it
    side.kueue.keep([])
    nowhere.until(Said.NOTHING)


def the_next_flavour_is_taken_where_the_first_is_full(side: Side) -> None:
    side.queue(
        "two",
        {"two-first": {**FULL, "nvidia.com/gpu": 4}, "two-second": FULL},
        {"two-first": RACK, "two-second": OTHER},
    )
    first = Asked(side, "two", gang("two-a", 4))
    assert first.until(Said.ADMITTED).granted == ((("rack", "a"),),)
    second = Asked(side, "two", gang("two-b", 4, count=2))
    assert second.until(Said.ADMITTED).granted == ((("rack", "b"),),)
    side.kueue.keep([])
    second.until(Said.NOTHING)


def a_preempted_one_is_evicted_and_pays_until_it_is_given_up(side: Side) -> None:
    side.queue("stage", {"stage-racks": FULL}, {})
    low = Asked(side, "stage", gang("stage-low", 4, count=2))
    low.until(Said.ADMITTED)
    high = Asked(side, "stage", gang("stage-high", 4, priority=5))
    low.until(Said.EVICTED, "Preempted: ")
    for _ in range(5):
        side.turn()
    assert high.answer().said is Said.WAITS
    again = Quota(low.quota.queue, 1)
    waits = side.kueue.answer(again, low.request)
    assert waits is not None
    assert (waits.said, waits.why) == (Said.WAITS, "what it had is being given back")
    side.kueue.keep([high.key])
    high.until(Said.ADMITTED)
    asked = Asked(side, "stage", low.request, asks=1)
    asked.until(Said.WAITS, "more needed")
    side.kueue.keep([asked.key])
    asked.until(Said.ADMITTED)
    side.kueue.keep([])
    asked.until(Said.NOTHING)


def a_deactivated_one_is_refused(side: Side) -> None:
    side.queue("off", {"off-racks": FULL}, {})
    first = Asked(side, "off", gang("off-first", 4))
    first.until(Said.ADMITTED)
    side.deactivate(first.name)
    first.until(Said.REFUSED, "Deactivated")
    side.kueue.keep([])
    first.until(Said.NOTHING)


def each_kind_of_bundle_is_counted_with_what_its_worker_takes(side: Side) -> None:
    """CPUs and memory of the bundle and of its raylet; of what a bundle does not say, the worker group's."""
    side.queue("counted", {"counted-racks": {"nvidia.com/gpu": 8, "cpu": 100, "memory": 1 << 40}}, {})
    bundles: list[dict[str, float]] = [{"GPU": 4.0, "CPU": 8.0}] * 2 + [{"CPU": 99.0}]
    mixed = replace(request_from_bundles(bundles), gang="counted-mixed")
    asked = Asked(side, "counted", mixed)
    asked.until(Said.WAITS, "insufficient", "for cpu in flavor counted-racks")
    side.kueue.keep([])
    asked.until(Said.NOTHING)


CONTRACT: tuple[Callable[[Side], None], ...] = (
    asked_admitted_and_given_up,
    over_quota_it_waits_in_the_queues_words,
    what_can_never_be_says_so,
    the_next_flavour_is_taken_where_the_first_is_full,
    a_preempted_one_is_evicted_and_pays_until_it_is_given_up,
    a_deactivated_one_is_refused,
    each_kind_of_bundle_is_counted_with_what_its_worker_takes,
)
