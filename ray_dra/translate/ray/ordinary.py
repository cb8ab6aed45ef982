"""Ray's own call for a placement group as a core GangRequest, or None where Ray alone is to place it; and what Ray is
asked to make of a planned one.

What is left to Ray: groups without GPUs, with parts of a GPU, with a soft target node, with levels of topology that are
not NVLink's, or with what `translate.ray.bundles` refuses; and whatever the policy leaves alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_dra.core.gangs.gang import Gang, GroupSet, Maker
from ray_dra.core.gangs.order import Order
from ray_dra.core.gangs.repair import OnFault
from ray_dra.core.model.locality import Locality, fitted
from ray_dra.core.model.request import GangRequest
from ray_dra.errors import InvalidRequest
from ray_dra.ports.ray import NewGroup
from ray_dra.translate.fault_policy import fault_rules_of, parse_on_fault
from ray_dra.translate.names import (
    ACCELERATOR_TYPE,
    DEFAULT_LOCALITY_VARIABLE,
    DEFAULT_ON_FAULT_VARIABLE,
    GPU_DOMAIN,
    LOCALITY_LABEL,
    LOCALITY_VARIABLE,
    MIG_PREFIX,
    ON_FAULT_LABEL,
    ON_FAULT_VARIABLE,
    RAY_NODE_ID,
)
from ray_dra.translate.ray.bundles import ray_bundles, request_from_bundles
from ray_dra.translate.ray.policy import Policy, parse_policy, parse_rules, policy_for, set_of

RACK_SCALE = ("GB200", "GB300")
"""Accelerator types for which Ray itself keeps a group in one GPU domain, where the first bundle selects one."""


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of `ray.util.placement_group` that say what is wanted and where. `policy`: what its own selectors
    say of its locality; "" for nothing."""

    bundles: Sequence[Mapping[str, float]]
    strategy: str | None = None
    selectors: Sequence[Mapping[str, str]] | None = None
    topology_strategy: Mapping[str, str] | None = None
    soft_node: str | None = None
    policy: str = ""


def without_policy(selectors: Any) -> tuple[str, Any]:
    """(what a call's label selectors say of locality, the selectors without it). Ray would look for nodes with it.

    Raises:
        InvalidRequest: it is no policy, or bundles say different things.
    """
    said, rest = _taken_out(selectors, LOCALITY_LABEL, "locality", parse_policy)
    return said, rest


def without_on_fault(selectors: Any) -> tuple[OnFault | None, Any]:
    """The same, of what is done about faults; None where they do not say it."""
    said, rest = _taken_out(selectors, ON_FAULT_LABEL, "fault policy", parse_on_fault)
    return parse_on_fault(said) if said else None, rest


def _taken_out(selectors: Any, label: str, what: str, parse: Callable[[object, str], object]) -> tuple[str, Any]:
    if not isinstance(selectors, list) or not all(isinstance(labels, dict) for labels in selectors):
        return "", selectors  # Ray says what is wrong
    said = [labels[label] for labels in selectors if label in labels]
    if not said:
        return "", selectors
    policy, place = said[0], f"bundle_label_selector[{label!r}]"
    parse(policy, place)
    if not all(isinstance(other, str) and other == policy for other in said):
        raise InvalidRequest(f"All bundles of a group have one {what}.", place=place)
    rest = [{key: value for key, value in labels.items() if key != label} for labels in selectors]
    return str(policy), rest if any(rest) else None


def request_of(call: Call, group: str, policy: Policy | None) -> GangRequest | None:
    """The request for a group that Ray's own checks have passed; None where it is left to Ray.

    Raises:
        InvalidRequest: a policy that cannot be for this group.
    """
    if policy is None or not _whole_devices(call.bundles) or call.soft_node:
        return None
    if any(name.startswith(MIG_PREFIX) for bundle in call.bundles for name in bundle):
        return None  # parts that the RayCluster's own workers offer
    topology = dict(call.topology_strategy or {})
    if topology.keys() - {RAY_NODE_ID, GPU_DOMAIN}:
        return None
    strategy = topology.get(RAY_NODE_ID, "PACK") if call.topology_strategy is not None else call.strategy
    locality = fitted(policy.locality, len(call.bundles), one_node=strategy == "STRICT_PACK")
    segment = locality.segment
    if segment is not None and len(call.bundles) % segment:
        raise InvalidRequest(
            f"The bundles do not divide into segments of {segment}.",
            place="locality",
            wanted=f"segments of {segment}",
            available=f"{len(call.bundles)} bundles",
        )
    try:
        made = request_from_bundles(
            call.bundles, strategy=strategy, selectors=call.selectors or None, locality=locality
        )
        return replace(made, gang=group)
    except InvalidRequest:  # Ray has its own way with it
        return None


def elastic_request(call: Call, group: str, policy: Policy | None, least: int) -> GangRequest | None:
    """The request for the most workers of an elastic run, in whole segments. `call`: as for its most workers, a bundle
    each; `least`: its fewest. None where its workers are left to Ray.

    Raises:
        InvalidRequest: no number of its workers makes whole segments.
    """
    if policy is None or policy.groups:
        return None
    segment, most = policy.locality.segment, len(call.bundles)
    if segment is not None and most > segment and call.strategy != "STRICT_PACK":
        most -= most % segment
    if most < least:
        raise InvalidRequest(
            f"No number of workers from {least} to {len(call.bundles)} makes whole segments of {segment}.",
            place="locality",
            wanted=f"segments of {segment}",
            available=f"{least} to {len(call.bundles)} workers",
        )
    selectors = None if call.selectors is None else call.selectors[:most]
    return request_of(replace(call, bundles=call.bundles[:most], selectors=selectors), group, policy)


def policy_of(call: Call, name: str, policies: Sequence[str]) -> Policy | None:
    """The policy for a group, the first that speaks; None: it is left to Ray.

    Args:
        policies: what holds where the call says nothing, the strongest first; "" for nothing.

    Raises:
        InvalidRequest: a policy that cannot be.
    """
    if call.topology_strategy is not None and GPU_DOMAIN in call.topology_strategy:
        return Policy(Locality(cliques=1))
    if call.policy:
        return parse_policy(call.policy)
    if call.selectors and _selects(call.selectors[0].get(ACCELERATOR_TYPE, ""), RACK_SCALE):
        return Policy(Locality(cliques=1))
    return policy_for(name, policies)


def group_set(policy: Policy, job: str, namespace: str, name: str) -> GroupSet | None:
    """The set that a group is of by its policy; None where it is for itself."""
    return GroupSet(set_of(policy.scope, job, namespace, name), policy.groups) if policy.scope else None


def _selects(term: str, values: Sequence[str]) -> bool:
    """Whether a label's term names one of these values."""
    inside = term.removeprefix("in(").removesuffix(")") if term.startswith("in(") else term
    return any(value.strip() in values for value in inside.split(","))


def _whole_devices(bundles: Sequence[Mapping[str, float]]) -> bool:
    """Whether the bundles ask for GPUs, and for whole ones alone."""
    amounts = [bundle.get("GPU", 0) for bundle in bundles]
    return any(amount > 0 for amount in amounts) and all(float(amount).is_integer() for amount in amounts)


def asks_for_devices(bundles: object) -> bool:
    """Whether whatever stands where bundles should asks for a GPU."""
    amounts = (
        [bundle.get("GPU", 0) for bundle in bundles if isinstance(bundle, dict)] if isinstance(bundles, list) else []
    )
    return any(isinstance(amount, (int, float)) and amount > 0 for amount in amounts)


def check_policies(environment: Mapping[str, str]) -> None:
    """Raises InvalidRequest for a variable that has no policy, of locality or of faults, before anything starts."""
    for name in (LOCALITY_VARIABLE, DEFAULT_LOCALITY_VARIABLE):
        if environment.get(name):
            parse_rules(environment[name], name)
    for name in (ON_FAULT_VARIABLE, DEFAULT_ON_FAULT_VARIABLE):
        fault_rules_of(environment, name)


def new_group(asked: Gang | Order, selectors: tuple[Mapping[str, str], ...]) -> NewGroup:
    """The placement group that Ray is to make under the id that was minted for it. `selectors`: of its bundles."""
    in_name = asked.ordinary or asked.maker or Maker()
    return NewGroup(
        id=asked.group or asked.id if isinstance(asked, Gang) else asked.request.gang,
        name=asked.name,
        strategy=asked.request.strategy.value,
        bundles=tuple(ray_bundles(asked.request)),
        selectors=selectors,
        job=asked.owner,
        actor=in_name.actor,
        outlives_job=in_name.outlives_job,
        detached=asked.detached,
    )
