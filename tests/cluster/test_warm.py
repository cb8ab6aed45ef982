"""Images pulled before a gang needs them, on real nodes, under the installation's admission policies."""

from __future__ import annotations

import subprocess
from typing import Any

from ray_dra.translate.names import WARM_ANNOTATION, WARM_LABEL
from tests.cluster.binaries import folder
from tests.cluster.cluster import Cluster
from tests.cluster.head import Head, told
from tests.cluster.image import image_name

IMAGE = "/spec/workerGroupSpecs/0/template/spec/containers/0/image"
ANOTHER = "localhost/ray-dra-another:1"

WATCH = """
from ray_dra.processes.calls import ask, coordinator
tell(started=True)
while not [said for said in ask(coordinator().unseen.remote()) if "nowhere" in said]:
    time.sleep(0.2)
tell(given_up=True)
hold()
"""


def call_image(cluster: Cluster, name: str) -> None:
    """Give the image of gangs' workers another name on every node; the nodes list it some seconds later."""
    for name_of_node, node in cluster.nodes.items():
        if cluster.api.find("Node", name_of_node) is None:
            continue  # another test's, which it has removed
        socket = next((node.folder / "run").rglob("containerd.sock"))
        command = [str(folder("containerd") / "ctr"), "--address", str(socket), "-n", "k8s.io", "images", "tag"]
        subprocess.run([*command, image_name(), name], check=True, capture_output=True)


def test_nodes_get_the_image_that_they_lack_and_nothing_is_left(head: Head) -> None:
    at, seen = head.namespace.name, set[str]()
    cluster = head.api.get("RayCluster", "gangs", at)
    before = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["image"]

    def patch(change: Any) -> None:
        head.api.patch("RayCluster", "gangs", change, at)

    def pods() -> list[Any]:
        found = head.api.items("Pod", at, labels=WARM_LABEL)
        seen.update(str(pod["spec"].get("nodeName")) for pod in found if pod["status"].get("phase") != "Pending")
        return found

    program = head.start(WATCH)
    told(program)
    try:
        patch([{"op": "replace", "path": IMAGE, "value": "localhost/nowhere:1"}])
        patch({"metadata": {"annotations": {WARM_ANNOTATION: "true"}}})
        assert told(program) == {"given_up": True}
        head.cluster.wait(lambda: not pods(), 60, "the pods of an image that is nowhere to go")
        assert seen == set()
        call_image(head.cluster, ANOTHER)
        patch([{"op": "replace", "path": IMAGE, "value": ANOTHER}])
        head.cluster.wait(lambda: not pods() and bool(seen), 60, "the pods to have run and to be gone")
        assert "None" not in seen
    finally:
        patch({"metadata": {"annotations": {WARM_ANNOTATION: None}}})
        patch([{"op": "replace", "path": IMAGE, "value": before}])
        head.let_go()
    head.cluster.wait(lambda: not pods(), 60, "nothing to be left")
