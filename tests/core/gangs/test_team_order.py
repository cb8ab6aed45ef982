"""The order among teams against its definition, worked out anew for each question."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ray_dra.core.gangs.team_order import TeamOrder
from ray_dra.core.gangs.team_queues import (
    NOTHING,
    Amounts,
    Entitlement,
    TeamQueue,
    TeamQueues,
    beyond,
    entitlement,
)
from ray_dra.core.gangs.turn import Turn

TOTAL = Amounts(16_000)
TEAMS = ("a", "b", "c")
Waiting = dict[Turn, tuple[str, int, bool]]

queues = st.dictionaries(
    st.sampled_from(TEAMS),
    st.builds(
        lambda guarantee, weight, limit: (1000 * guarantee, weight, None if limit is None else 1000 * limit),
        st.integers(0, 8),
        st.sampled_from([0.0, 1.0, 2.0]),
        st.none() | st.integers(0, 12),
    ),
    max_size=3,
)
waiting = st.lists(st.tuples(st.sampled_from(TEAMS), st.integers(1, 6), st.integers(0, 1), st.booleans()), max_size=9)
held = st.lists(st.tuples(st.sampled_from(TEAMS), st.integers(1, 6)), max_size=4)


def key(declared: TeamQueues, has: dict[str, int], team: str, turn: Turn, gpus: int) -> tuple[int, float, int]:
    queue = declared.queue(team)
    right = entitlement(queue, has.get(team, 0), gpus)
    amount = beyond(queue, Amounts(has.get(team, 0)), TOTAL) if right is Entitlement.BORROWED else 0.0
    return right, amount, turn[1]


def firsts(declared: TeamQueues, has: dict[str, int], gangs: Waiting) -> list[tuple[tuple[int, float, int], Turn]]:
    found = []
    for team in TEAMS:
        own = sorted(turn for turn, (whose, _, ordinary) in gangs.items() if whose == team and not ordinary)
        if own:
            rank = key(declared, has, team, own[0], gangs[own[0]][1])
            if rank[0] != Entitlement.OVER_LIMIT:
                found.append((rank, own[0]))
    return sorted(found)


@settings(max_examples=400, deadline=None)
@given(said=queues, wait=waiting, holds=held, late=st.booleans())
def test_whose_turn_it_is_is_what_the_rules_say(
    said: dict[str, tuple[int, float, int | None]],
    wait: list[tuple[str, int, int, bool]],
    holds: list[tuple[str, int]],
    late: bool,
) -> None:
    """`late`: the queues are declared when all have come."""
    order, declared = TeamOrder(), TeamQueues.of(TeamQueue(name, *fields) for name, fields in said.items())
    order.resize(TOTAL)
    if not late:
        order.declare(declared)
    gangs: Waiting = {}
    for at, (team, gpus, priority, ordinary) in enumerate(wait):
        turn = (-priority, at, f"g{at}")
        gangs[turn] = team, 1000 * gpus, ordinary
        order.wait(team, turn, Amounts(1000 * gpus), ordinary=ordinary)
    has: dict[str, int] = {}
    for at, (team, gpus) in enumerate(holds):
        order.hold(f"h{at}", team, Amounts(1000 * gpus))
        has[team] = has.get(team, 0) + 1000 * gpus
    if late:
        order.declare(declared)
    if not declared:
        in_order = sorted(turn for turn, (_, _, ordinary) in gangs.items() if not ordinary)
        assert order.first == (in_order[0] if in_order else None)
        assert order.after_first(9) == in_order[1:]
        return
    assert {team: amounts.gpus for team, amounts in order.teams.items()} == has
    ranked = firsts(declared, has, gangs)
    assert order.first == (ranked[0][1] if ranked else None)
    check_after_first(order, declared, has, gangs)
    check_ahead(order, declared, has, gangs, ranked)
    check_ordinary(order, declared, has, gangs, ranked)
    for turn, (_, _, ordinary) in gangs.items():
        order.leave(turn, ordinary=ordinary)
    for at in range(len(holds)):
        order.let_go(f"h{at}")
    assert order.first is None
    assert not order.teams
    assert not [*order.turns(), *order.turns(ordinary=True)]


def check_after_first(order: TeamOrder, declared: TeamQueues, has: dict[str, int], gangs: Waiting) -> None:
    """Those that follow, as if each started in its turn."""
    found, then, left = order.after_first(99), dict(has), {t: g for t, g in gangs.items() if not g[2]}
    assert sorted(found) == sorted(turn for turn in left if turn != order.first)
    for turn in [*([order.first] if order.first is not None else []), *found]:
        heads = [min(t for t, g in left.items() if g[0] == team) for team in {g[0] for g in left.values()}]
        ranks = {head: key(declared, then, left[head][0], head, left[head][1]) for head in heads}
        assert ranks[turn] == min(ranks.values())
        team, gpus, _ = left.pop(turn)
        if ranks[turn][0] != Entitlement.OVER_LIMIT:
            then[team] = then.get(team, 0) + gpus


def check_ahead(
    order: TeamOrder,
    declared: TeamQueues,
    has: dict[str, int],
    gangs: Waiting,
    ranked: list[tuple[tuple[int, float, int], Turn]],
) -> None:
    for turn, (team, gpus, _) in gangs.items():
        own = sorted(t for t, (whose, _, ordinary) in gangs.items() if whose == team and not ordinary)
        before = [t for t in own if t < turn]
        mine = (
            key(declared, has, team, before[0], gangs[before[0]][1]) if before else key(declared, has, team, turn, gpus)
        )
        others = [rank for rank, other in ranked if gangs[other][0] != team and rank < mine]
        assert order.ahead(team, turn, Amounts(gpus)) == len(before) + len(others)


def check_ordinary(
    order: TeamOrder,
    declared: TeamQueues,
    has: dict[str, int],
    gangs: Waiting,
    ranked: list[tuple[tuple[int, float, int], Turn]],
) -> None:
    """Each comes up once, unless it is over its limit or held up."""
    expected = set()
    for turn, (team, gpus, ordinary) in gangs.items():
        rank = key(declared, has, team, turn, gpus)
        own = any(t < turn for t, (whose, _, kind) in gangs.items() if whose == team and not kind)
        others = any(other < rank for other, t in ranked if gangs[t][0] != team)
        if ordinary and rank[0] != Entitlement.OVER_LIMIT and not own and not others:
            expected.add(turn)
    passed: dict[str, Turn] = {}
    found = []
    while (following := order.next_ordinary(passed)) is not None:
        found.append(following)
        passed[gangs[following][0]] = following
    assert len(found) == len(set(found))
    # Behind one of its team that is held up by another team's first, one with a better right waits, too.
    assert set(found) <= expected
    assert all(
        turn in found
        for turn in expected
        if not any(g[0] == gangs[turn][0] and g[2] and t < turn for t, g in gangs.items())
    )


def test_what_is_rounded_leaves_nothing_behind() -> None:
    order = TeamOrder()
    order.declare(TeamQueues.of([TeamQueue("a")]))
    for at in range(10):
        order.hold(f"h{at}", "a", Amounts(1000, 0.1, 0.3))
    for at in range(10):
        order.let_go(f"h{at}")
    assert order.has("a") == NOTHING
    assert not order.teams


def test_of_teams_that_have_borrowed_the_same_the_first_to_come_is_first() -> None:
    """Seven of three guaranteed are as many beyond as four of none, and six by a weight of three as two: to the last
    bit, whatever the cluster has."""
    for total in range(12, 200):
        for said, has in (({"a": (3, 1.0), "b": (0, 1.0)}, (7, 4)), ({"a": (1, 3.0), "b": (0, 1.0)}, (7, 2))):
            for early, late in (("a", "b"), ("b", "a")):
                order = TeamOrder()
                order.declare(TeamQueues.of(TeamQueue(name, 1000 * n, weight) for name, (n, weight) in said.items()))
                order.resize(Amounts(1000 * total))
                for team, gpus in zip("ab", has, strict=True):
                    order.hold(f"h{team}", team, Amounts(1000 * gpus))
                for at, team in enumerate((early, late)):
                    order.wait(team, (0, at, f"g{team}"), Amounts(1000))
                assert order.first == (0, 0, f"g{early}")
