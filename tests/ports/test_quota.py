"""The contract of the port `Quotas`, held by the fake Kueue; by the real one in `tests/cluster/test_kueue.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from ray_dra.coordinator.backends.kubernetes.kueue import REST_SECONDS, Kueue
from ray_dra.core.gangs.quota import Answer, Said
from ray_dra.errors import NotAllowed, Rejected
from ray_dra.ports.kubernetes import KubeView, Object
from ray_dra.simulated.fake_kube import FakeKube
from ray_dra.simulated.fake_kueue import FakeKueue
from ray_dra.translate.names import QUEUE_ANNOTATION
from tests.ports.quota_contract import CONTRACT, FULL, Asked, Quotas, Side, gang
from tests.translate.kube.objects import cluster


class FakeSide:
    """The fakes of Kubernetes and Kueue."""

    def __init__(self) -> None:
        self.queues = FakeKueue({})
        self.kube = FakeKube(cluster(), (), queues=self.queues)
        self.kube.annotate_raycluster({QUEUE_ANNOTATION: "kueue/any"})
        self.now, self.view = 0.0, KubeView()
        self.kueue = Kueue(self.kube, lambda: self.view, lambda: self.now)
        self.turn()

    def queue(self, name: str, quotas: Quotas, labels: Mapping[str, Mapping[str, str]]) -> None:
        self.queues.queues[name] = {flavor: dict(amounts) for flavor, amounts in quotas.items()}
        self.queues.flavors |= {flavor: dict(labels.get(flavor, {})) for flavor in quotas}

    def turn(self) -> None:
        self.now += 1.0
        self.kube.step()
        self.view = self.kube.view()

    def deactivate(self, request: str) -> None:
        self.kube._things["Workload", request]["spec"]["active"] = False

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(50):
            self.turn()
            if condition():
                return
        raise TimeoutError


@pytest.mark.parametrize("rule", CONTRACT, ids=lambda rule: rule.__name__)
def test_the_fake_keeps_the_contract(rule: Callable[[Side], None]) -> None:
    rule(FakeSide())


def test_a_request_that_kubernetes_refuses_is_an_answer_and_is_made_again() -> None:
    """For want of a right, say, without which the requests cannot be read either."""
    side = FakeSide()
    side.queue("team", {"racks": FULL}, {})
    create, refusals = side.kube.create, [NotAllowed("This identity may not do that.", wanted="create workloads")] * 2

    def refuse(thing: Object) -> str:
        if refusals:
            raise refusals.pop()
        return create(thing)

    side.kube.create = refuse  # type: ignore[method-assign]
    asked = Asked(side, "team", gang("g", 4))
    side.view = replace(side.view, workloads=None)
    assert asked.answer() == Answer(Said.WAITS, "it could not be asked: This identity may not do that.")
    side.now += REST_SECONDS
    assert side.kueue.answer(asked.quota, asked.request) is None
    side.turn()
    assert asked.answer().said is Said.NOTHING
    for _ in range(20):
        side.kueue.ask(asked.quota, asked.request)
        side.turn()
    assert asked.answer().said is Said.ADMITTED


def test_a_request_that_can_never_be_made_is_refused_for_good() -> None:
    side = FakeSide()

    def refuse(thing: Object) -> str:
        raise Rejected("The API server refuses it.", available="spec.queueName: Invalid value")

    side.kube.create = refuse  # type: ignore[method-assign]
    asked = Asked(side, "team", gang("g", 4))
    for _ in range(20):
        side.turn()
    assert asked.answer().said is Said.REFUSED
    assert "Invalid value" in asked.answer().why
