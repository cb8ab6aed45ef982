"""The line of `gang.wait()` in a terminal, and a gang's handle in a notebook; without Ray."""

from __future__ import annotations

import io

import pytest

from ray_dra.coordinator.status import Status
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.phases import Phase
from ray_dra.core.gangs.stages import StageTimes
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.plan import plan
from ray_dra.errors import GangGone
from ray_dra.program import gang_handle, progress
from ray_dra.program.gang_handle import GangPlacementGroup
from tests.core.machines import gang, rack


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


REQUEST = gang(4, name="id")
QUEUED = Status("id", Phase.QUEUED, "train", None, (), None, 0, (), (), times=StageTimes((), "queued", 0.0))
MADE = Status("id", Phase.PROVISIONING, "train", None, (), None, 0, (), (), "1 of 2 pods", times=StageTimes((), "pods"))


def waited(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *steps: Status | Exception) -> list[float]:
    """`wait` of a gang that comes to these, one a step; the seconds that each step was given."""
    handle, left, given = GangPlacementGroup(Order(REQUEST, name="train")), list(steps), []
    clock = [0.0]

    def step(seconds: float) -> bool:
        given.append(seconds)
        clock[0] += seconds
        if not left:
            return True
        status = left.pop(0)
        if isinstance(status, Exception):
            raise status
        handle._status = status
        return False

    monkeypatch.setattr(handle, "_step", step)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])  # type: ignore[attr-defined]
    assert handle.wait()
    return given


def test_in_a_terminal_a_line_tells_what_is_waited_for_and_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_DRA_PROGRESS", raising=False)
    stream = Terminal()
    given = waited(monkeypatch, stream, QUEUED, MADE)
    assert set(given) == {gang_handle.SLICE_SECONDS}
    clear = "\r\x1b[K"
    assert stream.getvalue().split(clear) == [
        "",
        "train: queued, 1 s so far",
        "train: provisioning (pods), 2 s so far: 1 of 2 pods",
        "",
    ]


def test_the_line_is_gone_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    with pytest.raises(GangGone):
        waited(monkeypatch, stream, QUEUED, GangGone("it is gone"))
    assert stream.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize("off", ["0", "false", "OFF"])
def test_nothing_is_shown_where_it_is_switched_off_or_there_is_no_terminal(
    off: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the coordinator asked more often for it."""
    file = io.StringIO()
    assert waited(monkeypatch, file, QUEUED) == [gang_handle.QUEUE_SECONDS] * 2
    monkeypatch.setenv("RAY_DRA_PROGRESS", off)
    terminal = Terminal()
    assert waited(monkeypatch, terminal, QUEUED) == [gang_handle.QUEUE_SECONDS] * 2
    assert file.getvalue() == terminal.getvalue() == ""
    monkeypatch.setattr("sys.stderr", None)
    assert progress.ProgressLine("train").on is False


def test_a_terminal_sees_what_an_embedded_cluster_waits_for_and_then_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that its command line can be used from another shell."""
    monkeypatch.delenv("RAY_DRA_PROGRESS", raising=False)

    def started(stream: io.StringIO) -> str:
        monkeypatch.setattr("sys.stderr", stream)
        clock = iter((0.0, 1.0, 2.0, 3.0))
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))  # type: ignore[attr-defined]
        with progress.StartLine() as line:
            for what in ("the head", "the raylet of a"):
                line.waiting(what)
            line.up(4, "127.0.0.2:6379")
        return stream.getvalue()

    clear = "\r\x1b[K"
    assert started(Terminal()).split(clear) == [
        "",
        "ray-dra: starting the head, 1 s so far",
        "ray-dra: starting the raylet of a, 2 s so far",
        "ray-dra: 4 simulated machines at 127.0.0.2:6379 after 3 s; in another shell: ray-dra topology --address"
        " 127.0.0.2:6379\n",
    ]
    assert started(io.StringIO()) == ""
    monkeypatch.setenv("RAY_DRA_PROGRESS", "0")
    assert started(Terminal()) == ""


def test_a_terminal_that_goes_away_does_not_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise OSError("gone")

    monkeypatch.delenv("RAY_DRA_PROGRESS", raising=False)
    waited(monkeypatch, Gone(), QUEUED, QUEUED)


def test_a_handle_in_a_notebook_shows_what_it_knows_and_asks_nobody() -> None:
    handle = GangPlacementGroup(Order(REQUEST, name="<train>"))
    assert "not asked yet" in handle._repr_html_()
    held = plan(Inventory(rack("r", 1)), REQUEST)
    assert isinstance(held, Allocation)
    handle._status = Status("id", Phase.READY, "<train>", held, (), None, 0, (), ())
    shown = handle._repr_html_()
    assert "GangPlacementGroup(&lt;train&gt;, 1 bundle): ready" in shown
    assert "r-t0" in shown
    assert "<train>" not in shown
