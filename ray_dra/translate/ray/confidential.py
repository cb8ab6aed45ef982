"""Confidential gangs: what `confidential=` asks of bundles and nodes, and how a request says that it is one.

Each worker is a confidential virtual machine, which has one GPU, or all of a box with its switches, as the vendor's
reference has it. All nodes of a gang are in one mode, and ready in it. It is said by labels that the bundles select, so
that the planner, records and Kueue need no other word. Neighbours: `kube/workers.py` makes the worker; `kube/slices.py`
says which nodes pass their GPUs through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from ray_dra.core.model.locality import Connect
from ray_dra.core.model.request import Bundle, GangRequest, Strategy
from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.names import PASSTHROUGH_LABEL
from ray_dra.translate.vendors import NVIDIA

ON, PPCIE = "on", "ppcie"
MODES = (ON, PPCIE)
_RUNTIME = re.compile(r"kata-.*-(?:snp|tdx)")


def confidential_request(request: GangRequest, asked: object) -> GangRequest:
    """The request, on nodes in one mode. `asked`: True for `on`, or a mode.

    Raises:
        InvalidRequest: it asks for what no confidential virtual machine has.
    """
    mode = ON if asked is True else asked
    if not isinstance(mode, str) or mode not in MODES:
        raise InvalidRequest(
            "confidential is a mode, or True for the usual one.",
            place="confidential",
            wanted=shown(asked),
            available=f"True, {', '.join(map(repr, MODES))}",
        )
    counts = {bundle.count for bundle in request.bundles}
    devices = [device for bundle in request.bundles for device in bundle.devices]
    if any(device.part is not None or device.share is not None for device in devices):
        raise _no("a part or a share of a GPU", "whole GPUs")
    if len(counts) > 1 or 0 in counts:
        raise _no("bundles of several sizes, or without GPUs", "bundles of one GPU each, or of one whole box each")
    if mode == PPCIE and counts == {1}:
        raise _no("one GPU in mode ppcie", "the whole box; one GPU with confidential=True")
    locality = request.locality
    if locality.within_cliques or locality.exclusive or locality.connect is Connect.REQUIRED:
        raise _no(str(locality), "no locality: a box is a clique, and NVLink between boxes is not there")
    if request.strategy is Strategy.STRICT_PACK:
        raise _no("STRICT_PACK", "each bundle on a node of its own")
    labels = {
        NVIDIA.confidential_mode: mode,
        NVIDIA.confidential_state: mode,
        NVIDIA.confidential_ready: "true",
        PASSTHROUGH_LABEL: "true",
    }
    (count,) = counts
    if count > 1:  # all of them, or the machine has a switch that others use
        labels[NVIDIA.count_label] = str(count)
    told = sorted({name for bundle in request.bundles for name in bundle.labels if name in labels})
    if told:
        raise _no(f"bundle_label_selector of {told[0]}", "confidential=")
    bundles = {bundle: replace(bundle, labels={**bundle.labels, **labels}) for bundle in set(request.bundles)}
    return replace(
        request, bundles=tuple(bundles[bundle] for bundle in request.bundles), strategy=Strategy.STRICT_SPREAD
    )


def hides(runtime: str) -> bool:
    """Whether pods of a runtime class are confidential virtual machines. Others of Kata isolate, and hide nothing."""
    return _RUNTIME.fullmatch(runtime) is not None


def is_confidential(bundles: Iterable[Bundle]) -> bool:
    return any(NVIDIA.confidential_ready in bundle.labels for bundle in bundles)


def _no(wanted: str, available: str) -> InvalidRequest:
    said = "A confidential worker has one GPU of its node, or all of them."
    return InvalidRequest(said, place="confidential", wanted=wanted, available=available)
