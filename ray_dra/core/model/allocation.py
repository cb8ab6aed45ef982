"""An Allocation: the devices of a whole gang, bundle by bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ray_dra.core.model.device import Counter, DeviceId, DomainId
from ray_dra.core.model.html_table import html_table
from ray_dra.core.model.parts import GrantedPart
from ray_dra.core.model.wording import counted


class _Nothing(dict[str, float]):
    """An empty mapping that stays empty. Hashable: a reader of files copies a default that is not, and fails where that
    default is a mappingproxy."""

    def __hash__(self) -> int:  # type: ignore[override]
        return 0

    def __setitem__(self, key: str, value: float) -> None:
        raise TypeError("this mapping is every bundle's without other resources")


NO_RESOURCES: Mapping[str, float] = _Nothing()

make = tuple.__new__
"""A NamedTuple without the call through its own __new__, which is half of the time where every microsecond counts."""


class Grant(NamedTuple):
    """One device, given whole (`amount` None) or in part (`amount` thousandths of it).

    `position` is the device's place on its node (the bit in the planner's masks), `index` NVML's
    number, `uuid` the stable key. Of a `part` of a GPU, `position` is the GPU's place among the node's parted GPUs, and
    `uuid` is None unless the part is there already; `device` is where the planner sees it, though for one that is yet
    to be made Kubernetes' allocator may take another of that GPU and profile. `own`: of a share: what is left of the
    device is no other gang's.
    """

    node: str
    position: int
    device: DeviceId
    uuid: str | None
    index: int | None  # type: ignore[assignment]  # tuple.index is never called on a Grant
    clique: DomainId | None
    amount: int | None = None
    part: GrantedPart | None = None
    own: bool = False

    @property
    def alone(self) -> bool:
        """Whether no other gang's grant may name this device. A part that is yet to be made is only foreseen."""
        return (self.amount is None or self.own) and (self.part is None or self.uuid is not None)


class Placed(NamedTuple):
    """Where one bundle lies: its node, its devices in the order its program sees them, the rest it uses."""

    node: str
    grants: tuple[Grant, ...]
    resources: Mapping[str, float] = NO_RESOURCES

    @property
    def clique(self) -> DomainId | None:
        """The clique all its devices share; None where they share none."""
        cliques = {g.clique for g in self.grants}
        return cliques.pop() if len(cliques) == 1 else None


class KeptDevices(NamedTuple):
    """What a gang keeps beside its bundles, for another shape: whole devices, and other resources there.

    Attributes:
        placed: by node.
        guarded: no worker has these devices, so others' claims are kept off them; else the gang's workers have them, or
            there are no claims.
    """

    placed: tuple[Placed, ...]
    guarded: bool = False


class Allocation(NamedTuple):
    """The decision for a whole gang.

    Attributes:
        bundles: one Placed a bundle, by bundle index.
        epoch: names the attempt at its workers: how often it had been planned elsewhere by then.
        counters: what the gang uses besides devices, e.g. a clique exclusively.
        renewed: nodes whose worker took the place of a lost one, each with how often the gang had been planned by then.
        numbered: the nodes in the order in which the gang's workers there are numbered; none: in that of its bundles.
            A gang that has shrunk has no workers any more on some of them.
        pool: the gang that holds these devices, of which this one has shares; "": it holds them itself.
        kept: what it keeps beside its bundles, for another shape; None: nothing.
    """

    gang: str
    bundles: tuple[Placed, ...]
    epoch: int = 0
    priority: int = 0
    counters: tuple[tuple[Counter, int], ...] = ()
    renewed: tuple[tuple[str, int], ...] = ()
    numbered: tuple[str, ...] = ()
    pool: str = ""
    kept: KeptDevices | None = None

    @property
    def holdings(self) -> tuple[Placed, ...]:
        """All that the gang holds: its bundles, and what it keeps beside them."""
        return self.bundles if self.kept is None else self.bundles + self.kept.placed

    @property
    def in_workers(self) -> tuple[Placed, ...]:
        """What workers that were made for the gang have: its bundles, and what it keeps there."""
        return self.bundles if self.kept is None or self.kept.guarded else self.holdings

    @property
    def held_grants(self) -> tuple[Grant, ...]:
        """All devices that the gang holds."""
        return tuple(g for p in self.holdings for g in p.grants)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Node of each bundle, by bundle index."""
        return tuple(p.node for p in self.bundles)

    @property
    def cliques(self) -> tuple[DomainId | None, ...]:
        """Clique of each bundle, by bundle index; None for a bundle in none, or without devices."""
        return tuple(p.clique for p in self.bundles)

    @property
    def grants(self) -> tuple[Grant, ...]:
        """All devices of its bundles, by bundle, then in the order seen."""
        return tuple(g for p in self.bundles for g in p.grants)

    def __repr__(self) -> str:
        devices, nodes = len({(g.node, g.device) for g in self.grants}), len(set(self.nodes))
        cliques = len({clique for clique in self.cliques if clique is not None})
        what = f"{counted(len(self.bundles), 'bundle')}, {counted(devices, 'device')}"
        return f"Allocation({self.gang}: {what} on {counted(nodes, 'node')} in {counted(cliques, 'clique')})"

    def _repr_html_(self) -> str:
        """For notebooks: a row a bundle."""
        rows = [
            [str(at), placed.node, placed.clique or "", ", ".join(map(_shown, placed.grants))]
            for at, placed in enumerate(self.bundles)
        ]
        return html_table(repr(self), ("bundle", "node", "clique", "GPUs"), rows)


def _shown(grant: Grant) -> str:
    if grant.part is not None:
        return f"{grant.part.profile} of {grant.part.parent}"
    of = f"{grant.amount / 1000:g} of " if grant.amount is not None else ""
    return f"{of}{grant.index} ({grant.uuid or 'no uuid'})"
