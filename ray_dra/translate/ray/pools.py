"""What `ray_dra.pool` asks for: a gang with a share of each GPU of the pool. Neighbour: `core/gangs/pools.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ray_dra.core.model.checked import number, table, text, whole
from ray_dra.core.model.device_selector import DeviceCriteria
from ray_dra.core.model.gpu_sharing import PoolTerms
from ray_dra.core.model.request import MAX_BUNDLES, MAX_ENTRIES, WHOLE, GangRequest
from ray_dra.errors import InvalidRequest, shown
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import check_sharing


def pool_request(
    name: object,
    *,
    gpus: object,
    sharing: object,
    tasks: object,
    per_gang: object = None,
    per_program: object = None,
    resources: Mapping[str, float] | None = None,
    product: str | Sequence[str] | None = None,
    devices: DeviceCriteria | None = None,
    priority: int = 0,
) -> GangRequest:
    """The request of the gang that holds a pool.

    Raises:
        InvalidRequest: what can never be right, whatever the cluster.
    """
    named = text(name, "pool")
    said = check_sharing(sharing)
    if said is None:
        raise InvalidRequest(
            "A pool says by what its GPUs are shared.",
            place="sharing",
            wanted=shown(sharing),
            available="ray_dra.mps(...) or ray_dra.time_slicing(...)",
        )
    count = whole(gpus, "gpus", least=1, most=MAX_BUNDLES)
    own = number(tasks, "tasks", least=1 / WHOLE, most=1 - 1 / WHOLE)
    beside = {} if resources is None else dict(table(resources, "resources", most=MAX_ENTRIES))
    if "GPU" in beside:
        raise InvalidRequest(
            "What a pool has of its GPUs is said by `gpus` and `tasks`.", place="resources", wanted=shown(resources)
        )
    terms = PoolTerms(_quota(per_gang, "per_gang"), _quota(per_program, "per_program"))
    return request_from_bundles(
        [{"GPU": own, **beside}] * count,
        product=product,
        devices=devices,
        sharing=replace(said, pool=terms),
        priority=priority,
        pool=named,
    )


def _quota(gpus: object, place: str) -> int:
    """In thousandths of a GPU; 0 for none."""
    return 0 if gpus is None else round(number(gpus, place, least=1 / WHOLE, most=float(MAX_BUNDLES)) * WHOLE)
