"""Signs to drain that come and go are told to nobody; a wave of them asks a person; what was told stays told."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.gangs.drains import FLAP_SECONDS, LEAST_NODES, MOST_NAMED, TO_DRAIN, WAVE_SECONDS, Drain, Drains
from ray_dra.core.gangs.notice import Notice, noticed

TOLD = Notice(f"{TO_DRAIN}a: cordoned", None, (0,), 5.0)


def shown(*places: str) -> dict[str, tuple[str, ...]]:
    return {place: (place,) for place in places}


def test_a_sign_is_told_once_it_has_stood() -> None:
    drains, sign = Drains(), [(2, Drain("a", "cordoned"))]
    for second in range(10):
        drains.look(shown("a"), 10, float(second))
        assert drains.ending(sign, (), None) is None
    drains.look(shown("a"), 10, 10.0)
    found = drains.ending(sign, (), None)
    assert found is not None
    assert (found.reason, found.within, found.ranks) == (f"{TO_DRAIN}a: cordoned", None, (2,))
    assert drains.ending([], (), None) is None
    drains.look({}, 10, 10.5)
    drains.look(shown("a"), 10, 11.0)
    assert drains.ending(sign, (), None) is None, "it stands anew"


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.5, 1.0, 3.0])), max_size=60))
def test_a_sign_of_less_than_ten_seconds_is_never_told(looks: list[tuple[bool, float]]) -> None:
    drains, now, since = Drains(), 0.0, None
    for shows, seconds in looks:
        now += seconds
        since = (now if since is None else since) if shows else None
        drains.look(shown("a") if shows else {}, 1, now)
        told = drains.ending([(0, Drain("a", ""))] if shows else [], (), None)
        assert (told is not None) is (since is not None and now - since >= FLAP_SECONDS)
        assert not drains.tripped


def test_a_wave_trips_the_breaker_and_its_end_closes_it() -> None:
    nodes = [f"n{at}" for at in range(6)]
    drains = Drains()
    signs = [(at, Drain(node, "cordoned")) for at, node in enumerate(nodes)]
    drains.look(shown("n0", "n1"), 6, 0.0)
    drains.look(shown("n0", "n1"), 6, FLAP_SECONDS)
    assert not drains.tripped
    first = drains.ending(signs[:2], (), None)
    assert first is not None
    told = noticed(None, first, 1.0)
    drains.look(shown("n0", "n1", "n2"), 6, 100.0)
    assert not drains.tripped, "it may be a flap"
    drains.look(shown("n0", "n1", "n2"), 6, 100.0 + FLAP_SECONDS)
    assert drains.tripped.startswith("3 of 6 nodes")
    assert drains.ending(signs[2:3], (), None) is None, "a person is asked, and nobody told"
    assert noticed(told, drains.ending(signs[:2], (), told), 2.0) is told, "whoever was told is told so still"
    later = 100.0 + 2 * WAVE_SECONDS
    drains.look(shown("n0", "n1", "n2"), 6, later)
    assert drains.tripped, "time does not answer for the person"
    drains.look(shown("n0", "n2"), 6, later + 1)
    assert not drains.tripped
    assert drains.ending(signs[2:3], (), None) is not None


def test_maintenance_that_takes_its_time_is_no_wave() -> None:
    drains, now = Drains(), 0.0
    places: list[str] = []
    for at in range(10):
        places.append(f"n{at}")
        for _ in range(2):
            now += WAVE_SECONDS / 4
            drains.look(shown(*places), 10, now)
            assert not drains.tripped


def test_few_nodes_are_no_wave() -> None:
    for nodes in range(1, 12):
        for ill in range(nodes + 1):
            drains = Drains()
            for now in (0.0, FLAP_SECONDS):
                drains.look(shown(*map(str, range(ill))), nodes, now)
            assert bool(drains.tripped) is (ill >= LEAST_NODES and ill >= nodes / 2)


def test_a_node_counts_once_however_many_of_its_devices_show_signs() -> None:
    drains = Drains()
    for now in (0.0, FLAP_SECONDS):
        drains.look({"n0": [f"gpu-{at}" for at in range(8)], "n1": ["x"], "n2": []}, 4, now)
    assert not drains.tripped


def test_what_was_told_stays_told_by_the_next_coordinator() -> None:
    drains = Drains()
    drains.look(shown("a"), 4, 0.0)
    sign = [(0, Drain("a", "cordoned"))]
    assert drains.ending(sign, (), None) is None
    assert noticed(TOLD, drains.ending(sign, (), TOLD), 9.0) is TOLD
    assert noticed(TOLD, drains.ending([], {0}, TOLD), 9.0) is TOLD, "nobody can see what it shows"
    assert drains.ending([], (), TOLD) is None
    assert drains.ending([], {1}, TOLD) is None
    other = Notice("RayCluster c was deleted", None, (0,), 5.0)
    assert drains.ending([], {0}, other) is None, "of that the signs say nothing"


def test_a_new_sign_beside_what_cannot_be_seen_is_told_with_it() -> None:
    drains = Drains()
    for now in (0.0, FLAP_SECONDS):
        drains.look(shown("b"), 4, now)
    found = drains.ending([(1, Drain("b", "cordoned"))], {0}, TOLD)
    assert found is not None
    assert (found.reason, found.ranks) == (f"{TO_DRAIN}b: cordoned", (0, 1))


def test_many_places_are_told_by_some() -> None:
    drains, places = Drains(), [f"n{at}" for at in range(9)]
    for now in (0.0, FLAP_SECONDS):
        drains.look(shown(*places), 100, now)
    found = drains.ending([(at, Drain(place, "x")) for at, place in enumerate(places)], (), None)
    assert found is not None
    assert found.ranks == tuple(range(9))
    assert found.reason.count("n") > MOST_NAMED
    assert found.reason.endswith("n3: x; and 5 more")
