"""What the coordinator is made of, in the order in which one part needs the other; and what the store has of before."""

from __future__ import annotations

from ray_dra.coordinator.aside import Aside
from ray_dra.coordinator.backends.base import Backend
from ray_dra.coordinator.backends.kubernetes.backend import KubernetesBackend
from ray_dra.coordinator.backends.kubernetes.machines import Machines
from ray_dra.coordinator.backends.kubernetes.queues import Queues
from ray_dra.coordinator.backends.raylets.backend import RayletsBackend
from ray_dra.coordinator.backends.raylets.nodes import Nodes
from ray_dra.coordinator.executor import Executor
from ray_dra.coordinator.foreign_work import ForeignWork
from ray_dra.coordinator.gang_store import GangStore
from ray_dra.coordinator.gpu_id_map import GpuIdMap
from ray_dra.coordinator.inventory_sync import InventorySync
from ray_dra.coordinator.observer import Observer
from ray_dra.coordinator.pace import OwnTime
from ray_dra.coordinator.status import Statuses
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import KnownNodes
from ray_dra.core.gangs.discipline import Discipline
from ray_dra.core.gangs.engine import Engine
from ray_dra.core.model.imex import IMEX_LIMITS, NO_LIMITS
from ray_dra.ports.clock import Clock
from ray_dra.ports.kubernetes import Kube
from ray_dra.ports.metrics import Metrics
from ray_dra.ports.quota import NoQuotas, Quotas
from ray_dra.ports.ray import Ray
from ray_dra.ports.store import Store
from ray_dra.ports.traces import NO_TRACES, Traces


class Parts:
    """See the module. The one place that asks whether there is Kubernetes."""

    def __init__(
        self,
        store: Store,
        ray: Ray,
        clock: Clock,
        kube: Kube | None,
        metrics: Metrics,
        discipline: Discipline,
        levels: tuple[str, ...] = (),
        traces: Traces = NO_TRACES,
    ) -> None:
        self.clock = clock = OwnTime(clock)
        self.aside = Aside(store)
        limits = IMEX_LIMITS if kube is not None and kube.compute_domains else NO_LIMITS
        self.inventory = Inventory(limits=limits, level_labels=levels)
        self.known = KnownNodes(self.inventory)
        machines = Machines(self.inventory, clock)
        self.nodes = Nodes(store, self.inventory, clock, self.aside, is_machine=machines.has, best=self.known.best)
        self.known.remember(self.nodes.remembered(), clock())
        self.backend: Backend
        self.quotas: Quotas
        if kube is None:
            self.backend, self.quotas = RayletsBackend(self.nodes), NoQuotas()
        else:
            workers = KubernetesBackend(kube, store, self.inventory, clock, machines, self.nodes)
            self.backend, self.quotas = workers, Queues(kube, lambda: workers.view, clock)
        self.engine = Engine(
            self.inventory,
            self.known,
            begins=self.backend.begins,
            own_workers=self.backend.own_workers,
            ready_made=self.backend.ready_made,
            discipline=discipline,
        )
        records = self.engine.records
        self.foreign_work = ForeignWork(store, self.inventory, ray, clock, self.aside)
        self.observer = Observer(self.inventory, self.nodes, ray, self.backend, clock)
        self.sync = InventorySync(
            self.inventory,
            self.known,
            self.nodes,
            self.backend,
            self.observer,
            self.foreign_work,
            records,
            clock,
        )
        self.gang_store = GangStore(store, self.aside)
        self.gpu_id_map = GpuIdMap(self.inventory, self.nodes, self.foreign_work, self.backend, records, self.observer)
        self.statuses = Statuses(records, self.gang_store, self.observer, self.backend, self.foreign_work)
        self.executor = Executor(
            self.engine,
            store,
            self.gang_store,
            ray,
            self.backend,
            self.observer,
            self.statuses,
            self.gpu_id_map,
            self.foreign_work,
            self.quotas,
            metrics,
            traces,
        )

    def restore(self) -> None:
        """The gangs of the store, and what they hold."""
        found = self.gang_store.load()
        self.backend.look([gang.allocation for gang in found if gang.allocation is not None])
        for gang in found:
            try:
                self.engine.records.restore(gang, self.clock())
            except ValueError as error:  # e.g. two records that claim one clique for their gang alone
                self.gang_store.set_aside(gang.id, f"The record claims what another gang has: {error}")
