"""Random kills while a gang changes its shape again and again: `python -m tests.cluster.soak_shapes --switches 100`.

Outside the suite. A gang has all GPUs of a node, in 56 parts and whole in turn, and two strangers' pods wait there for
whatever they can get, all the time. In most changes something dies at a random moment: the coordinator, the kubelet,
the driver, or the gang's pod. It watches that no stranger gets anything, that no device is readied twice, and at the
end that nothing is left. A change may end in the old shape (`ReshapeFailed`), and the gang with its pod once it is
placed; then the next gang goes on.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import statistics
import time
import uuid
from collections.abc import Callable

from ray_dra.simulated.machine import Machine
from ray_dra.translate.names import ATTEMPT_LABEL
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, install, installation, told
from tests.cluster.nodes import NodeSpec
from tests.cluster.soaking import Watch
from tests.cluster.test_reshape import NODE, any_of
from tests.cluster.world import Namespace

SWITCHES = """
PARTS = [{"GPU": 1}] * 56
def of(gang):
    return sorted({grant.part.parent if grant.part else grant.uuid for grant in gang.allocation.grants})
def in_shape(gang, whole):
    if whole:
        gang.reshape([{"GPU": 8}], grace=0, timeout=120)
    else:
        gang.reshape(PARTS, part=ray_dra.mig("1g.10gb"), grace=0, timeout=120)
gang, whole, gangs = None, False, 0
while True:
    began = time.time()
    try:
        if gang is None:
            gang, whole = ray_dra.placement_group(PARTS, part=ray_dra.mig("1g.10gb")), False
            gang.wait(200)
            gangs += 1
            tell(gang=gangs, gpus=of(gang))
            continue
        in_shape(gang, not whole)
        whole = not whole
        tell(took=time.time() - began, whole=whole, gpus=of(gang))
    except ray_dra.ReshapeFailed as error:
        tell(stays=str(error.available)[:200], took=time.time() - began)
    except ray_dra.InvalidRequest as error:
        try:
            gang.remove()
        finally:
            gang = None
            tell(ended=str(error)[:200])
    except ray_dra.RayDraError as error:
        gang = None
        tell(ended=str(error)[:200])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--switches", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60, help="at most")
    parser.add_argument("--kills", type=float, default=0.7, help="in so many of the switches, on average")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cluster = Cluster.up(f"shapes-{os.getpid()}", nodes=(NodeSpec("head"), NodeSpec("worker")), say=lambda text: None)
    try:
        cluster.add_node(NodeSpec(NODE, profile="hgx-h100", gates="DynamicMIG"))
        Soak(cluster, options.seed, options.kills).run(options.switches, options.minutes * 60)
    finally:
        cluster.down()


class Soak:
    def __init__(self, cluster: Cluster, seed: int, often: float) -> None:
        self.cluster, self.random, self.often = cluster, random.Random(seed), often
        self.namespace = Namespace(cluster, f"s-{uuid.uuid4().hex[:8]}")
        self.head: Head = install(self.namespace)
        cluster.kubectl("apply", "-k", str(installation(self.namespace, "shapes")))
        self.strangers = Namespace(cluster, f"s-{uuid.uuid4().hex[:8]}")
        self.kills: collections.Counter[str] = collections.Counter()
        self.got: set[str] = set()  # strangers that have got a device while the gang had them

    def run(self, switches: int, seconds: float) -> None:
        with Watch(self.cluster, every=0.3) as watch:
            self.changes(switches, seconds, watch)

    def changes(self, switches: int, seconds: float, watch: Watch) -> None:
        process = self.head.start(SWITCHES)
        took: list[float] = []
        stayed, ended, gangs = list[str](), list[str](), 0
        deadline = time.monotonic() + seconds
        while len(took) + len(stayed) < switches and time.monotonic() < deadline:
            found = told(process)
            if "gang" in found:
                gangs += 1
                for name, kind in (("whole", "gpu.nvidia.com"), ("part", "mig.nvidia.com")):
                    any_of(self.strangers, f"{name}-{gangs}", kind)
            elif "whole" in found:
                took.append(float(found["took"]))
                assert len(found["gpus"]) == 8
                self.got |= self.bound()
            elif "stays" in found:
                stayed.append(str(found["stays"]))
            else:
                ended.append(str(found["ended"]))
                self.end_strangers(gangs)
            if "ended" not in found:
                self.maybe_kill()
        process.kill()
        process.wait()
        self.end_strangers(gangs)
        self.head.wait_nothing_left(240)
        machine = Machine(self.cluster.nodes[NODE].machine)
        self.cluster.wait(lambda: not machine.mig_state().parts, 60, "the parts to be destroyed")
        self.cluster.wait(lambda: not self.head.api.items("DeviceTaintRule"), 60, "the guard to go")
        print(
            f"{len(took) + len(stayed)} changes of shape, {len(took)} to the next shape, {len(stayed)} back: {stayed}"
        )
        print(f"seconds: median {statistics.median(took):.1f}, most {max(took):.1f}; {sorted(round(t) for t in took)}")
        print(f"{len(ended)} gangs ended early: {ended}")
        print(f"{sum(self.kills.values())} kills: {dict(self.kills)}")
        print(f"devices twice: {len(watch.twice)}; strangers that got one: {len(self.got)}; left: 0")
        assert not watch.twice
        assert not self.got

    def end_strangers(self, gangs: int) -> None:
        for name in (f"whole-{gangs}", f"part-{gangs}"):
            for kind in ("Pod", "ResourceClaim"):
                self.strangers.api.delete(kind, name, self.strangers.name)

    def bound(self) -> set[str]:
        """Strangers that have got a device, though the gang has all of them."""
        pods = self.strangers.api.items("Pod", self.strangers.name)
        return {p["metadata"]["name"] for p in pods if p["spec"].get("nodeName")}

    def maybe_kill(self) -> None:
        """At a random moment of the next change."""
        if self.random.random() > self.often:
            return
        victims: list[tuple[str, Callable[[], None], float]] = [
            ("the coordinator", self.head.kill_coordinator, 4),
            ("the kubelet", lambda: self.cluster.kill("kubelet", NODE), 4),
            ("the driver", lambda: self.cluster.kill("driver", NODE), 4),
            ("the gang's pod", self.a_pod, 2),
        ]
        ((name, kill, _),) = self.random.choices(victims, [weight for _, _, weight in victims])
        time.sleep(self.random.uniform(0.0, 9.0))
        try:
            kill()
            self.kills[name] += 1
        except Exception as error:  # what it would kill is dead already
            print(f"could not kill {name}: {str(error)[:200]}", flush=True)

    def a_pod(self) -> None:
        for pod in self.head.api.items("Pod", self.namespace.name, labels=ATTEMPT_LABEL):
            self.head.api.delete("Pod", pod["metadata"]["name"], self.namespace.name, grace=0)


if __name__ == "__main__":
    main()
