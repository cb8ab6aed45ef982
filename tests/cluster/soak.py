"""Random kills while gangs come and go, for as long as one likes: `python -m tests.cluster.soak --minutes 30`.

Outside the suite. Programs ask for gangs of one to three trays in turn; every few seconds something dies: a node, a
kubelet, a driver, the API server, the operator, the scheduler, the coordinator, a pod of a gang, the head. It watches
that no device is readied twice and that each rank sees what was planned, and at the end that nothing is left.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import statistics
import subprocess
import threading
import time
import uuid
from collections.abc import Callable

from ray_dra.errors import KubernetesError
from ray_dra.translate.names import ATTEMPT_LABEL
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, install, told
from tests.cluster.soaking import Watch
from tests.cluster.world import Namespace

GANGS = """
import random
random.seed({seed})
count = random.choice([1, 1, 2, 2, 2, 3])
began = time.time()
try:
    gang = racks(count)
    gang.wait(300)
    took = time.time() - began
    found = ranks(gang, count)
    same = [r["seen"] for r in found] == planned(gang)
    moves = gang._refresh().moves
    time.sleep(random.uniform(0, 4))
    gang.remove()
    tell(ready=took, same=same, moves=moves)
except Exception as error:
    tell(error=type(error).__name__, text=str(error)[:300])
"""

CUTTING = ("the head", "the API server")  # a program ends with either, so they die more rarely than others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=20, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cluster = Cluster.up(f"soak-{os.getpid()}", say=lambda text: None)
    try:
        Soak(cluster, options.seed, options.every).run(options.minutes * 60)
    finally:
        cluster.down()


class Soak:
    def __init__(self, cluster: Cluster, seed: int, every: float) -> None:
        self.cluster, self.random, self.every = cluster, random.Random(seed), every
        self.namespace = Namespace(cluster, f"s-{uuid.uuid4().hex[:8]}")
        self.head: Head = install(self.namespace)
        self.ended = threading.Event()
        self.kills: collections.Counter[str] = collections.Counter()

    def run(self, seconds: float) -> None:
        with Watch(self.cluster) as watch:
            self.lives(seconds, watch)

    def lives(self, seconds: float, watch: Watch) -> None:
        killer = threading.Thread(target=self.kill_for_ever)
        killer.start()
        ready: list[float] = []
        moves, errors, number = 0, collections.Counter[str](), 0
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            number += 1
            found = self.one(number)
            if "ready" in found:
                assert found["same"], "a rank saw other devices than planned"
                ready.append(float(str(found["ready"])))
                moves += int(str(found["moves"]))
            else:
                errors[str(found.get("error", "its program ended"))] += 1
                print(found, flush=True)
        self.ended.set()
        killer.join()
        self.cluster.wait(self.head.ready, 200, "the head")
        began = time.monotonic()
        self.head.wait_nothing_left(240)
        given = time.monotonic() - began
        times = f"median {statistics.median(ready):.1f} s, most {max(ready):.1f} s"
        print(
            f"{number} gangs in {seconds / 60:.0f} minutes: {len(ready)} ready ({times}; planned again {moves} times)"
        )
        print(f"{sum(errors.values())} ended early: {dict(errors)}")
        print(f"{sum(self.kills.values())} kills: {dict(self.kills)}")
        print(f"devices twice: {len(watch.twice)}; everything given back {given:.0f} s after the end")
        assert not watch.twice

    def one(self, seed: int) -> dict[str, object]:
        try:
            self.cluster.wait(self.head.ready, 240, "the head")
            process = self.head.start(GANGS.format(seed=seed))
            timer = threading.Timer(420, process.kill)
            timer.start()
            try:
                return dict(told(process))
            finally:
                timer.cancel()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        except (AssertionError, KubernetesError) as error:  # its head or the API server died under it
            time.sleep(2)
            return {"error": "its head or its connection was lost", "text": str(error)[-300:]}

    def kill_for_ever(self) -> None:
        victims: list[tuple[str, Callable[[], None]]] = [
            ("a node", self.a_node),
            ("a kubelet", lambda: self.cluster.kill("kubelet", self.a_name())),
            ("a driver", lambda: self.cluster.kill("driver", self.a_name())),
            ("the API server", lambda: self.cluster.kill("apiserver")),
            ("the operator", lambda: self.cluster.kill("operator")),
            ("the scheduler", lambda: self.cluster.kill("scheduler")),
            ("the coordinator", self.head.kill_coordinator),
            ("a worker's pod", self.a_pod),
            ("the head", self.the_head),
        ]
        weights = [1 if name in CUTTING else 4 for name, _ in victims]
        while not self.ended.wait(self.random.expovariate(1 / self.every)):
            name, kill = self.random.choices(victims, weights)[0]
            try:
                kill()
                self.kills[name] += 1
            except Exception as error:  # what it would kill is dead already
                print(f"could not kill {name}: {str(error)[:200]}", flush=True)

    def a_name(self) -> str:
        return self.random.choice([name for name in self.cluster.nodes if name != "head"])

    def a_node(self) -> None:
        spared = self.head.api.get("Pod", self.head.pod, self.namespace.name)["spec"]["nodeName"]
        name = self.random.choice([name for name in self.cluster.nodes if name != spared])
        self.cluster.kill_node(name)
        self.ended.wait(30)
        self.cluster.start_node(name)
        self.cluster.wait_nodes([name])

    def a_pod(self) -> None:
        pods = self.head.api.items("Pod", self.namespace.name, labels=ATTEMPT_LABEL)
        if pods:
            name = self.random.choice(pods)["metadata"]["name"]
            self.head.api.delete("Pod", name, self.namespace.name, grace=0)

    def the_head(self) -> None:
        self.head.api.delete("Pod", self.head.pod, self.namespace.name, grace=0)


if __name__ == "__main__":
    main()
