"""The coordinator's view of a large cluster, kept by watches: first sync, a change seen, memory.

A real etcd and API server with paper nodes of real size (20 KB a Node object; images and annotations make most of it),
each with the ResourceSlices of four GPUs. The watcher is a process of its own, like the coordinator's actor: what its
memory is before it connects, with everything imported, is the idle actor's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from figures import parser, percentile, write

sys.path.insert(0, str(Path(__file__).parents[1]))
from ray_dra.adapters.kubernetes import KubernetesApi
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import Options
from tests.cluster.paper import PAPER_LABEL, add_paper_nodes

NAMESPACE = "bench"
NODE_BYTES = 20_000
CHANGES = 20


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--nodes", type=int, default=2000)
    arguments.add_argument("--watch", metavar="KUBECONFIG", help="be the watcher; used by the benchmark itself")
    options = arguments.parse_args()
    if options.watch:
        watch(options.watch)
        return
    cluster = Cluster.up(
        f"view-{os.getpid()}",
        nodes=(),
        real=False,
        options=Options(grace=3600, controllers_qps=500),
        say=lambda text: None,
    )
    try:
        row = measure(cluster, options.nodes)
    finally:
        cluster.down()
    sync, seen = f"{row['sync_s']:.2f} s", f"{row['seen_s_p50']:.3f} s (p50), {row['seen_s_max']:.3f} s (most)"
    print(f"{row['nodes']} nodes of {row['node_bytes'] / 1000:.0f} KB, with their ResourceSlices")
    print(f"first sync {sync}, beside {row['bare_list_s']:.2f} s for a list of the nodes alone")
    print(f"a change of {CHANGES} seen in {seen}")
    print(
        f"memory {row['rss_mb']:.0f} MB above the idle {row['idle_mb']:.0f} MB; at most {row['peak_mb']:.0f} MB above"
    )
    write(options.json, [row])


def measure(cluster: Cluster, count: int) -> dict[str, Any]:
    api = cluster.api
    add_paper_nodes(api, count)
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda node: fatten(api, node["metadata"]["name"]), api.items("Node", labels=PAPER_LABEL)))
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    began = time.monotonic()
    nodes = json.loads(api.raw("/api/v1/nodes"))["items"]
    bare = time.monotonic() - began
    command = [sys.executable, __file__, "--watch", str(cluster.kubeconfig)]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert watcher.stdout is not None
        synced = json.loads(watcher.stdout.readline())
        assert synced["nodes"] == count, synced
        seen = []
        for at in range(CHANGES):
            name = nodes[at * len(nodes) // CHANGES]["metadata"]["name"]
            began = time.time()
            api.patch("Node", name, {"spec": {"unschedulable": True}})
            told = json.loads(watcher.stdout.readline())
            assert told["node"] == name, told
            seen.append(told["at"] - began)
    finally:
        watcher.kill()
        watcher.wait()
    return {
        "nodes": count,
        "node_bytes": sum(len(json.dumps(n, separators=(",", ":"))) for n in nodes) / len(nodes),
        "sync_s": synced["sync_s"],
        "bare_list_s": bare,
        "seen_s_p50": percentile(seen, 50),
        "seen_s_max": max(seen),
        "rss_mb": synced["rss_mb"] - synced["idle_mb"],
        "idle_mb": synced["idle_mb"],
        "peak_mb": synced["peak_mb"] - synced["idle_mb"],
    }


def fatten(api: KubernetesApi, name: str) -> None:
    """What kubelets and operators write: images with digests, and annotations."""
    images = [
        {
            "names": [
                f"registry.example/team-{at % 7}/application-{at}@sha256:{at:064x}",
                f"registry.example/a-{at}:1",
            ],
            "sizeBytes": 10**9 + at,
        }
        for at in range(50)
    ]
    api.patch("Node", name, {"status": {"images": images}}, subresource="status")
    size = len(json.dumps(api.get("Node", name), separators=(",", ":")))
    padding = {f"example.com/feature-{at}": "x" * 900 for at in range(max(0, (NODE_BYTES - size) // 1000 + 1))}
    api.patch("Node", name, {"metadata": {"annotations": padding}})


def watch(kubeconfig: str) -> None:
    import threading

    import ray_dra.processes.start_coordinator  # noqa: F401  # what the actor has imported
    from ray_dra.adapters.kube_watch import KubeAdapter
    from ray_dra.coordinator.aside import Aside
    from ray_dra.coordinator.backends.kubernetes.backend import KubernetesBackend
    from ray_dra.coordinator.backends.kubernetes.machines import Machines
    from ray_dra.coordinator.backends.raylets.nodes import Nodes
    from ray_dra.core.cluster.inventory import Inventory
    from ray_dra.simulated.fakes import MemoryStore

    api = KubernetesApi(kubeconfig)
    idle = memory("VmRSS")
    changed = threading.Event()
    began = time.monotonic()
    kube = KubeAdapter(api, NAMESPACE, "gangs", changed=changed.set)
    inventory = Inventory()
    store, clock = MemoryStore(), time.monotonic
    raylets = Nodes(store, inventory, clock, Aside(store))
    workers = KubernetesBackend(kube, store, inventory, clock, Machines(inventory, clock), raylets)
    workers.look(())
    sync = time.monotonic() - began
    time.sleep(2)
    say(nodes=len(inventory.node_states), sync_s=sync, idle_mb=idle, rss_mb=memory("VmRSS"), peak_mb=memory("VmHWM"))
    known: set[str] = set()
    while True:
        changed.wait(0.5)  # the actor looks twice a second, and when something of a gang changes
        changed.clear()
        workers.look(())
        for name in {name for name, state in inventory.node_states.items() if not state.node.ready} - known:
            known.add(name)
            say(node=name, at=time.time())


def memory(field: str) -> float:
    """Megabytes, from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
