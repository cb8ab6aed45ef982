"""Sentences from the values of a shortfall: the only place that has their English.

`shortfall.py` has the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray_dra.core.model.device_selector import value_text
from ray_dra.core.model.reason import Choice, PlaceKind, ShortfallKind

Pairs = Iterable[tuple[Any, Any]]
Facts = Mapping[str, Any]
Texts = tuple[str, str]


def place(kind: PlaceKind, name: str | int | None, choice: Choice | None, of: str | int | None) -> str:
    """Where something was short."""
    if kind is PlaceKind.NODE:
        why = {
            Choice.MOST_FREE: "the node with most free",
            Choice.MOST: "the node with most",
            Choice.BEST_LINKED: "the best-linked node",
            Choice.BEST: "the nearest to it",
            Choice.ROOMIEST: f"the roomiest node of clique {of}",
        }
        return f"{name} ({why[choice]})" if choice else str(name)
    if kind is PlaceKind.CLIQUE:
        why = {Choice.MOST_FREE: "the clique with most free", Choice.ROOMIEST: f"the roomiest of {of}"}
        return f"clique {name} ({why[choice]})" if choice else f"clique {name}"
    if kind is PlaceKind.CLIQUES:
        return f"the {name} {choice.value} cliques" if choice else f"{name} cliques"
    if kind is PlaceKind.OUTSIDE or (kind is PlaceKind.QUEUE and name):
        return f"the queue {name}"
    if kind is PlaceKind.POOL:
        return f"the pool {name}"
    return f"bundle {name}" if kind is PlaceKind.BUNDLE else _PLACES[kind]


_PLACES = {
    PlaceKind.CLUSTER: "the cluster",
    PlaceKind.GANG: "bundles",
    PlaceKind.QUEUE: "the queue",
    PlaceKind.KUBERNETES: "Kubernetes",
    PlaceKind.RAY: "Ray",
}


def texts(kind: ShortfallKind, where: PlaceKind, wanted: Any, available: Any, facts: Facts) -> Texts:
    """(wanted, available) in words; some kinds have other words in other places."""
    return _TEXTS[kind](where, wanted, available, facts)


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"


def _devices(where: PlaceKind, wanted: int, available: int, facts: Facts) -> Texts:
    if "devices" not in facts:
        return _gpus(wanted), _gpus(available)
    known = (
        ("held", "held by gangs"),
        ("busy", "used by other work"),
        ("unusable", "unhealthy, shared, or on nodes that are not ready"),
        ("spares", "kept as spares"),
    )
    elsewhere = ", ".join(f"{facts[name]} {text}" for name, text in known if facts.get(name))
    return _gpus(wanted), f"{available} free of {facts['devices']}" + (f" ({elsewhere})" if elsewhere else "")


def _node_size(where: PlaceKind, wanted: int, available: int, facts: Facts) -> Texts:
    if where is PlaceKind.CLUSTER:  # thousandths of one device
        return f"{wanted / 1000:g} of a GPU{_that(facts)}", f"{available / 1000:g} of one at most"
    return f"{_gpus(wanted)} in one bundle{_that(facts)}", f"{available} free; the largest node has {facts['largest']}"


def _device_class(where: PlaceKind, wanted: str, available: tuple[str, ...], facts: Facts) -> Texts:
    return wanted, ", ".join(available) or "no device"


def _attribute(where: PlaceKind, wanted: Any, available: Any, facts: Facts) -> Texts:
    selector = facts["selector"]
    return str(selector), value_text(selector.name, available)


def _matching(where: PlaceKind, wanted: int, available: int, facts: Facts) -> Texts:
    if where is PlaceKind.BUNDLE:
        return f"a GPU{_that(facts)}", "each on some GPU, not all on one"
    return f"{_gpus(wanted)}{_that(facts)}", f"{available} free"


def _that(facts: Facts) -> str:
    """Which devices will do, where not all."""
    criteria = facts.get("criteria")
    return "" if criteria is None else f" ({criteria})"


def _product(where: PlaceKind, wanted: tuple[str, ...], available: tuple[str, ...], facts: Facts) -> Texts:
    return " or ".join(wanted), ", ".join(available) or "no product known"


def _labels(where: PlaceKind, wanted: Pairs, available: int, facts: Facts) -> Texts:
    return ", ".join(f"{k}={v}" for k, v in wanted), f"none of {facts['nodes']} nodes"


def _resources(where: PlaceKind, wanted: Any, available: Any, facts: Facts) -> Texts:
    if where is PlaceKind.BUNDLE:
        amounts = ", ".join(f"{amount:g} {name}" for name, amount in wanted) or "nothing else"
        return f"{_gpus(facts['devices'])} with {amounts} on one node", "each on some node, not all on one"
    name = facts["resource"]
    one = " in one bundle" if where is PlaceKind.NODE else ""
    return f"{wanted:g} {name}{one}", f"{available:g} {name}"


def _clique(where: PlaceKind, wanted: int, available: int, facts: Facts) -> Texts:
    together = " on one node" if where is PlaceKind.NODE else ""
    return f"{wanted} bundles of {_gpus(facts['size'])}{together}", f"room for {available}{_lying(facts)}"


def _clique_unknown(where: PlaceKind, wanted: int, available: int, facts: Facts) -> Texts:
    return str(facts["locality"]), f"no NVLink clique is known; {facts['devices']} GPUs are in none"


def _segment(where: PlaceKind, wanted: int, available: int, facts: Facts) -> Texts:
    roomiest = (
        f"; clique {facts['roomiest']}, the roomiest, holds {facts['room']} such bundles" if "room" in facts else ""
    )
    size = f"segments of {facts['segment']} bundles of {_gpus(facts['size'])}"
    return f"{wanted} {size}", f"{available} whole segments{roomiest}"


def _exclusive(where: PlaceKind, wanted: int, available: int, facts: Facts) -> Texts:
    return "a clique to itself", "every clique is in use"


def _connected(where: PlaceKind, wanted: int, available: int, facts: Facts) -> Texts:
    return f"{_gpus(wanted)}, every two linked by NVLink", f"{available} linked and free"


def _nodes(where: PlaceKind, wanted: int, available: int, facts: Facts) -> Texts:
    if "lost" not in facts:
        return f"{wanted} nodes", f"{available} nodes"
    lost = ", ".join(f"{name} ({reason or 'excluded'})" for name, reason in facts["lost"])
    return "a node that is ready", lost or "no node"


def _packing(where: PlaceKind, wanted: Pairs, available: Pairs, facts: Facts) -> Texts:
    sizes = " + ".join(f"{n} x {size}" for size, n in wanted)
    if where is PlaceKind.CLIQUE:
        return f"{facts['locality']}, bundles of {sizes} GPUs", f"{facts['free']} free{_lying(facts)}"
    free = ", ".join(f"{f} on {counted(n, 'node')}" for f, n in available)
    return f"bundles of {sizes} GPUs, {facts['strategy']}", f"free {free or 'nothing'}"


def _bound(where: PlaceKind, wanted: Any, available: Any, facts: Facts) -> Texts:
    if where is PlaceKind.GANG:
        return f"{wanted:,} kinds of bundles in one gang", f"at most {available:,} are searched a place for"
    return (
        "parts that go together on their GPUs" if "parts" in facts else "a packing of bundles of several sizes",
        f"none found within {facts['steps']:,} steps of search; there may be one",
    )


def _queue(where: PlaceKind, wanted: Any, available: Any, facts: Facts) -> Texts:
    if "ahead" in facts:
        return "the first place", f"{facts['ahead']} ahead, first {facts['first'] or available}"
    return "one more place", f"{available} gangs of this program wait"


def _patience(where: PlaceKind, wanted: float, available: float, facts: Facts) -> Texts:
    return f"{wanted:g} s for what it prefers", f"{available:.0f} s waited"


def _workers(where: PlaceKind, wanted: Any, available: Any, facts: Facts) -> Texts:
    return "the gang's workers" if where is PlaceKind.RAY else "workers", str(facts["reason"])


def _set(where: PlaceKind, wanted: int, available: int | None, facts: Facts) -> Texts:
    if "divided" in facts:
        return f"{wanted} groups as one gang", "room for their bundles, but not group by group"
    return f"{wanted} groups, which are one gang", f"{available} so far"


def _parts(where: PlaceKind, wanted: Any, available: Any, facts: Facts) -> Texts:
    if where is PlaceKind.GANG:
        return ", ".join(f"{n} parts ({part})" for part, n in wanted), "each kind fits, not all together"
    asked = f"{wanted} parts ({facts['part']}{_that(facts)})"
    together, lost = facts["where"], _lost(facts)
    if available:
        return f"{asked} {together}".rstrip(), f"{available}{' at most' if together else ' free'}{lost}"
    if facts["profiles"]:
        none = "none free"
        if facts["unheard"]:
            most = f" ({facts['largest'] / 2**30:.1f}Gi at most)" if "MIG with" in facts["part"] else ""
            none = f"no GPU has such a part{most}"
        return f"{asked} {together}".rstrip(), f"{none}; there are {', '.join(facts['profiles'])}{lost}"
    said = "no node gives GPUs in parts by claims; of raylets that offer parts themselves, ask Ray for MIG-<profile>"
    if facts["by_reset"]:
        said = f"{said}; {', '.join(facts['by_reset'])} has parts once an administrator has turned it over by a reset"
    return f"{asked} {together}".rstrip(), f"{said}{lost}"


def _lost(facts: Facts) -> str:
    """Which nodes are not ready, and why."""
    lost = ", ".join(f"{name} ({reason})" for name, reason in facts["lost"])
    return f"; not ready: {lost}" if lost else ""


def _shares(where: PlaceKind, wanted: int, available: int, facts: Facts) -> Texts:
    asked = f"{counted(wanted, 'share')} of {facts['share'] / 1000:g} of a GPU ({facts['sharing']}){_that(facts)}"
    if "refusing" in facts:
        said = ", ".join(f"{name} ({why})" for name, why in facts["refusing"])
        return asked, f"no node whose GPUs can be shared so: {said}"
    if "memory" in facts:
        return asked, f"GPUs with {value_text('memory', facts['memory'])} at most"
    free = f"{available} on {facts['free']} GPUs that are free" if facts["free"] else "no GPU that is free"
    return asked, f"{free}{_lost(facts)}"


def _quota(where: PlaceKind, wanted: int, available: Any, facts: Facts) -> Texts:
    return f"{_gpus(wanted)} and what goes with them", str(facts["reason"])


def _limit(where: PlaceKind, wanted: float, available: float, facts: Facts) -> Texts:
    if "declared" in facts:
        return f"{wanted:g} GPUs", f"none: this queue is not declared; there are {facts['declared']}"
    return f"{wanted:g} GPUs", f"{available:g} of at most {facts['limit']:g} ({facts['used']:g} used)"


def _pool(where: PlaceKind, wanted: int, available: int, facts: Facts) -> Texts:
    return f"shares of {wanted / 1000:g} GPUs", f"{available / 1000:g} GPUs: {facts['reason']}"


_TEXTS: dict[ShortfallKind, Callable[[PlaceKind, Any, Any, Facts], Texts]] = {
    ShortfallKind.DEVICES: _devices,
    ShortfallKind.NODE_SIZE: _node_size,
    ShortfallKind.PRODUCT: _product,
    ShortfallKind.DEVICE_CLASS: _device_class,
    ShortfallKind.ATTRIBUTE: _attribute,
    ShortfallKind.MATCHING: _matching,
    ShortfallKind.LABELS: _labels,
    ShortfallKind.RESOURCES: _resources,
    ShortfallKind.CLIQUE: _clique,
    ShortfallKind.CLIQUES: _clique,
    ShortfallKind.CLIQUE_UNKNOWN: _clique_unknown,
    ShortfallKind.SEGMENT: _segment,
    ShortfallKind.EXCLUSIVE: _exclusive,
    ShortfallKind.CONNECTED: _connected,
    ShortfallKind.NODES: _nodes,
    ShortfallKind.PACKING: _packing,
    ShortfallKind.BOUND: _bound,
    ShortfallKind.QUEUE: _queue,
    ShortfallKind.PATIENCE: _patience,
    ShortfallKind.WORKERS: _workers,
    ShortfallKind.SET: _set,
    ShortfallKind.PARTS: _parts,
    ShortfallKind.SHARES: _shares,
    ShortfallKind.QUOTA: _quota,
    ShortfallKind.LIMIT: _limit,
    ShortfallKind.POOL: _pool,
}


def _lying(facts: Facts) -> str:
    """How the free devices of a clique lie, e.g. ": 4 on 3 nodes, 2 on 1 node"."""
    if "pattern" not in facts:
        return ""
    parts = [f"{free} on {counted(n, 'node')}" for free, n in facts["pattern"]]
    if parts and facts["imex_nodes"]:
        parts.append(f"{facts['imex_nodes']} of its nodes in IMEX domains of others")
    return f": {', '.join(parts) or 'nothing free'}"


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
