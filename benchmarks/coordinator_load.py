"""How many gangs a second the coordinator takes and gives back, beside Ray's own placement groups in the same run.

So many clients, each a process of its own, make a group of one GPU, wait until Ray has placed it, and remove it, again
and again: gangs and Ray's own groups in turns. (Ray's own cannot be removed before they are placed here: Ray 2.60 then
keeps the GPUs of some for good.) Then how fast the coordinator answers while calls wait for gangs, and whether its
memory grows.
"""

from __future__ import annotations

import time
from typing import Any

import psutil
import ray
from figures import parser, percentile, write

import ray_dra
from ray_dra.processes.calls import ask, coordinator
from ray_dra.translate.names import NODE_LABEL

BUNDLES = [{"GPU": 1}]
ADDRESS = (
    "ray_dra://embedded?profile=gb200-nvl72&nodes=4&locality=none"  # of what is "ray", the coordinator hears nothing
)


class Client:
    """Makes and removes groups for a while."""

    def load(self, whose: str, seconds: float) -> int:
        """How many."""
        made, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            if whose == "ours":
                group = ray_dra.placement_group(BUNDLES)
            elif whose == "ray":
                group = ray.util.placement_group(BUNDLES)
            else:  # on this one node, as a planned gang is
                group = ray.util.placement_group(BUNDLES, bundle_label_selector=[{NODE_LABEL: whose}])
            group.wait(60)
            if whose == "ours":
                group.remove()
            else:
                ray.util.remove_placement_group(group)
            made += 1
        return made


def rate(clients: list[Any], whose: str, seconds: float) -> float:
    """Groups a second of all clients together."""
    began = time.monotonic()
    made = sum(ray.get([client.load.remote(whose, seconds) for client in clients]))
    return float(made) / (time.monotonic() - began)


def memory() -> float:
    """Of the coordinator's process, in MB."""
    return float(psutil.Process(ask(coordinator().pid.remote())).memory_info().rss) / 1e6


def loads(counts: list[int], seconds: float, rounds: int) -> list[dict[str, Any]]:
    rows = []
    node = next(n["Labels"][NODE_LABEL] for n in ray.nodes() if n["Resources"].get("GPU"))
    print("clients  ours/s  ray/s  ratio  ray on one node/s  ratio")
    for count in counts:
        clients = [ray.remote(Client).options(num_cpus=0).remote() for _ in range(count)]
        ray.get([client.load.remote(whose, 0.5) for client in clients for whose in ("ours", "ray")])
        ours, rays, pinned = [], [], []
        for _ in range(rounds):
            ours.append(rate(clients, "ours", seconds))
            rays.append(rate(clients, "ray", seconds))
            pinned.append(rate(clients, node, seconds))
        our, rays_own, one_node = (percentile(each, 50) for each in (ours, rays, pinned))
        rows.append({"clients": count, "ours": our, "ray": rays_own, "ray_on_one_node": one_node})
        print(
            f"{count:>7}{our:>8.1f}{rays_own:>7.1f}{our / rays_own:>7.2f}{one_node:>19.1f}{our / one_node:>7.2f}",
            flush=True,
        )
        for client in clients:
            ray.kill(client)
    return rows


def waiting(count: int) -> dict[str, float]:
    """The longest of 20 answers while so many calls wait for one gang, and what each call costs the coordinator."""
    with ray_dra.placement_group([{"GPU": 4}] * 4) as everything:
        everything.wait(60)
        with ray_dra.placement_group(BUNDLES) as gang:
            before = memory()
            job = ray.get_runtime_context().get_job_id()
            waits = [coordinator().await_ready.remote(gang.id, job) for _ in range(count)]
            ask(coordinator().status.remote(gang.id), timeout=120)  # Ray sends calls in order
            answers = []
            for _ in range(20):
                began = time.perf_counter()
                ask(coordinator().status.remote(gang.id))
                answers.append(time.perf_counter() - began)
                time.sleep(0.2)
            each = (memory() - before) * 1000 / count
            began = time.perf_counter()
            everything.remove()
            gang.wait(60)
            ray.get(waits)
            resolved = time.perf_counter() - began
    row = {"waits": count, "longest_ms": max(answers) * 1000, "kb_each": each, "resolved_s": resolved}
    print(f"{count} waits: longest answer {row['longest_ms']:.0f} ms, {each:.0f} KB each, resolved in {resolved:.1f} s")
    return row


def growth(gangs: int, clients: int) -> dict[str, float]:
    """The coordinator's memory over so many gangs, after as many more to warm up as a fifth of them; and over as many
    of Ray's own groups, with which the coordinator has nothing to do but to read Ray's table of groups at each look:
    Ray keeps the removed ones in it."""
    made = [ray.remote(Client).options(num_cpus=0).remote() for _ in range(clients)]

    def make(whose: str, wanted: int) -> tuple[float, float]:
        """KB of memory for each, and how many a second."""
        began, done, before = time.monotonic(), 0, memory()
        while done < wanted:
            done += sum(ray.get([client.load.remote(whose, 2.0) for client in made]))
        return (memory() - before) * 1000 / done, done / (time.monotonic() - began)

    make("ours", gangs // 5)
    each, rate_of_ours = make("ours", gangs)
    each_of_rays, _ = make("ray", gangs // 2)
    print(
        f"{gangs} gangs, {rate_of_ours:.0f} a second: {each:.2f} KB each; Ray's own groups {each_of_rays:.2f} KB each"
    )
    return {"gangs": gangs, "kb_each": each, "kb_each_of_rays": each_of_rays, "per_s": rate_of_ours}


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    arguments.add_argument("--seconds", type=float, default=3.0)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--waits", type=int, default=10_000)
    arguments.add_argument("--gangs", type=int, default=10_000)
    options = arguments.parse_args()
    ray.init(ADDRESS, log_to_driver=False, logging_level="ERROR")
    rows: list[dict[str, Any]] = loads(options.clients, options.seconds, options.rounds)
    if options.waits:
        rows.append(waiting(options.waits))
    if options.gangs:
        rows.append(growth(options.gangs, max(options.clients)))
    ray.shutdown()
    write(options.json, rows)


if __name__ == "__main__":
    main()
