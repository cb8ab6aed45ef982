"""The replays run on their synthetic workloads, and every policy keeps to what is asked for."""

from __future__ import annotations

import csv
import gzip
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(HERE))

import openb  # noqa: E402
import teams  # noqa: E402
from halves import splits, verdict  # noqa: E402
from overtaking import Overtaking, Waiting  # noqa: E402
from regret import Repack  # noqa: E402
from replay import Job, Machines, replay, shuffled, synthetic_jobs  # noqa: E402
from shapes import LEVELS, cluster, flat  # noqa: E402
from traces import GANG_POLICIES, _node_demands, discipline_of, patience_of, policy_for  # noqa: E402

from ray_dra.core.cluster.inventory import Inventory  # noqa: E402
from ray_dra.core.gangs.backfill import BOUNDS  # noqa: E402
from ray_dra.core.gangs.discipline import DISCIPLINE, FIRST_COME  # noqa: E402
from ray_dra.core.gangs.patience import WORTH, Patience, Worth  # noqa: E402
from ray_dra.core.gangs.preemption import PREEMPTION  # noqa: E402
from ray_dra.core.model.allocation import Allocation  # noqa: E402
from ray_dra.core.model.locality import Locality  # noqa: E402
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest  # noqa: E402
from ray_dra.core.plan import plan  # noqa: E402
from tests.core.checks import check  # noqa: E402


def run(*arguments: str) -> str:
    command = [sys.executable, str(HERE / "traces.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout


@pytest.mark.parametrize("name", GANG_POLICIES)
@pytest.mark.parametrize("shape", ["nvl72:2", "boxes8:6", "mix:3"])
def test_every_policy_fulfils_what_is_asked(name: str, shape: str) -> None:
    """A policy chooses among allowed places; what is allowed is the same for all."""
    topology = cluster(shape)
    inventory = Inventory(topology)
    jobs = [Job(str(i), 0.0, 1.0, 1 << i % 6) for i in range(40)]
    policy = policy_for(name, lambda: _node_demands(topology, jobs), pods=False)
    dice = random.Random(3)
    placed = 0
    for i, job in enumerate(jobs):
        each = min(job.gpus, 4)
        required = dice.random() < 0.5
        locality = Locality(cliques=1, required=required)
        request = GangRequest(f"g{i}", (Bundle((DeviceRequest(each),)),) * (job.gpus // each), locality)
        answer = plan(inventory, request, policy=policy)
        if isinstance(answer, Allocation):
            check(answer, inventory, request)
            inventory.hold(answer)
            placed += 1
        if dice.random() < 0.3 and inventory.gangs:
            inventory.release(dice.choice(inventory.gangs))
    assert placed > 20


THREE = [Job(name, 0.0, 3600.0, 48) for name in "abc"]


@pytest.mark.parametrize("same_time", [False, True])
def test_a_replay_by_hand(same_time: bool) -> None:
    """Two racks; three gangs of 48 GPUs arrive at once, each an hour's work. The third has to leave its clique, and
    takes 2.4 hours where it does the same work. All in a window of three hours."""
    figures, waits = replay(cluster("nvl72:2"), [*THREE, Job("end", 10800.0, 1.0, 4)], None, same_time=same_time)
    assert waits == [0.0] * 4
    long = 1 if same_time else 2.4
    assert figures["occupancy_pct"] == pytest.approx(100 * 48 * (2 + long) / (144 * 3), abs=0.01)
    assert figures["goodput_pct"] == pytest.approx(100 * 48 * (2 + long / 2.4) / (144 * 3), abs=0.01)
    assert figures["left_pct"] == pytest.approx(100 * long / (2 + long), abs=0.1)
    assert figures["gpu_hours"] == pytest.approx(48 * (2 + long), abs=0.01)


def test_a_replay_with_patience_by_hand() -> None:
    """The third waits for half an hour, and leaves; or for the hour that the others need, and does not."""
    ends = Job("end", 10800.0, 1.0, 4)
    expected = THREE[2].expected
    assert THREE[2].duration / 3 <= expected <= THREE[2].duration * 3
    figures, waits = replay(cluster("nvl72:2"), [*THREE, ends], None, patience=1800 / expected)
    assert waits == pytest.approx([0.0, 0.0, 1800.0, 0.0])
    assert figures["left_pct"] == pytest.approx(100 * 2.4 / 4.4, abs=0.1)
    figures, waits = replay(cluster("nvl72:2"), [*THREE, ends], None, patience=3700 / expected)
    assert waits == pytest.approx([0.0, 0.0, 3600.0, 0.0])
    assert figures["left_pct"] == 0
    assert figures["goodput_pct"] == figures["occupancy_pct"] == pytest.approx(100 / 3, abs=0.01)


def test_a_replay_needs_a_window() -> None:
    with pytest.raises(ValueError, match="all jobs arrive at once"):
        replay(cluster("nvl72:2"), THREE, None)


def test_a_replay_does_not_wait_for_what_cannot_be() -> None:
    """76 GPUs are in no rack of 72."""
    _, waits = replay(cluster("nvl72:2"), [Job("a", 0.0, 100.0, 76), Job("end", 900.0, 1.0, 4)], None, patience=1.0)
    assert waits == [0.0, 0.0]


@pytest.mark.parametrize("waits", [True, False])
def test_who_knows_the_future_leaves_room_where_others_end_soon(waits: bool) -> None:
    """Two racks, 40 GPUs of each taken, the first's for an hour. 60 GPUs have to leave their clique; the 4 that they
    leave are in the first rack 44 when the hour is over, for a gang that waits, or is yet to come."""
    comes = 0.0 if waits else 1800.0
    jobs = [
        Job("hour", 0.0, 3600.0, 40),
        Job("long", 0.0, 36000.0, 40),
        Job("leaves", 0.0, 36000.0, 60),
        Job("too large", 900.0, 1.0, 145),
        Job("next", comes, 36000.0, 44),
        Job("end", 40000.0, 1.0, 1),
    ]
    jobs.sort(key=lambda job: job.arrival)
    for foresight, left in ((False, 60 + 44), (True, 60)):
        figures, found = replay(cluster("nvl72:2"), jobs, None, same_time=True, foresight=foresight)
        assert (found, figures["dropped"]) == ([0.0, 0.0, 0.0, 3600.0 - comes, 0.0], 1)
        assert figures["left_pct"] == pytest.approx(100 * left / (40 / 10 + 40 + 60 + 44), abs=0.01)


@pytest.mark.parametrize(("name", "share"), [("ray-dra", 0.1), ("ray-dra@0", 0), ("kai", 0), ("best-fit@0.25", 0.25)])
def test_patience_by_the_name_of_a_policy(name: str, share: float) -> None:
    assert patience_of(name) == share
    with pytest.raises(SystemExit, match="after the @"):
        patience_of(name.partition("@")[0] + "@much")


def test_first_come_first_served() -> None:
    topology = cluster("nvl72:1")
    jobs = [Job("a", 0.0, 100.0, 40), Job("b", 1.0, 10.0, 40), Job("c", 2.0, 10.0, 4)]
    _, waits = replay(topology, jobs, None)
    assert waits == [0.0, 99.0, 98.0], "c fits beside a, and waits behind b"


def test_a_repack_by_hand() -> None:
    repack = Repack(cluster("nvl72:2"))
    assert Machines.of(cluster("nvl72:2")) == Machines(node=4, segment=16)
    assert repack.possible([48, 48, 24, 24]) is True
    assert repack.possible([48, 48, 48]) is False, "144 GPUs, and no two of 48 in one rack of 72"
    assert repack.possible([128, 8]) is True, "128 are two segments of 64"


def test_pods_on_the_synthetic_workload(tmp_path: Path) -> None:
    out = tmp_path / "pods.json"
    text = run(
        "--workload",
        "none",
        "--cluster",
        "openb",
        "--policy",
        "ray-dra,fgd",
        "--seeds",
        "1",
        "--json",
        str(out),
        "--plot",
        str(tmp_path / "pods"),
    )
    assert "seeded synthetic workload" in text
    rows = json.loads(out.read_text())
    assert {r["policy"] for r in rows} == {"ray-dra", "fgd"}
    for row in rows:
        assert 90 < row["allocated_pct"] <= 100
        assert row["allocated_pct"] + row["free_pct"] == pytest.approx(100, abs=0.01)
        assert row["fragmented_pct"] <= row["free_pct"]
    assert (tmp_path / "pods.png").stat().st_size > 5_000
    assert (tmp_path / "pods.svg").read_text().count("<path") > 5


def test_gangs_of_a_job_list(tmp_path: Path) -> None:
    """Any list with the four columns is found below the folder and replayed."""
    folder = tmp_path / "lists"
    folder.mkdir()
    with gzip.open(folder / "mine.csv.gz", "wt", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["job_id", "submission_time", "duration", "num_gpu"])
        rows.writerows([f"j{i}", i * 60, 3_600, 1 << i % 7] for i in range(60))
    out = tmp_path / "gangs.json"
    text = run(
        "--traces",
        str(tmp_path),
        "--workload",
        "mine",
        "--cluster",
        "nvl72:3",
        "--policy",
        "ray-dra,kai",
        "--seeds",
        "2",
        "--regret",
        "--json",
        str(out),
        "--plot",
        str(tmp_path / "gangs"),
    )
    assert "synthetic" not in text
    found = json.loads(out.read_text())
    assert [(r["policy"], r["seed"]) for r in found] == [("ray-dra", 0), ("ray-dra", 1), ("kai", 0), ("kai", 1)]
    assert all(r["jobs"] == 60 and 0 < r["goodput_pct"] <= r["allocated_pct"] <= 100 for r in found)
    assert sorted(p.name for p in tmp_path.glob("gangs*g")) == [
        "gangs-waits.png",
        "gangs-waits.svg",
        "gangs.png",
        "gangs.svg",
    ]


def test_pods_in_the_way_of_the_paper() -> None:
    """The trace's pods all come, and as many again as make the demand 1.3 times the capacity."""
    trace, topology = openb.synthetic()
    capacity = topology.device_count * 1000
    found = openb.arrivals(trace, capacity, 1)
    assert len(found) > len(trace)
    assert sum(p.thousandths for p in found) >= 1.3 * capacity
    assert found != openb.arrivals(trace, capacity, 2)
    assert found == openb.arrivals(trace, capacity, 1)


def test_nodes_in_an_order_of_the_seed() -> None:
    """FGD's simulator numbers them at random, and of equal ones the first is taken."""
    _, topology = openb.synthetic()
    first, again, other = (openb.numbered(topology, seed) for seed in (1, 1, 2))
    assert list(first.nodes) == list(again.nodes) != list(other.nodes)
    for made in (first, other):
        assert sorted(name[:4] for name in made.nodes) == [f"{i:04}" for i in range(len(topology.nodes))]
        assert {name[5:]: node.devices for name, node in made.nodes.items()} == {
            name: node.devices for name, node in topology.nodes.items()
        }


def outcomes(gain: dict[tuple[str, int], float], change: str) -> list[dict[str, Any]]:
    """Three runs of a change to the rule on each half of each list, with what it gains there."""
    return [
        {"workload": name, "half": half, "seed": seed, "policy": policy, "allocated_pct": 90.0 + seed + more}
        for (name, half), points in gain.items()
        for seed in range(3)
        for policy, more in (("fgd", 0.0), (change, points + seed / 100))
    ]


def test_a_change_wins_only_where_it_was_not_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    everywhere = {(name, half): 0.5 for name in "ab" for half in (1, 2)}
    rows = outcomes(everywhere, "fgd:fullest")
    assert [name for name, _ in splits(rows)] == [
        "first halves -> second halves",
        "second halves -> first halves",
        "the other lists -> a",
        "the other lists -> b",
    ]
    assert verdict(rows) == ["fgd:fullest"]
    for lost in everywhere:
        assert verdict(outcomes(everywhere | {lost: -2.0}, "fgd:fullest")) == [], lost
    best_where_chosen = {key: 1.0 if key[1] == 1 else -0.1 for key in everywhere}
    assert verdict(rows + outcomes(best_where_chosen, "fgd:points=50")) == []
    assert verdict([row for row in rows if row["seed"] == 0 and row["workload"] == "a"]) == [], "one run says little"
    with pytest.raises(SystemExit, match="has no runs in one of the parts"):
        verdict([row for row in rows if row["half"] == 1 or row["policy"] == "fgd"])
    assert "+1.01 [+1.00, +1.02]" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fgd:points", "fgd:fullest=1", "fgd:steps=3", "fgd:fine="])
def test_a_change_to_the_rule_that_is_none_is_said(name: str) -> None:
    with pytest.raises(SystemExit, match="changes are points=N"):
        policy_for(name, list, pods=True)


def test_a_replay_in_which_one_overtakes_by_hand() -> None:
    """One rack. `long` has 40 GPUs for 10,000 s; `big` wants all of them; `small` would end before that by any guess
    that its user may have, `late` by none."""
    jobs = [
        Job("long", 0.0, 10_000.0, 40),
        Job("big", 1.0, 1_000.0, 72),
        Job("small", 2.0, 100.0, 4),
        Job("late", 3.0, 1e6, 4),
        Job("end", 50_000.0, 1.0, 4),
    ]
    assert all(1 / 3 <= job.expected / job.duration <= 3 for job in jobs)
    figures, waits = replay(cluster("nvl72:1"), jobs, None, discipline=replace(FIRST_COME, backfill=BOUNDS))
    assert figures["overtook"] == 1
    assert waits[:3] == [0.0, 0.0, 9_999.0], "long, small, and big at the time at which it would have started"
    figures, waits = replay(cluster("nvl72:1"), jobs, None)
    assert figures["overtook"] == 0
    assert waits[:3] == [0.0, 9_999.0, 10_998.0]


def test_disciplines_by_the_name_of_a_policy() -> None:
    assert discipline_of("ray-dra") == discipline_of("ray-dra@0.1/fcfs") == FIRST_COME
    assert discipline_of("best-fit@0/easy") == replace(FIRST_COME, backfill=BOUNDS)
    assert discipline_of("ray-dra/patience") == replace(FIRST_COME, worth=WORTH)
    assert discipline_of("ray-dra/easy+patience") == replace(FIRST_COME, backfill=BOUNDS, worth=WORTH)
    assert discipline_of("ray-dra/easy+patience=0.5").worth == Worth(speed=0.5)
    assert (
        discipline_of("ray-dra/quotas")
        == discipline_of("ray-dra/preempt")
        == replace(FIRST_COME, preemption=PREEMPTION)
    )
    assert discipline_of("ray-dra/lent") == FIRST_COME
    everything = discipline_of("ray-dra/easy+patience+moves+preempt")
    assert everything == replace(DISCIPLINE, learn=False), "jobs of a trace have their guesses"
    assert patience_of("ray-dra@0.3/easy") == 0.3
    assert patience_of("ray-dra/easy") == patience_of("ray-dra")
    with pytest.raises(SystemExit):
        discipline_of("ray-dra/sjf")
    with pytest.raises(SystemExit):
        discipline_of("ray-dra/easy=0.5")


@pytest.mark.parametrize(("hours", "waited"), [(1.0, 3600.0), (100.0, 0.0)])
def test_a_replay_in_which_a_clique_is_worth_the_wait_by_hand(hours: float, waited: float) -> None:
    """Two racks, 48 GPUs of each taken for so many hours. The third gang of 48, an hour of work, had better wait for
    one, unless that takes longer than it would lose."""
    jobs = [Job("a", 0.0, 3600.0 * hours, 48), Job("b", 0.0, 3600.0 * hours, 48), Job("c", 0.0, 3600.0, 48)]
    jobs.append(Job("end", 1e6, 1.0, 4))
    assert all(1 / 3 <= job.expected / job.duration <= 3 for job in jobs)
    exact = [Exact(job.name, job.arrival, job.duration, job.gpus) for job in jobs]
    _, waits = replay(cluster("nvl72:2"), exact, None, discipline=replace(FIRST_COME, worth=WORTH))
    assert waits[:3] == [0.0, 0.0, waited]


class Exact(Job):
    """Its user knows how long it runs."""

    @property
    def expected(self) -> float:
        return self.duration


@pytest.mark.parametrize("shape", ["nvl72:3", "boxes8:6", "mix:3"])
def test_in_the_bound_everybody_is_in_one_clique(shape: str) -> None:
    topology = flat(cluster(shape))
    assert topology.device_count == cluster(shape).device_count
    jobs = [Job(str(i), 60.0 * i, 3600.0, 1 + 7 * (i % 8)) for i in range(60)]
    figures, _ = replay(topology, jobs, None)
    assert figures["left_pct"] == 0
    assert figures["goodput_pct"] == figures["occupancy_pct"] > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_replay_keeps_what_a_look_found_only_while_it_holds(seed: int) -> None:
    """As without keeping anything."""
    jobs = shuffled(synthetic_jobs(150, 144, 2), seed)
    found = replay(cluster("nvl72:2"), jobs, None, discipline=DISCIPLINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Overtaking, "memory", Forgetful)
        assert replay(cluster("nvl72:2"), jobs, None, discipline=DISCIPLINE) == found
    assert found[0]["overtook"] > 0


def test_a_promise_that_an_earlier_turn_has_outdone_is_made_anew() -> None:
    """As the coordinator does: an urgent job comes once the one that was waited for has ended, and starts at once in
    the place that was promised. Else nobody could go before the first for as long as it runs."""
    inventory, machines = Inventory(cluster("boxes8:1")), Machines.of(cluster("boxes8:1"))
    ends: dict[str, float] = {}

    def wanting(name: str, gpus: int, seconds: float) -> Waiting[Job]:
        return Waiting(Exact(name, 0.0, seconds, gpus), machines.request(name, gpus, None), Patience())

    def hold(waiting: Waiting[Job], now: float) -> None:
        answer = plan(inventory, waiting.request)
        assert isinstance(answer, Allocation)
        inventory.hold(answer)
        ends[waiting.job.name] = now + waiting.job.expected

    hold(wanting("most", 6, 10.0), 0.0)
    overtaking: Overtaking[Job] = Overtaking(inventory, ends, BOUNDS, None)
    first, small = wanting("first", 8, 50.0), wanting("small", 1, 60.0)
    assert not list(overtaking.look([first, small], 0.0, None)), "it would be in the way after 10 seconds"
    inventory.release("most")
    del ends["most"]
    hold(wanting("urgent", 4, 100.0), 10.0)
    assert [each for each, _ in overtaking.look([first, small], 10.0, None)] == [small]


class Forgetful(dict[object, object]):
    def __setitem__(self, key: object, value: object) -> None:
        pass


def test_teams_keep_their_limits_and_what_they_are_guaranteed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every start is checked against core's rules, over a busy synthetic trace."""
    starts = []

    class Checked(teams.Line[Job]):
        def start(self, waiting: Waiting[Job]) -> None:
            before = self.first(0)
            first = before[0] if before else None
            super().start(waiting)
            order = self._order
            team = teams.team_of(waiting.job.name)
            queue, has = order.queues.queue(team), order.has(team).gpus
            assert queue.limit is None or has <= queue.limit
            starts.append((team, waiting is first))

    monkeypatch.setattr("replay.Line", Checked)
    monkeypatch.setitem(teams.SHARES, "c", (0.25, 1.0, 0.5))
    topology = cluster("nvl72:2")
    jobs = synthetic_jobs(400, topology.device_count, load=1.3)
    figures, waits = replay(topology, jobs, None, discipline=replace(FIRST_COME, backfill=BOUNDS), teams=True)
    assert len(starts) == len(waits) == figures["jobs"]
    assert {team for team, _ in starts} == set(teams.SHARES)
    assert 0 < sum(not first for _, first in starts) == figures["overtook"]
    monkeypatch.setattr("replay.Line", teams.Line)
    assert replay(topology, jobs, None, discipline=replace(FIRST_COME, backfill=BOUNDS), teams=True)[1] == waits


def test_a_guaranteed_job_comes_before_one_that_borrows() -> None:
    many, borrows, owed = of("d", after=0), of("d", after=1_000), of("a", after=2_000)
    jobs = [Job(many, 0.0, 100.0, 72), Job(borrows, 1.0, 10.0, 72), Job(owed, 2.0, 10.0, 18), Job("end", 500.0, 1.0, 1)]
    _, waits = replay(cluster("nvl72:1"), jobs, None, teams=True)
    assert waits[:3] == [0.0, 98.0, 109.0], (
        "in the order in which they start: all, the guaranteed one, the one that borrows"
    )


def of(team: str, *, after: int) -> str:
    """A name of a job of a team."""
    return next(name for at in range(after, after + 1_000) if teams.team_of(name := f"j{at}") == team)


@pytest.mark.parametrize(("named", "wait"), [("quotas", 1_200.0), ("lent", 9_000.0)])
def test_a_guaranteed_job_takes_back_what_is_borrowed_and_nothing_that_is_guaranteed(named: str, wait: float) -> None:
    """Team d has borrowed a rack but for 18 GPUs, which team a is guaranteed and has; then team b asks for its 18. It
    waits ten minutes for each 18 more that end with them."""
    guaranteed, borrows, owed = of("a", after=0), of("d", after=1_000), of("b", after=2_000)
    jobs = [Job(guaranteed, 0.0, 10_000.0, 18), Job(borrows, 0.0, 10_000.0, 54), Job(owed, 1_000.0, 10.0, 18)]
    jobs.append(Job(of("c", after=3_000), 30_000.0, 1.0, 1))
    discipline = discipline_of(f"ray-dra/{named}")
    figures, waits = replay(cluster("nvl72:1"), jobs, None, discipline=discipline, teams=True)
    assert waits == [0.0, 0.0, wait, 0.0]
    assert figures["preempted"] == (named == "quotas")
    assert figures["jobs"] == 4


def test_what_has_just_begun_is_taken_once_it_has_run_for_long_enough() -> None:
    """Nothing else happens at that time."""
    jobs = [Job(of("d", after=0), 0.0, 10_000.0, 36), Job(of("d", after=1_000), 0.0, 10_000.0, 36)]
    jobs += [Job(of("b", after=2_000), 100.0, 10.0, 18), Job(of("c", after=3_000), 30_000.0, 1.0, 1)]
    discipline = discipline_of("ray-dra/quotas")
    at_once = replace(discipline, preemption=replace(PREEMPTION, restart=0.0))
    figures, waits = replay(cluster("nvl72:1"), jobs, None, discipline=at_once, teams=True)
    assert (waits, figures["preempted"]) == ([0.0, 0.0, 500.0, 0.0], 1)
    _, waits = replay(cluster("nvl72:1"), jobs, None, discipline=discipline, teams=True)
    assert waits == [0.0, 0.0, 600.0, 0.0], "36 end for 18"


def test_a_large_job_does_not_end_for_a_small_one_sooner_than_that_is_worth_it() -> None:
    """It would end five times for one GPU each, and each time the rack would be left to that."""
    large, work = Job(of("d", after=0), 0.0, 36_000.0, 72), 36_000.0 * 72 / 3600
    small = [Job(of("b", after=1_000 * at), 7_200.0 * at, 3_600.0, 1) for at in range(1, 6)]
    jobs = [large, *small, Job(of("c", after=9_000), 80_000.0, 1.0, 1)]
    found = {}
    for restart in (0.0, PREEMPTION.restart):
        discipline = discipline_of("ray-dra/quotas")
        discipline = replace(discipline, preemption=replace(PREEMPTION, restart=restart))
        found[restart], _ = replay(cluster("nvl72:1"), jobs, None, discipline=discipline, teams=True)
        assert found[restart]["jobs"] == len(jobs)
    assert found[0.0]["preempted"] == 5
    assert found[PREEMPTION.restart]["preempted"] == 0
    assert found[PREEMPTION.restart]["gpu_hours"] == pytest.approx(work + 5, abs=0.01)
    assert found[0.0]["gpu_hours"] > work + 5 + 5 * 72 / 6 - 1, "ten minutes each time, at least"


def test_who_waits_again_keeps_its_arrival() -> None:
    machines = Machines.of(cluster("nvl72:1"))

    def asks(team: str, after: int) -> Waiting[Job]:
        job = Job(of(team, after=after), 0.0, 10.0, 4)
        return Waiting(job, machines.request(job.name, job.gpus), Patience())

    line, early, late = teams.Line[Job](72), asks("a", 0), asks("b", 1_000)
    line.append(early)
    line.start(early)
    line.append(late)
    line.end(early.job.name)
    line.append(early, front=True)
    assert line.first(1) == [early, late], "guaranteed are both, and it came first"


def test_a_job_waits_for_its_clique_from_when_it_could_start_whoever_is_first_meanwhile() -> None:
    """Two racks with 24 GPUs free in each. One of 48 waits half an hour for a clique, when a guaranteed one comes
    before it, waits five seconds for its own, and has 36 of them for 24 s."""
    jobs = [Exact(of("d", after=1_000 * at), 0.0, 1e6, 48) for at in range(2)]
    jobs += [Exact(of("d", after=2_000), 0.0, 3_600.0, 48), Exact(of("a", after=3_000), 1_000.0, 10.0, 36)]
    jobs += [Exact(of("c", after=4_000), 2e6, 1.0, 1)]
    _, waits = replay(cluster("nvl72:2"), jobs, None, patience=0.5, teams=True)
    assert waits == pytest.approx([0.0, 0.0, 5.0, 1_800.0, 0.0], abs=0.01)


@pytest.mark.parametrize("named", ["easy+patience+moves", "easy+patience+preempt"])
def test_who_ends_for_another_does_all_its_work_in_the_end(named: str) -> None:
    """What is lost and the restarts are done besides: no job is lost, and nobody has devices for less than its work."""
    topology = cluster("nvl72:2")
    jobs = shuffled(synthetic_jobs(500, 144, scale=4, load=1.1), 0)
    discipline = discipline_of(f"ray-dra/{named}")
    figures, waits = replay(topology, jobs, None, discipline=discipline, hurries="preempt" in named)
    plain, _ = replay(topology, jobs, None, discipline=discipline_of("ray-dra/easy+patience"))
    assert len(waits) == figures["jobs"] == plain["jobs"]
    assert figures["moved" if "moves" in named else "preempted"] > 0
    assert figures["lost_gpu_hours"] > 0
    work = sum(job.gpus * job.duration for job in jobs if job.gpus <= 144) / 3600
    assert figures["gpu_hours"] >= work + figures["lost_gpu_hours"] - 1.0
    assert plain["moved"] == plain["preempted"] == plain["lost_gpu_hours"] == 0
    if "preempt" in named:
        assert figures["urgent_mean_wait_s"] < plain["urgent_mean_wait_s"] / 2


def test_a_shape_with_levels() -> None:
    topology = cluster("nvl72:7/2/3/1")
    above: dict[str, set[tuple[str, ...]]] = {}
    for node in topology.nodes.values():
        above.setdefault(node.clique or "", set()).add(tuple(node.labels[level] for level in LEVELS))
    paths = [path for (path,) in above.values()]
    assert [leaf for leaf, _, _ in paths] == ["leaf0", "leaf0", "leaf1", "leaf1", "leaf2", "leaf2", "leaf3"]
    assert [spine for _, spine, _ in paths] == ["spine0"] * 6 + ["spine1"]
    assert [core for _, _, core in paths] == ["core0"] * 6 + ["core1"]
    assert {frozenset(node.labels) for node in cluster("boxes8:3/2").nodes.values()} == {frozenset({"leaf"})}
    assert not any(node.labels for node in cluster("nvl72:2").nodes.values())
    for wrong in ("nvl72:2/0", "nvl72:0", "nvl72:8/2/2/2/2", "nvl72:-1", "nvl71:2"):
        with pytest.raises(ValueError, match="nvl72:RACKS"):
            cluster(wrong)


def racks_of(name: str, shape: str, trays: list[int], wanted: int) -> set[int]:
    """The racks in which a policy places so many whole trays, where so many of each rack are free."""
    inventory = Inventory(cluster(shape), level_labels=LEVELS)
    for rack, free in enumerate(trays):
        for tray in range(free, 18):
            inventory.set_others(f"rack{rack}-tray{tray}", 0b1111, {})
    policy = policy_for(name, list, pods=False)
    answer = plan(inventory, GangRequest("g", (Bundle((DeviceRequest(4),)),) * wanted), policy=policy)
    assert isinstance(answer, Allocation)
    return {int(node.removeprefix("rack").partition("-")[0]) for node in answer.nodes}


@pytest.mark.parametrize("name", [name for name in GANG_POLICIES if name not in ("fgd", "ray-dra@0")])
def test_who_knows_topology_keeps_a_gang_in_a_leaf(name: str) -> None:
    """Two leaves with two racks each; only the second holds 20 trays, and no rack does."""
    found, without = (racks_of(name, shape, [5, 12, 10, 10], 20) for shape in ("nvl72:4/2/2", "nvl72:4"))
    if name in ("first-fit", "ray"):
        assert found == without
    else:
        assert found == {2, 3} != without, "nobody knows of leaves where nodes have no labels"


def test_kueue_uses_few_leaves_of_a_spine() -> None:
    """No leaf holds 33 trays. The roomiest racks are in three of them, and two would do."""
    free = [10, 10, 13, 0, 12, 0, 11, 0]
    assert racks_of("kueue-best", "nvl72:8/2/4", free, 33) == {0, 1, 2}
    assert racks_of("best-fit", "nvl72:8/2/4", free, 33) == {0, 2, 4}
    assert racks_of("kueue-least", "nvl72:8/2/4", free, 33) == {2, 4, 6}, "the leaves with least first"


def test_what_lies_in_one_leaf_by_hand() -> None:
    """100 GPUs are in one leaf for an hour, 200 in one spine, 300 in none, beside 72 that are in their rack."""
    jobs = [Job("leaf", 0.0, 3600.0, 100), Job("end of leaf", 3601.0, 1.0, 4)]
    jobs += [Job("spine", 4000.0, 3600.0, 200), Job("rack", 4000.0, 3600.0, 72)]
    jobs += [Job("all", 9000.0, 3600.0, 512), Job("end", 20_000.0, 1.0, 4)]
    figures, waits = replay(cluster("nvl72:8/2/2"), jobs, None, same_time=True)
    assert waits == [0.0] * 6
    assert figures["in_one_leaf_pct"] == pytest.approx(100 * 100 / 812, abs=0.01)
    assert figures["in_one_spine_pct"] == pytest.approx(100 * 300 / 812, abs=0.01)
    assert "in_one_core_pct" not in figures
    assert not [name for name in replay(cluster("nvl72:8"), jobs, None)[0] if name.startswith("in_one")]


def test_a_cluster_with_levels_is_named_on_the_command_line() -> None:
    told = run("--cluster", "nvl72:8/2/2", "--policy", "ray-dra@0,kueue-best,ray", "--seeds", "1", "--scale", "8")
    for figure in ("in_one_leaf_pct", "in_one_spine_pct"):
        (line,) = (part for part in told.split("\n\n") if part.startswith(figure))
        assert [row.split()[0] for row in line.splitlines()[1:]] == ["ray-dra@0", "kueue-best", "ray"]
    assert "in_one_core_pct" not in told
