"""Plans of parts of GPUs against Kubernetes' own allocator, the library that the scheduler calls: in whatever order it
comes to the gangs' pods, each claim gets its parts, and a no is true. By hand: the library has to be built."""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from ray_dra.core.cluster.device_choice import bits
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.locality import Gpus, Locality
from ray_dra.core.model.parts import profile_order
from ray_dra.core.model.request import Bundle, GangRequest
from ray_dra.core.plan import plan
from ray_dra.ports.kube_objects import KubeNode
from ray_dra.simulated.dra.devices import device_classes, gpu_pool, slices
from ray_dra.simulated.profile import simulated_nodes
from ray_dra.translate.kube.attempts import attempt_of
from ray_dra.translate.kube.slices import node_from_slices
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import mps, time_slicing
from ray_dra.translate.vendors import NVIDIA
from tests.cluster import binaries
from tests.core.parted import bundle
from tests.translate.kube.objects import CLUSTER, read

pytestmark = [pytest.mark.by_hand, pytest.mark.timeout(3600)]
DRIVER = NVIDIA.driver
DYNAMIC = frozenset({"DynamicMIG"})
CONSUMABLE = frozenset({"ConsumableShares"})
CLUSTERS = 250  # a seed

Answer = list[list[list[str]] | None]


class Allocator:
    """Kubernetes' allocator, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.asked = 0
        self.most: dict[Any, int] = {}

    def ask(
        self,
        published: Sequence[Any],
        taken: Sequence[tuple[str, str]],
        pods: Sequence[Any],
        classes: Sequence[Any] | None = None,
    ) -> Answer:
        """For each (node, claims) in order the devices of each claim; None: the pod gets nothing.

        Args:
            taken: (pool, device).
            classes: DeviceClasses; None for NVIDIA's.
        """
        self.asked += sum(len(claims) for _, claims in pods)
        question = {
            "slices": list(published),
            "classes": device_classes() if classes is None else list(classes),
            "taken": [[published[0]["spec"]["driver"], pool, device] for pool, device in taken],
            "pods": [{"node": node, "claims": claims} for node, claims in pods],
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        found: Answer = json.loads(self._process.stdout.readline())
        return found


@pytest.fixture(scope="module")
def allocator() -> Iterator[Allocator]:
    binaries.build(only=("allocator",))
    with subprocess.Popen(
        [binaries.program("allocator")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        made = Allocator(process)
        yield made
        assert process.stdin is not None
        process.stdin.close()
        print(f"{made.asked:,} claims were asked of the allocator")


@dataclass
class Pod:
    """A gang's worker that has no devices yet. `gpus`: of each claim, the parts by profile."""

    gang: str
    node: str
    claims: list[dict[str, Any]]
    wanted: list[tuple[str, Counter[str]]]


class World:
    """A cluster as its drivers publish it, what claims have, and gangs' pods that have nothing yet."""

    def __init__(self, dice: random.Random, allocator: Allocator, profile: str, nodes: int) -> None:
        self.dice, self.allocator = dice, allocator
        machines = simulated_nodes(profile, nodes=nodes)
        self.published = {m.name: slices(gpu_pool(m, {}, DYNAMIC), m.name, 1) for m in machines}
        self.slices = [each for found in self.published.values() for each in found]
        self.inventory = Inventory(
            [node_from_slices(KubeNode(name, cpus=64, memory=512 << 30), read(s)) for name, s in self.published.items()]
        )
        self.gpus = {(s.name, g.gpu.uuid): g for s in self.inventory.node_states.values() for g in s.parts}
        self.taken: list[tuple[str, str]] = []
        self.others: dict[tuple[str, str], int] = dict.fromkeys(self.gpus, 0)
        self.placed: dict[tuple[str, str], dict[str, int]] = {key: {} for key in self.gpus}
        self.pending: list[Pod] = []
        self.profiles = sorted({part.profile for gpu in self.gpus.values() for part in gpu.gpu.parts})

    def strangers(self, count: int) -> None:
        """Parts at random places, as administrators' scripts and other schedulers leave them."""
        for _ in range(count):
            (node, uuid), gpu = self.dice.choice(sorted(self.gpus.items(), key=lambda item: item[0]))
            free = list(bits(gpu.table.open(self.others[node, uuid])))
            if free:
                at = self.dice.choice(free)
                self.others[node, uuid] |= 1 << at
                self.taken.append((node, gpu.gpu.parts[at].id.device))
        self._see()

    def _see(self) -> None:
        for state in self.inventory.node_states.values():
            here = {uuid: gpu for (node, uuid), gpu in self.gpus.items() if node == state.name}
            busy = sum(
                1 << g.gpu.position
                for u, g in here.items()
                if self.others[state.name, u] and g.gpu.position is not None
            )
            placed: dict[str, dict[str, int]] = {}
            for uuid in here:
                for gang, mask in self.placed[state.name, uuid].items():
                    placed.setdefault(gang, {})[uuid] = mask
            self.inventory.set_others(state.name, busy, {})
            self.inventory.set_parts(state.name, {uuid: self.others[state.name, uuid] for uuid in here}, placed)

    def gang(self, name: str, bundles: Sequence[Bundle], locality: Locality) -> bool:
        answer = plan(self.inventory, GangRequest(name, tuple(bundles), locality))
        if not isinstance(answer, Allocation):
            return False
        self.inventory.hold(answer)
        attempt = attempt_of(answer, CLUSTER, compute_domains=False, asked=bundles)
        for node, slot in attempt.slots.items():
            claims = attempt.claims(slot, "uid")
            wanted = [(parts[0].parent, Counter(part.profile for part in parts)) for parts in slot.claims.values()]
            self.pending.append(Pod(name, node, list(claims.values()), wanted))
        return True

    def settle(self) -> None:
        """The scheduler comes to the pods in any order; each gets what was planned."""
        self.dice.shuffle(self.pending)
        found = self.allocator.ask(self.slices, self.taken, [(pod.node, pod.claims) for pod in self.pending])
        for pod, got in zip(self.pending, found, strict=True):
            assert got is not None, (pod, self.taken)
            for (uuid, wanted), devices in zip(pod.wanted, got, strict=True):
                gpu = self.gpus[pod.node, uuid]
                mask = gpu.mask_of(devices)
                assert mask.bit_count() == len(devices), "all are parts of the planned GPU"
                assert Counter(gpu.table.profiles[at] for at in bits(mask)) == wanted
                self.placed[pod.node, uuid][pod.gang] = mask
                self.taken += [(pod.node, device) for device in devices]
        assert len(set(self.taken)) == len(self.taken)
        self.pending.clear()
        self._see()

    def release(self, gang: str) -> None:
        self.inventory.release(gang)
        for (node, uuid), placed in self.placed.items():
            mask = placed.pop(gang, 0)
            given = {self.gpus[node, uuid].gpu.parts[at].id.device for at in bits(mask)}
            self.taken = [each for each in self.taken if each[0] != node or each[1] not in given]
        self._see()

    def most(self, profile: str) -> int:
        """How many parts of a profile the allocator would give, a claim a GPU; asked once of GPUs that are alike."""
        found = 0
        for (node, uuid), gpu in self.gpus.items():
            key = (profile, gpu.state)
            if key not in self.allocator.most:
                count = 0
                while True:
                    pods = [(node, [claim(uuid, (profile, count + 1))])]
                    if self.allocator.ask(self.published[node], self.taken, pods) == [None]:
                        break
                    count += 1
                self.allocator.most[key] = count
            found += self.allocator.most[key]
        return found


def claim(uuid: str, *wanted: tuple[str, int]) -> dict[str, Any]:
    """For (profile, how many) of a GPU, in the order in which a gang's claim has them."""
    requests = []
    for number, (profile, count) in enumerate(sorted(wanted, key=lambda each: profile_order(each[0]))):
        says = ("parentUUID", uuid), ("profile", profile)
        selectors = [{"cel": {"expression": f'device.attributes["{DRIVER}"].{k} == "{v}"'}} for k, v in says]
        exactly = {"deviceClassName": NVIDIA.part_class, "selectors": selectors, "count": count}
        requests.append({"name": f"parts-{number}", "exactly": {**exactly, "allocationMode": "ExactCount"}})
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": "c", "namespace": "team", "uid": "u"},
        "spec": {"devices": {"requests": requests}},
    }


def test_the_allocator_says_no_where_the_order_is_wrong(allocator: Allocator) -> None:
    """What the plans have to avoid: of two claims of one GPU the first may take the place that the other needs."""
    (machine,) = simulated_nodes("hgx-h100", nodes=1)
    published = slices(gpu_pool(machine, {}, DYNAMIC), machine.name, 1)
    small, large = (claim(machine.uuid(0), (profile, 1)) for profile in ("3g.40gb", "4g.40gb"))
    pods = [(machine.name, [small]), (machine.name, [large])]
    assert [got is None for got in allocator.ask(published, [], pods)] == [False, True]
    assert [got is None for got in allocator.ask(published, [], pods[::-1])] == [False, False]


@pytest.mark.parametrize("profile", ["hgx-h100", "hgx-b200"])
def test_every_set_of_profiles_on_one_gpu(allocator: Allocator, profile: str) -> None:
    """All that fit, and all that are one part more than these: the planner and the allocator say the same."""
    world = World(random.Random(0), allocator, profile, 1)
    (node,) = world.published
    uuid = next(uuid for _, uuid in world.gpus)
    one = {each: bundle(each) for each in world.profiles}
    fit: set[tuple[str, ...]] = {()}
    asked: set[tuple[str, ...]] = set()
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        before = waiting.pop()
        for more in world.profiles:
            parts = tuple(sorted((*before, more)))
            if parts in asked:
                continue
            asked.add(parts)
            request = GangRequest("g", tuple(one[each] for each in parts), Locality(gpus=Gpus.SAME))
            (got,) = allocator.ask(world.slices, [], [(node, [claim(uuid, *Counter(parts).items())])])
            assert isinstance(plan(world.inventory, request), Allocation) is (got is not None), parts
            if got is not None:
                fit.add(parts)
                waiting.append(parts)
    print(f"{profile}: {len(fit) - 1} of {len(asked)} sets of profiles fit")
    assert 100 < len(fit) < len(asked)


@pytest.mark.parametrize("seed", range(4))
def test_every_yes_is_accepted_in_any_order_of_claims_and_every_no_is_true(allocator: Allocator, seed: int) -> None:
    dice = random.Random(seed)
    counts: Counter[str] = Counter()
    for at in range(CLUSTERS):
        world = World(dice, allocator, dice.choice(("hgx-h100", "hgx-h100", "hgx-b200")), dice.randint(1, 2))
        world.strangers(dice.choice((0, 4, 12, 24)))
        gangs: list[str] = []
        for number in range(dice.randint(2, 7)):
            kinds = dice.choices(world.profiles, k=dice.choice((1, 1, 2, 3)))
            one = {profile: bundle(profile) for profile in kinds}
            bundles = [one[profile] for profile in dice.choices(kinds, k=dice.choice((1, 2, 4, 7, 14, 28)))]
            gpus = dice.choice((Gpus.ANY, Gpus.ANY, Gpus.ANY, Gpus.SAME, Gpus.SPREAD))
            if world.gang(f"g{at}-{number}", bundles, Locality(gpus=gpus)):
                gangs.append(f"g{at}-{number}")
            counts["yes" if gangs[-1:] == [f"g{at}-{number}"] else "no"] += 1
            if dice.random() < 0.5:
                world.settle()
                if gangs and dice.random() < 0.4:
                    world.release(gangs.pop(dice.randrange(len(gangs))))
        world.settle()
        profile = dice.choice(world.profiles)
        most = world.most(profile)
        for count, fits in ((most, True), (most + 1, False)):
            request = GangRequest("last", (bundle(profile),) * count) if count else None
            assert request is None or isinstance(plan(world.inventory, request), Allocation) is fits, (profile, most)
    assert min(counts["yes"], counts["no"]) > CLUSTERS // 4
    print(dict(counts))


STRANGERS = 1000


@pytest.mark.parametrize("gates", [frozenset[str](), DYNAMIC, CONSUMABLE], ids=["whole GPUs", "DynamicMIG", "memory"])
def test_a_gang_gets_the_gpus_that_it_shares_and_no_stranger_anything_of_them(
    allocator: Allocator, gates: frozenset[str]
) -> None:
    """However little of them its shares are; a thousand claims for whole GPUs, by name or not, for parts of those
    that the gang has, and for as little of their memory as the driver lets anybody ask."""
    dice = random.Random(len(gates))
    sharing = [time_slicing("Short")] if gates else [mps(), mps(memory="20Gi", threads=25), time_slicing("Short")]
    asked = refused = 0
    while asked < STRANGERS:
        machines = simulated_nodes("hgx-b200", nodes=2)
        published = {m.name: slices(gpu_pool(m, {}, gates, consumable_shares="memory"), m.name, 1) for m in machines}
        every = [each for found in published.values() for each in found]
        inventory = Inventory(
            [node_from_slices(KubeNode(n, cpus=64, memory=512 << 30), read(s)) for n, s in published.items()]
        )
        taken: set[tuple[str, str]] = set()
        have: set[tuple[str, str]] = set()
        placed: list[tuple[str, list[dict[str, Any]]]] = []
        uuids: list[str] = []
        for number in range(dice.randint(1, 3)):
            amounts = dice.choices([0.1, 0.25, 0.4, 0.5, 0.6], k=dice.randint(1, 12))
            request = request_from_bundles([{"GPU": each} for each in amounts], sharing=dice.choice(sharing))
            answer = plan(inventory, replace(request, gang=f"g{number}"))
            if not isinstance(answer, Allocation):
                continue
            inventory.hold(answer)
            attempt = attempt_of(answer, CLUSTER, compute_domains=False, asked=request.bundles)
            pods = [(node, list(attempt.claims(slot, "uid").values())) for node, slot in attempt.slots.items()]
            dice.shuffle(pods)
            got = allocator.ask(every, sorted(taken), [*placed, *pods])[len(placed) :]
            given = {(node, d) for (node, _), found in zip(pods, got, strict=True) for c in found or () for d in c}
            assert given == {(grant.node, grant.device.device) for grant in answer.grants}
            assert not given & have
            have |= given
            if gates == CONSUMABLE:
                placed += pods  # of a GPU that several claims may have, the allocator has to be told how much
            else:
                taken |= given
            uuids += dict.fromkeys(str(grant.uuid) for grant in answer.grants)
        free = {name: 8 - sum(node == name for node, _ in have) for name in published}
        for _ in range(50):
            node = dice.choice(sorted(published))
            some = whole_claim(dice.choice((1, 1, 2)), dice.sample(uuids, 1) if dice.random() < 0.4 else [])
            if gates == CONSUMABLE and dice.random() < 0.5:
                some["spec"]["devices"]["requests"][0]["exactly"]["capacity"] = {"requests": {"memory": "1Mi"}}
            if gates == DYNAMIC and dice.random() < 0.4:
                some = claim(dice.choice(uuids), ("1g.23gb", 1))
            got_by_stranger = allocator.ask(every, sorted(taken), [*placed, (node, [some])])[-1]
            asked += 1
            refused += got_by_stranger is None
            for device in got_by_stranger[0] if got_by_stranger is not None else ():
                assert (node, device) not in have
                assert not any(name == node and device.startswith(f"{gpu}-") for name, gpu in have), "a part of it"
            if got_by_stranger is None and some["metadata"]["name"] == "any-1":
                assert not free[node], "the others are theirs"
    assert 0 < refused < asked


def test_what_a_claim_leaves_of_a_gpus_memory_anybody_gets(allocator: Allocator) -> None:
    """Why a pool is one claim that many name: claims of its gangs' own, each on so much memory, would leave to
    strangers what no gang has yet."""
    (machine,) = simulated_nodes("hgx-b200", nodes=1)
    published = slices(gpu_pool(machine, {}, CONSUMABLE, consumable_shares="memory"), machine.name, 1)
    quarter, least, everything = (whole_claim(1, [machine.uuid(0)]) for _ in range(3))
    for some, memory in ((quarter, "40Gi"), (least, "1Mi")):
        some["spec"]["devices"]["requests"][0]["exactly"]["capacity"] = {"requests": {"memory": memory}}
    pods = [(machine.name, [some]) for some in (quarter, least, everything)]
    assert [got is not None for got in allocator.ask(published, [], pods)] == [True, True, False]
    assert [got is not None for got in allocator.ask(published, [], pods[::-1])] == [True, False, False]


def whole_claim(count: int, uuids: Sequence[str]) -> dict[str, Any]:
    """Anybody's, for GPUs of these UUIDs; none: for any."""
    named = f'device.attributes["{DRIVER}"].uuid in {json.dumps(list(uuids))}'
    exactly: dict[str, Any] = {"deviceClassName": "gpu.nvidia.com", "allocationMode": "ExactCount", "count": count}
    if uuids:
        exactly["selectors"] = [{"cel": {"expression": named}}]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": f"named-{count}" if uuids else f"any-{count}", "namespace": "team", "uid": "u"},
        "spec": {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}},
    }
