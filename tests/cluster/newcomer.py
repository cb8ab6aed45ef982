"""A newcomer follows docs/install.md word by word on a real cluster, and what he does first after it.

`python -m tests.cluster.newcomer` as root: on the cluster of `make cluster` where that runs, else on one of its own.
The commands are the page's own blocks, in the page's order; what stands between them (a training run, a GPU that
breaks) is here. Prints the time of each step and of all. Ends with an error where a command fails or something is left,
and with 1 where all took a quarter of an hour.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_dra.simulated.machine import Machine
from ray_dra.translate.names import ATTEMPT_LABEL
from tests.cluster import binaries
from tests.cluster.binaries import PROJECT, program
from tests.cluster.cluster import WITH_HEALTH, Cluster

PAGE = PROJECT / "docs" / "install.md"
SYMPTOMS = PROJECT / "docs" / "operations.md"
NAMESPACE, RAYCLUSTER = "ray", "gangs"  # the page's
MINUTES = 15
LOOK_SECONDS = 3.0
PAGE_MS = 120_000  # on two cores beside a cluster
LEFT_OUT = frozenset({"An image"})
"""Sections whose commands are not run: the cluster has the image, made as the Dockerfile makes it, and no Docker."""
BEFORE = ("Rights, by Helm", "A RayCluster", "See that it works")
AFTER = ("Upgrade", "Leave")
SHIM = """#!/bin/sh
PYTHONPATH={project} exec {python} -c 'import ray_dra.cli; ray_dra.cli.{main}()' "$@"
"""
BROKEN = ("r1-t1", 3)  # a node of WITH_HEALTH, and a GPU of it
DRAWN = """() => {
  const {layout, state} = window.rayDraMap.current();
  const names = layout.blocks.flatMap((block) => block.rack.nodes);
  return Object.fromEntries(names.map((name) => [name, state.nodes[name].gpus.length]));
}"""
EVERYWHERE = "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding"


def sections(text: str) -> dict[str, list[str]]:
    """Heading of the page -> its blocks for a shell."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, rest = part.partition("\n")
        blocks = re.findall(r"^```bash\n(.*?)^```", rest, re.DOTALL | re.MULTILINE)
        if blocks:
            found[heading] = blocks
    return found


def symptom(text: str, alert: str) -> tuple[str, str, str]:
    """The row of a table of symptoms that names an alert: what is seen, why, and what to do."""
    (row,) = (line for line in text.splitlines() if line.startswith("| ") and alert in line)
    seen, why, do = (cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().strip("|")))
    return seen, why, do


class Newcomer:
    """Somebody with a shell: kubectl, helm and ray-dra on the path, and a kubeconfig."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.times: list[tuple[str, float]] = []
        for name in ("kubectl", "helm"):
            (folder / name).symlink_to(program(name))
        for name, main in (("ray-dra", "main"), ("kubectl-ray_dra", "kubectl")):
            (folder / name).write_text(SHIM.format(project=PROJECT, python=sys.executable, main=main))
            (folder / name).chmod(0o755)
        path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**os.environ, "PATH": path, "KUBECONFIG": str(cluster.kubeconfig)}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        print(f"== {name}", flush=True)
        began = time.monotonic()
        yield
        self.times.append((name, time.monotonic() - began))
        print(f"== {name}: {self.times[-1][1]:.0f} s", flush=True)

    def run(self, command: str, *, seconds: float = 400, show: bool = True) -> str:
        """A command as it is typed; what it prints to stdout. RuntimeError where it ends with a no."""
        if show:
            print("$ " + command.rstrip().replace("\n", "\n$ "), flush=True)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=PROJECT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if show:
            print(done.stdout.rstrip(), flush=True)
        if done.returncode:
            raise RuntimeError(f"it ended with {done.returncode}:\n{command}\n{done.stderr[-4000:]}")
        return done.stdout

    def section(self, heading: str) -> None:
        with self.step(heading):
            for block in sections(PAGE.read_text())[heading]:
                self.run(block)

    def asked(self, command: str) -> Any:
        """What a command of ours says, as JSON."""
        return json.loads(self.run(f"kubectl ray-dra {command} -n {NAMESPACE} -o json", show=False))

    def train(self) -> None:
        """A program of Ray Train that knows nothing of ray-dra; meanwhile kubectl is asked for its gang."""
        head = f"$(kubectl get pod -n {NAMESPACE} -l ray.io/cluster={RAYCLUSTER},ray.io/node-type=head -o name)"
        address = "RAY_ADDRESS='ray_dra://kubernetes?locality=same_clique' RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=300"
        command = f"kubectl exec -i -n {NAMESPACE} {head} -- env {address} python3 - < examples/unchanged/train.py"
        print(f"$ {command}", flush=True)
        seen: dict[str, Any] = {}
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=PROJECT,
                env=self.environment,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            try:
                deadline = time.monotonic() + 400
                while process.poll() is None:
                    if time.monotonic() > deadline:
                        raise RuntimeError("the training run does not end")
                    seen.update({gang["phase"]: gang for gang in self.asked("gangs")["gangs"] if gang["gpus"]})
                    time.sleep(LOOK_SECONDS)  # each look is a Python of its own on the head
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            printed = said.read()
        print(printed[-2000:].rstrip(), flush=True)
        if process.returncode or "1 clique" not in printed:
            raise RuntimeError("the training run failed")
        if not seen:
            raise RuntimeError("`kubectl ray-dra gangs` has never shown its gang")
        print(f"its gang was seen in: {', '.join(seen)}", flush=True)

    def look_at_the_map(self) -> None:
        """The racks in a browser, where there is one: each node with its GPUs, as `ray-dra topology` has them."""
        chromium = shutil.which("chromium")
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            chromium = None
        if chromium is None:
            print("left out: there is no Chromium, or no Playwright (docs/testbed.md)", flush=True)
            return
        secret = self.cluster.api.get("Secret", RAYCLUSTER, NAMESPACE)["data"]["auth_token"]
        environment = {**self.environment, "RAY_AUTH_TOKEN": base64.b64decode(secret).decode()}
        # Whoever runs this in the background may ignore ctrl-C, and what is started here would, too.
        ours = ["env", "--default-signal=INT", str(self.folder / "ray-dra"), "map"]
        command = [*ours, "--raycluster", RAYCLUSTER, "--namespace", NAMESPACE, "--no-browser"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as serving:
            try:
                assert serving.stdout is not None
                found = re.search(r"at (http://\S+/)", serving.stdout.readline())
                if found is None:
                    raise RuntimeError("the map does not say where it is")
                options = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
                with sync_playwright() as started:
                    browser = started.chromium.launch(executable_path=chromium, args=options, timeout=PAGE_MS)
                    page = browser.new_page()
                    page.goto(found[1], timeout=PAGE_MS)
                    ready = "window.rayDraMap && window.rayDraMap.current().layout.blocks.length > 0"
                    page.wait_for_function(ready, timeout=PAGE_MS)
                    print(page.locator("#totals").inner_text().replace("\n", " "), flush=True)
                    drawn = page.evaluate(DRAWN)
                    browser.close()
                serving.send_signal(signal.SIGINT)
                serving.wait(60)
            finally:
                serving.kill()
        known = {node["name"]: len(node["gpus"]) for node in self.asked("topology")["nodes"]}
        if drawn != known or not known:
            raise RuntimeError(f"the map draws {drawn}, and there are {known}")

    def break_a_gpu(self) -> None:
        """An XID on a simulated machine; the cluster shows it, and the page of symptoms says what it is."""
        node, gpu = BROKEN
        machine = Machine(self.cluster.run / "nodes" / node / "lib" / "ray-dra-simulated" / "machine")
        machine.xid(gpu, 79)
        try:
            self.until(lambda: self.health() != "ok", f"GPU {gpu} of {node} to be shown as not well")
            self.run(f"kubectl ray-dra topology -n {NAMESPACE}")
            for said in symptom(SYMPTOMS.read_text(), "RayDraGpusUnhealthy"):
                print(f"  {said}", flush=True)
        finally:
            machine.heal()
        self.until(lambda: self.health() == "ok", f"GPU {gpu} of {node} to be well again")

    def health(self) -> str:
        node, gpu = BROKEN
        nodes = {each["name"]: each for each in self.asked("topology")["nodes"]}
        return str(nodes[node]["gpus"][gpu]["health"])

    def there(self) -> set[str]:
        """What is there of ray-dra's, in the namespace and out of it."""
        kinds = "serviceaccount,role,rolebinding,networkpolicy,raycluster,pod,resourceclaim,resourceclaimtemplate"
        kinds += ",lease,service,secret"
        own = self.cluster.kubectl("get", kinds, "-n", NAMESPACE, "-o", "name", "--ignore-not-found").split()
        own = [name for name in own if name != "serviceaccount/default"]
        names = self.cluster.kubectl("get", EVERYWHERE, "-o", "name").split()
        domains = self.cluster.api.items("ComputeDomain", NAMESPACE, labels=ATTEMPT_LABEL)
        ends = (f":{NAMESPACE}", f".{NAMESPACE}")
        return {*own, *(n for n in names if n.endswith(ends)), *(f"domain/{d['metadata']['name']}" for d in domains)}

    def left(self, before: set[str]) -> set[str]:
        """What has come since, and is said."""
        found = self.there() - before
        if found:
            print(f"still there: {', '.join(sorted(found))}", flush=True)
        return found

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {seconds:.0f} s for {what}")
            time.sleep(1)


def follow(cluster: Cluster) -> int:
    """All of it; the exit code."""
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        newcomer = Newcomer(cluster, Path(folder))
        before = newcomer.there()
        if before:
            print(f"there before: {', '.join(sorted(before))}", flush=True)
        for heading in BEFORE:
            newcomer.section(heading)
        with newcomer.step("An unchanged program trains"):
            newcomer.train()
        with newcomer.step("The racks in a browser"):
            newcomer.look_at_the_map()
        with newcomer.step("A GPU breaks"):
            newcomer.break_a_gpu()
        for heading in AFTER:
            newcomer.section(heading)
        with newcomer.step("Nothing is left"):
            newcomer.until(lambda: not newcomer.left(before), "nothing to be left")
            cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    total = sum(seconds for _, seconds in newcomer.times)
    for name, seconds in newcomer.times:
        print(f"{seconds:6.0f} s  {name}")
    print(f"{total:6.0f} s  in all", flush=True)
    return 0 if total < 60 * MINUTES else 1


def main() -> int:
    binaries.build(only=("helm",))
    found = Cluster.load("default")
    if found is not None and found.alive:
        return follow(found)
    cluster = Cluster.up(
        f"newcomer-{os.getpid()}", nodes=WITH_HEALTH
    )  # says how long that took; it is no part of the page
    try:
        return follow(cluster)
    finally:
        cluster.down()


if __name__ == "__main__":
    sys.exit(main())
