"""`ray-dra validate` on a KubeRay head: gangs' own workers with claims, and IMEX channels by ComputeDomains."""

from __future__ import annotations

import json

import pytest

from tests.cluster.head import Head

VALIDATE = """
import subprocess, sys
done = subprocess.run([sys.executable, "-m", "ray_dra.cli", "validate", "-o", "json", "--timeout", "120"],
                      capture_output=True, text=True)
tell(code=done.returncode, said=done.stdout, errors=done.stderr[-2000:])
"""


@pytest.mark.by_hand  # 145 s; tests/e2e/embedded/test_validate.py is in the suite
@pytest.mark.timeout(300)
def test_a_rack_of_real_nodes_is_well_and_nothing_is_left(head: Head) -> None:
    (told,) = head.run(VALIDATE)
    assert told["code"] == 0, told
    report = json.loads(told["said"])
    racks = [clique for clique in report["cliques"] if clique["kind"] == "rack" and len(clique["nodes"]) > 1]
    assert racks, report
    for rack in racks:
        verdicts = {each["what"]: each["ok"] for each in rack["verdicts"]}
        assert verdicts == {"gang": True, "GPUs": True, "fabric": True, "IMEX": True, "sum": True}, rack
    head.wait_nothing_left()
