"""How soon the coordinator looks again, and how much of the time between two looks counts."""

from __future__ import annotations

from ray_dra.coordinator.pace import LEAST_SECONDS, LOOK_SECONDS, OwnTime, pause


def test_looking_takes_a_sixth_of_the_time_at_most() -> None:
    for used in (0.0, 0.001, 0.01, 0.05):
        assert used <= (used + pause(used, used)) / 6 + 1e-9
        assert pause(used, used) >= LEAST_SECONDS
    assert pause(0.2, 0.0) == 0.2, "and half of the time"
    assert pause(60.0, 60.0) == LOOK_SECONDS


def test_of_a_gap_between_two_looks_one_second_counts() -> None:
    now = 100.0
    clock = OwnTime(lambda: now)
    clock.look()
    now = 100.5
    assert clock() == 100.5
    clock.look()
    now = 200.0
    assert clock() == 101.5, "stopped, or busy: it heard nobody meanwhile"
    clock.look()
    now = 200.25
    assert clock() == 101.75
    now = 150.0
    assert clock() == 101.5, "never backwards beyond the last look"
