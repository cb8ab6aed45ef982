"""Random small clusters, and exhaustive search over them that shares no code with the planner.

The clusters have what is rare: nodes whose GPUs lie in two cliques or partly in none, missing links, two
products on a node, few CPUs, gangs that hold some of it. The search tries every node and every clique for every
bundle, and every set of devices.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation, Grant, Placed
from ray_dra.core.model.clique import box_clique
from ray_dra.core.model.device import Device, DeviceId, FabricKind
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Connect, Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Bundle, DeviceRequest, GangRequest, Strategy

Links = tuple[tuple[int, ...], ...]


@dataclass
class World:
    """Nodes, what others use, and gangs with what they hold: plain values."""

    nodes: list[Node]
    limits: Limits = field(default_factory=Limits)
    busy: dict[str, int] = field(default_factory=dict)  # node -> devices of others
    gangs: dict[str, Allocation] = field(default_factory=dict)
    domains: frozenset[str] = frozenset()  # nodes in IMEX domains of others

    def inventory(self, level_labels: tuple[str, ...] = ()) -> Inventory:
        made = Inventory(self.nodes, self.limits, level_labels)
        for name, mask in self.busy.items():
            made.set_others(name, mask, {})
        for allocation in self.gangs.values():
            made.hold(allocation)
        made.set_others_domains(self.domains)
        return made

    def without(self, gangs: Sequence[str]) -> World:
        return replace(self, gangs={name: a for name, a in self.gangs.items() if name not in gangs})

    def free(self, node: Node) -> frozenset[int]:
        taken = {i for i in range(len(node.devices)) if self.busy.get(node.name, 0) >> i & 1}
        taken |= {g.position for a in self.gangs.values() for g in a.grants if g.node == node.name}
        owned = {scope for a in self.gangs.values() for (scope, what), _ in a.counters if what == "exclusive"}
        taken |= {i for i, d in enumerate(node.devices) if d.clique in owned}
        return frozenset(range(len(node.devices))) - taken

    def left(self, node: Node, resource: str) -> float:
        used = (p.resources.get(resource, 0.0) for a in self.gangs.values() for p in a.bundles if p.node == node.name)
        return node.resources.get(resource, 0.0) - sum(used)

    def in_imex(self, node: Node) -> bool:
        gangs = any(c == ("node/" + node.name, "imex") for a in self.gangs.values() for c, _ in a.counters)
        return gangs or node.name in self.domains

    def in_use(self, clique: str) -> bool:
        """Whether anybody has a device in the clique, or the clique itself."""
        return any(
            d.clique == clique and i not in self.free(node) for node in self.nodes for i, d in enumerate(node.devices)
        )


# -- what an allocation has to fulfil


Item = tuple[int, tuple[str, ...], str | None]
"""Devices of a bundle on a node: how many, of which products, in which clique (None: any or none)."""


@cache
def _devices_for(
    free: frozenset[int],
    links: Links,
    products: tuple[str, ...],
    cliques: tuple[str | None, ...],
    items: tuple[Item, ...],
    linked: bool,
) -> bool:
    """Whether these bundles find disjoint devices on one node."""
    if not items:
        return True
    count, of, clique = items[0]
    may = sorted(i for i in free if (not of or products[i] in of) and clique in (None, cliques[i]))
    return any(
        (not linked or all(links[a][b] for a, b in combinations(chosen, 2)))
        and _devices_for(free - set(chosen), links, products, cliques, items[1:], linked)
        for chosen in combinations(may, count)
    )


class Brute:
    """Every place for every bundle of one request."""

    def __init__(self, world: World, request: GangRequest) -> None:
        self.world, self.request = world, request
        self.locality = request.locality
        self.within = self.locality.required and self.locality.within_cliques
        self.sizes = [b.count for b in request.bundles]
        self.resources = sorted({r for b in request.bundles for r in b.resources})
        self.free = {n.name: world.free(n) for n in world.nodes}
        self.at: list[tuple[Node, str | None]] = []

    def fits(self) -> bool:
        return self._place(0)

    def _place(self, index: int) -> bool:
        if index == len(self.request.bundles):
            return self._whole()
        for where in self._places(self.request.bundles[index]):
            self.at.append(where)
            if self._so_far() and self._place(index + 1):
                self.at.clear()
                return True
            self.at.pop()
        return False

    def _places(self, bundle: Bundle) -> Iterator[tuple[Node, str | None]]:
        for node in self.world.nodes:
            if node.name in self.request.exclude or not node.ready:
                continue
            if not (self.within and bundle.count):
                yield node, None
                continue
            for clique in sorted({d.clique for d in node.devices if d.clique is not None}):
                if not (self.locality.exclusive and self.world.in_use(clique)):
                    yield node, clique

    def _so_far(self) -> bool:
        """Whether nothing is broken yet that more bundles cannot mend."""
        names = [node.name for node, _ in self.at]
        last = self.at[-1][0]
        here = [b for b, (node, _) in zip(self.request.bundles, self.at, strict=False) if node is last]
        for resource in self.resources:
            if sum(b.resources.get(resource, 0.0) for b in here) > self.world.left(last, resource) + 1e-6:
                return False
        if self.request.strategy is Strategy.STRICT_PACK and len(set(names)) > 1:
            return False
        if self.request.strategy is Strategy.STRICT_SPREAD and len(set(names)) < len(names):
            return False
        if self.within:
            cliques = {c for _, c in self.at if c is not None}
            if self.locality.cliques is not None and len(cliques) > self.locality.cliques:
                return False
            step = self.locality.segment or 1
            start = (len(self.at) - 1) // step * step
            if len({c for _, c in self.at[start:] if c is not None}) > 1:
                return False
        items = tuple(
            (size, tuple(p for d in bundle.devices for p in d.products), clique)
            for size, bundle, (node, clique) in zip(self.sizes, self.request.bundles, self.at, strict=False)
            if node is last and size
        )
        return _devices_for(
            self.free[last.name],
            last.links,
            tuple(d.product or "" for d in last.devices),
            tuple(d.clique for d in last.devices),
            tuple(sorted(items, key=repr)),
            self.locality.connect is Connect.REQUIRED,
        )

    def _whole(self) -> bool:
        return not self.within or imex_is_kept(self.world, [(node.name, clique) for node, clique in self.at])


def linked_by_hand(links: Sequence[Sequence[int]], free: set[int], sizes: Sequence[int]) -> bool:
    """Whether the free devices hold disjoint sets of these sizes, every two devices of a set linked."""
    if not sizes:
        return True
    for chosen in combinations(sorted(free), sizes[0]):
        if all(links[i][j] for i, j in combinations(chosen, 2)) and linked_by_hand(
            links, free - set(chosen), sizes[1:]
        ):
            return True
    return False


def imex_is_kept(world: World, at: Sequence[tuple[str, str | None]]) -> bool:
    """Whether the parts in cliques can have their IMEX domains."""
    if not world.limits.compute_domains:
        return True
    nodes = {node.name: node for node in world.nodes}
    joined: list[str] = []
    for clique in {c for _, c in at if c is not None and not c.startswith("box.")}:
        part = {name for name, c in at if c == clique}
        if len(part) < 2:
            continue
        others = any(world.in_imex(n) for n in world.nodes if any(d.clique == clique for d in n.devices))
        if len(part) > world.limits.domain_nodes or (world.limits.one_per_clique and others):
            return False
        if any(world.in_imex(nodes[name]) for name in part):
            return False
        joined += part
    return len(set(joined)) == len(joined)


def broken(world: World, request: GangRequest, answer: Allocation) -> str:
    """What an allocation breaks; empty where it is right."""
    nodes = {node.name: node for node in world.nodes}
    if len(answer.bundles) != len(request.bundles):
        return "not every bundle is placed"
    seen: set[DeviceId] = set()
    used: dict[tuple[str, str], float] = {}
    for bundle, placed in zip(request.bundles, answer.bundles, strict=True):
        node = nodes[placed.node]
        if placed.node in request.exclude or not node.ready:
            return f"{placed.node} may not be used"
        at = [g.position for g in placed.grants]
        if len(at) != bundle.count or not set(at) <= world.free(node):
            return f"devices of {placed}"
        of = {p for d in bundle.devices for p in d.products}
        if of and not {node.devices[i].product for i in at} <= of:
            return f"products of {placed}"
        if request.locality.connect is Connect.REQUIRED and not all(node.links[a][b] for a, b in combinations(at, 2)):
            return f"links of {placed}"
        if any(g.node != placed.node or g.device in seen for g in placed.grants):
            return f"a device twice, or of another node: {placed}"
        seen |= {g.device for g in placed.grants}
        for resource, amount in bundle.resources.items():
            used[placed.node, resource] = used.get((placed.node, resource), 0.0) + amount
    for (name, resource), amount in used.items():
        if amount > world.left(nodes[name], resource) + 1e-6:
            return f"{amount} {resource} on {name}, which has {world.left(nodes[name], resource)}"
    names = [p.node for p in answer.bundles]
    if request.strategy is Strategy.STRICT_PACK and len(set(names)) > 1:
        return "not on one node"
    if request.strategy is Strategy.STRICT_SPREAD and len(set(names)) < len(names):
        return "two bundles on one node"
    return out_of_cliques(world, request, answer) if request.locality.required else ""


def out_of_cliques(world: World, request: GangRequest, answer: Allocation) -> str:
    """What an allocation breaks of a locality, be it required or preferred."""
    locality = request.locality
    if not locality.within_cliques:
        return ""
    at = []
    for placed in answer.bundles:
        cliques = {g.clique for g in placed.grants}
        if placed.grants and (len(cliques) > 1 or None in cliques):
            return f"{placed} is in no clique"
        at.append((placed.node, cliques.pop() if cliques else None))
    used = {c for _, c in at if c is not None}
    if locality.cliques is not None and len(used) > locality.cliques:
        return f"on {len(used)} cliques"
    step = locality.segment or 1
    for start in range(0, len(at), step):
        if len({c for _, c in at[start : start + step] if c is not None}) > 1:
            return f"the segment from bundle {start} on is in two cliques"
    if locality.exclusive and any(world.in_use(c) for c in used):
        return "a clique that others are in"
    if locality.exclusive and {c for (c, what), _ in answer.counters if what == "exclusive"} != used:
        return "not exclusively"
    if not imex_is_kept(world, at):
        return "no IMEX domain"
    if world.limits.compute_domains:
        several = [n for n, c in at if c and not c.startswith("box.") and len({m for m, d in at if d == c}) > 1]
        if not {"node/" + n for n in several} <= {scope for (scope, what), _ in answer.counters if what == "imex"}:
            return "a node without its IMEX domain"
    return ""


# -- random cases


def random_world(dice: random.Random, *, nodes: int = 4, gpus: int = 4, gangs: int = 3) -> World:
    """Up to `gangs` gangs hold something."""
    made = []
    for at in range(dice.randint(2, nodes)):
        size = dice.randint(2, gpus)
        mine = dice.choice(("a", "a", "a", "b", box_clique(f"n{at}"), None))
        other = dice.choice((None, None, "b", "c"))
        torn = dice.random() < 0.5
        cliques = [other if torn and dice.random() < 0.4 else mine for _ in range(size)]
        whole = dice.random() < 0.6
        there = {p: whole or dice.random() < 0.6 for p in combinations(range(size), 2)}
        links = tuple(tuple(int(i != j and there[min(i, j), max(i, j)]) for j in range(size)) for i in range(size))
        product = dice.choice(("A", "A", "B"))
        devices = tuple(
            Device(
                DeviceId("gpu.nvidia.com", f"n{at}", f"gpu-{i}"),
                i,
                f"GPU-n{at}-{i}",
                attributes={"product": product if dice.random() < 0.85 else "B", "numa": i // 2},
                domains=(clique,) if clique else (),
                fabric_kind=FabricKind.BOX if clique == box_clique(f"n{at}") else FabricKind.MULTI_NODE,
            )
            for i, clique in enumerate(cliques)
        )
        cpus = float(dice.choice((2, 3, 4, 64)))
        made.append(Node(f"n{at}", devices, f"ray-n{at}", links, resources={"CPU": cpus}, ready=dice.random() < 0.95))
    limits = dice.choice((Limits(), Limits(), Limits(True), Limits(True, 2), Limits(True, 18, True)))
    world = World(
        made,
        limits,
        {
            n.name: (1 << len(n.devices)) - 1 & dice.getrandbits(4) & dice.getrandbits(4) & dice.getrandbits(4)
            for n in made
        },
    )
    for name in "uvwxyz"[: max(0, dice.randint(gangs - 5, gangs))]:
        bundles = []
        counters = []
        for node in dice.sample(made, dice.randint(1, len(made))):
            free = sorted(world.free(node))
            cpus = float(min(dice.randint(0, 1), world.left(node, "CPU")))
            chosen = dice.sample(free, dice.randint(0, min(len(free), 2)))
            if not chosen and not cpus:
                continue
            grants = tuple(
                Grant(node.name, i, node.devices[i].id, node.devices[i].uuid, i, node.devices[i].clique)
                for i in sorted(chosen)
            )
            bundles.append(Placed(node.name, grants, {"CPU": cpus} if cpus else {}))
            if limits.compute_domains and dice.random() < 0.3 and chosen and not world.in_imex(node):
                counters.append((("node/" + node.name, "imex"), 1))
        if bundles:
            world.gangs[name] = Allocation(name, tuple(bundles), 0, dice.randint(0, 2), tuple(counters))
    return world


def random_domains(dice: random.Random, world: World) -> frozenset[str]:
    """Nodes that are in IMEX domains of others, where there are any."""
    return frozenset(n.name for n in world.nodes if world.limits.compute_domains and dice.random() < 0.15)


def random_request(dice: random.Random, *, bundles: int = 5) -> GangRequest:
    segment = dice.choice((None, None, None, 1, 2))
    count = dice.randint(1, bundles)
    count = count if segment is None else max(count // segment, 1) * segment
    equal = dice.random() < 0.4
    first = random_bundle(dice)
    members = tuple(first if equal else random_bundle(dice) for _ in range(count))
    exclusive = dice.random() < 0.1
    locality = Locality(
        dice.choice((None, None, 1, 1, 2)),
        segment,
        exclusive or dice.random() < 0.7,
        exclusive=exclusive,
        connect=dice.choice((Connect.PREFERRED, Connect.PREFERRED, Connect.REQUIRED, Connect.ANY)),
    )
    strategy = dice.choice((Strategy.PACK, *Strategy))
    if strategy is Strategy.STRICT_PACK and segment is not None and segment < count:
        strategy = Strategy.PACK
    exclude = frozenset({"n0"}) if dice.random() < 0.1 else frozenset()
    return GangRequest("g", members, locality, strategy, dice.randint(0, 2), exclude)


def random_bundle(dice: random.Random) -> Bundle:
    size = dice.choice((0, 1, 1, 1, 1, 2, 2, 3))
    of = dice.choice(((), (), (), (), ("A",), ("B",)))
    cpus = float(dice.choice((0, 0, 1, 1, 2))) if size else float(dice.choice((1, 1, 2, 4)))
    return Bundle((DeviceRequest(size, products=of),) if size else (), {"CPU": cpus} if cpus else {})


def told(world: World, request: GangRequest) -> str:
    """A case for a person who looks at why it failed."""
    lines = [
        f"{n.name}: {[(d.clique, d.product) for d in n.devices]} {n.links} free {sorted(world.free(n))}, CPU"
        f" {world.left(n, 'CPU')}, imex {world.in_imex(n)}, ready {n.ready}"
        for n in world.nodes
    ]
    return "\n".join([*lines, str(world.limits), str(world.gangs), str(request)])
