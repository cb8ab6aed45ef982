"""Kills of what is ready, one after the other: `python -m tests.cluster.soak_faults --minutes 35 --log faults.jsonl`.

Outside the suite. A gang over two trays of three has declared that lost workers are replaced, else that it starts
again. One after the other something of it dies: a pod, both pods, a GPU (XID 79), a kubelet; or is to leave: a cordon
with a drain, a DeviceTaintRule; every other time the coordinator dies a moment later, too. Each time it has to be ready
again with exactly its planned GPUs, or to wait with a true reason and be ready once there is room; and nothing else may
be left of it than before. In between a worker by hand is timed: a pod of the RayCluster's own group with such a claim,
scaled up by one.

The log has one line for each; several runs may add to one. `--sum` adds it up and kills nothing.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import statistics
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from ray_dra.simulated.machine import Machine
from ray_dra.translate.names import ATTEMPT_LABEL
from tests.cluster.cluster import SIX_NODES, Cluster
from tests.cluster.head import LASTING_RANKS, PRELUDE, Head, install, told
from tests.cluster.soaking import Watch
from tests.cluster.world import Namespace, request

PARTS = ("notice", "begun", "made", "started", "ready")  # until each there are so many seconds, from the sign on
READY_SECONDS = 150.0  # for a gang to be ready again, or to say what it waits for
SLOW_SECONDS = 25.0  # after which the events of the new pod are printed
PRODUCT = "device.attributes['gpu.nvidia.com'].productName == 'NVIDIA GB200'"

PROGRAM = """
gang = racks(2, on_fault=("replace", "restart"), grace=0, name="kept")
assert gang.wait(240)
made, of = [], ""
def about_now():
    global made, of
    if of != gang.placement_group.id.hex():
        of = gang.placement_group.id.hex()
        made = lasting_ranks(gang)
    return about(made)
others, before, fill = [], None, "/tmp/fill"
while not os.path.exists("/tmp/end"):
    try:
        now = gang._refresh()
        key = now.phase.value, now.moves, now.group, [str(each) for each in now.waits_for]
        if key != before:
            before = key
            tell(at=time.time(), phase=key[0], moves=key[1], waits=key[3], nodes=list(now.allocation.nodes) if
                 now.allocation is not None else [], history=[[c.at, c.to.value, c.why] for c in now.history])
        if os.path.exists("/tmp/look"):
            os.remove("/tmp/look")
            gang.wait(100)
            tables = ray.util.placement_group_table().values()
            live = [table["placement_group_id"] for table in tables if table["state"] != "REMOVED"]
            tell(planned=planned(gang), ranks=about_now(), groups=live)
        if os.path.exists(fill) and not others:
            others = [ray_dra.placement_group([{"GPU": 4}], product="NVIDIA GB200")]
            tell(filled=[other.wait(100) for other in others])
        if not os.path.exists(fill) and others:
            for other in others:
                other.remove()
            others = []
    except (ray_dra.GangGone, ray_dra.UnsatisfiableError) as error:
        tell(gone=str(error))
        break
    except ray_dra.RayDraError:
        pass  # the coordinator is being killed: it comes back
    except ray.exceptions.RayError as error:
        tell(error=str(error)[-500:])  # a placement group that the gang has just left
        open("/tmp/look", "w").close()
    time.sleep(0.1)
gang.remove()
"""

BY_HAND = """
import json, time
import ray
ray.init("auto", log_to_driver=False, logging_level="ERROR")
def tell(**what):
    print("TOLD", json.dumps(what), flush=True)
group = ray.util.placement_group([{"GPU": 4, "by-hand": 1}])
tell(asked=True)
tell(ready=group.wait(240), at=time.time())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=35)
    parser.add_argument("--kills", type=int, default=1000, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("soak-faults.jsonl"))
    parser.add_argument("--sum", action="store_true", help="add the log up, and nothing else")
    options = parser.parse_args()
    if not options.sum:
        began = time.monotonic()
        nodes = [replace(node, gates="NVMLDeviceHealthCheck") for node in SIX_NODES if not node.name.startswith("r1")]
        cluster = Cluster.up(f"faults-{os.getpid()}", nodes=nodes, say=lambda text: None)
        try:
            soak = Soak(cluster, options.seed, options.log)
            soak.run(began + options.minutes * 60, options.kills)
        finally:
            cluster.down()
    print(summed_up([json.loads(line) for line in options.log.read_text().splitlines()]))


class Soak:
    def __init__(self, cluster: Cluster, seed: int, log: Path) -> None:
        self.cluster, self.random, self.log = cluster, random.Random(seed), log
        self.namespace = Namespace(cluster, f"s-{uuid.uuid4().hex[:8]}")
        self.head: Head = install(self.namespace)
        self.api, self.at = self.head.api, self.namespace.name
        self.seen: dict[str, Any] = {}  # what the program told last of its gang
        self.looked: list[dict[str, Any]] = []
        self.filled = False
        self.gone = ""
        self.ranks: dict[str, int] = {}  # raylet -> the process of its bundle, when it was last looked at
        self.began = 0.0  # when the last sign was given
        self.healing: list[Callable[[], None]] = []

    def run(self, until: float, most: int) -> None:
        self.prepare_by_hand()
        process = self.head.start(PROGRAM, PRELUDE + LASTING_RANKS)
        threading.Thread(target=self.listen, args=(process,), daemon=True).start()
        self.wait(lambda: self.seen.get("phase") == "ready", 260, "the gang to be ready")
        print(time.strftime("%X"), "ready for the first time", flush=True)
        usual = self.left()
        self.look()
        kinds = self.kinds()
        bag: list[str] = []
        with Watch(self.cluster) as watch:
            for number in range(most):
                if time.monotonic() > until - 45:
                    break
                if number % 10 == 0:
                    self.note(kind="by hand", **self.by_hand())
                if not bag:
                    bag = [name for name, (_, often) in kinds.items() for _ in range(often)]
                    self.random.shuffle(bag)
                name = bag.pop()
                self.one(name, kinds[name][0], coordinator=number % 2 == 1)
                self.wait(lambda: self.left() == usual, 60, f"nothing more to be left than {usual}: {self.left()}")
                assert not watch.twice, watch.twice
            self.head._do("touch /tmp/end")
            process.wait(60)
            self.head.wait_nothing_left(100)
            assert not watch.twice, watch.twice
        self.head.close()

    # -- one kill

    def one(self, name: str, kill: Callable[[], None], *, coordinator: bool) -> None:
        before = self.seen["moves"]
        self.began = time.time()
        kill()
        if coordinator:
            time.sleep(self.random.uniform(0.0, 3.0))
            self.head.kill_coordinator()

        def again() -> bool:
            return bool(self.seen["moves"] > before and self.seen["phase"] == "ready")

        def settled() -> bool:
            return again() or (self.seen["phase"] == "queued" and bool(self.seen["waits"]))

        self.wait(settled, READY_SECONDS, f"the gang after {name}: {self.seen}")
        waited = "" if again() else "; ".join(self.seen["waits"])
        if not waited:
            taken = self.times()
        for heal in self.healing:
            heal()
        self.healing.clear()
        if waited:
            self.wait(again, READY_SECONDS, f"the gang to be ready once there is room: {self.seen}")
            taken = self.times()
        self.look()
        self.note(kind=name, coordinator=coordinator, waited=waited, **taken)

    def times(self) -> dict[str, float]:
        """Seconds from the sign until its program has notice, until something is begun, and until it is ready again."""
        began = self.began
        found: dict[str, float] = {"ready": self.seen["at"] - began}
        for at, _, why in self.seen["history"]:
            for what, words in (("notice", ("notice: ",)), ("begun", ("replace, ", "restart: "))):
                if at >= began - 1 and why.startswith(words):
                    found.setdefault(what, at - began)
        return found | self.times_of_pod(ATTEMPT_LABEL, began)

    def times_of_pod(self, labels: str, began: float) -> dict[str, float]:
        """Seconds until the newest of these pods was made, and until its container started; Kubernetes' clock has
        whole seconds."""
        pods = [pod for pod in self.api.items("Pod", self.at, labels=labels) if pod["status"].get("startTime")]
        newest = max(pods, key=lambda pod: str(pod["status"]["startTime"]), default=None)
        if newest is not None and time.time() - began > SLOW_SECONDS:
            print(self.namespace.events(newest["metadata"]["name"]), flush=True)
        states = (newest or {}).get("status", {}).get("containerStatuses", ())
        started = [each["state"]["running"]["startedAt"] for each in states if "running" in each["state"]]
        if newest is None or not started:
            return {}
        times = {"made": newest["metadata"]["creationTimestamp"], "started": max(map(str, started))}
        return {
            what: datetime.fromisoformat(str(at).replace("Z", "+00:00")).timestamp() - began
            for what, at in times.items()
        }

    def look(self) -> None:
        """It has exactly what was planned for it, in one placement group."""
        self.looked.clear()
        self.head._do("touch /tmp/look")
        self.wait(lambda: bool(self.looked), 150, "the ranks to answer")
        (found,) = self.looked
        before, self.ranks = self.ranks, {rank["raylet"]: rank["pid"] for rank in found["ranks"]}
        others = {each: (pid, self.ranks[each]) for each, pid in before.items() if each in self.ranks}
        if not any(why.startswith("restart: ") and at > self.began for at, _, why in self.seen["history"]):
            assert all(was == now for was, now in others.values()), f"who was not lost runs on: {others}, {self.seen}"
        assert (
            [rank["nvml"] for rank in found["ranks"]] == [rank["seen"] for rank in found["ranks"]] == found["planned"]
        )
        assert len(found["groups"]) == 1, found["groups"]

    def left(self) -> dict[str, int]:
        """How many objects of each kind there are in the namespace."""
        of = [each.split()[0] for each in self.head.left()]
        claims = len(self.api.items("ResourceClaim", self.at))
        return dict(sorted({**collections.Counter(of), "all claims": claims}.items()))

    # -- what dies

    def kinds(self) -> Mapping[str, tuple[Callable[[], None], int]]:
        """Each with how often it comes in a round."""
        return {
            "a pod": (lambda: self.kill_pods(1), 4),
            "both pods": (lambda: self.kill_pods(2), 2),
            "a DeviceTaintRule, NoExecute": (self.taint_by_rule, 3),
            "XID 79": (self.xid, 3),
            "a cordon and a drain": (self.drain, 2),
            "a kubelet": (self.stop_kubelet, 1),
            "a DeviceTaintRule, and no room": (self.rule_without_room, 1),
        }

    def pods(self) -> dict[str, str]:
        """Node -> the gang's pod."""
        pods = self.api.items("Pod", self.at, labels=ATTEMPT_LABEL)
        return {
            p["spec"]["nodeName"]: p["metadata"]["name"] for p in pods if not p["metadata"].get("deletionTimestamp")
        }

    def node(self) -> str:
        """One of the gang's, and not the head's."""
        head = self.api.get("Pod", self.head.pod, self.at)["spec"]["nodeName"]
        return str(self.random.choice([node for node in self.seen["nodes"] if node != head]))

    def kill_pods(self, count: int) -> None:
        names = list(self.pods().values())
        for name in self.random.sample(names, min(count, len(names))):
            self.api.delete("Pod", name, self.at, grace=0)

    def taint_by_rule(self) -> None:
        node, name = self.node(), f"repair-{uuid.uuid4().hex[:6]}"
        taint = {"key": "example.com/repair", "value": "soon", "effect": "NoExecute"}
        spec = {"deviceSelector": {"driver": "gpu.nvidia.com", "pool": node}, "taint": taint}
        kind = {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceTaintRule"}
        self.api.create({**kind, "metadata": {"name": name}, "spec": spec})
        self.healing.append(lambda: self.api.delete("DeviceTaintRule", name))

    def xid(self) -> None:
        machine = Machine(self.cluster.nodes[self.node()].machine)
        machine.xid(self.random.randrange(4), 79)
        self.healing.append(machine.heal)

    def drain(self) -> None:
        """As `kubectl drain` does: the cordon, then the evictions."""
        node = self.node()
        self.cluster.kubectl("cordon", node)
        self.healing.append(partial(self._uncordon, node))
        command = ["drain", node, f"--pod-selector={ATTEMPT_LABEL}", "--force", "--delete-emptydir-data"]
        self.cluster.kubectl(*command, "--ignore-daemonsets", "--timeout=60s")

    def _uncordon(self, node: str) -> None:
        self.cluster.kubectl("uncordon", node)

    def stop_kubelet(self) -> None:
        """For good, until it is mended."""
        node = self.cluster.nodes[self.node()]
        node.supervisor.stop("kubelet")

        def mend() -> None:
            node.supervisor.start("kubelet")
            self.cluster.wait_nodes([node.name])

        self.healing.append(mend)

    def rule_without_room(self) -> None:
        """Others have all that is free, and a GPU of it is to be repaired: it waits."""
        self.filled = False
        self.head._do("touch /tmp/fill")
        self.wait(lambda: self.filled, 150, "others to have the rest")
        self.healing.append(lambda: self.head._do("rm -f /tmp/fill"))
        self.began = time.time()
        self.taint_by_rule()

    # -- a worker by hand

    def prepare_by_hand(self) -> None:
        spec = {"spec": {"devices": {"requests": [request(count=4, cel=[PRODUCT])]}}}
        kind = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate"}
        self.api.create({**kind, "metadata": {"name": "by-hand"}, "spec": spec}, self.at)
        group = self.head.group_by_hand("by-hand", "by-hand", workers=0)
        group |= {"maxReplicas": 1, "rayStartParams": {"num-gpus": "4", "resources": "'{\"by-hand\": 1}'"}}
        self.api.patch(
            "RayCluster", "gangs", [{"op": "add", "path": "/spec/workerGroupSpecs/-", "value": group}], self.at
        )

    def scale_by_hand(self, count: int) -> None:
        path = "/spec/workerGroupSpecs/1/replicas"
        self.api.patch("RayCluster", "gangs", [{"op": "replace", "path": path, "value": count}], self.at)

    def by_hand(self) -> dict[str, float]:
        """Seconds from scaling the group up by one until a placement group on its worker is ready."""
        process = self.head.start(BY_HAND, prelude="")
        told(process)
        began = time.time()
        self.scale_by_hand(1)
        found = told(process)
        assert found["ready"]
        process.kill()
        process.wait()
        labels = "ray.io/group=by-hand"
        times = {"ready": float(found["at"]) - began, **self.times_of_pod(labels, began)}
        self.scale_by_hand(0)
        self.wait(lambda: not self.api.items("Pod", self.at, labels=labels), 60, "the worker by hand to end")
        self.wait(lambda: "all claims" in self.left(), 10, "its claim")
        return times

    # -- inside

    def listen(self, process: subprocess.Popen[str]) -> None:
        try:
            while True:
                found = told(process)
                if "phase" in found:
                    self.seen = found
                elif "ranks" in found:
                    self.looked.append(found)
                elif "filled" in found:
                    self.filled = all(found["filled"])
                elif "error" in found:
                    print(time.strftime("%X"), found, flush=True)
                elif "gone" in found:
                    self.gone = str(found["gone"])
        except AssertionError as error:
            self.gone = self.gone or str(error)[-2000:]

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        def done() -> bool:
            assert not self.gone, self.gone
            return condition()

        self.cluster.wait(done, seconds, what)

    def note(self, **found: object) -> None:
        print(time.strftime("%X"), found, flush=True)
        with self.log.open("a") as file:
            file.write(json.dumps(found) + "\n")


def summed_up(lines: Sequence[Mapping[str, Any]]) -> str:
    """Each kind's count, and its seconds."""
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        by_kind.setdefault(line["kind"], []).append(line)
    rows = [f"{'kind':<46} {'times':>5} {'waited':>6} {' '.join(f'{what:>11}' for what in PARTS)}   (p50 / most, s)"]
    for kind, found in by_kind.items():
        for killed in sorted({line.get("coordinator", False) for line in found}):
            of = [line for line in found if line.get("coordinator", False) is killed]
            name = f"{kind}, and coordinator" if killed else kind
            cells = [_middle([line[what] for line in of if what in line]) for what in PARTS]
            rows.append(f"{name:<46} {len(of):>5} {sum(bool(line.get('waited')) for line in of):>6}  {' '.join(cells)}")
    hand = [line["ready"] for line in by_kind.get("by hand", ())]
    pods = [line["ready"] for line in by_kind.get("a pod", ()) if not line["coordinator"]]
    kills = sum(line["kind"] != "by hand" for line in lines)
    rows.append(f"{kills} kills; after each ready with the planned GPUs, 0 devices twice, 0 objects left")
    if hand and pods:
        rows.append(
            f"a pod's replacement takes {statistics.median(pods) / statistics.median(hand):.2f} times a worker by hand"
        )
    return "\n".join(rows)


def _middle(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):5.1f}/{max(seconds):5.1f}" if seconds else " " * 11


if __name__ == "__main__":
    main()
