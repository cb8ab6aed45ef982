"""`serve deploy` on a Ray that was started with our start hook alone: no program has an address of ours, and Serve's
controller is a job of the dashboard's. By hand: the dashboard, its agent and Serve take their time to start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.real_head import FOLDER, Head, eventually, real_head

pytestmark = [pytest.mark.ray, pytest.mark.by_hand]
APPLICATION = """
import os

import ray
from ray import serve


def look():
    return os.environ["CUDA_VISIBLE_DEVICES"]


@serve.deployment(
    ray_actor_options={"num_cpus": 0.1, "num_gpus": 1},
    placement_group_bundles=[{"CPU": 0.1, "GPU": 1}, {"GPU": 1}],
)
class Model:
    def __init__(self):
        there = ray.remote(look).options(num_gpus=1, num_cpus=0).remote()
        with open(os.environ["SEEN"], "a") as file:
            print(look(), ray.get(there), file=file)


app = Model.bind()
"""
CONFIG = """
proxy_location: Disabled
applications:
  - name: model
    import_path: application:app
    deployments:
      - name: Model
        placement_group_bundles: [{CPU: 0.1, GPU: 1}, {GPU: 1}]
        placement_group_bundle_label_selector: [{ray-dra.io/locality: same_clique}, {ray-dra.io/locality: same_clique}]
"""


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    with real_head(tmp_path) as found:
        yield found


@pytest.mark.timeout(390)
def test_what_serve_deploy_starts_has_planned_gangs(head: Head) -> None:
    (head.folder / "application.py").write_text(APPLICATION)
    (head.folder / "serve.yaml").write_text(CONFIG)
    serve = str(FOLDER / "serve")
    eventually(lambda: head.run(serve, "deploy", "serve.yaml"), "Sent deploy request")
    eventually(lambda: head.run(serve, "status"), "RUNNING")
    gangs = head.run(str(FOLDER / "ray-dra"), "gangs", "--address", f"127.0.0.1:{head.port}", "-o", "json")
    (gang,) = [each for each in json.loads(gangs)["gangs"] if each["name"].startswith("SERVE_REPLICA::model#Model#")]
    assert gang["phase"] == "ready"
    planned = [str(gpu["index"]) for bundle in gang["allocation"] for gpu in bundle["gpus"]]
    assert (head.folder / "seen").read_text().split() == planned, "the replica, and its second worker"
    assert len(planned) == 2
