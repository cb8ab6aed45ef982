"""Workers for gangs on Kubernetes: from a held allocation to raylets that have exactly its devices, and back.

Level-triggered: every look reads what is there and takes each attempt one step further, or, where no gang wants it any
more, one step back. No phase is stored; it is read off the labelled objects, so a coordinator that was killed anywhere
goes on where it was. Only Kubernetes' scheduler allocates. Neighbours: `translate.kube.workers` makes the objects,
`translate.kube.slices` reads the nodes; which allocations are wanted, `core.gangs.records` says.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ray_dra.coordinator.backends.base import GivenRaylets, Guarded
from ray_dra.coordinator.backends.kubernetes.doubled import Doubled
from ray_dra.coordinator.backends.kubernetes.guard import Guard
from ray_dra.coordinator.backends.kubernetes.machines import Machines
from ray_dra.coordinator.backends.kubernetes.objects import Found, by_attempt, is_ours, raycluster
from ray_dra.coordinator.backends.kubernetes.provisioning import FIRST_STAGES, Provisioning
from ray_dra.coordinator.backends.kubernetes.teardown import Teardown
from ray_dra.coordinator.backends.kubernetes.warm import Warming
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.gangs.lifecycle import WORKERS_SECONDS
from ray_dra.core.gangs.notice import Ending
from ray_dra.core.gangs.progress import STARTS, Progress
from ray_dra.core.gangs.repair import FaultRule
from ray_dra.core.model.allocation import Allocation, Grant
from ray_dra.core.model.device import DeviceId
from ray_dra.core.model.request import GangRequest
from ray_dra.core.model.signs import Seen
from ray_dra.errors import InvalidRequest, KubernetesError, NotAllowed, OverQuota, Rejected
from ray_dra.ports.clock import Clock
from ray_dra.ports.kube_objects import Claim, OfGang, Placing, RayCluster
from ray_dra.ports.kubernetes import Kube, KubeView
from ray_dra.ports.nvml import NodeReading
from ray_dra.ports.store import Store
from ray_dra.translate.kube.attempts import attempt_of, domains_of
from ray_dra.translate.kube.ending import ClusterEnding, ending_of
from ray_dra.translate.kube.gang_scheduling import asks_for_gang_scheduling, grouped_probe, version_of
from ray_dra.translate.kube.kai import is_kai
from ray_dra.translate.kube.raycluster import (
    check_request_for,
    default_locality,
    fault_rules_in,
    schedule_in,
    spares_in,
    worker_template,
    write_limits,
)
from ray_dra.translate.kube.slots import (
    attempt_name,
    attempt_of_slot,
    slot_labels,
    slot_order,
    slots_of,
    workers_of,
)
from ray_dra.translate.names import ATTEMPT_KEYS, LOCALITY_LABEL, SLOT_LABEL
from ray_dra.translate.schedule import Schedule
from ray_dra.translate.vendors import BUS

QUOTA_SECONDS = 15.0  # after which a gang that found no room in a quota is tried again
IMAGE_SECONDS = 600.0  # for which a gang's image that could not be had counts
UNSEEN_SECONDS = 2.0  # within which a look shows what was made
REST_SECONDS = 5.0  # the same at most, after any other no; the first time at the next look


class _Rest(NamedTuple):
    """Until when nothing is written for a gang that the API server said no to, why, and how long the next rest is."""

    until: float = -math.inf
    why: str = ""
    next: float = 0.0


class KubernetesBackend:
    """See the module, and `backends.base.Backend`. Writes the cluster's nodes into `inventory`, and others' claims as
    taken.

    Attributes:
        raylets: those that were there; all other nodes of an allocation are Kubernetes' nodes, also those that it has
            lost since.
    """

    own_workers = True
    begins = STARTS
    place_within = WORKERS_SECONDS

    def __init__(
        self,
        kube: Kube,
        store: Store,
        inventory: Inventory,
        clock: Clock,
        machines: Machines,
        raylets: GivenRaylets,
    ) -> None:
        self.kube, self.store, self.inventory, self.clock = kube, store, inventory, clock
        self.view = KubeView()
        self.machines, self.raylets = machines, raylets
        self.found: dict[str, Found] = {}
        self._attempts: dict[str, Provisioning] = {}
        self._unseen: dict[str, float] = {}  # attempt -> when something was made for it that no look has shown yet
        self._rests: dict[str, _Rest] = {}  # by gang
        self._no_image: dict[str, float] = {}  # gangs for which an image could not be had -> until when that counts
        self._labels: dict[
            str, tuple[Allocation, dict[str, str]]
        ] = {}  # attempt -> node -> the label of the slot there
        self._domains: dict[str, tuple[Allocation, dict[str, str]]] = {}  # attempt -> node -> its ComputeDomain
        self._warming, self._teardown = Warming(kube, clock), Teardown(kube, clock)
        self._guard = Guard(kube, clock, machines)
        self._doubled = Doubled(lambda reason, said: kube.tell(reason, said, warning=True))
        self._tidied: set[str] | None = None  # the attempts that were wanted when the store was last tidied
        self._seen: tuple[Any, ...] = ()  # what the last look was made from
        self._ending: ClusterEnding | None = None
        self._on_fault: tuple[FaultRule, ...] = ()
        self._schedule: Schedule | None = None
        self._odd_setting = ""  # why what the RayCluster says of faults or spares cannot be; told when that changes
        self._odd_schedule = ""  # why the RayCluster's schedule is none; told when that changes
        self._odd_policy = ""  # why the RayCluster's policy is none; told when that changes

    # -- what there is

    def look(self, wanted: Iterable[Allocation]) -> None:
        """Read the cluster, and write it into the inventory. `wanted`: the allocations that gangs hold now."""
        self.view = self.kube.view()
        self._ending = ending_of(self.view, self.kube.raycluster)
        self._look_at_policy()
        self._look_at_schedule()
        gangs = {attempt_name(a.gang, a.epoch): a.gang for a in wanted}
        names = frozenset(gangs)

        def of_gangs(claim: Claim) -> bool:
            return claim.attempt in names and self._ours(claim)

        neighbours = self.machines.neighbours
        neighbours.look((self.view.version, names), self.view.claims, of_gangs, self._ours)
        for news in neighbours.newly_ignored():
            self.kube.tell("NeighbourIgnored", news, warning=True)
        key = (self.view.version, names, frozenset(self.machines.avoided), self.machines.faults, neighbours.believed)
        if key == self._seen:
            self._look_at_faults()
            return
        self.found = by_attempt(self.view, self.kube)
        self.machines.put(self.view, self._placing())
        theirs = [rule for rule in self.view.taint_rules if rule.guard and not self._guard.is_ours(rule)]
        self.machines.mark_taken(self.view.claims, of_gangs, lambda claim: gangs[claim.attempt or ""], theirs)
        self._mark_domains(names)
        self._doubled.look(self.view, lambda claim: gangs.get(claim.attempt or "", "") if self._ours(claim) else "")
        self._seen = key
        self._look_at_faults()

    def _mark_domains(self, names: Collection[str]) -> None:
        """`names`: the attempts that gangs have. Channels of their pods are theirs also where their ComputeDomain was
        deleted: until new pods have joined the one that is made again, nobody else has these nodes."""
        domains = {domain.uid for domain in self.view.domains if domain.attempt in names}
        pods = {pod.uid for pod in self.view.pods if pod.attempt in names}

        def ours(claim: Claim) -> bool:
            return claim.domain in domains or (claim.namespace == self.kube.namespace and claim.pod in pods)

        self.machines.mark_domains(self.view.claims, ours)

    @property
    def left_to_others(self) -> str:
        """Which devices are left to other RayClusters' gangs; "" for none."""
        return self.machines.neighbours.said

    def check(self, request: GangRequest) -> None:
        """What would keep any such gang from getting workers. Raises InvalidRequest, or NotFound for no RayCluster."""
        worker_template(self._raycluster())
        write_limits(self._raycluster())
        check_request_for(self._raycluster(), request)

    def problems(self) -> tuple[str, ...]:
        """Why the inventory may differ from what is there, and whom nothing is left to any more."""
        return (
            *self.kube.problems(),
            *self.machines.problems(),
            *self.machines.neighbours.ignored,
            *self._doubled.problems(),
            *self._warming.problems(),
            *filter(None, [self._odd_policy, self._odd_setting, self._odd_schedule]),
        )

    @property
    def default_policy(self) -> str:
        return "" if self.view.raycluster is None else self.view.raycluster.settings.get(LOCALITY_LABEL, "")

    @property
    def default_on_fault(self) -> Sequence[FaultRule]:
        return self._on_fault

    @property
    def schedule(self) -> Schedule | None:
        return self._schedule

    def _look_at_faults(self) -> None:
        """What the RayCluster says of faults and spares; what it cannot say counts as not said, and is told there."""
        before, self._odd_setting = self._odd_setting, ""
        self._on_fault, spares = (), 0
        try:
            if self.view.raycluster is not None:
                spares = spares_in(self.view.raycluster)
                self._on_fault = fault_rules_in(self.view.raycluster)
        except InvalidRequest as error:
            self._odd_setting = str(error)
        self.machines.keep_spares(spares)
        if self._odd_setting not in ("", before):
            self.kube.tell("FaultSettingInvalid", self._odd_setting, warning=True)

    def _look_at_schedule(self) -> None:
        """When gangs have which shape; what is no schedule counts as not said, and is told there."""
        before, self._odd_schedule, self._schedule = self._odd_schedule, "", None
        try:
            if self.view.raycluster is not None:
                self._schedule = schedule_in(self.view.raycluster)
        except InvalidRequest as error:
            self._odd_schedule = str(error)
        if self._odd_schedule not in ("", before):
            self.kube.tell("ScheduleInvalid", self._odd_schedule, warning=True)

    def _look_at_policy(self) -> None:
        """Whoever set what is no policy is told on the RayCluster, before any program needs it."""
        before, self._odd_policy = self._odd_policy, ""
        try:
            if self.view.raycluster is not None:
                default_locality(self.view.raycluster)
        except InvalidRequest as error:
            self._odd_policy = str(error)
        if self._odd_policy not in ("", before):
            self.kube.tell("LocalityInvalid", self._odd_policy, warning=True)

    def hear(self, node: str, reading: NodeReading) -> None:
        self.machines.hear(node, reading)

    @property
    def ready_made(self) -> Collection[str]:
        return self.raylets.there

    def _has_own(self, node: str) -> bool:
        """Whether a gang on the node has workers of its own there; also where Kubernetes has lost the node since."""
        return self.machines.has(node) or not self.raylets.knows(node)

    def _raycluster(self) -> RayCluster:
        return raycluster(self.view, self.kube.namespace)

    def _ours(self, thing: OfGang) -> bool:
        return is_ours(self.kube, thing)

    def _placing(self) -> Placing:
        return self.view.raycluster.placing if self.view.raycluster is not None else Placing()

    # -- provisioning

    def make(
        self, request: GangRequest, allocation: Allocation, joined: Collection[str], *, grouped: bool, queue: str = ""
    ) -> Progress:
        """One step further for a gang's workers. Arguments as of `Provisioning.step`; errors become progress."""
        name = attempt_name(allocation.gang, allocation.epoch)
        attempt = self._attempts.get(name)
        other = self.kube.lead()
        rest = self._rests.get(allocation.gang, _Rest())
        if other or self.clock() < rest.until:
            return _held_up(attempt, other or rest.why)
        if leaves := self._leaves(allocation, name):
            return Progress(stage="applied", said=leaves)
        try:
            if attempt is None or attempt.workers != workers_of(allocation):
                attempt = self._attempts[name] = self._begin(request, allocation, queue)
            progress = self._step(name, attempt, joined, grouped=grouped)
            self._rests.pop(allocation.gang, None)
            return self._without_image(allocation.gang, progress) if attempt.no_image else progress
        except InvalidRequest as error:
            return Progress(failed=str(error), final=True)
        except Rejected as error:
            return Progress(failed=f"Kubernetes refuses the workers: {error.available}", final=True)
        except OverQuota as error:  # what was made of it is given back; there may be room later
            why = f"Kubernetes refuses the workers for now: {error.available}"
            self._rests[allocation.gang] = _Rest(self.clock() + QUOTA_SECONDS, why)
            return Progress(failed=why)
        except KubernetesError as error:
            self._unseen[name] = self.clock()  # what was not answered may have been done
            place = error.place or error.wanted
            why = f"{error.reason} ({place})" if place else error.reason
            if (
                isinstance(error, NotAllowed) and allocation.renewed
            ):  # there may be another way, while the others run on
                return Progress(failed=why)
            seconds = min(REST_SECONDS, rest.next)
            self._rests[allocation.gang] = _Rest(self.clock() + seconds, why, max(0.5, 2 * seconds))
            return _held_up(attempt, why)

    def _leaves(self, allocation: Allocation, name: str) -> str:
        """What is still there of the workers in whose place a gang's others are made anew, on the same GPUs; "" for
        nothing. A node has no room for both."""
        if self._guard.toleration(allocation.gang) is None:
            return ""
        names = {attempt_name(allocation.gang, epoch) for epoch in range(allocation.epoch)}
        found = [there for other, there in self.found.items() if other in names]
        pods, claims = sum(len(there.pods) for there in found), sum(len(there.claims) for there in found)
        return f"{pods} workers and {claims} claims of the shape before to end" if pods or claims else ""

    def _step(self, name: str, attempt: Provisioning, joined: Collection[str], *, grouped: bool) -> Progress:
        began = self.clock()
        try:
            progress = attempt.step(self.view, self.found.get(name, Found()), joined, grouped=grouped)
        finally:
            if attempt.made >= began:
                self._unseen[name] = attempt.made
        if progress.ready or progress.stage not in ("", *FIRST_STAGES):
            self._unseen.pop(name, None)
        return progress

    def _without_image(self, gang: str, progress: Progress) -> Progress:
        """An image that a second set of nodes cannot have either, none can."""
        again = gang in self._no_image
        self._no_image[gang] = self.clock() + IMAGE_SECONDS
        return replace(progress, final=again)

    def _begin(self, request: GangRequest, allocation: Allocation, queue: str) -> Provisioning:
        """For the part of an allocation that lies on Kubernetes' nodes; the rest is on raylets that are there."""
        toleration = self._guard.toleration(allocation.gang)
        attempt = attempt_of(
            allocation,
            self._raycluster(),
            compute_domains=self.inventory.limits.compute_domains,
            asked=request.bundles,
            own=self._has_own,
            buses=self._bus_of,
            toleration=toleration,
            pool=self._pool_of(allocation),
            queue=queue,
            gang_scheduling="" if allocation.renewed or is_kai(queue) else self._gang_scheduling(allocation),
        )
        return Provisioning(
            attempt,
            self.kube,
            self.store,
            self.inventory,
            self.machines,
            self.clock,
            workers_of(allocation),
            anew=bool(allocation.renewed),
            stays=toleration is not None and not allocation.renewed,
        )

    def _gang_scheduling(self, allocation: Allocation) -> str:
        """The version of Kubernetes' own PodGroups, where the RayCluster asks for them and they can be had. An attempt
        that has pods goes on as it began: of two pods of which one is in no PodGroup, the other would wait for ever."""
        there = self.found.get(attempt_name(allocation.gang, allocation.epoch), Found())
        if there.pods:
            return next((version_of(group) for group in there.groups), "")
        cluster = self._raycluster()
        return self.kube.gang_scheduling(grouped_probe(cluster)) if asks_for_gang_scheduling(cluster) else ""

    def _pool_of(self, allocation: Allocation) -> Allocation | None:
        """What the gang holds of whose GPUs this one has shares; None where it has its own."""
        held = self.inventory.allocation(allocation.pool) if allocation.pool else None
        if allocation.pool and held is None:
            raise InvalidRequest("The pool is not there any more.", place=f"gang {allocation.pool}")
        return held

    def _bus_of(self, node: str, uuid: str) -> str | None:
        state = self.inventory.node_states.get(node)
        devices = state.node.devices if state is not None else ()
        return next((str(d.attributes[BUS]) for d in devices if d.uuid == uuid and BUS in d.attributes), None)

    # -- what the coordinator and the workers ask

    def selector(self, allocation: Allocation, node: str) -> Mapping[str, str]:
        if not self._has_own(node):
            return self.raylets.selector(node)
        return {SLOT_LABEL: self._labels_of(allocation)[node]}

    def lost(self, request: GangRequest, allocation: Allocation, joined: Collection[str]) -> Mapping[str, str]:
        """Slots whose raylet is not there (any more), or whose ComputeDomain is not: with it end their IMEX channels,
        and one that is made again is another domain, of which only new workers get channels."""
        slots, used = self.slots(allocation), set(allocation.nodes)  # a worker that is only kept, its shape can spare
        missing = [node for label, node in slots.items() if label not in joined and node in used]
        gone = {node: f"the worker on {node} is gone" for node in missing}
        if self.inventory.limits.compute_domains and not self.view.domains_unread:
            found = self.found.get(attempt_name(allocation.gang, allocation.epoch), Found())
            there = {domain.name for domain in found.domains if not domain.deleting}
            for node, domain in self._domains_of(request, allocation).items():
                if domain not in there:
                    gone.setdefault(node, f"its ComputeDomain {domain} is gone")
        return gone

    def kept_lost(self, allocation: Allocation, joined: Collection[str]) -> frozenset[str]:
        if allocation.kept is None or allocation.kept.guarded:
            return frozenset()
        used = set(allocation.nodes)
        slots = self.slots(allocation).items()
        return frozenset(node for label, node in slots if label not in joined and node not in used)

    def _domains_of(self, request: GangRequest, allocation: Allocation) -> dict[str, str]:
        name = attempt_name(allocation.gang, allocation.epoch)
        held, found = self._domains.get(name, (None, {}))
        if held is None or held.renewed != allocation.renewed:
            found = domains_of(allocation, request.bundles, own=self._has_own)
            self._domains[name] = allocation, found
        return found

    def ending(self, allocation: Allocation) -> Ending | None:
        """With the RayCluster go all its gangs, whole."""
        if self._ending is None:
            return None
        return Ending(self._ending.reason, self._ending.within, tuple(range(len(allocation.bundles))))

    def given_twice(self, allocation: Allocation) -> tuple[str, ...]:
        return self._doubled.of({(grant.node, grant.device.device) for grant in allocation.grants})

    def sign(self, node: str) -> Seen | None:
        return self.machines.sign(node) if self._has_own(node) else self.raylets.sign(node)

    def slots(self, allocation: Allocation) -> dict[str, str]:
        """The label that each worker of the gang's own carries -> its node."""
        return {label: node for node, label in self._labels_of(allocation).items() if self._has_own(node)}

    def _labels_of(self, allocation: Allocation) -> dict[str, str]:
        name = attempt_name(allocation.gang, allocation.epoch)
        held, found = self._labels.get(name, (None, {}))
        if held is None or workers_of(held) != workers_of(allocation):
            found = slot_labels(allocation)
            self._labels[name] = allocation, found
        return found

    def numbers(self, allocation: Allocation) -> Mapping[str, Mapping[DeviceId, int]]:
        """A gang's own worker sees no other devices, in the order of its slot."""
        by_node: dict[str, list[Grant]] = {}
        for grant in (grant for placed in allocation.in_workers for grant in placed.grants):
            if self._has_own(grant.node):
                by_node.setdefault(grant.node, []).append(grant)
        return {
            node: {grant.device: rank for rank, grant in enumerate(sorted(grants, key=slot_order))}
            for node, grants in by_node.items()
        }

    def tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        self.kube.tell(reason, message, warning=warning)

    # -- teardown

    def guard(self, gangs: Mapping[str, Allocation]) -> None:
        self._guard.step(self.view, gangs)

    def guarded(self, gang: str, gpus: Allocation) -> Guarded:
        return self._guard.of(gang, gpus)

    def undo(self, wanted: Iterable[Allocation]) -> None:
        """One step back for every attempt that no gang wants, and what the store has of it forgotten."""
        held = list(wanted)
        names, gangs = {attempt_name(a.gang, a.epoch) for a in held}, {a.gang for a in held}
        self._rests = {gang: rest for gang, rest in self._rests.items() if gang in gangs or self.clock() < rest.until}
        self._no_image = {gang: until for gang, until in self._no_image.items() if self.clock() < until}
        if not self.kube.lead():
            strays = self._strays(held)
            self._teardown.step({**self.found, **strays}, names - strays.keys())
            self._warming.step(self.view, self.machines.usable)
        self._unseen = {name: at for name, at in self._unseen.items() if self.clock() - at < UNSEEN_SECONDS}
        self._attempts = {name: attempt for name, attempt in self._attempts.items() if name in names}
        self._labels = {name: labels for name, labels in self._labels.items() if name in names}
        self._domains = {name: domains for name, domains in self._domains.items() if name in names}
        if names == self._tidied and self.idle:
            return  # the store is asked over the network, and this is every look
        self._tidied = names
        for key in [key for kind in ATTEMPT_KEYS for key in self.store.keys(kind)]:
            if attempt_of_slot(key.partition("/")[2]) not in names:
                self.store.delete(key)

    def _strays(self, wanted: Iterable[Allocation]) -> dict[str, Found]:
        """By attempt: workers of gangs that keep nothing there any more. A gang that runs makes none, so that nobody
        else would meet them; the claims that they own go with them. Of a gang whose record lies aside nobody knows
        which workers it has: these are left alone."""
        found = {}
        for allocation in wanted:
            if not allocation.bundles:
                continue
            name = attempt_name(allocation.gang, allocation.epoch)
            pods = self.found[name].pods if name in self.found else []
            slots = self.slots(allocation) if pods else {}
            if len(pods) > len(slots) or not {pod.node for pod in pods if pod.node is not None}.issubset(
                slots.values()
            ):
                names = {slot.name for slot in slots_of(allocation).values()}
                found[name] = Found([pod for pod in pods if pod.name not in names])
        return found

    def gone(self, gang: str, moves: int) -> bool:
        """Whether nothing is left of any attempt at a gang, nor may be that was made since the last look."""
        names = {attempt_name(gang, epoch) for epoch in range(moves + 1)}
        return names.isdisjoint(self._unseen) and all(
            there.nothing for name, there in self.found.items() if name in names
        )

    @property
    def idle(self) -> bool:
        """Whether nothing of any attempt is left, nor pods that pull images."""
        return self._warming.idle and self._guard.idle and all(there.nothing for there in self.found.values())


def _held_up(attempt: Provisioning | None, why: str) -> Progress:
    """What keeps an attempt from being taken further is none of its own."""
    if attempt is not None:
        attempt.hold_up()
    return Progress(said=why)
