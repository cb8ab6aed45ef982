"""DeviceTaintRules: taints that an administrator gives to devices, whatever their driver publishes. Pure.

Kubernetes serves them as resource.k8s.io/v1 from 1.37 on; under older versions they are off by default, and not read.
Neighbour: `slices.py`, which makes nodes of the devices with all their taints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ray_dra.ports.kube_objects import DeviceTaintRule, PublishedDevice, ResourceSlice
from ray_dra.translate.kube.shapes import Raw, mapping, text
from ray_dra.translate.names import GUARD_TAINT


def read_taint_rule(thing: Raw) -> DeviceTaintRule:
    spec, name = mapping(thing["spec"]), text(thing["metadata"]["name"])
    taint, selector = mapping(spec["taint"]), spec.get("deviceSelector")
    chosen = mapping(selector) if selector is not None else {}
    said = f"{text(taint['key'])}={text(taint.get('value') or '')} (DeviceTaintRule {name})"
    return DeviceTaintRule(
        name,
        taint=(said, text(taint["effect"])),
        selects=selector is not None,
        driver=text(chosen.get("driver") or ""),
        pool=text(chosen.get("pool") or ""),
        device=text(chosen.get("device") or ""),
        guard=text(taint.get("value") or "") if taint["key"] == GUARD_TAINT else "",
    )


def rules_for(node: str, rules: Iterable[DeviceTaintRule]) -> tuple[DeviceTaintRule, ...]:
    """Those that may choose devices of the node. Drivers of nodes' own devices name their pool like the node."""
    return tuple(rule for rule in rules if rule.selects and rule.pool in ("", node))


def with_rules(slices: Sequence[ResourceSlice], rules: Sequence[DeviceTaintRule]) -> list[ResourceSlice]:
    """The slices, with the taints of these rules on the devices that each chooses."""
    return [_tainted(each, rules) for each in slices] if rules else list(slices)


def _tainted(published: ResourceSlice, rules: Sequence[DeviceTaintRule]) -> ResourceSlice:
    devices = tuple(
        replace(device, taints=(*device.taints, *(r.taint for r in rules if _chooses(r, published, device))))
        for device in published.devices
    )
    return replace(published, devices=devices)


def _chooses(rule: DeviceTaintRule, published: ResourceSlice, device: PublishedDevice) -> bool:
    """Kubernetes' rule: what the selector does not name, it leaves open."""
    return (
        rule.selects
        and rule.driver in ("", published.driver)
        and rule.pool in ("", published.node)
        and rule.device in ("", device.name)
    )
