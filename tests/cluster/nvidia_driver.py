"""What whoever has NVIDIA's DRA driver gives the tests of it: a folder, `$RAY_DRA_NVIDIA_DRIVER`.

In it: `webhook`, the program of that name in the driver's image, and `computedomains.yaml`, the definition
`computedomains.resource.nvidia.com` as its chart or a cluster has it.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ray_dra.translate.vendors import NVIDIA
from tests.cluster.machine import free_ports
from tests.cluster.pki import Authority

FOLDER = "RAY_DRA_NVIDIA_DRIVER"
SHARING_GATES = ("TimeSlicingSettings", "MPSSupport")


def given(name: str) -> Path:
    """A file of the folder; without it the test is skipped."""
    path = Path(os.environ.get(FOLDER, "")) / name
    if FOLDER not in os.environ or not path.exists():
        pytest.skip(f"no {name} of NVIDIA's driver: ${FOLDER} names a folder with it (docs/real-driver.md)")
    return path


class Webhook:
    """Its admission of claims, which runs on this machine."""

    def __init__(self, port: int, authority: Path) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        self._to = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)

    def refused(self, thing: Mapping[str, Any]) -> str:
        """Why it refuses a claim or a claim template; "" where it takes it."""
        kind = thing["kind"]
        request = {
            "uid": "1",
            "kind": {"group": "resource.k8s.io", "version": "v1", "kind": kind},
            "resource": {"group": "resource.k8s.io", "version": "v1", "resource": f"{kind.lower()}s"},
            "operation": "CREATE",
            "object": thing,
        }
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
        try:
            self._to.request(
                "POST",
                "/validate-resource-claim-parameters",
                json.dumps(review),
                {"Content-Type": "application/json"},
            )
            response = json.loads(self._to.getresponse().read())["response"]
        except (http.client.HTTPException, OSError) as error:  # as it does where it ends
            self._to.close()
            return f"no answer: {error}"
        return "" if response["allowed"] else str(response["status"]["message"])

    def refused_configs(self, *parameters: Mapping[str, Any]) -> str:
        """The same of a claim with these configurations. It looks at those of its GPUs alone, and reads those of
        ComputeDomains there, too."""
        return self.refused(claim_with(parameters))


def claim_with(parameters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    exactly = {"deviceClassName": NVIDIA.device_class, "allocationMode": "ExactCount", "count": 1}
    config = [{"opaque": {"driver": NVIDIA.driver, "parameters": each}} for each in parameters]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": "c", "namespace": "team"},
        "spec": {"devices": {"requests": [{"name": "gpus", "exactly": exactly}], "config": config}},
    }


@contextmanager
def webhook(folder: Path, gates: Sequence[str] = SHARING_GATES) -> Iterator[Webhook]:
    """Its webhook with these gates on; it listens at all addresses of the machine."""
    program = given("webhook")
    authority = Authority(folder)
    certificate, key = authority.server("webhook", ["127.0.0.1"])
    (port,) = free_ports(1)
    command = [str(program), f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}", f"--port={port}"]
    command += [f"--feature-gates={','.join(f'{gate}=true' for gate in gates)}"] if gates else []
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            made = Webhook(port, folder / "ca.crt")
            until = time.monotonic() + 60
            while (said := made.refused_configs()).startswith("no answer"):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, said
                time.sleep(0.1)
            yield made
        finally:
            process.terminate()
