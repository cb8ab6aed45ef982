"""Which machines there are: agents' readings and Ray's raylets, merged into the inventory.

A node's name outlives its raylet: it is our label where the raylet has one that no other living raylet has already,
else the raylet's id. Where a raylet comes back before Ray knows that the one before it has ended, both live for a
while: a GPU is only the first one's. Readings are kept in the store, so that a coordinator that starts again knows
the topology at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from ray_dra.coordinator.aside import Aside
from ray_dra.core.cluster.inventory import Inventory
from ray_dra.core.cluster.known_nodes import REMEMBER_SECONDS
from ray_dra.core.model.gpu_sharing import SharingKind
from ray_dra.core.model.node import Node
from ray_dra.core.model.signs import Seen, Sign
from ray_dra.ports.clock import Clock
from ray_dra.ports.nvml import NodeReading
from ray_dra.ports.ray import RayNode, RayView
from ray_dra.ports.store import Store
from ray_dra.translate.files.records import KnownNode, known_from_bytes, known_to_bytes
from ray_dra.translate.names import HEAD_RESOURCE, NODE_KEY, NODE_LABEL, RAY_NODE_ID, SLOT_LABEL
from ray_dra.translate.nvml.reading import node_from_reading

WHOLE_ONLY = (
    "its raylet is not the gang's own, and offers whole GPUs: ask for those, and let tasks there have fractions"
)
UNSHARED = tuple((kind.value, WHOLE_ONLY) for kind in SharingKind)
SILENT_SECONDS = 4.0  # an agent says at least every 2 s that it lives
RAYLET_LOST = "its raylet is lost"
RAYLET_DRAINS = "Ray drains its raylet"


class Nodes:
    """The nodes of the cluster; writes them into `inventory`."""

    def __init__(
        self,
        store: Store,
        inventory: Inventory,
        clock: Clock,
        aside: Aside,
        *,
        is_machine: Callable[[str], bool] = lambda name: False,
        best: Callable[[str], Node | None] = lambda name: None,
    ) -> None:
        """`is_machine`: True for Kubernetes node names; a raylet with hostNetwork reports one and must not replace that
        entry. `best`: a node as it was when it was last whole."""
        self._is_machine, self._best = is_machine, best
        self.store = store
        self.inventory = inventory
        self.clock = clock
        self.view = RayView()
        self.names: dict[str, str] = {}  # raylet -> node, also of raylets that are gone
        self.raylets: dict[str, RayNode] = {}  # node -> its raylet, the last one known
        self.readings: dict[str, NodeReading] = {}  # by raylet
        self.translated: dict[str, Node] = {}  # by raylet: the reading as a node, made once a reading
        self._offers: dict[str, tuple[Node, Node]] = {}  # by raylet: what its node was made of, and that
        self.heard: dict[str, float] = {}  # raylet -> when its agent last spoke
        self._stored: dict[str, Node] = {}  # by raylet: the node when it was last whole, before this coordinator
        self._living: frozenset[str] = frozenset()  # raylets
        self._twice: frozenset[str] = frozenset()  # names that several living raylets claim
        self._first: dict[str, str] = {}  # UUID -> the raylet whose GPU it is
        self._gone: dict[str, float] = {}  # raylet that has a record and is not there -> since when
        for raylet, known in aside.read(NODE_KEY, lambda key, data: (key, known_from_bytes(data))):
            self.names[raylet] = known.name
            self.readings[raylet] = known.reading
            if known.node is not None:
                self.translated[raylet] = known.node
            whole = known.best or known.node
            if whole is not None:
                self._stored[raylet] = whole
            self.heard[raylet] = self._gone[raylet] = clock()

    # -- what arrives

    def report(self, raylet: str, reading: NodeReading) -> bool:
        """An agent's reading; True when it changes anything."""
        self.heard[raylet] = self.clock()
        if self.readings.get(raylet) == reading:
            return False
        self.readings[raylet] = reading
        self.translated.pop(raylet, None)
        self._put(raylet)
        self._persist(raylet)
        return True

    def heartbeat(self, raylet: str) -> None:
        self.heard[raylet] = self.clock()

    def silence(self, raylet: str) -> None:
        """It does not answer: nothing is planned there until its agent has spoken again."""
        self.heard[raylet] = -math.inf
        self._put(raylet)

    def see(self, view: RayView) -> None:
        """Ray's raylets: who came, who went, who is silent."""
        # A gang's own worker is a part of a node that is known from Kubernetes.
        view = replace(view, nodes=tuple(n for n in view.nodes if SLOT_LABEL not in n.labels))
        self.view = view
        alive = [n for n in view.nodes if n.alive]
        self._living = frozenset(n.id for n in alive)
        claimed = Counter(n.labels[NODE_LABEL] for n in alive if NODE_LABEL in n.labels)
        self._twice = frozenset(label for label, count in claimed.items() if count > 1)
        if self._twice:  # those that have their name come first, as they did when they got it
            alive.sort(key=lambda n: self.names.get(n.id) != n.labels.get(NODE_LABEL))
        for raylet in alive:
            name = self._name_of(raylet)
            before_name = self.names.get(raylet.id)
            if before_name != name:
                self._leave(raylet.id, before_name)
                self.names[raylet.id] = name
                self._persist(raylet.id)
            before = self.raylets.get(name)
            self.raylets[name] = raylet
            if before is not None and before.id != raylet.id:
                self._forget(before.id)
        for raylet in alive:
            self._gone.pop(raylet.id, None)
            self._put(raylet.id)
        for name, raylet in self.raylets.items():
            state = self.inventory.node_states.get(name)
            if raylet.id not in self._living and state is not None and state.node.reason != RAYLET_LOST:
                self.inventory.put_node(replace(state.node, ready=False, reason=RAYLET_LOST))

    def drop_unused(self, keep: set[str]) -> None:
        """Forget lost nodes that no gang is on; their records last a while longer, for a coordinator after this one."""
        for name, state in list(self.inventory.node_states.items()):
            if not state.node.ready and name not in keep and state.node.reason == RAYLET_LOST:
                self.inventory.drop_node(name)
                raylet = self.raylets.pop(name).id
                self._drop(raylet)
                self._gone[raylet] = self.clock()
        for raylet, since in list(self._gone.items()):
            if self.clock() - since >= REMEMBER_SECONDS and self.names.get(raylet) not in keep:
                self._forget(raylet)

    def remembered(self) -> list[Node]:
        """The nodes that the store knows from before this coordinator, as they were when they were last whole."""
        return list(self._stored.values())

    # -- what is asked

    @property
    def waiting(self) -> tuple[str, ...]:
        """Raylets with GPUs whose agent has not said anything yet."""
        return tuple(
            n.id for n in self.view.nodes if n.alive and n.total.get("GPU", 0) >= 1 and n.id not in self.readings
        )

    @property
    def silent(self) -> int:
        """How many raylets with GPUs there are whose agent says nothing, or has not said anything yet."""
        now = self.clock()
        late = [raylet for raylet in self.readings if now - self.heard.get(raylet, now) > SILENT_SECONDS]
        return len(self.waiting) + sum(raylet in self._living for raylet in late)

    @property
    def there(self) -> Collection[str]:
        return self.raylets.keys()

    def knows(self, name: str) -> bool:
        """Whether it is a raylet's node, that is here or has gone."""
        return name in self.raylets or name in self.names.values()

    def sign(self, name: str) -> Seen | None:
        """Why plans leave the node out, where Ray says it of its raylet."""
        raylet = self.raylets.get(name)
        drains = raylet is not None and raylet.drains and raylet.id in self._living
        return Seen(Sign.RAYLET_DRAINS, RAYLET_DRAINS) if drains else None

    def selector(self, name: str) -> dict[str, str]:
        """The label selector that pins a bundle to a node: a label that a restarted raylet keeps, else its id."""
        raylet = self.raylets.get(name)
        its_own = raylet is not None and raylet.labels.get(NODE_LABEL) == name and name not in self._twice
        if raylet is None or its_own:  # None: lost before the coordinator was started again
            return {NODE_LABEL: name}
        return {RAY_NODE_ID: raylet.id}

    # -- inside

    def _name_of(self, raylet: RayNode) -> str:
        """Its label, unless that is another's; what has gangs keeps its name, and who has a label keeps it."""
        label, by_id = raylet.labels.get(NODE_LABEL), f"ray-{raylet.id[:16]}"
        if label is None or self._is_machine(label):
            return by_id
        if self.names.get(raylet.id) == by_id and self.inventory.has_gangs(by_id):
            return by_id
        holder = self.raylets.get(label)
        if holder is not None and holder.id != raylet.id and holder.id in self._living:
            return by_id
        return label

    def _leave(self, raylet: str, name: str | None) -> None:
        """A raylet has another name from here on; what it was by the one before is no node any more."""
        if name is None or self._is_machine(name) or name not in self.raylets or self.raylets[name].id != raylet:
            return
        del self.raylets[name]
        if name in self.inventory.node_states:
            self.inventory.drop_node(name)

    def _shared_with(self, raylet: str, node: Node) -> str | None:
        """The name of another living raylet's node that has one of these GPUs; None: they are this one's from here
        on."""
        for device in node.devices:
            if device.uuid is not None:
                first = self._first.setdefault(device.uuid, raylet)
                if first != raylet and first in self._living and first in self.readings:
                    return self.names.get(first, first)
                self._first[device.uuid] = raylet
        return None

    def _put(self, raylet_id: str) -> None:
        name = self.names.get(raylet_id)
        raylet = self.raylets.get(name or "")
        reading = self.readings.get(raylet_id)
        if name is None or raylet is None or raylet.id != raylet_id or reading is None:
            return
        node = self._as_offered(self._translate(name, raylet, reading), raylet)
        silent = self.clock() - self.heard.get(raylet_id, self.clock())
        if node.ready and silent > SILENT_SECONDS:
            node = replace(node, ready=False, reason="its agent is silent; is the driver hung?")
        if node.ready and raylet.drains:
            node = replace(node, ready=False, reason=RAYLET_DRAINS)
        other = self._shared_with(raylet_id, node)
        if node.ready and other is not None:
            node = replace(node, ready=False, reason=f"its GPUs are those of {other}; has Ray not seen that it ended?")
        if not node.ready and not node.devices:
            # Keep the devices in the inventory while NVML does not answer: gangs may be running on them.
            before = self.inventory.node_states.get(name)
            whole = before.node if before is not None else self._stored.get(raylet_id)
            if whole is not None:
                node = replace(whole, ready=False, reason=node.reason)
        state = self.inventory.node_states.get(name)
        if state is None or state.node != node:  # what has not changed is not planned anew either
            self.inventory.put_node(node)

    def _as_offered(self, translated: Node, raylet: RayNode) -> Node:
        """With what its raylet says of it: made anew once that, or the reading, has changed, and not at each look."""
        made_of, node = self._offers.get(raylet.id, (None, translated))
        resources = _bulk(raylet.total)
        if made_of is not translated or (node.resources, node.labels) != (resources, raylet.labels):
            node = replace(translated, ray_node_id=raylet.id, resources=resources, labels=raylet.labels)
            self._offers[raylet.id] = translated, node
        return node

    def _translate(self, name: str, raylet: RayNode, reading: NodeReading) -> Node:
        node = self.translated.get(raylet.id)
        if node is None or node.name != name:
            # A raylet offers what it was told to: no gang gets parts of its machine's GPUs, nor shares of them.
            node = replace(node_from_reading(name, _offered(reading, raylet)), parted=(), unshared=UNSHARED)
            self.translated[raylet.id] = node
        return node

    def _persist(self, raylet: str) -> None:
        if raylet not in self.readings or raylet not in self.names:
            return
        name, node = self.names[raylet], self.translated.get(raylet)
        there = self.raylets.get(name)
        if node is not None and there is not None:
            node = replace(node, resources=_bulk(there.total), labels=there.labels)
        best = self._best(name)
        if node is not None and best is not None and best.devices == node.devices:
            best = None
        self.store.put(NODE_KEY + raylet, known_to_bytes(KnownNode(name, self.readings[raylet], node, best)))

    def _forget(self, raylet: str) -> None:
        self._drop(raylet)
        self._gone.pop(raylet, None)
        self.store.delete(NODE_KEY + raylet)

    def _drop(self, raylet: str) -> None:
        self.readings.pop(raylet, None)
        self.translated.pop(raylet, None)
        self._offers.pop(raylet, None)
        self.names.pop(raylet, None)
        self.heard.pop(raylet, None)
        self._stored.pop(raylet, None)


def only_visible(reading: NodeReading, visible: str | None) -> NodeReading:
    """The GPUs that a raylet's CUDA_VISIBLE_DEVICES names, in its order: indices or UUIDs; None or "" for all. Of a
    part it is the GPU."""
    if not visible:
        return reading
    by_name = {str(g.index): at for at, g in enumerate(reading.gpus)}
    by_name |= {g.uuid: at for at, g in enumerate(reading.gpus) if g.uuid}
    by_name |= {mig.uuid: at for at, g in enumerate(reading.gpus) for mig in g.migs}
    chosen: list[int] = []
    for name in visible.split(","):
        found = by_name.get(name, next((at for known, at in by_name.items() if known.startswith(name)), None))
        if found is not None and found not in chosen:
            chosen.append(found)
    return replace(
        reading,
        gpus=tuple(reading.gpus[i] for i in chosen),
        p2p=tuple(tuple(reading.p2p[i][j] for j in chosen) for i in chosen),
        ancestors=tuple(tuple(reading.ancestors[i][j] for j in chosen) for i in chosen),
    )


def _offered(reading: NodeReading, raylet: RayNode) -> NodeReading:
    """Only as many GPUs as the raylet was told to offer: Ray numbers them from 0."""
    count = int(raylet.total.get("GPU", 0))
    return reading if len(reading.gpus) <= count else replace(reading, gpus=reading.gpus[:count])


def _bulk(total: Mapping[str, float]) -> dict[str, float]:
    """The resources that a bundle can ask for, without the GPUs and what Ray keeps for itself."""
    return {k: v for k, v in total.items() if k != "GPU" and k != HEAD_RESOURCE and "_group_" not in k}
