"""Readying claims: idempotent through crashes, no device twice, and a container that sees exactly what it was given."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.simulated.dra import DOMAIN_DRIVER
from ray_dra.simulated.dra.devices import Pool, domain_pool, gpu_pool
from ray_dra.simulated.dra.prepare import IN_CONTAINER, Prepared, PrepareError, Preparer
from ray_dra.simulated.library import NAME, library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import SimulatedNode, load_profile
from ray_dra.translate.names import DRIVER
from tests.simulated.test_profiles import read

VERSION = "resource.nvidia.com/v1beta1"
DYNAMIC = frozenset({"DynamicMIG"})


class Crash(BaseException):
    """The power fails."""


class Fragile(Preparer):
    """Crashes before the n-th thing it would write."""

    until_crash: int | None = None

    def _step(self) -> None:
        if self.until_crash is not None:
            self.until_crash -= 1
            if self.until_crash < 0:
                raise Crash

    def _save(self) -> None:
        self._step()
        super()._save()

    def _write_cdi(self, *arguments: Any) -> None:
        self._step()
        super()._write_cdi(*arguments)


class Bench:
    """A node's driver without a cluster around it."""

    def __init__(self, folder: Path, profile: str = "hgx-h100", gates: frozenset[str] = frozenset()) -> None:
        self.folder, self.gates = folder, gates
        node = SimulatedNode(name="n1", profile=load_profile(profile))
        self.machine = Machine.create(folder / "machine", node)
        self.library = library_folder() / NAME
        self.cdi = folder / "cdi"
        self.preparer = self.start()

    def pool(self) -> Pool:
        return gpu_pool(self.machine.node, self.machine.read_faults(), self.gates)

    def start(self) -> Fragile:
        return Fragile(
            DRIVER,
            "n1",
            folder=self.folder / "state",
            cdi=self.cdi,
            machine=self.machine,
            library=self.library,
            published=lambda: self.pool().devices,
            gates=self.gates,
        )

    def container(self, prepared: list[Prepared]) -> dict[str, str]:
        """The environment of a container that was given these, by the CDI files as written."""
        return container(self.cdi, {device.cdi for device in prepared if device.cdi}, self.folder)


def container(cdi: Path, wanted: set[str], folder: Path) -> dict[str, str]:
    """Does what a container runtime does with CDI files; IN_CONTAINER becomes a folder."""
    root = Path(tempfile.mkdtemp(dir=folder))
    environment: dict[str, str] = {}
    for file in cdi.glob("*.json"):
        spec = json.loads(file.read_text())
        chosen = [d for d in spec["devices"] if f"{spec['kind']}={d['name']}" in wanted]
        for edits in [spec["containerEdits"], *(d["containerEdits"] for d in chosen)] if chosen else ():
            environment |= dict(entry.split("=", 1) for entry in edits.get("env", ()))
            for mount in edits.get("mounts", ()):
                target = root / mount["containerPath"].lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    target.symlink_to(mount["hostPath"])
    library = next(iter(root.glob(f"usr/lib/*/{NAME}")), None)
    moved = {k: v.replace(IN_CONTAINER, f"{root}{IN_CONTAINER}") for k, v in environment.items()}
    return {**moved, "LD_LIBRARY_PATH": str(library.parent) if library else ""}


def claim(uid: str, *results: tuple[str, str], config: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """An allocated claim; results are (request, device)."""
    found = [{"request": request, "driver": DRIVER, "pool": "n1", "device": device} for request, device in results]
    devices: dict[str, Any] = {"results": found}
    if config:
        devices["config"] = config
    return {
        "metadata": {"namespace": "default", "name": f"claim-{uid}", "uid": uid},
        "status": {"allocation": {"devices": devices}},
    }


def opaque(parameters: Mapping[str, Any], *requests: str, source: str = "FromClaim") -> dict[str, Any]:
    body = {"driver": DRIVER, "parameters": {"apiVersion": VERSION, **parameters}}
    return {"source": source, "requests": list(requests), "opaque": body}


def test_a_container_sees_what_it_was_given_numbered_from_zero(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    prepared = bench.preparer.prepare(claim("a", ("gpus", "gpu-6"), ("gpus", "gpu-3")))
    reading = read(bench.container(prepared))
    assert [g.uuid for g in reading.gpus] == [bench.machine.node.uuid(i) for i in (3, 6)]
    assert [g.index for g in reading.gpus] == [0, 1]
    # Faults arrive in the container, on the right GPU: 6 is 1 there.
    bench.machine.link_down(6)
    bench.machine.link_down(0)
    reading = read(bench.container(prepared))
    assert [any(link and link.active for link in g.links) for g in reading.gpus] == [True, False]
    # Without a claim there is no driver library to speak of.
    assert bench.container([])["LD_LIBRARY_PATH"] == ""


def test_partitions_are_seen_without_their_neighbours(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=DYNAMIC)
    first = bench.preparer.prepare(claim("a", ("p", "gpu-2-mig-19-0-1"), ("p", "gpu-2-mig-19-3-1")))
    second = bench.preparer.prepare(claim("b", ("p", "gpu-2-mig-9-4-4")))
    one, two = read(bench.container(first)), read(bench.container(second))
    assert [g.uuid for g in one.gpus] == [g.uuid for g in two.gpus] == [bench.machine.node.uuid(2)]
    assert {m.uuid for m in one.gpus[0].migs} == {device.partition for device in first}
    assert [m.slices for m in two.gpus[0].migs] == [3]
    bench.preparer.unprepare("a")
    assert list(bench.machine.read_faults()["partitions"]) == [second[0].partition]


def test_the_last_config_that_fits_is_taken_and_one_for_another_kind_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=frozenset({"MPSSupport", "TimeSlicingSettings"}))
    mps = {"kind": "GpuConfig", "sharing": {"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 30}}}
    plain = {"kind": "GpuConfig"}
    shared = bench.preparer.prepare(claim("a", ("g", "gpu-0"), config=[opaque(mps), opaque(plain, source="FromClass")]))
    assert bench.container(shared)["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
    one = bench.preparer.prepare(claim("b", ("g/s1", "gpu-1"), config=[opaque(plain), opaque(mps, "g")]))
    assert "CUDA_MPS_PIPE_DIRECTORY" not in bench.container(one)  # `g` is not `g/s1`
    with pytest.raises(PrepareError, match="cannot apply MigDeviceConfig to request g, a gpu device"):
        bench.preparer.prepare(claim("c", ("g", "gpu-2"), config=[opaque({"kind": "MigDeviceConfig"}, "g")]))
    with pytest.raises(PrepareError, match='unknown field "x"'):
        bench.preparer.prepare(claim("d", ("g", "gpu-2"), config=[opaque({"kind": "GpuConfig", "x": 1})]))
    assert set(bench.preparer.claims()) == {"a", "b"}


def test_a_gpu_is_used_as_itself_or_passed_through(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=frozenset({"PassthroughSupport"}))
    bench.preparer.prepare(claim("a", ("g", "gpu-0")))
    with pytest.raises(PrepareError, match="is prepared for the claim default/claim-a"):
        bench.preparer.prepare(claim("b", ("g", "gpu-vfio-0")))
    bench.preparer.prepare(claim("b", ("g", "gpu-vfio-1")))


def test_a_channel_needs_its_domains_config(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    preparer = Preparer(
        DOMAIN_DRIVER,
        "n1",
        folder=tmp_path / "domains",
        cdi=bench.cdi,
        machine=bench.machine,
        library=bench.library,
        published=lambda: domain_pool(bench.machine.node).devices,
    )
    thing = claim("a", ("channel", "channel-0"))
    thing["status"]["allocation"]["devices"]["results"][0]["driver"] = DOMAIN_DRIVER
    with pytest.raises(PrepareError, match="carries no ComputeDomain configuration"):
        preparer.prepare(thing)


def test_a_lost_cdi_file_is_written_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.preparer.prepare(claim("a", ("g", "gpu-4")))
    shutil.rmtree(bench.cdi)
    again = bench.start().prepare(claim("a", ("g", "gpu-4")))
    assert again == first
    assert [g.uuid for g in read(bench.container(again)).gpus] == [bench.machine.node.uuid(4)]


class Claims(RuleBasedStateMachine):
    """Any order of preparing and undoing, with restarts and crashes between any two writes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ray-dra-test-"))
        self.bench = Bench(self.folder, gates=DYNAMIC)
        self.allocated: dict[str, dict[str, Any]] = {}  # what the scheduler gave, by uid
        self.ready: set[str] = set()
        self.count = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(gpu=st.integers(0, 3), parts=st.sets(st.sampled_from(["19-0-1", "19-1-1", "14-2-2", "9-4-4"])))
    def allocate(self, gpu: int, parts: set[str]) -> None:
        """As the scheduler does: nothing that is in another claim, nothing that overlaps."""
        names = {f"gpu-{gpu}-mig-{part}" for part in parts} or {f"gpu-{gpu}"}
        taken = {r["device"] for c in self.allocated.values() for r in c["status"]["allocation"]["devices"]["results"]}
        if taken & names or f"gpu-{gpu}" in taken or (not parts and any(t.startswith(f"gpu-{gpu}-") for t in taken)):
            return
        self.count += 1
        uid = f"u{self.count}"
        self.allocated[uid] = claim(uid, *(("r", name) for name in sorted(names)))

    @precondition(lambda self: self.allocated)
    @rule(data=st.data(), crash=st.none() | st.integers(0, 4))
    def prepare(self, data: st.DataObject, crash: int | None) -> None:
        uid = data.draw(st.sampled_from(sorted(self.allocated)))
        self.bench.preparer.until_crash = crash
        try:
            prepared = self.bench.preparer.prepare(self.allocated[uid])
        except Crash:
            self.bench.preparer = self.bench.start()
            return
        self.bench.preparer.until_crash = None
        results = self.allocated[uid]["status"]["allocation"]["devices"]["results"]
        assert [device.device for device in prepared] == [result["device"] for result in results]
        self.ready.add(uid)

    @precondition(lambda self: self.allocated)
    @rule(data=st.data(), crash=st.none() | st.integers(0, 2))
    def unprepare(self, data: st.DataObject, crash: int | None) -> None:
        uid = data.draw(st.sampled_from(sorted(self.allocated)))
        self.bench.preparer.until_crash = crash
        try:
            self.bench.preparer.unprepare(uid)
        except Crash:
            self.bench.preparer = self.bench.start()
            self.ready.discard(uid)  # the kubelet will ask again; till then it is neither
            return
        self.bench.preparer.until_crash = None
        self.ready.discard(uid)
        del self.allocated[uid]

    @rule()
    def restart(self) -> None:
        self.bench.preparer = self.bench.start()

    @invariant()
    def no_device_twice(self) -> None:
        seen: set[str] = set()
        for entry in self.bench.preparer.entries():
            devices = {device["device"] for device in entry["devices"]}
            assert not devices & seen
            seen |= devices

    @invariant()
    def what_is_ready_has_its_file_and_its_partitions(self) -> None:
        partitions = set(self.bench.machine.read_faults().get("partitions", {}))
        files = {file.stem.rpartition("_")[2] for file in self.bench.cdi.glob("k8s.*.json")}
        wanted = set()
        for entry in self.bench.preparer.entries():
            wanted |= {device["partition"] for device in entry["devices"]} - {None}
        for entry_uid, entry in zip(self.bench.preparer.claims(), self.bench.preparer.entries(), strict=True):
            if entry_uid in self.ready:
                assert {device["partition"] for device in entry["devices"]} - {None} <= partitions
        assert self.ready <= files
        assert self.ready <= set(self.bench.preparer.claims())
        # Nothing is made that the checkpoint does not know, so nothing can leak.
        assert partitions <= wanted
        assert files <= set(self.bench.preparer.claims())


TestClaims = Claims.TestCase
TestClaims.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_environment_is_clean() -> None:
    """The tests above must not see a library by accident."""
    assert "RAY_DRA_SIMULATED_VISIBLE" not in os.environ


def test_a_claim_half_undone_is_made_whole_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=DYNAMIC)
    thing = claim("a", ("p", "gpu-2-mig-19-0-1"))
    first = bench.preparer.prepare(thing)
    for crash in range(3):
        bench.preparer.until_crash = crash
        try:
            bench.preparer.unprepare("a")
        except Crash:
            bench.preparer = bench.start()
        bench.preparer.until_crash = None
        assert bench.preparer.prepare(thing) == first
        assert [m.uuid for m in read(bench.container(first)).gpus[0].migs] == [first[0].partition]
