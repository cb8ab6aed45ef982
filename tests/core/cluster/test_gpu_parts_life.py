"""Gangs of parts and of whole GPUs, strangers and nodes that come and go: what is kept up is what a new index has."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import Health
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import GangRequest
from ray_dra.core.plan import plan
from tests.core.machines import gang
from tests.core.parted import SMALL, bundle, parted, parted_node


class Life:
    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        static = replace(parted_node("s", 1, SMALL), parted=(parted("s", 9, static=("1g.1gb", "2g.2gb")),))
        self.nodes = {node.name: node for node in (parted_node("a", 2, SMALL), parted_node("b", 3, SMALL), static)}
        self.there = dict(self.nodes)
        self.inventory = Inventory(self.nodes.values())
        self.held: dict[str, Allocation] = {}
        self.others: dict[str, tuple[int, dict[str, int]]] = {}
        self.number = 0

    def come(self) -> None:
        self.number += 1
        profiles = self.dice.choices([profile for profile, *_ in SMALL], k=self.dice.randint(1, 3))
        request = gang(self.dice.randint(1, 2), name=f"g{self.number}")
        if self.dice.random() < 0.7:
            request = GangRequest(f"g{self.number}", tuple(map(bundle, profiles)))
        answer = plan(self.inventory, request)
        if isinstance(answer, Allocation):
            self.inventory.hold(answer)
            self.held[answer.gang] = answer

    def go(self) -> None:
        if self.held:
            name = self.dice.choice(sorted(self.held))
            self.inventory.release(name)
            del self.held[name]

    def strangers(self) -> None:
        name = self.dice.choice(sorted(self.there))
        masks = {}
        busy = 0
        for gpu in self.there[name].parted:
            mask = self.dice.choice((0, 0, 1, 2, (1 << len(gpu.parts)) - 1))
            masks[gpu.uuid] = mask
            if mask and gpu.position is not None:
                busy |= 1 << gpu.position
        self.others[name] = busy, masks
        self.tell(self.inventory, name)

    def tell(self, inventory: Inventory, name: str) -> None:
        busy, masks = self.others.get(name, (0, {}))
        inventory.set_others(name, busy, {})
        inventory.set_parts(name, masks, {})

    def leave(self) -> None:
        if len(self.there) > 1:
            name = self.dice.choice(sorted(self.there))
            self.inventory.drop_node(name)
            del self.there[name]
            self.others.pop(name, None)

    def back(self) -> None:
        name = self.dice.choice(sorted(self.nodes))
        node: Node = self.nodes[name]
        if self.dice.random() < 0.3:
            node = replace(node, parted=tuple(replace(gpu, health=Health.TAINTED) for gpu in node.parted))
        self.there[name] = node
        self.inventory.put_node(node)
        self.tell(self.inventory, name)  # as the next look does

    def check(self) -> None:
        fresh = Inventory(self.there.values())
        for allocation in self.held.values():
            fresh.hold(allocation)
        for name in self.there:
            self.tell(fresh, name)
        assert self.inventory.free_devices == fresh.free_devices
        assert self.inventory.held_devices == fresh.held_devices
        for name, state in fresh.node_states.items():
            mine = self.inventory.node_states[name]
            assert (mine.free, mine.held, mine.busy, dict(mine.shares)) == (
                state.free,
                state.held,
                state.busy,
                dict(state.shares),
            )
            assert mine.tenants == state.tenants
            for gpu, other in zip(mine.parts, state.parts, strict=True):
                assert (gpu.others, gpu.held, gpu.broken, gpu.state) == (
                    other.others,
                    other.held,
                    other.broken,
                    other.state,
                )
            broken = {gpu.gpu.position for gpu in mine.parts if gpu.broken} - {None}
            assert not any(mine.free >> at & 1 for at in broken if at is not None)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_kept_up_is_what_would_be_built_anew(seed: int) -> None:
    dice = random.Random(seed)
    life = Life(dice)
    for _ in range(80):
        dice.choice((life.come, life.come, life.come, life.go, life.strangers, life.leave, life.back))()
        life.check()
    for name in list(life.held):
        life.inventory.release(name)
        del life.held[name]
    life.check()
    assert not any(gpu.held for state in life.inventory.node_states.values() for gpu in state.parts)
