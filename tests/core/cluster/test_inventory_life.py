"""Holds, releases, nodes that come and go, in any order; the index after each is what a scan gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.core.cluster.clique_state import CLIQUE, LOOSE_NODE
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.node_state import OTHERS
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.device import Health
from ray_dra.core.model.imex import Limits
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.node import Node
from ray_dra.core.model.request import Bundle, DeviceRequest
from ray_dra.core.plan import plan
from ray_dra.core.planner.capacity import Capacities
from ray_dra.core.planner.fold import FoldedRequest
from ray_dra.core.planner.scope import Scope
from tests.core.machines import gang, node, picture, rack


class HoldsAndReleases(RuleBasedStateMachine):
    """Holds, releases, nodes that join, change and leave: the incremental index equals one built afresh."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = {n.name: n for n in [*rack("a", 3), *rack("b", 2), node("box", 8, box=True, loose=[2])]}
        self.inventory = Inventory(self.nodes.values(), Limits(compute_domains=True, domain_nodes=2))
        self.held: dict[str, Allocation] = {}
        self.busy: dict[str, int] = {}
        self.domains: frozenset[str] = frozenset()
        self.away: dict[str, Node] = {}
        self.count = 0

    @rule(
        sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
        cliques=st.sampled_from([None, 1, 2]),
        exclusive=st.booleans(),
        share=st.sampled_from([None, None, 250, 400]),
        cpus=st.sampled_from([0, 0, 7]),
    )
    def hold(self, sizes: list[int], cliques: int | None, exclusive: bool, share: int | None, cpus: int) -> None:
        self.count += 1
        locality = Locality(cliques=cliques, exclusive=exclusive and cliques is not None)
        resources = {"CPU": cpus} if cpus else {}
        request = gang(*sizes, name=f"g{self.count}", locality=locality, resources=resources)
        if share is not None:
            parts = tuple(Bundle((DeviceRequest(1, share=share),), resources) for _ in sizes)
            request = replace(request, bundles=(*parts, *request.bundles[1:]))
        answer = plan(self.inventory, request)
        if isinstance(answer, Allocation):
            self.inventory.hold(answer)
            self.held[answer.gang] = answer
            with pytest.raises(ValueError, match="already"):
                self.inventory.hold(answer)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        self.inventory.release(name)
        self.inventory.release(name)
        del self.held[name]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def leave_together_and_return(self, data: st.DataObject) -> None:
        """As a search for victims does: the index is that of one after the other, also while they are away."""
        names = data.draw(st.lists(st.sampled_from(sorted(self.held)), min_size=1, unique=True))
        self.inventory.release_all([*names, "nobody"])
        away = {name: self.held.pop(name) for name in names}
        self.the_index_is_what_a_fresh_one_would_be()
        self.held |= away
        self.inventory.hold_all(away.values())
        with pytest.raises(ValueError, match="already"):
            self.inventory.hold_all([self.held[names[0]]])

    @rule(at=st.integers(0, 5), sick=st.integers(0, 3))
    def change(self, at: int, sick: int) -> None:
        name = sorted(self.nodes)[at % len(self.nodes)]
        before = self.nodes[name]
        gpus = len(before.devices)
        clique = before.clique
        box = clique is not None and clique.startswith("box.")
        loose = [i for i, d in enumerate(before.devices) if d.clique is None]
        changed = node(
            name, gpus, clique=None if box else clique, box=box, loose=loose, sick=[sick], order=before.order
        )
        self.nodes[name] = changed
        self.inventory.put_node(changed)

    @rule(at=st.integers(0, 5), mask=st.integers(0, 15))
    def others(self, at: int, mask: int) -> None:
        name = sorted(self.nodes)[at % len(self.nodes)]
        self.busy[name] = mask
        self.inventory.set_others(name, mask, {})

    @rule(places=st.sets(st.integers(0, 5), max_size=3))
    def others_domains(self, places: set[int]) -> None:
        """Also on nodes of gangs, and on nodes that are away."""
        names = sorted([*self.nodes, *self.away])
        self.domains = frozenset(names[at % len(names)] for at in places)
        self.inventory.set_others_domains(self.domains)

    @precondition(lambda self: len(self.nodes) > 2)
    @rule(at=st.integers(0, 5))
    def leave(self, at: int) -> None:
        name = sorted(self.nodes)[at % len(self.nodes)]
        self.away[name] = self.nodes.pop(name)
        self.busy.pop(name, None)
        self.inventory.drop_node(name)

    @precondition(lambda self: self.away)
    @rule(at=st.integers(0, 5))
    def join(self, at: int) -> None:
        """A node comes back; whoever had devices there has them again."""
        name = sorted(self.away)[at % len(self.away)]
        self.nodes[name] = self.away.pop(name)
        self.inventory.put_node(self.nodes[name])

    @invariant()
    def the_index_is_what_a_fresh_one_would_be(self) -> None:
        fresh = Inventory(self.nodes.values(), self.inventory.limits)
        for allocation in self.held.values():
            fresh.hold(allocation)
        for name, mask in self.busy.items():
            fresh.set_others(name, mask, {})
        fresh.set_others_domains(self.domains)
        assert picture(self.inventory) == picture(fresh)
        for wanted in range(1, 9):
            # The quick look-up of a single node is the head of the order in which nodes are taken.
            capacities = Capacities(self.inventory, FoldedRequest(gang(wanted)), Scope((CLIQUE, LOOSE_NODE)))
            found = capacities.one_by_count(capacities.orders, wanted)
            first = next(capacities.levels(capacities.orders, wanted), None)
            assert (found is None) is (first is None)
            if found is not None and first is not None:
                assert found[0] is first[0]
                assert found[1].free & found[1].members[found[0].id]
                assert (found[1].free & found[1].members[found[0].id]).bit_count() == first[1] >= wanted
        self._count_anew()
        devices = [g.device for a in self.held.values() for g in a.grants if g.amount is None]
        assert len(set(devices)) == len(devices)
        for device in devices[:1]:
            if device.pool in self.nodes:
                assert self.inventory.owner_of(device) in self.held
        for name, there in self.nodes.items():
            state = self.inventory.node_states[name]
            sick = sum(1 << at for at, device in enumerate(there.devices) if device.health is not Health.OK)
            assert not state.free & sick, "a device that is not well is free for nobody"

    def _count_anew(self) -> None:
        """What the index keeps up is what its nodes, the holds and others' work say, counted from nothing."""
        inventory = self.inventory
        states = inventory.node_states
        assert set(states) == set(self.nodes)
        held = dict.fromkeys(self.nodes, 0)
        shares: dict[tuple[str, int], int] = {}
        used: dict[str, float] = dict.fromkeys(self.nodes, 0.0)
        for allocation in self.held.values():
            for placed in allocation.bundles:
                if placed.node in self.nodes:
                    used[placed.node] += placed.resources.get("CPU", 0.0)
                for grant in placed.grants:
                    if placed.node in self.nodes and grant.amount is None:
                        held[placed.node] |= 1 << grant.position
                    elif placed.node in self.nodes and grant.amount is not None:
                        at = (placed.node, grant.position)
                        shares[at] = shares.get(at, 0) + grant.amount
        alone = {scope for a in self.held.values() for (scope, what), _ in a.counters if what == "exclusive"}
        free, open_to_shares = {}, {}
        for name, there in self.nodes.items():
            well = sum(1 << at for at, device in enumerate(there.devices) if device.health is Health.OK)
            busy = self.busy.get(name, 0)
            shared = sum(1 << at for node_name, at in shares if node_name == name)
            closed = sum(1 << at for at, device in enumerate(there.devices) if device.clique in alone)
            open_to_shares[name] = well & ~busy & ~held[name] & ~closed
            free[name] = open_to_shares[name] & ~shared
            state = states[name]
            assert (state.held, state.busy, state.free) == (held[name], busy, free[name])
            assert state.shares == {at: amount for (node_name, at), amount in shares.items() if node_name == name}
            assert state.used.get("CPU", 0.0) == used[name]
            mine = [gang for gang, a in self.held.items() if (state.imex_counter) in a.counters]
            assert state.imex_gang == (mine[0] if mine else OTHERS if name in self.domains else None)
        assert inventory.devices == sum(len(there.devices) for there in self.nodes.values())
        assert inventory.free_devices == sum(mask.bit_count() for mask in free.values())
        assert inventory.held_devices == sum(mask.bit_count() for mask in held.values())
        assert inventory.busy_devices == sum(self.busy.get(name, 0).bit_count() for name in self.nodes)
        counts = [mask.bit_count() for mask in free.values()]
        assert {f: n for f, n in enumerate(inventory.by_free) if n} == {f: counts.count(f) for f in counts}
        assert inventory.shared == sorted(
            (1000 - amount, states[name].key, at, name)
            for (name, at), amount in shares.items()
            if amount < 1000 and open_to_shares[name] >> at & 1
        )
        for clique in inventory.clique_states.values():
            members = {
                name: sum(1 << at for at, d in enumerate(there.devices) if d.clique == clique.id)
                for name, there in self.nodes.items()
            }
            if clique.kind != CLIQUE:
                continue
            inside = [name for name in members if members[name]]
            assert sorted(state.name for state in clique.node_states) == sorted(inside)
            assert clique.free == sum((free[name] & members[name]).bit_count() for name in inside)
            assert clique.size == sum(members[name].bit_count() for name in inside)
            joined = sum(
                bit
                for state in clique.node_states
                for of, _, bit in state.memberships
                if of is clique and state.imex_gang is not None
            )
            assert clique.imex_nodes == joined


TestHoldsAndReleases = HoldsAndReleases.TestCase


TestHoldsAndReleases.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
