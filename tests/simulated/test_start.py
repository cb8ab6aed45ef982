"""The start of the embedded cluster where it goes wrong, without Ray: tries, and what is said and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_dra.errors import SimulationError
from ray_dra.simulated import raylets, supervisor


@pytest.mark.parametrize("failures", range(raylets.TRIES))
def test_a_start_that_fails_is_tried_again(tmp_path: Path, failures: int) -> None:
    tries = []

    def start() -> str:
        tries.append(1)
        if len(tries) <= failures:
            raise Exception("the current node timed out")
        return "a node"

    assert raylets.persist("the raylet of a", tmp_path, start) == "a node"
    assert len(tries) == failures + 1


def test_a_start_that_always_fails_says_what_it_waited_for_and_keeps_the_logs(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    logs = folder / "ray" / "session_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text("first" + "." * 100_000 + "last")

    def start() -> str:
        raise Exception("the current node timed out")

    with pytest.raises(SimulationError) as caught:
        raylets.persist("the raylet of a", folder, start)
    said = supervisor.trouble(folder, caught.value)
    assert "the raylet of a" in said
    assert "the current node timed out" in said
    assert "processor" in said
    kept = Path(said.splitlines()[-1].partition("logs: ")[2])
    assert kept.parent == tmp_path
    text = kept.read_text()
    assert "==> raylet.err" in text
    assert "first" in text
    assert "last" in text
    assert len(text) < 20_000
    assert kept.stat().st_mode & 0o777 == 0o600
