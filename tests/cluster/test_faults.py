"""A gang that has declared what is done about faults: the lost worker is replaced, and the others run on."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, claimed, told

PROGRAM = """
import threading
drained = {}  # as Ray tells its libraries
def listen():
    while True:
        drained.update(ray._private.state.state.get_draining_nodes())
        time.sleep(0.1)
threading.Thread(target=listen, daemon=True).start()
gang = racks(2, on_fault=("replace", "restart"), grace=4, name="kept")
assert gang.wait(240)
@ray.remote(num_gpus=4, num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Rank:
    def about(self):
        import pynvml
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return {"pod": os.uname().nodename, "pid": os.getpid(), "node": ray.get_runtime_context().get_node_id(),
                "nvml": [pynvml.nvmlDeviceGetUUID(h) for h in handles],
                "seen": [device.uuid for device in ray_dra.get_devices()]}
made = [Rank.options(scheduling_strategy=Strategy(gang.placement_group, at)).remote() for at in range(2)]
for repairs in range(3):
    while len([c for c in gang._refresh().history if "have joined" in c.why]) < repairs or gang.phase.value != "ready":
        time.sleep(0.1)
    tell(gang=gang.id, group=gang.placement_group.id.hex(), nodes=list(gang.allocation.nodes), planned=planned(gang),
         drained=dict(drained),
         ranks=ray.get([each.about.remote() for each in made], timeout=100))
    hold()
gang.remove()
"""


@pytest.mark.parametrize("lost", [1])
def test_a_lost_worker_is_replaced_and_the_other_runs_on(cluster: Cluster, head: Head, lost: int) -> None:
    """Its pod killed; then its node cordoned, for which it moves to the spare of its rack."""
    at, kept = head.namespace.name, 1 - lost
    cluster.kubectl("cordon", "r1-t0")  # so that it comes to the rack with a node to spare
    try:
        process = head.start(PROGRAM)
        first = told(process)
    finally:
        cluster.kubectl("uncordon", "r1-t0")
    try:
        head.api.delete("Pod", first["ranks"][lost]["pod"], at, grace=0)
        head.let_go()
        second = told(process)
        cluster.kubectl("cordon", second["nodes"][lost])
        head.let_go()
        third = told(process)
        assert {first["group"], second["group"], third["group"]} == {first["group"]}
        for now in (first, second, third):
            assert now["ranks"][kept] == first["ranks"][kept], "the same process"
            assert [rank["nvml"] for rank in now["ranks"]] == [rank["seen"] for rank in now["ranks"]] == now["planned"]
        assert second["planned"] == first["planned"], "only its worker was lost"
        assert len({now["ranks"][lost]["pod"] for now in (first, second, third)}) == 3
        assert (first["drained"], second["drained"]) == ({}, {})
        assert list(third["drained"]) == [second["ranks"][lost]["node"]], "Ray's own notice, of its raylet alone"
        assert third["nodes"][lost] not in second["nodes"]
        assert third["nodes"][lost][:2] == second["nodes"][kept][:2], "in its rack"
        assert sorted(claimed(head, third["gang"]).values()) == sorted(map(sorted, third["planned"]))
    finally:
        cluster.kubectl("uncordon", first["nodes"][lost])
    head.let_go()
    process.communicate(timeout=100)
    head.wait_nothing_left()
