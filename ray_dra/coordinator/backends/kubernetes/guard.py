"""Keeps others' claims off GPUs of gangs that no claim has (their claims change, or the gang keeps them for another
shape), by DeviceTaintRules, and takes these away again.

Level-triggered like the making of workers (`backend.py`): every look makes the rules that are missing and deletes those
that no gang needs any more, also what a coordinator before this one has made. Neighbour: `translate.kube.guards`.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from ray_dra.coordinator.backends.base import Guarded
from ray_dra.coordinator.backends.kubernetes.machines import Machines
from ray_dra.core.model.allocation import Allocation
from ray_dra.errors import KubernetesError, NotAllowed, Rejected
from ray_dra.ports.clock import Clock
from ray_dra.ports.kube_objects import DeviceTaintRule
from ray_dra.ports.kubernetes import Kube, KubeView
from ray_dra.translate.kube.guards import devices_to_guard, guards_for, owner_of, taint_for, toleration_of
from ray_dra.translate.kube.parts import Parts

AGAIN_SECONDS = 10.0  # after which what was written is written again, where no watch has shown it
SEEN_SECONDS = 2.0  # for which rules are in our view before a claim ends: the scheduler watches them as we do


class _Rules(NamedTuple):
    """The rules for a gang's GPUs, by name, and what they were made from. `pools`: by node."""

    gpus: Allocation
    pools: Mapping[str, Parts | None]
    by_name: Mapping[str, Any]


class Guard:
    """See the module. What it remembers is for thrift only, but for how long the rules have been seen: a new one waits
    anew."""

    def __init__(self, kube: Kube, clock: Clock, machines: Machines) -> None:
        self._kube, self._clock, self._machines = kube, clock, machines
        self._made: dict[str, _Rules] = {}  # by gang
        self._since: dict[str, float] = {}  # gang -> since when all of its rules are seen
        self._written: dict[tuple[str, str], float] = {}  # verb and rule -> when
        self._refused = ""  # why rules cannot be written
        self._left = False  # rules of ours are there
        self.ours = owner_of(kube.namespace, kube.raycluster)

    def step(self, view: KubeView, wanted: Mapping[str, Allocation]) -> None:
        """One step towards the rules for these gangs' GPUs, and no others. Errors are met again later."""
        self._made = {gang: self._rules(gang, held) for gang, held in wanted.items()}
        if self._kube.lead():
            return
        there = {rule.name: rule.guard for rule in view.taint_rules if rule.guard and self.is_ours(rule)}
        rules = {name: rule for each in self._made.values() for name, rule in each.by_name.items()}
        self._left = bool(there)
        self._written = {key: at for key, at in self._written.items() if self._clock() - at < AGAIN_SECONDS}
        self._seen(there)
        calls = [partial(self._create, name, rule) for name, rule in rules.items() if name not in there]
        calls += [partial(self._delete, name) for name in self._over(there, rules)]
        if not calls:
            return
        try:
            self._kube.together(calls)
            self._refused = ""
        except NotAllowed as error:
            self._refused = f"{error} The component kube/shapes allows it."
        except Rejected as error:
            self._refused = str(error)
        except KubernetesError:
            return

    def of(self, gang: str, gpus: Allocation) -> Guarded:
        """Whether nobody else's claim gets one of these GPUs of a gang now that no claim has. Rules may be there that
        are for what it has kept so far, and for no others."""
        if gang not in self._made or self._made[gang].gpus != gpus:
            return Guarded(False)
        if not self._kube.taint_rules:
            return Guarded(False, "this cluster serves no DeviceTaintRules; Kubernetes 1.37 does")
        seen = self._is_seen(gang)
        return Guarded(seen, "" if seen else self._refused)

    def toleration(self, gang: str) -> dict[str, str] | None:
        """What the claims of a gang tolerate whose claims change; None for any other."""
        if gang not in self._made:
            return None
        return toleration_of(taint_for(self._kube.namespace, self._kube.raycluster, gang))

    def is_ours(self, rule: DeviceTaintRule) -> bool:
        """Whether a guard is this RayCluster's."""
        return rule.guard.partition(".")[0] == self.ours

    @property
    def idle(self) -> bool:
        return not self._left

    def _rules(self, gang: str, held: Allocation) -> _Rules:
        """Made anew where a pool has changed, and not while a driver that starts again publishes none."""
        nodes = [placed.node for placed in held.bundles if placed.grants]
        pools = {node: self._machines.pool(node) for node in nodes}
        before = self._made.get(gang)
        if before is not None and before.gpus == held and _unchanged(before.pools, pools):
            return before
        taint = taint_for(self._kube.namespace, self._kube.raycluster, gang)
        whose = self._kube.namespace, self._kube.raycluster
        found: dict[str, Any] = {}
        for placed in held.bundles:
            if placed.grants:
                devices = devices_to_guard(pools[placed.node], {grant.device.device for grant in placed.grants})
                found |= guards_for(taint, whose, placed.grants[0].device.driver, placed.node, devices)
        return _Rules(held, pools, found)

    def _over(self, there: Mapping[str, str], rules: Container[str]) -> list[str]:
        """The rules that nobody needs any more. Where a gang's other rules follow them, not before the scheduler has
        seen those: in between, others would get what the gang keeps."""
        changing = {
            taint_for(self._kube.namespace, self._kube.raycluster, gang)["value"]
            for gang in self._made
            if not self._is_seen(gang)
        }
        return [name for name, taint in there.items() if name not in rules and taint not in changing]

    def _is_seen(self, gang: str) -> bool:
        return self._clock() - self._since.get(gang, math.inf) >= SEEN_SECONDS

    def _seen(self, there: Iterable[str]) -> None:
        names = set(there)
        now = self._clock()
        self._since = {
            gang: self._since.get(gang, now) for gang, made in self._made.items() if names.issuperset(made.by_name)
        }

    def _create(self, name: str, rule: Mapping[str, Any]) -> None:
        if ("create", name) not in self._written:
            self._kube.create(rule)
            self._written["create", name] = self._clock()

    def _delete(self, name: str) -> None:
        if ("delete", name) not in self._written:
            self._kube.delete("DeviceTaintRule", name)
            self._written["delete", name] = self._clock()


def _unchanged(before: Mapping[str, Parts | None], now: Mapping[str, Parts | None]) -> bool:
    """Whether each pool is what it was, as far as it is there."""
    return all(pool is None or pool is before.get(node) for node, pool in now.items())
