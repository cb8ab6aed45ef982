"""Exhaustive search over shares, products and cliques that a gang has for itself, on random clusters.

Knows devices, who has how much of each, and what a request says; nothing of the planner's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.explain.whatif import counterfactual
from ray_dra.core.model.allocation import Allocation, Placed
from ray_dra.core.model.device import Counter, Device, DeviceId
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, Strategy
from tests.core.machines import picture

At = tuple[str, int]
"""A device: its node and position."""


@dataclass(frozen=True)
class Cluster:
    """Devices, and what each gang has: thousandths of devices, and cliques that are its own."""

    devices: Mapping[At, tuple[str, str | None]]  # product, clique
    gangs: Mapping[str, Mapping[At, int]]
    own: Mapping[str, str]  # clique -> gang
    priority: Mapping[str, int]

    def without(self, *gone: str) -> Cluster:
        gangs = {g: has for g, has in self.gangs.items() if g not in gone}
        return replace(self, gangs=gangs, own={c: g for c, g in self.own.items() if g not in gone})

    def left(self) -> dict[At, int]:
        """Thousandths that a new gang may have of each device."""
        found = {at: 0 if clique in self.own else 1000 for at, (_, clique) in self.devices.items()}
        for has in self.gangs.values():
            for at, amount in has.items():
                found[at] = max(0, found[at] - amount)
        return found

    def inventory(self) -> Inventory:
        names = sorted({name for name, _ in self.devices})
        inventory = Inventory([self._node(name) for name in names])
        for gang, has in self.gangs.items():
            placed = []
            for (name, position), amount in sorted(has.items()):
                grant = inventory.node_states[name].grants[position]
                placed.append(Placed(name, (grant if amount == 1000 else grant._replace(amount=amount),)))
            counters: tuple[tuple[Counter, int], ...] = tuple(
                ((clique, "exclusive"), 1) for clique, owner in self.own.items() if owner == gang
            )
            inventory.hold(Allocation(gang, tuple(placed), 0, self.priority[gang], counters))
        return inventory

    def _node(self, name: str) -> Node:
        found = [
            Device(
                DeviceId("gpu.nvidia.com", name, f"gpu-{at}"),
                at,
                f"GPU-{name}-{at}",
                attributes={"product": product},
                domains=() if clique is None else (clique,),
            )
            for (node, at), (product, clique) in sorted(self.devices.items())
            if node == name
        ]
        linked = found[0].clique is not None
        links = tuple(tuple(int(linked and a != b) for b in range(len(found))) for a in range(len(found)))
        return Node(name, tuple(found), links=links)


def random_cluster(dice: random.Random) -> Cluster:
    devices: dict[At, tuple[str, str | None]] = {}
    for n in range(dice.randint(1, 3)):
        clique = dice.choice(("c0", "c0", "c1", None))
        products = dice.choice(("A", "B", "AB", "AB"))
        split = dice.random() < 0.25
        for at in range(dice.randint(1, 3)):
            devices[f"n{n}", at] = (dice.choice(products), dice.choice((clique, "c2", None)) if split else clique)
    left = dict.fromkeys(devices, 1000)
    own: dict[str, str] = {}
    gangs: dict[str, dict[At, int]] = {}
    for i in range(dice.randint(0, 4)):
        has: dict[At, int] = {}
        idle = sorted(
            c
            for c in {clique for _, clique in devices.values() if clique is not None}
            if c not in own and all(left[at] == 1000 for at, (_, clique) in devices.items() if clique == c)
        )
        alone = dice.choice(idle) if idle and dice.random() < 0.3 else None
        for _ in range(dice.randint(1, 2)):
            amount = dice.choice((1000, 250, 400, 500, 700))
            where = [
                at
                for at, (_, clique) in sorted(devices.items())
                if left[at] >= amount and at not in has and clique not in own and alone in (None, clique)
            ]
            if where:
                chosen = dice.choice(where)
                has[chosen] = amount
                left[chosen] -= amount
        if has:
            gangs[f"gang-{i}"] = has
            if alone is not None:
                own[alone] = f"gang-{i}"
    return Cluster(devices, gangs, own, {gang: dice.randint(0, 2) for gang in gangs})


def random_request(dice: random.Random) -> GangRequest:
    def bundle() -> Bundle:
        products = dice.choice(((), (), ("A",), ("B",), ("A", "B")))
        if dice.random() < 0.4:
            return Bundle((DeviceRequest(dice.choice((1, 1, 2)), products=products),))
        return Bundle((DeviceRequest(1, products=products, share=dice.choice((250, 300, 500, 600, 700))),))

    count = dice.randint(1, 4)
    bundles = (bundle(),) * count if dice.random() < 0.4 else tuple(bundle() for _ in range(count))
    segment = dice.choice((None, None, None, 1, 2))
    if segment is not None and count % segment:
        segment = None
    locality = Locality(dice.choice((None, None, 1, 2)), segment, required=dice.random() < 0.7)
    if locality.required and dice.random() < 0.2:
        locality = replace(locality, exclusive=True)
    strategy = dice.choice(
        (Strategy.PACK, Strategy.PACK, Strategy.SPREAD, Strategy.STRICT_PACK, Strategy.STRICT_SPREAD)
    )
    if segment is not None and segment < count and strategy is Strategy.STRICT_PACK:
        strategy = Strategy.PACK
    return GangRequest("new", bundles, locality, strategy, priority=dice.randint(0, 2))


def may_go(cluster: Cluster, request: GangRequest, nodes: list[str], taken: list[tuple[At, ...]]) -> bool:
    """Whether bundles with these devices are where the request wants them, as far as they are placed."""
    if request.strategy is Strategy.STRICT_PACK and len(set(nodes)) > 1:
        return False
    if request.strategy is Strategy.STRICT_SPREAD and len(set(nodes)) < len(nodes):
        return False
    locality = request.locality
    if not (locality.required and locality.within_cliques):
        return True
    cliques: list[str | None] = []
    for devices in taken:
        found = {cluster.devices[at][1] for at in devices}
        if len(found) > 1 or None in found:
            return False
        cliques += found
    if locality.exclusive:
        used = {cluster.devices[at][1] for has in cluster.gangs.values() for at in has} | set(cluster.own)
        if used & set(cliques):
            return False
    if locality.cliques is not None and len(set(cliques)) > locality.cliques:
        return False
    step = locality.segment or 1
    return all(len(set(cliques[i : i + step])) == 1 for i in range(0, len(cliques), step))


def choices(cluster: Cluster, bundle: Bundle, left: Mapping[At, int]) -> Iterator[tuple[str, tuple[At, ...]]]:
    (device,) = bundle.devices
    amount = device.share or 1000
    usable = [
        at
        for at, (product, _) in sorted(cluster.devices.items())
        if left[at] >= amount and (not device.products or product in device.products)
    ]
    for node in sorted({name for name, _ in usable}):
        for found in combinations([at for at in usable if at[0] == node], device.count):
            yield node, found


def possible(cluster: Cluster, request: GangRequest) -> bool:
    """By trying everything."""
    left = cluster.left()
    nodes: list[str] = []
    taken: list[tuple[At, ...]] = []

    def place(index: int) -> bool:
        if index == len(request.bundles):
            return True
        bundle = request.bundles[index]
        for node, found in choices(cluster, bundle, left):
            nodes.append(node)
            taken.append(found)
            for at in found:
                left[at] -= bundle.share or 1000
            done = may_go(cluster, request, nodes, taken) and place(index + 1)
            for at in found:
                left[at] += bundle.share or 1000
            nodes.pop()
            taken.pop()
            if done:
                return True
        return False

    return place(0)


def valid(cluster: Cluster, request: GangRequest, answer: Allocation) -> bool:
    """Whether the answer is what was asked for, on devices that are there to be had."""
    left = cluster.left()
    taken = []
    assert len(answer.bundles) == len(request.bundles)
    for placed, bundle in zip(answer.bundles, request.bundles, strict=True):
        (device,) = bundle.devices
        found = tuple((grant.node, grant.position) for grant in placed.grants)
        assert len(set(found)) == device.count
        for at, grant in zip(found, placed.grants, strict=True):
            assert grant.amount == device.share
            assert at[0] == placed.node
            assert not device.products or cluster.devices[at][0] in device.products, "another product"
            left[at] -= device.share or 1000
            assert left[at] >= 0, "more than there is"
        taken.append(found)
    assert may_go(cluster, request, list(answer.nodes), taken)
    return True


def instead(request: GangRequest, change: str) -> GangRequest:
    """The request that a change in words speaks of."""
    words = change.split()
    if change == "anywhere":
        return replace(request, locality=Locality())
    if change == "not exclusively":
        return replace(request, locality=replace(request.locality, exclusive=False))
    if words[0] == "segments":
        return replace(request, locality=replace(request.locality, segment=int(words[2]), cliques=None))
    if words[0] == "on":
        return replace(request, locality=replace(request.locality, cliques=int(words[1])))
    if words[1] == "of":
        return replace(request, bundles=request.bundles[: int(words[0])])
    (device,) = request.bundles[0].devices
    segment = request.locality.segment
    locality = replace(request.locality, segment=segment and 2 * segment)
    half = Bundle((replace(device, count=device.count // 2),))
    assert (len(request.bundles) * 2, device.count // 2) == (int(words[0]), int(words[3]))
    return replace(request, bundles=(half,) * (2 * len(request.bundles)), locality=locality)


def cost(cluster: Cluster, gangs: tuple[str, ...]) -> tuple[int, int, int]:
    return max(cluster.priority[g] for g in gangs), sum(len(cluster.gangs[g]) for g in gangs), len(gangs)


def check_counterfactual(cluster: Cluster, inventory: Inventory, request: GangRequest) -> None:
    before = picture(inventory)
    found = counterfactual(inventory, request)
    assert picture(inventory) == before
    fewer = [n for n in range(1, len(request.bundles)) if n % (request.locality.segment or 1) == 0]
    most = max((n for n in fewer if possible(cluster, replace(request, bundles=request.bundles[:n]))), default=0)
    told = [int(i.change.split()[0]) for i in found.instead if i.change.split()[1:3] == ["of", "the"]]
    assert told == ([most] if most else [])
    for each in found.instead:
        assert valid(cluster, instead(request, each.change), each.allocation), each.change
    leaving = found.leaving
    may = [g for g in sorted(cluster.gangs) if cluster.priority[g] <= request.priority]
    sets = [s for n in range(1, len(may) + 1) for s in combinations(may, n)]
    enough = [s for s in sets if possible(cluster.without(*s), request)]
    assert (leaving is not None) is bool(enough)
    if leaving is not None:
        assert valid(cluster.without(*leaving.gangs), request, leaving.allocation)
        assert leaving.smallest
        assert cost(cluster, leaving.gangs) == min(cost(cluster, s) for s in enough)


def share(amount: int, *products: str) -> Bundle:
    return Bundle((DeviceRequest(1, products=products, share=amount),))
