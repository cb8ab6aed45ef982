"""The queue on real nodes: who goes before its turn, and who ends for a higher priority and goes on from its
checkpoint afterwards. By hand: a head of its own, with an operator's setting."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml

from ray_dra.translate.names import PREEMPTION_VARIABLE
from tests.cluster.head import EXAMPLE, Head, installation, told
from tests.cluster.world import Namespace

pytestmark = [pytest.mark.by_hand, pytest.mark.timeout(600)]
GRACE = 5

OVERTAKE = """
first = racks(3, name="first", runs_for=45)
first.wait(200)
began = time.monotonic()
big = racks(3, name="big", runs_for=60)
small = racks(2, name="small", runs_for=3600)
small.wait(200)
tell(small=time.monotonic() - began, big=big.phase.value, said=big.explain())
time.sleep(max(0, 45 - (time.monotonic() - began)))
first.remove()
ended = time.monotonic()
big.wait(200)
tell(big=time.monotonic() - ended, planned=planned(big), ranks=ranks(big, 3))
big.remove(); small.remove()
"""

PREEMPT = f"""
@ray.remote(num_cpus=0, resources={{"node:__internal_head__": 0.001}})  # which outlives the workers
class Saved:
    step = 0
    def save(self, step):
        self.step = step
    def load(self):
        return self.step
@ray.remote(num_gpus=4, num_cpus=0)
class Trainer:
    def __init__(self, saved):
        self.saved, self.first = saved, ray.get(saved.load.remote())
        self.step = self.first
    def train(self, seconds):
        "Until it has notice, or the time is over: steps, and what it hears. Saves its steps then."
        until, notice = time.monotonic() + seconds, None
        while notice is None and time.monotonic() < until:
            self.step += 1
            notice = ray_dra.get_notice(0.1)
        ray.get(self.saved.save.remote(self.step))
        ray_dra.checkpointed()
        return {{"first": self.first, "last": self.step, "reason": notice and notice.reason}}
saved = Saved.remote()
def trainer(gang):
    return Trainer.options(scheduling_strategy=Strategy(gang.placement_group, 0)).remote(saved)
low = racks(3, name="low", preemptible=True, grace={GRACE})
began = time.monotonic()
low.wait(200)
alone = time.monotonic() - began
trains = trainer(low)
ray.get(trains.__ray_ready__.remote(), timeout=100)
training = trains.train.remote(300)
time.sleep(3)
began = time.monotonic()
high = racks(3, name="high", priority=5)
trained = ray.get(training, timeout=60)
high.wait(200)
took = time.monotonic() - began
tell(alone=alone, took=took, trained=trained, low=low.phase.value, planned=planned(high), ranks=ranks(high, 3))
high.remove()
began = time.monotonic()
low.wait(200)
again = time.monotonic() - began
goes_on = trainer(low)
trained = ray.get(goes_on.train.remote(1), timeout=100)
ray.kill(goes_on)
tell(again=again, trained=trained, planned=planned(low), ranks=ranks(low, 3))
low.remove()
"""


@pytest.fixture
def own_head(namespace: Namespace) -> Iterator[Head]:
    """The example's RayCluster, whose operator lets gangs be preempted as soon as they have their devices."""
    cluster = namespace.cluster
    cluster.kubectl("apply", "-k", str(installation(namespace)))
    for thing in yaml.safe_load_all(cluster.kubectl("kustomize", str(EXAMPLE))):
        if thing["kind"] == "RayCluster":
            (container,) = thing["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
            container["env"].append({"name": PREEMPTION_VARIABLE, "value": "times=3, least_run=0, restart=0"})
        cluster.kubectl("apply", "-n", namespace.name, "-f", "-", stdin=json.dumps(thing))
    made = Head(namespace)
    cluster.wait(made.ready, 120, "the head to be ready")
    yield made
    made.uninstall()


def test_a_small_gang_passes_a_big_one_and_a_higher_priority_takes_its_clique(own_head: Head) -> None:
    process = own_head.start(OVERTAKE)
    passed = told(process)
    assert passed["big"] == "queued", "the small one went before it"
    assert "should start by" in passed["said"]
    big = told(process)
    assert [rank["seen"] for rank in big["ranks"]] == big["planned"]
    process.wait(60)
    own_head.wait_nothing_left()
    process = own_head.start(PREEMPT)
    high = told(process)
    assert high["trained"]["reason"] == "preempted by high, of priority 5"
    assert high["trained"]["last"] > high["trained"]["first"] == 0
    assert high["low"] == "queued"
    assert [rank["seen"] for rank in high["ranks"]] == high["planned"]
    low = told(process)
    assert [rank["seen"] for rank in low["ranks"]] == low["planned"]
    assert low["trained"]["first"] == high["trained"]["last"], "from its checkpoint"
    assert low["trained"]["last"] > low["trained"]["first"]
    process.wait(60)
    own_head.wait_nothing_left()
    print(f"small passed in {passed['small']:.1f} s; big {big['big']:.1f} s after its turn came")
    print(f"low alone {high['alone']:.1f} s; high {high['took']:.1f} s with {GRACE} of grace")
    print(f"low again {low['again']:.1f} s")
