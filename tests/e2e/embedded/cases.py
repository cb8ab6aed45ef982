"""What Ray's own calls for placement groups do, case by case. Each is run as Ray has it and through ray-dra, on one
cluster of 4 nodes with 4 GPUs; whatever it returns is to be the same.

A case gets a Scene, makes what it likes, and returns what a program can see of it.
"""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import ray_dra
from ray_dra.adapters import ray_groups

SOON = 0.3  # seconds in which something that is not to happen has not happened
LONG = 60.0
IDS = re.compile(r"\b[0-9a-f]{32,56}\b|0x[0-9a-f]+")
CASES: dict[str, Callable[[Scene], Any]] = {}


class Scene:
    """Makes groups, and removes them at the end."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.made: list[PlacementGroup] = []
        self.count = 0

    def make(self, *given: Any, **more: Any) -> PlacementGroup:
        group = placement_group(*given, **more)
        self.made.append(group)
        return group

    def ready(self, *given: Any, **more: Any) -> PlacementGroup:
        group = self.make(*given, **more)
        assert group.wait(LONG)
        return group

    def name(self) -> str:
        self.count += 1
        return f"{self.mode}-{time.monotonic_ns()}-{self.count}"

    def end(self) -> None:
        for group in self.made:
            self.remove(group)

    def remove(self, group: PlacementGroup) -> None:
        """Not while Ray reserves the bundles: plain Ray may lose a GPU for good then, for all cases after."""
        (ray_groups.remove if self.mode == "rays" else remove_placement_group)(group)


def case(run: Callable[[Scene], Any]) -> Callable[[Scene], Any]:
    CASES[run.__name__] = run
    return run


def said(error: BaseException) -> tuple[str, str]:
    """An error's type and words, without ids and names that differ from run to run."""
    text = IDS.sub("ID", str(error)).splitlines()
    return type(error).__name__, re.sub(r"(ours|rays)-\d+-\d+", "NAME", text[0] if text else "")


def outcome(do: Callable[[], Any]) -> Any:
    """What a call returns, or the error that it raises."""
    try:
        return do()
    except Exception as error:
        return said(error)


def row(group: PlacementGroup) -> Any:
    """A group's row of the table, without what is measured or found out by chance."""
    found = dict(placement_group_table(group))
    stats = found.pop("stats", {})
    found.pop("placement_group_id", None)
    found["name"] = bool(found.get("name"))
    found["nodes"] = [bool(node) for node in found.pop("bundles_to_node_id", {}).values()]
    return found, sorted(stats)


def at(group: PlacementGroup, bundle: int = -1, **more: Any) -> dict[str, Any]:
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, bundle, **more)}


# -- arguments that Ray refuses

_BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "bundles_are_text": (("GPU",), {}),
    "bundles_are_a_dict": (({"GPU": 1},), {}),
    "bundles_are_a_tuple": ((({"GPU": 1},),), {}),
    "no_bundles": (([],), {}),
    "an_empty_bundle": (([{}],), {}),
    "a_bundle_of_nothing": (([{"GPU": 0, "CPU": 0}],), {}),
    "a_bundle_of_no_gpus": (([{"GPU": 0}],), {}),
    "one_of_two_bundles_is_empty": (([{"GPU": 1}, {}],), {}),
    "a_resource_without_a_name": (([{7: 1}],), {}),
    "an_amount_as_text": (([{"GPU": "1"}],), {}),
    "an_unknown_strategy": (([{"GPU": 1}], "CLOSE"), {}),
    "a_strategy_of_another_type": (([{"GPU": 1}], 7), {}),
    "two_strategies": (([{"GPU": 1}], "PACK"), {"topology_strategy": {"ray.io/node-id": "PACK"}}),
    "an_unknown_lifetime": (([{"GPU": 1}],), {"lifetime": "long"}),
    "a_soft_node_without_strict_pack": (([{"GPU": 1}],), {"_soft_target_node_id": "a" * 56}),
    "a_soft_node_that_is_none": (([{"GPU": 1}], "STRICT_PACK"), {"_soft_target_node_id": "zz"}),
    "too_few_selectors": (([{"GPU": 1}] * 2,), {"bundle_label_selector": [{}]}),
    "selectors_are_a_dict": (([{"GPU": 1}],), {"bundle_label_selector": {"a": "b"}}),
    "a_selector_of_another_type": (([{"GPU": 1}],), {"bundle_label_selector": ["a"]}),
    "a_selector_that_is_none": (([{"GPU": 1}],), {"bundle_label_selector": [{"a": "-b-"}]}),
    "a_selector_with_a_number": (([{"GPU": 1}],), {"bundle_label_selector": [{"a": 1}]}),
    "a_rack_scale_type_for_one_bundle": (
        ([{"GPU": 1}] * 2,),
        {"bundle_label_selector": [{"ray.io/accelerator-type": "GB200"}, {}]},
    ),
    "a_topology_of_another_type": (([{"GPU": 1}],), {"topology_strategy": "STRICT_PACK"}),
    "a_topology_of_three_levels": (([{"GPU": 1}],), {"topology_strategy": dict.fromkeys("abc", "STRICT_PACK")}),
    "a_topology_of_two_labels": (([{"GPU": 1}],), {"topology_strategy": dict.fromkeys("ab", "STRICT_PACK")}),
    "a_topology_that_spreads": (([{"GPU": 1}],), {"topology_strategy": {"ray.io/gpu-domain": "SPREAD"}}),
    "an_unknown_argument": (([{"GPU": 1}],), {"locality": "same_clique"}),
    "a_name_of_another_type": (([{"GPU": 1}],), {"name": 7}),
}


def _refused(scene: Scene, given: tuple[Any, ...], more: dict[str, Any]) -> Any:
    return outcome(lambda: scene.make(*given, **more))


for _name, (_given, _more) in _BAD.items():
    CASES[_name] = partial(_refused, given=_given, more=_more)


@case
def nothing_is_removed(scene: Scene) -> Any:
    return outcome(lambda: remove_placement_group(None))


@case
def an_empty_name_is_looked_up(scene: Scene) -> Any:
    return outcome(lambda: get_placement_group(""))


@case
def an_unknown_name_is_looked_up(scene: Scene) -> Any:
    return outcome(lambda: get_placement_group(scene.name()))


# -- what a handle says

_PLACED: dict[str, tuple[list[dict[str, float]], dict[str, Any]]] = {
    "one_gpu": ([{"GPU": 1}], {}),
    "gpus_and_cpus": ([{"GPU": 2, "CPU": 0.5}] * 2, {}),
    "gpus_as_floats": ([{"GPU": 1.0}], {}),
    "cpus_alone": ([{"CPU": 0.01}], {}),
    "half_a_gpu": ([{"GPU": 0.5}], {}),
    "two_halves": ([{"GPU": 0.5}] * 2, {"strategy": "STRICT_PACK"}),
    "no_gpus_beside_cpus": ([{"GPU": 0, "CPU": 0.01}], {}),
    "a_bundle_without_gpus": ([{"GPU": 1}, {"CPU": 0.01}], {}),
    "a_bundle_with_zero_gpus": ([{"GPU": 1}, {"CPU": 0.01, "GPU": 0}], {}),
    "an_accelerator_type": ([{"GPU": 1, "accelerator_type:GB200": 0.0001}], {}),
    "memory": ([{"GPU": 1, "memory": 1024}], {}),
    "strict_pack": ([{"GPU": 1}] * 4, {"strategy": "STRICT_PACK"}),
    "spread": ([{"GPU": 1}] * 2, {"strategy": "SPREAD"}),
    "strict_spread": ([{"GPU": 1}] * 4, {"strategy": "STRICT_SPREAD"}),
    "a_topology_of_nodes": ([{"GPU": 1}] * 2, {"topology_strategy": {"ray.io/node-id": "STRICT_SPREAD"}}),
    "a_topology_of_domains": ([{"GPU": 1}] * 2, {"topology_strategy": {"ray.io/gpu-domain": "STRICT_PACK"}}),
    "a_selector": ([{"GPU": 1}], {"bundle_label_selector": [{"ray.io/accelerator-type": "GB200"}]}),
    "an_empty_selector": ([{"GPU": 1}], {"bundle_label_selector": [{}]}),
    "a_selector_of_what_it_is_not": ([{"GPU": 1}], {"bundle_label_selector": [{"zone": "!far"}]}),
}


def _placed(scene: Scene, bundles: list[dict[str, float]], more: dict[str, Any]) -> Any:
    before = copy.deepcopy(bundles)
    group = scene.make(bundles, **more)
    assert bundles == before
    return group.wait(LONG), row(group), group.bundle_specs, group.bundle_count, group.is_empty


for _name, (_bundles, _more) in _PLACED.items():
    CASES[f"placed_{_name}"] = partial(_placed, bundles=_bundles, more=_more)


@case
def placed_by_a_nodes_address(scene: Scene) -> Any:
    """As vLLM asks for its own node."""
    address = next(name for name in sorted(ray.cluster_resources()) if re.fullmatch(r"node:127\.0\.0\.[3-6]", name))
    return _placed(scene, [{"GPU": 1, address: 0.001}, {"GPU": 1}], {})


@case
def placed_in_an_nvlink_domain(scene: Scene) -> Any:
    """As NeMo-RL does: by a resource that all nodes of a domain have, and in the order of another."""
    told = sorted(ray.cluster_resources())  # for a moment a removed group's resources are among them
    domains = [name for name in told if name.startswith("nvlink_domain_") and "_group_" not in name]
    ranks = [node["Resources"]["topo_rank"] for node in ray.nodes() if domains[1] in node["Resources"]]
    placed = _placed(scene, [{"GPU": 4, domains[1]: 0.001}] * 2, {})
    there = {node["NodeID"] for node in ray.nodes() if domains[1] in node["Resources"]}
    where = placement_group_table(scene.made[-1])["bundles_to_node_id"].values()
    return len(domains), sorted(ranks), placed, set(where) <= there


_PENDING: dict[str, tuple[list[dict[str, float]], dict[str, Any]]] = {
    "more_than_a_node": ([{"GPU": 8}], {}),
    "more_than_the_cluster": ([{"GPU": 4}] * 5, {}),
    "strict_pack_of_too_much": ([{"GPU": 2}] * 3, {"strategy": "STRICT_PACK"}),
    "strict_spread_over_too_few": ([{"GPU": 1}] * 5, {"strategy": "STRICT_SPREAD"}),
    "a_resource_that_nobody_has": ([{"GPU": 1, "unobtainium": 1}], {}),
    "a_label_that_nobody_has": ([{"GPU": 1}], {"bundle_label_selector": [{"zone": "far"}]}),
    "a_domain_too_small": ([{"GPU": 4}] * 3, {"topology_strategy": {"ray.io/gpu-domain": "STRICT_PACK"}}),
}


def _pending(scene: Scene, bundles: list[dict[str, float]], more: dict[str, Any]) -> Any:
    group = scene.make(bundles, **more)
    waited = group.wait(0), ray.wait([group.ready()], timeout=SOON)[0]
    state = row(group)[0]
    ready = group.ready()
    scene.remove(group)
    after = outcome(lambda: ray.get(ready, timeout=LONG))
    return waited, state, group.bundle_specs, after, outcome(lambda: group.wait(1)), row(group)[0]["state"]


for _name, (_bundles, _more) in _PENDING.items():
    CASES[f"pending_{_name}"] = partial(_pending, bundles=_bundles, more=_more)


@case
def ready_resolves_to_the_group(scene: Scene) -> Any:
    group = scene.make([{"GPU": 1}])
    found = ray.get([group.ready(), group.ready()], timeout=LONG)
    return [each == group for each in found], [each.bundle_specs for each in found]


@case
def a_wait_that_is_over_is_true_at_once(scene: Scene) -> Any:
    """Not wait(0): of a created group that is True or False by chance in Ray itself."""
    group = scene.ready([{"GPU": 1}])
    return group.wait(1), group.wait(1.5), group.wait(timeout_seconds=1), group.wait()


@case
def a_wait_for_a_text_is_refused(scene: Scene) -> Any:
    group = scene.ready([{"GPU": 1}])
    return outcome(lambda: group.wait("long"))[0]


@case
def handles_are_equal_by_id(scene: Scene) -> Any:
    group, other = scene.make([{"GPU": 1}]), scene.make([{"GPU": 1}])
    same = pickle.loads(pickle.dumps(group))
    return group == same, hash(group) == hash(same), group == other, same.bundle_specs, len({group, same, other})


@case
def an_id_ends_with_its_job(scene: Scene) -> Any:
    group = scene.make([{"GPU": 1}])
    return len(group.id.hex()), group.id.hex().endswith(ray.get_runtime_context().get_job_id())


@case
def all_are_in_the_table(scene: Scene) -> Any:
    groups = [scene.make([{"GPU": 1}]), scene.make([{"GPU": 8}])]
    table = placement_group_table()
    return [table[group.id.hex()]["state"] in ("PENDING", "PREPARED", "CREATED") for group in groups]


@case
def a_group_that_never_was_has_no_row(scene: Scene) -> Any:
    return placement_group_table(PlacementGroup.empty())


@case
def a_group_of_which_nobody_knows(scene: Scene) -> Any:
    group = PlacementGroup(ray._raylet.PlacementGroupID.from_random())
    remove_placement_group(group)
    waits = group.wait(0), ray.wait([group.ready()], timeout=SOON)[0]
    return waits, placement_group_table(group), outcome(lambda: group.bundle_specs)[0]


@case
def an_empty_group_is_ready(scene: Scene) -> Any:
    group = PlacementGroup.empty()
    return group.is_empty, ray.get(group.ready(), timeout=LONG) == group, PlacementGroup.empty() == group


@case
def ready_is_awaited(scene: Scene) -> Any:
    """As Serve and Train do in their event loops."""

    async def both() -> list[Any]:
        return await asyncio.gather(*[asyncio.wait_for(_awaited(group), LONG) for group in groups])

    groups = [scene.make([{"GPU": 1}]) for _ in range(2)]
    return asyncio.run(both()) == groups


async def _awaited(group: PlacementGroup) -> Any:
    return await group.ready()


@case
def object_store_memory_is_warned_of(scene: Scene) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        group = scene.make([{"GPU": 1, "object_store_memory": 1024}])
    said = [
        (warning.category.__name__, str(warning.message)) for warning in caught if "bundles" in str(warning.message)
    ]
    return said, group.wait(LONG), row(group)


# -- names


@case
def a_name_finds_a_placed_group(scene: Scene) -> Any:
    name = scene.name()
    group = scene.ready([{"GPU": 1}], name=name)
    found = get_placement_group(name)
    return found == group, found.bundle_specs, found.wait(1), row(found)[0]


@case
def a_name_finds_a_pending_group(scene: Scene) -> Any:
    name = scene.name()
    group = scene.make([{"GPU": 8}], name=name)
    found = get_placement_group(name)
    return found == group, found.bundle_specs, found.wait(0), row(found)[0]


@case
def a_name_is_given_once(scene: Scene) -> Any:
    name = scene.name()
    scene.ready([{"GPU": 1}], name=name)
    return outcome(lambda: scene.make([{"GPU": 1}], name=name))


@case
def a_pending_groups_name_is_given_once(scene: Scene) -> Any:
    name = scene.name()
    scene.make([{"GPU": 8}], name=name)
    return outcome(lambda: scene.make([{"GPU": 1}], name=name))


@case
def a_name_is_free_after_the_removal(scene: Scene) -> Any:
    name = scene.name()
    found = []
    for bundles in ([{"GPU": 1}], [{"GPU": 8}], [{"GPU": 1}]):
        group = scene.make(bundles, name=name)
        found.append((get_placement_group(name) == group, group.wait(1)))
        scene.remove(group)
        found.append(outcome(lambda: get_placement_group(name)))
    return found


@case
def a_detached_group_has_a_name(scene: Scene) -> Any:
    name = scene.name()
    group = scene.ready([{"GPU": 1}], name=name, lifetime="detached")
    return get_placement_group(name) == group, row(group)[0]


# -- removal


@case
def a_removed_group_says_so(scene: Scene) -> Any:
    group = scene.ready([{"GPU": 1}])
    scene.remove(group)
    return row(group)[0]["state"], outcome(lambda: group.wait(1)), outcome(lambda: ray.get(group.ready(), timeout=LONG))


@case
def to_remove_twice_is_harmless(scene: Scene) -> Any:
    group, pending = scene.ready([{"GPU": 1}]), scene.make([{"GPU": 8}])
    for each in (group, group, pending, pending):
        scene.remove(each)
    return row(pending)[0]["state"]


@case
def a_removed_groups_gpus_are_free(scene: Scene) -> Any:
    found = []
    for _ in range(2):
        group = scene.make([{"GPU": 4}] * 4, "STRICT_SPREAD")
        found.append(group.wait(LONG))
        scene.remove(group)
    return found


@case
def removed_in_the_middle_of_being_made(scene: Scene) -> Any:
    groups = [scene.make([{"GPU": 1}]) for _ in range(5)]
    for group in groups:
        scene.remove(group)
    return [row(group)[0].get("state") for group in groups], scene.make([{"GPU": 4}] * 4).wait(LONG)


@case
def a_burst_of_a_hundred(scene: Scene) -> Any:
    """Each has its turn when those before it are removed."""
    left = [scene.make([{"GPU": 1}]) for _ in range(100)]
    until = time.monotonic() + LONG
    while left and time.monotonic() < until:
        states = {key: row["state"] for key, row in placement_group_table().items()}
        placed = [group for group in left if states[group.id.hex()] == "CREATED"]
        for group in placed:
            scene.remove(group)
        left = [group for group in left if group not in placed]
        time.sleep(0.02)
    return len(left), scene.make([{"GPU": 4}] * 4, "STRICT_SPREAD").wait(LONG)


# -- tasks and actors


def _gpus() -> int:
    return len(ray.get_gpu_ids())


def _current() -> Any:
    group = get_current_placement_group()
    return None if group is None else (group.id.hex(), group.bundle_count)


def _parent() -> Any:
    found = ray.get(current.options(num_cpus=0.01).remote())
    return found and found[0]


gpus: Any = ray.remote(num_cpus=0, num_gpus=1, max_calls=0)(_gpus)
current: Any = ray.remote(num_cpus=0)(_current)
parent: Any = ray.remote(num_cpus=0.01)(_parent)


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count

    def so_far(self) -> int:
        return self.count

    def gpus(self) -> int:
        return len(ray.get_gpu_ids())

    def group(self) -> str:
        group = get_current_placement_group()
        return group.id.hex() if group is not None else ""

    def make(self, bundles: list[dict[str, float]], plain: bool) -> Any:
        return made(bundles, plain)


def made(bundles: list[dict[str, float]], plain: bool, **more: Any) -> Any:
    """A group that a worker makes."""
    from ray_dra.adapters.ray_groups import uncaught

    if not plain:
        return placement_group(bundles, **more)
    with uncaught():
        return placement_group(bundles, **more)


def _visible() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


@case
def halves_keep_off_a_groups_gpus(scene: Scene) -> Any:
    whole = scene.ready([{"GPU": 2}])
    (node,) = placement_group_table(whole)["bundles_to_node_id"].values()
    halves = [scene.ready([{"GPU": 0.5}], bundle_label_selector=[{"ray.io/node-id": node}]) for _ in range(4)]
    look = ray.remote(_visible)
    its = ray.get(look.options(num_gpus=2, num_cpus=0, **at(whole, 0)).remote())
    theirs = ray.get([look.options(num_gpus=0.5, num_cpus=0, **at(half, 0)).remote() for half in halves])
    return set(its.split(",")).isdisjoint(theirs), len(set(theirs))


@case
def a_task_has_its_bundles_gpus(scene: Scene) -> Any:
    group = scene.make([{"GPU": 1}, {"GPU": 2}])
    tasks = [gpus.options(num_gpus=n, **at(group, bundle)).remote() for n, bundle in ((1, 0), (2, 1), (1, 1))]
    return ray.get(tasks, timeout=LONG)


@case
def a_task_takes_any_bundle(scene: Scene) -> Any:
    group = scene.make([{"GPU": 1}] * 2)
    return ray.get([gpus.options(**at(group)).remote() for _ in range(3)], timeout=LONG)


@case
def a_task_knows_its_group(scene: Scene) -> Any:
    group = scene.make([{"GPU": 1, "CPU": 0.01}])
    where = ray.get(current.options(**at(group, 0)).remote(), timeout=LONG)
    return where == (group.id.hex(), 1), ray.get(current.remote(), timeout=LONG)


@case
def a_driver_has_no_group(scene: Scene) -> Any:
    scene.ready([{"GPU": 1}])
    return get_current_placement_group()


@case
def a_bundle_that_is_not_there_is_refused(scene: Scene) -> Any:
    group = scene.make([{"GPU": 1}])
    return [outcome(gpus.options(**at(group, bundle)).remote) for bundle in (1, -2)]


@case
def a_task_too_large_for_the_group_is_refused(scene: Scene) -> Any:
    group = scene.make([{"GPU": 1}] * 2)
    actor = ray.remote(Counter).options(num_gpus=2, num_cpus=0, **at(group))
    return outcome(lambda: gpus.options(num_gpus=2, **at(group)).remote()), outcome(actor.remote)


@case
def a_task_of_a_pending_group_waits_and_goes_with_it(scene: Scene) -> Any:
    group = scene.make([{"GPU": 8}])
    task = gpus.options(**at(group)).remote()
    waits = ray.wait([task], timeout=SOON)[0]
    scene.remove(group)
    return waits, outcome(lambda: ray.get(task, timeout=1))  # in Ray it waits for ever


@case
def who_waited_runs_when_there_is_room(scene: Scene) -> Any:
    first = scene.ready([{"GPU": 4}] * 4, "STRICT_SPREAD")
    group = scene.make([{"GPU": 2}] * 2)
    task = gpus.options(num_gpus=2, **at(group, 1)).remote()
    actor = ray.remote(Counter).options(num_gpus=1, num_cpus=0, **at(group, 0)).remote()
    call, ready = actor.gpus.remote(), group.ready()
    waits = ray.wait([task, call, ready], timeout=SOON)[0]
    scene.remove(first)
    return waits, ray.get([task, call], timeout=LONG), ray.get(ready, timeout=LONG) == group


@case
def an_actor_of_a_pending_group_waits_and_goes_with_it(scene: Scene) -> Any:
    group = scene.make([{"GPU": 8}])
    actor = ray.remote(Counter).options(num_gpus=1, num_cpus=0, **at(group)).remote()
    call = actor.add.remote()
    waits = ray.wait([call], timeout=SOON)[0]
    scene.remove(group)
    return waits, outcome(lambda: ray.get(call, timeout=2))[0]


@case
def an_actor_goes_with_its_group(scene: Scene) -> Any:
    group = scene.make([{"GPU": 1}])
    actor = ray.remote(Counter).options(num_gpus=1, num_cpus=0, **at(group, 0)).remote()
    found = ray.get([actor.add.remote(), actor.add.remote(), actor.gpus.remote()], timeout=LONG)
    scene.remove(group)
    until = time.monotonic() + LONG
    while (after := outcome(lambda: ray.get(actor.add.remote(), timeout=LONG))) == found[1] + 1:
        assert time.monotonic() < until
    return found, after[0] if isinstance(after, tuple) else "lives"


def _busy(counter: Any) -> None:
    ray.get(counter.add.remote())
    time.sleep(600)


@case
def a_running_task_ends_with_its_group(scene: Scene) -> Any:
    group = scene.ready([{"GPU": 1}])
    counter = ray.remote(Counter).options(num_cpus=0).remote()
    task = ray.remote(_busy).options(num_gpus=1, num_cpus=0, max_retries=0, **at(group, 0)).remote(counter)
    until = time.monotonic() + LONG
    while not ray.get(counter.so_far.remote()):
        assert time.monotonic() < until
        time.sleep(0.02)
    scene.remove(group)
    return outcome(lambda: ray.get(task, timeout=LONG))[0]


@case
def a_task_of_a_removed_group_waits_for_ever(scene: Scene) -> Any:
    group = scene.ready([{"GPU": 1}])
    scene.remove(group)
    return outcome(lambda: ray.get(gpus.options(**at(group, 0)).remote(), timeout=1))


@case
def a_group_that_a_task_made_outlives_the_task(scene: Scene) -> Any:
    make = ray.remote(made).options(num_cpus=0)
    group = ray.get(make.remote([{"GPU": 1}], scene.mode == "rays"), timeout=LONG)
    scene.made.append(group)
    return group.wait(LONG), row(group)[0]


@case
def a_pending_group_of_a_task_is_the_programs(scene: Scene) -> Any:
    make = ray.remote(made).options(num_cpus=0)
    name = scene.name()
    group = ray.get(make.remote([{"GPU": 8}], scene.mode == "rays", name=name), timeout=LONG)
    scene.made.append(group)
    ready = group.ready()
    found = group.wait(0), row(group)[0], get_placement_group(name) == group
    scene.remove(group)
    return found, outcome(lambda: ray.get(ready, timeout=LONG))


@case
def a_group_that_an_actor_made_outlives_the_actor(scene: Scene) -> Any:
    actor = ray.remote(Counter).options(num_cpus=0).remote()
    bundles: list[list[dict[str, float]]] = [[{"GPU": 1}], [{"GPU": 8}]]
    groups = ray.get([actor.make.remote(each, scene.mode == "rays") for each in bundles], timeout=LONG)
    scene.made += groups
    placed = groups[0].wait(LONG)
    ray.kill(actor)
    time.sleep(1.0)
    return placed, [row(group)[0]["state"] for group in groups]


@case
def a_group_that_a_detached_actor_made_ends_with_it(scene: Scene) -> Any:
    actor = ray.remote(Counter).options(num_cpus=0, lifetime="detached", name=scene.name()).remote()
    bundles: list[list[dict[str, float]]] = [[{"GPU": 1}], [{"GPU": 8}]]
    groups = ray.get([actor.make.remote(each, scene.mode == "rays") for each in bundles], timeout=LONG)
    scene.made += groups
    placed, ready = groups[0].wait(LONG), groups[1].ready()
    ray.kill(actor)
    until = time.monotonic() + LONG
    while (states := [row(g)[0].get("state") for g in groups]) != ["REMOVED"] * 2 and time.monotonic() < until:
        time.sleep(0.05)
    return placed, states, outcome(lambda: ray.get(ready, timeout=LONG))


OWNER = """
import sys
import ray
from ray.util.placement_group import placement_group

ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
groups = [placement_group([{"GPU": gpus}], **more) for gpus, more in ((1, {}), (8, {}), (1, {"lifetime": "detached"}))]
assert groups[0].wait(60) and groups[2].wait(60)
print(*(group.id.hex() for group in groups), flush=True)
sys.stdin.read()
"""


@case
def the_groups_of_a_program_that_is_killed_end_unless_they_are_detached(scene: Scene) -> Any:
    cluster = ray_dra.embedded_cluster()
    assert cluster is not None
    address = cluster.address if scene.mode == "rays" else f"ray_dra://{cluster.address}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.token)} if scene.mode == "rays" else {}
    command = [sys.executable, "-c", OWNER, address]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **token}) as program:
        assert program.stdout is not None
        ids = program.stdout.readline().split()
        program.kill()
    groups = [PlacementGroup(ray._raylet.PlacementGroupID(bytes.fromhex(group))) for group in ids]
    scene.made += groups
    waits = groups[1].ready()  # of the group that is there it would come true where it is removed a moment later
    until = time.monotonic() + LONG
    while (states := [row(g)[0].get("state") for g in groups])[:2] != ["REMOVED"] * 2 and time.monotonic() < until:
        time.sleep(0.05)
    readies = [groups[0].ready(), waits, groups[2].ready()]
    return states, [outcome(lambda ref=ref: ray.get(ref, timeout=LONG) in groups) for ref in readies]  # type: ignore[misc]


@case
def an_actor_has_its_bundles_gpus_and_knows_its_group(scene: Scene) -> Any:
    group = scene.make([{"GPU": 2}, {"GPU": 1}])
    found, actors = [], []
    for gpus, bundle in ((2, 0), (1, -1)):  # in turn: one that may be in any bundle would take a part of the first
        actors.append(ray.remote(Counter).options(num_gpus=gpus, num_cpus=0, **at(group, bundle)).remote())
        found += ray.get([actors[-1].gpus.remote(), actors[-1].group.remote()], timeout=LONG)
    return [value == group.id.hex() if isinstance(value, str) else value for value in found]


@case
def children_are_captured(scene: Scene) -> Any:
    group = scene.make([{"GPU": 1, "CPU": 0.02}])
    captured = parent.options(**at(group, 0, placement_group_capture_child_tasks=True)).remote()
    alone = parent.options(**at(group, 0)).remote()
    return [found == group.id.hex() for found in ray.get([captured, alone], timeout=LONG)]
