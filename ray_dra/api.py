"""What a Ray program calls to have gangs, and to ask what it could have.

Neighbours: `translate/ray/localities.py` and `devices.py`, what it writes in a call; `program/orders.py`, how an order
comes to the coordinator; `program/inside.py`, what a gang's own tasks ask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray_dra.adapters.ray_groups import creator, mint
from ray_dra.core.explain.capacity import ClusterCapacity, capacity_now
from ray_dra.core.explain.whatif import answer_of
from ray_dra.core.gangs.forecast import Expected
from ray_dra.core.gangs.gang import Beside, Maker
from ray_dra.core.gangs.order import Order
from ray_dra.core.model.allocation import Allocation
from ray_dra.core.model.checked import flag, number, text
from ray_dra.core.model.device_selector import DeviceCriteria
from ray_dra.core.model.gpu_sharing import GpuSharing
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.parts import PartCriteria
from ray_dra.core.model.shortfall import Unsatisfiable
from ray_dra.core.model.topology import Topology
from ray_dra.errors import InvalidRequest, shown
from ray_dra.processes.calls import ask
from ray_dra.processes.start_coordinator import coordinator_here
from ray_dra.program.gang_handle import GangPlacementGroup
from ray_dra.program.orders import check_lifetime, fault_ways, grace_alone, submit
from ray_dra.program.sandbox import Place, Sandbox
from ray_dra.translate.files.snapshot import Snapshot, inventory_of, read_snapshot
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.pools import pool_request


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
    topology_strategy: Mapping[str, str] | None = None,
    *,
    locality: Locality | None = None,
    product: str | Sequence[str] | None = None,
    devices: DeviceCriteria | None = None,
    part: PartCriteria | None = None,
    sharing: GpuSharing | None = None,
    pool: str = "",
    confidential: bool | str = False,
    priority: int = 0,
    preemptible: bool = False,
    movable: bool = False,
    wait: bool = True,
    runs_for: float | None = None,
    queue: str | None = None,
    on_fault: str | Sequence[str] | None = None,
    grace: float | None = None,
    min_bundles: int | None = None,
    spares: int = 0,
    _beside: Beside | None = None,
) -> GangPlacementGroup:
    """A Ray placement group on planned GPUs, for the whole gang at once or not at all.

    The parameters up to `topology_strategy` are those of `ray.util.placement_group`.

    Args:
        bundles: one dict of resources a bundle, e.g. [{"GPU": 4, "CPU": 8}] * 4. At most 100,000 bundles of
            at most 64 resources; the names of resources, labels and products in different bundles have at most 65,536
            characters together, each name at most 253.
        name: at most 253 characters.
        locality: where the bundles lie in relation to each other; combine two with `&`.
        devices: which GPUs will do, as `ray_dra.gpu(memory=">=80G", compute_capability=">=9.0")` says.
        part: a part of a GPU in place of each bundle's whole GPU, as `ray_dra.mig("1g.10gb")` says; on Kubernetes
            alone. Each bundle has `"GPU": 1` then, and as few whole GPUs are broken as can be. See `same_gpu`,
            `spread_gpus`.
        sharing: by what bundles with a share of a GPU (`"GPU": 0.25`) share it, as `ray_dra.mps(memory="20Gi")` or
            `ray_dra.time_slicing()` says; on Kubernetes alone. The GPUs are its own, and nobody gets what it leaves of
            them. In Ray such a bundle has `"GPU": 1`, of which a task may ask for any part.
        pool: the name of a pool that `ray_dra.pool` has made: its bundles have shares of that pool's GPUs, beside other
            gangs, and end with it. Without `sharing`, which the pool has said.
        confidential: each bundle in a confidential virtual machine, on nodes in mode `on`, or in the mode that is named
            ("ppcie", for whole boxes of Hopper); on Kubernetes alone (docs/kubernetes.md). A bundle has one GPU of its
            node, or all of them.
        product: shorthand for `gpu(product=...)`: product name or names that will do, matched whole ("NVIDIA H100 80GB
            HBM3"). At most 64.
        priority: higher is served first; first come, first served within one. From -1,000,000,000 to 1,000,000,000.
        preemptible: the gang may have to give its devices back for one of a higher priority: it has notice, as of a
            fault, and after `grace` seconds it waits at the front of its priority for devices again
            (docs/queue.md). It may use spare nodes.
        movable: the gang may be moved to other GPUs, as near to each other as it asks for, so that one that waits has
            its clique: with notice and `grace`, twice at most, where more work is gained than lost.
        wait: True queues a gang that does not fit now; False refuses it at once.
        runs_for: seconds, a guess of how long the gang runs in what it prefers, from 1 to a year; the gang may then
            start before its turn where that delays nobody, and waits for the clique that it prefers as long as that is
            worth it (docs/queue.md). Nothing happens to a gang that runs longer.
        queue: the queue of a team, which has a guarantee, a weight and a limit in GPUs, as the cluster's operator
            declares (docs/queue.md). None: that of the program's address, and else `default`.
        on_fault: what is done once a part of the gang, when it was ready, is lost or to be drained (docs/faults.md):
            "degrade": nothing; "replace": the lost workers are replaced in the same placement group, where workers are
            made for gangs; "shrink": whole segments that are well go on in a new placement group, on the GPUs that they
            have, as long as these are `min_bundles`, and the gang grows back once there is room in its cliques;
            "restart": the whole gang is planned again elsewhere, with its turn. Several are ways in order: the next
            where the one before is not possible. None: as the cluster is set, and else degrade.
        min_bundles: with "shrink", how many bundles are enough to go on: whole segments, and fewer than all.
        spares: so many free nodes of each clique that the gang lies in are held for its repairs alone, as far as there
            are so many, and once others are free (docs/faults.md); of a gang on boxes that are cliques of one node, so
            many boxes. At most 17. For gangs of whole GPUs.
        grace: seconds, 30 unless said otherwise, from the notice of a fault, a preemption or a move until anything
            of the gang is ended.

    Raises:
        InvalidRequest: what can never be right: a value of another type, out of range or too large, a contradiction.
        UnsatisfiableError: it would not fit an empty cluster, or (`wait=False`) it does not fit now.
        NameTaken: a live gang of this namespace has the name.
    """
    request = request_from_bundles(
        bundles,
        strategy=strategy,
        selectors=bundle_label_selector,
        topology_strategy=topology_strategy,
        locality=locality,
        product=product,
        devices=devices,
        part=part,
        sharing=sharing,
        confidential=confidential,
        priority=priority,
        preemptible=preemptible,
        soft_node=_soft_target_node_id,
        pool=text(pool, "pool", empty=True),
    )
    if request.pool and (on_fault is not None or grace is not None):
        raise InvalidRequest(
            "What has shares of a pool is neither replaced nor started again.",
            place="on_fault",
            wanted=shown(on_fault if on_fault is not None else grace),
            available="nothing: the gang is degraded",
        )
    if request.pool and queue is not None:
        raise InvalidRequest(
            "The GPUs of a pool count for the team whose queue it is made in, not for those who have shares of it.",
            place="queue",
            wanted=shown(queue),
            available="ray_dra.pool(..., queue=)",
        )
    check_lifetime(lifetime)
    coordinator_here()  # first of all: where Ray is not connected, its own calls start a cluster
    who = creator()
    order = Order(
        replace(request, gang=mint(who.job)),
        name=name,
        namespace=who.namespace,
        owner=who.job,
        detached=lifetime == "detached",
        wait=wait,
        movable=movable,
        maker=Maker(who.actor, who.outlives_job),
        runs_for=runs_for,
        team="" if queue is None else text(queue, "queue"),
        beside=_beside,
        on_fault=fault_ways(on_fault, grace, min_bundles),
        spares=spares,
        grace=None
        if grace is None or on_fault is not None
        else grace_alone(grace, may_end=preemptible or movable or queue is not None),
    )
    return submit(order, _soft_target_node_id)


def pool(
    name: str,
    *,
    gpus: int = 1,
    sharing: GpuSharing,
    tasks: float = 0.25,
    per_gang: float | None = None,
    per_program: float | None = None,
    resources: Mapping[str, float] | None = None,
    devices: DeviceCriteria | None = None,
    product: str | Sequence[str] | None = None,
    lifetime: str | None = None,
    priority: int = 0,
    wait: bool = True,
    queue: str | None = None,
) -> GangPlacementGroup:
    """GPUs that many gangs and ordinary tasks share, by a name; on Kubernetes alone (docs/kubernetes.md#pools).

    The pool is a gang with a bundle on each of its GPUs. Tasks and actors of any program run in its placement group;
    gangs have shares of the rest by `placement_group([{"GPU": 0.25}], pool=name)`, with workers of their own. With the
    pool they all end. **Nothing keeps programs on a GPU apart but what `sharing` says**: time slices nothing at all.

    Args:
        name: of the pool, in the whole Ray cluster, and of its gang.
        gpus: how many GPUs it has.
        sharing: by what they are shared, as in `placement_group`.
        tasks: the share of each GPU that the pool's own placement group has.
        per_gang: the most that one gang may have of the pool, in GPUs.
        per_program: the most that all gangs of a program may have of it.
        resources: what the pool's bundle on each GPU has besides, e.g. {"CPU": 2}.
        lifetime: "detached": the pool outlives this program; None: it ends with it, with all that have shares of it.

    Raises:
        InvalidRequest: what can never be right.
        UnsatisfiableError: it would not fit an empty cluster, or (`wait=False`) it does not fit now.
        NameTaken: there is a pool, or in this namespace a gang, of the name.
    """
    request = pool_request(
        name,
        gpus=gpus,
        sharing=sharing,
        tasks=tasks,
        per_gang=per_gang,
        per_program=per_program,
        resources=resources,
        product=product,
        devices=devices,
        priority=priority,
    )
    check_lifetime(lifetime)
    coordinator_here()
    who = creator()
    order = Order(
        replace(request, gang=mint(who.job)),
        name=request.pool,
        namespace=who.namespace,
        owner=who.job,
        detached=lifetime == "detached",
        wait=wait,
        maker=Maker(who.actor, who.outlives_job),
        team="" if queue is None else text(queue, "queue"),
    )
    return submit(order, None)


def sandbox(
    template: Mapping[str, Any] | str,
    *,
    part: PartCriteria | None = None,
    devices: DeviceCriteria | None = None,
    near: GangPlacementGroup | None = None,
    ends_with: bool = True,
    name: str = "",
    lifetime: str | None = None,
    priority: int = 0,
    queue: str | None = None,
    timeout: float = 600.0,
    namespace: str | None = None,
) -> Sandbox:
    """An agent-sandbox Sandbox with a GPU, or a part of one, for code that is not trusted; on Kubernetes alone.

    What it has is planned, queued and recorded as a gang of one bundle, and it shares that gang's claim: nothing of it
    is chosen past the planner. It ends with that gang. Made with the rights of this program (docs/kubernetes.md).

    Args:
        template: the Sandbox's `spec`, with a `podTemplate`; or the name of a SandboxTemplate. Its first container gets
            the GPU; it asks for none itself.
        part: as in `placement_group`; None for a whole GPU.
        near: a gang in whose cliques it is planned, if that can be.
        ends_with: it is given back when `near` is.
        timeout: seconds for the GPU, and its gang's worker.
        namespace: the RayCluster's; None: that of this pod.

    Raises:
        InvalidRequest: no template that can be, or no Kubernetes.
        GangTimeout: the GPU was not there in time. Nothing is held then.
        KubernetesError: it cannot be made; its GPU is given back.
    """
    if near is not None and not isinstance(near, GangPlacementGroup):
        raise InvalidRequest("near is a gang.", place="near", wanted=shown(near), available="placement_group(...)")
    number(timeout, "timeout", least=-math.inf, most=math.inf)
    place = Place.here(namespace)
    read = place.template(template)
    gang = placement_group(
        [{"GPU": 1}],
        name=name,
        lifetime=lifetime,
        part=part,
        devices=devices,
        priority=priority,
        queue=queue,
        _beside=Beside(near.id, ends=ends_with) if near is not None else None,
    )
    try:
        gang.wait(timeout)
        return place.make(read, gang)
    except BaseException:
        gang.remove()
        raise


def plan(
    bundles: Sequence[Mapping[str, float]],
    strategy: str | None = None,
    bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
    topology_strategy: Mapping[str, str] | None = None,
    *,
    locality: Locality | None = None,
    product: str | Sequence[str] | None = None,
    devices: DeviceCriteria | None = None,
    part: PartCriteria | None = None,
    sharing: GpuSharing | None = None,
    pool: str = "",
    confidential: bool | str = False,
    priority: int = 0,
    preemptible: bool = False,
    cluster: str | Path | Snapshot | None = None,
    when: bool = False,
    runs_for: float | None = None,
    queue: str | None = None,
) -> Allocation | Unsatisfiable | Expected:
    """What `placement_group` would decide now, without holding or starting anything; ignores patience.

    Args:
        when: True answers with an `Expected` instead: when the gang should start if it came now (`starts`, in seconds
            since 1970; None: nobody can tell), once who has ended (`after`), and, in `now`, what is said below. It
            asks the running cluster's queue (docs/queue.md), so there is no `cluster` then.
        runs_for: with `when`, as in `placement_group`.
        queue: the same.
        cluster: a snapshot, or the file of one (`ray-dra snapshot`), to ask instead of the live cluster; Ray need
            not be connected then.

    Returns:
        The Allocation; or Unsatisfiable with its shortfalls and, in `counterfactual`, what would fit instead and
        whose leaving would let it fit.

    Raises:
        InvalidRequest: what can never be right.
        InvalidSnapshot: `cluster` is no snapshot.
    """
    flag(when, "when")
    if when and cluster is not None:
        raise InvalidRequest(
            "A file has no queue: when a gang starts is asked of the running cluster.",
            place="when",
            wanted=shown(when),
            available="plan(..., when=True) without cluster=",
        )
    for said, given in (("runs_for", runs_for), ("queue", queue)):
        if given is not None and not when:
            raise InvalidRequest(
                "How long a gang runs, and in which queue it waits, matters to nothing but when it starts.",
                place=said,
                wanted=shown(given),
                available=f"{said} with when=True",
            )
    request = request_from_bundles(
        bundles,
        strategy=strategy,
        selectors=bundle_label_selector,
        topology_strategy=topology_strategy,
        locality=locality,
        product=product,
        devices=devices,
        part=part,
        sharing=sharing,
        pool=text(pool, "pool", empty=True),
        confidential=confidential,
        priority=priority,
        preemptible=preemptible,
    )
    if when:
        team = "" if queue is None else text(queue, "queue")
        expected: Expected = ask(coordinator_here().when.remote(request, runs_for, team))
        return expected
    if request.pool and cluster is not None:
        raise InvalidRequest(
            "A file does not say which pools there are: shares of one are asked of the running cluster.",
            place="pool",
            wanted=shown(pool),
            available="plan(..., pool=...) without cluster=",
        )
    if cluster is None:
        answer: Allocation | Unsatisfiable = ask(coordinator_here().plan.remote(request))
        return answer
    snapshot = cluster if isinstance(cluster, Snapshot) else read_snapshot(cluster)
    return answer_of(inventory_of(snapshot), request)


def capacity(*, cluster: str | Path | Snapshot | None = None) -> ClusterCapacity:
    """Which shapes one more gang could have now: whole GPUs, whole cliques, and parts of each profile. Each number is
    what `plan` says, alone: so many are a yes, one more is a no.

    Args:
        cluster: as `plan` takes it.

    Raises:
        InvalidSnapshot: `cluster` is no snapshot.
    """
    if cluster is None:
        cluster = snapshot()
    return capacity_now(inventory_of(cluster if isinstance(cluster, Snapshot) else read_snapshot(cluster)))


def snapshot() -> Snapshot:
    """The cluster as the coordinator sees it now, gangs and other work included; see `plan(cluster=...)`."""
    found: Snapshot = ask(coordinator_here().snapshot.remote())
    return found


def topology() -> Topology:
    """The cluster as the coordinator sees it: nodes, devices, links, cliques."""
    found: Topology = ask(coordinator_here().topology.remote())
    return found
