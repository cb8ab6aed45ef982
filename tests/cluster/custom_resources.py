"""What an API server says of objects by their CustomResourceDefinition, without one: Kubernetes' own library for it
(`modules/custom-resources`), which answers thousands of questions in a second."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster import binaries

SIMULATED = binaries.PROJECT / "kube" / "simulated-gpus" / "compute-domains.yaml"


class CustomResources:
    """The library, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def refused(
        self, definition: Path, thing: Mapping[str, Any], old: Mapping[str, Any] | None = None, *, status: bool = False
    ) -> list[str]:
        """Why it is refused; [] where it is taken.

        Args:
            old: what it is to replace; None: it is created.
            status: its status alone is written.
        """
        question = {"definition": str(definition), "object": thing, "old": old, "status": status}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "it has ended, and its error output says why"
        found: list[str] = json.loads(answer)
        return found


@contextmanager
def custom_resources() -> Iterator[CustomResources]:
    """Builds it where the cache lacks it."""
    binaries.build(only=("custom-resources",))
    with subprocess.Popen(
        [binaries.program("custom-resources")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield CustomResources(process)
        assert process.stdin is not None
        process.stdin.close()
