"""Readying claims: idempotent through crashes, no device twice, and a container that sees exactly what it was given."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_dra.simulated.dra.cdi import IN_CONTAINER
from ray_dra.simulated.dra.devices import Pool, domain_pool, gpu_pool
from ray_dra.simulated.dra.partitions import place_of
from ray_dra.simulated.dra.prepare import Prepared, PrepareError, Preparer
from ray_dra.simulated.library import NAME, library_folder
from ray_dra.simulated.machine import Machine
from ray_dra.simulated.profile import SimulatedNode, load_profile, simulated_nodes
from ray_dra.translate.names import DOMAIN_DRIVER
from ray_dra.translate.vendors import NVIDIA
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

    def __init__(
        self, folder: Path, profile: str = "hgx-h100", gates: frozenset[str] = frozenset(), shares: str = ""
    ) -> None:
        self.folder, self.gates, self.shares = folder, gates, shares
        node = SimulatedNode(name="n1", profile=load_profile(profile))
        self.machine = Machine.create(folder / "machine", node)
        self.library = library_folder() / NAME
        self.cdi = folder / "cdi"
        self.preparer = self.start()

    def pool(self) -> Pool:
        machine = self.machine
        return gpu_pool(
            machine.node, machine.read_faults(), self.gates, machine.mig_state(), consumable_shares=self.shares
        )

    def start(self) -> Fragile:
        return Fragile(
            NVIDIA.driver,
            "n1",
            folder=self.folder / "state",
            cdi=self.cdi,
            machine=self.machine,
            library=self.library,
            published=lambda: self.pool().devices,
            gates=self.gates,
            shared=bool(self.shares),
        )

    def container(self, prepared: list[Prepared]) -> dict[str, str]:
        """The environment of a container that was given these, by the CDI files as written."""
        return container(self.cdi, {device.cdi for device in prepared if device.cdi}, self.folder)


def container(cdi: Path, wanted: set[str], folder: Path) -> dict[str, str]:
    """Does what a container runtime does with CDI files; IN_CONTAINER becomes a folder."""
    root = Path(tempfile.mkdtemp(dir=folder))
    environment: dict[str, str] = {}
    for file in cdi.glob("*.yaml"):
        spec = yaml.safe_load(file.read_text())
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
    found = [
        {"request": request, "driver": NVIDIA.driver, "pool": "n1", "device": device} for request, device in results
    ]
    devices: dict[str, Any] = {"results": found}
    if config:
        devices["config"] = config
    return {
        "metadata": {"namespace": "default", "name": f"claim-{uid}", "uid": uid},
        "status": {"allocation": {"devices": devices}},
    }


def opaque(parameters: Mapping[str, Any], *requests: str, source: str = "FromClaim") -> dict[str, Any]:
    body = {"driver": NVIDIA.driver, "parameters": {"apiVersion": VERSION, **parameters}}
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
    first = bench.preparer.prepare(claim("a", ("p", "gpu-2-mig-1g10gb-19-0"), ("p", "gpu-2-mig-1g10gb-19-3")))
    second = bench.preparer.prepare(claim("b", ("p", "gpu-2-mig-3g40gb-9-4")))
    one, two = read(bench.container(first)), read(bench.container(second))
    assert [g.uuid for g in one.gpus] == [g.uuid for g in two.gpus] == [bench.machine.node.uuid(2)]
    assert {m.uuid for m in one.gpus[0].migs} == {device.partition for device in first}
    assert [m.slices for m in two.gpus[0].migs] == [3]
    bench.preparer.unprepare("a")
    assert [part.uuid for part in bench.machine.mig_state().parts] == [second[0].partition]


def test_the_last_config_that_fits_is_taken_and_one_for_another_kind_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=frozenset({"MPSSupport", "TimeSlicingSettings"}))
    mps = {"kind": "GpuConfig", "sharing": {"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 30}}}
    plain = {"kind": "GpuConfig"}
    shared = bench.preparer.prepare(claim("a", ("g", "gpu-0"), config=[opaque(mps), opaque(plain, source="FromClass")]))
    seen = bench.container(shared)
    assert seen["CUDA_MPS_PIPE_DIRECTORY"] == "/tmp/nvidia-mps"
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in seen  # the daemon's, not the container's
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


class Domain:
    """A node's ComputeDomains, where there is one."""

    def named(self, domain: str) -> tuple[str, str]:
        return "team", "train"

    def enter(self, domain: str, namespace: str) -> bool:
        return True

    def leave(self, domain: str) -> None: ...


def test_a_domains_daemon_is_told_its_domain(tmp_path: Path) -> None:
    machine = Machine.create(tmp_path / "m", simulated_nodes("gb200-nvl72")[0])
    preparer = Preparer(
        DOMAIN_DRIVER,
        "n1",
        folder=tmp_path / "state",
        cdi=tmp_path / "cdi",
        machine=machine,
        library=library_folder() / NAME,
        published=lambda: domain_pool(machine.node).devices,
        domains=Domain(),
    )
    parameters = {"apiVersion": VERSION, "kind": "ComputeDomainDaemonConfig", "domainID": "u-1"}
    config = {"source": "FromClaim", "requests": ["d"], "opaque": {"driver": DOMAIN_DRIVER, "parameters": parameters}}
    thing = claim("a", ("d", "daemon-0"), config=[config])
    thing["status"]["allocation"]["devices"]["results"][0]["driver"] = DOMAIN_DRIVER
    (prepared,) = preparer.prepare(thing)
    spec = yaml.safe_load(next((tmp_path / "cdi").iterdir()).read_text())
    (edits,) = (device["containerEdits"] for device in spec["devices"])
    assert sorted(edits["env"]) == [
        f"CLIQUE_ID={machine.node.clique}",
        "COMPUTE_DOMAIN_NAME=train",
        "COMPUTE_DOMAIN_NAMESPACE=team",
        "COMPUTE_DOMAIN_UUID=u-1",
    ]
    assert [mount["containerPath"] for mount in edits["mounts"]] == ["/imexd"]
    assert prepared.domain is None  # it does not hold the node in the domain, as a channel does


def test_a_lost_cdi_file_is_written_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.preparer.prepare(claim("a", ("g", "gpu-4")))
    shutil.rmtree(bench.cdi)
    again = bench.start().prepare(claim("a", ("g", "gpu-4")))
    assert again == first
    assert [g.uuid for g in read(bench.container(again)).gpus] == [bench.machine.node.uuid(4)]


def given(allocated: dict[str, Any]) -> set[str]:
    return {result["device"] for result in allocated["status"]["allocation"]["devices"]["results"]}


class Claims(RuleBasedStateMachine):
    """Any order of preparing and undoing, with restarts and crashes between any two writes."""

    gates, shares = DYNAMIC, ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ray-dra-test-"))
        self.bench = Bench(self.folder, gates=self.gates, shares=self.shares)
        self.allocated: dict[str, dict[str, Any]] = {}  # what the scheduler gave, by uid
        self.ready: set[str] = set()
        self.crashed: set[int] = set()  # GPUs whose MIG mode a crash may have left on
        self.count = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(
        gpu=st.integers(0, 3),
        parts=st.sets(st.sampled_from(["1g10gb-19-0", "1g10gb-19-1", "2g20gb-14-2", "3g40gb-9-4"])),
    )
    def allocate(self, gpu: int, parts: set[str]) -> None:
        """As the scheduler does: nothing that is in another claim, nothing that overlaps."""
        names = {f"gpu-{gpu}-mig-{part}" for part in parts} or {f"gpu-{gpu}"}
        if not self.fits(names, gpu):
            return
        self.count += 1
        uid = f"u{self.count}"
        self.allocated[uid] = claim(uid, *(("r", name) for name in sorted(names)))

    def fits(self, names: set[str], gpu: int) -> bool:
        taken = {name for c in self.allocated.values() for name in given(c)}
        whole = names == {f"gpu-{gpu}"}
        return not (
            taken & names or f"gpu-{gpu}" in taken or (whole and any(t.startswith(f"gpu-{gpu}-") for t in taken))
        )

    @precondition(lambda self: self.allocated)
    @rule(data=st.data(), crash=st.none() | st.integers(0, 4))
    def prepare(self, data: st.DataObject, crash: int | None) -> None:
        uid = data.draw(st.sampled_from(sorted(self.allocated)))
        self.bench.preparer.until_crash = crash
        try:
            prepared = self.bench.preparer.prepare(self.allocated[uid])
        except Crash:
            self.bench.preparer = self.bench.start()
            self.crashed |= self.bench.machine.mig_state().on
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
            self.crashed |= self.bench.machine.mig_state().on
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
        state = self.bench.machine.mig_state()
        partitions = {(part.gpu, part.profile, part.start) for part in state.parts}
        uuids = [part.uuid for part in state.parts]
        assert len(set(uuids)) == len(uuids)
        files = {file.stem.rpartition("_")[2] for file in self.bench.cdi.glob("k8s.*.yaml")}
        wanted = set()
        for entry in self.bench.preparer.entries():
            wanted |= {place_of(device["device"]) for device in entry["devices"]} - {None}
        for entry_uid, entry in zip(self.bench.preparer.claims(), self.bench.preparer.entries(), strict=True):
            if entry_uid in self.ready:
                assert {device["partition"] for device in entry["devices"]} - {None} <= set(uuids)
        assert self.ready <= files
        assert self.ready <= set(self.bench.preparer.claims())
        # Nothing is made that the checkpoint does not know, so nothing can leak.
        assert partitions <= wanted
        assert state.on <= {part.gpu for part in state.parts} | self.crashed  # MIG mode ends with the last part
        assert files <= set(self.bench.preparer.claims())


class SharedClaims(Claims):
    """The same where several claims may have one device: a part is there as long as one of them has it."""

    gates, shares = frozenset({"DynamicMIG", "ConsumableShares"}), "unlimited"

    def fits(self, names: set[str], gpu: int) -> bool:
        """Counters are charged once a device, however many claims have it."""
        others = {name for c in self.allocated.values() for name in given(c)} - names
        places = [place for name in (*names, *others) if (place := place_of(name)) is not None and place[0] == gpu]
        return len(places) == 0 or f"gpu-{gpu}" not in names | others

    @invariant()
    def no_device_twice(self) -> None:
        """Not here."""

    @invariant()
    def sharers_see_one_part(self) -> None:
        uuids: dict[str, set[str]] = {}
        for uid, entry in zip(self.bench.preparer.claims(), self.bench.preparer.entries(), strict=True):
            for device in entry["devices"] if uid in self.ready else ():
                if device["partition"]:
                    uuids.setdefault(device["device"], set()).add(device["partition"])
        assert all(len(each) == 1 for each in uuids.values())


TestClaims = Claims.TestCase
TestClaims.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSharedClaims = SharedClaims.TestCase
TestSharedClaims.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_environment_is_clean() -> None:
    """The tests above must not see a library by accident."""
    assert "RAY_DRA_SIMULATED_VISIBLE" not in os.environ


def test_a_claim_half_undone_is_made_whole_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=DYNAMIC)
    thing = claim("a", ("p", "gpu-2-mig-1g10gb-19-0"))
    first = bench.preparer.prepare(thing)
    for crash in range(3):
        bench.preparer.until_crash = crash
        try:
            bench.preparer.unprepare("a")
        except Crash:
            bench.preparer = bench.start()
        bench.preparer.until_crash = None
        (again,) = bench.preparer.prepare(thing)
        assert (again.device, again.cdi) == (first[0].device, first[0].cdi)
        undone = crash > 0  # else the crash came before anything
        assert (again.partition != first[0].partition) is undone, "another part, at the same place"
        assert [m.uuid for m in read(bench.container([again])).gpus[0].migs] == [again.partition]


def test_a_half_made_claim_is_undone_before_it_is_made_anew(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=DYNAMIC)
    thing = claim("a", ("p", "gpu-2-mig-1g10gb-19-0"), ("p", "gpu-2-mig-3g40gb-9-4"))
    bench.preparer.until_crash = 1  # the parts are there, the file is not
    with pytest.raises(Crash):
        bench.preparer.prepare(thing)
    before = {part.uuid for part in bench.machine.mig_state().parts}
    assert len(before) == 2
    after = {device.partition for device in bench.start().prepare(thing)}
    assert not after & before
    assert {part.uuid for part in bench.machine.mig_state().parts} == after


def test_a_claim_that_is_asked_for_twice_at_once_is_readied_once(tmp_path: Path) -> None:
    """Both calls have seen that it is not readied yet."""
    bench = Bench(tmp_path, gates=DYNAMIC)
    part = next(device.name for device in bench.pool().devices if device.kind == "mig")
    both = threading.Barrier(2)
    chosen = bench.preparer._chosen

    def together(claim: Mapping[str, Any]) -> Any:
        both.wait(10)
        return chosen(claim)

    bench.preparer._chosen = together  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(bench.preparer.prepare, [claim("a", ("r", part))] * 2)
    assert first == second
    assert [each.uuid for each in bench.machine.mig_state().parts] == [first[0].partition]


def test_parts_of_nobody_are_destroyed_at_the_start(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=DYNAMIC)
    (kept,) = bench.preparer.prepare(claim("a", ("p", "gpu-2-mig-1g10gb-19-0")))
    bench.machine.mig(2, "3g.40gb")
    bench.machine.mig(5, "1g.10gb")
    bench.start().clean_up()
    assert [part.uuid for part in bench.machine.mig_state().parts] == [kept.partition]
    assert bench.machine.mig_state().on == {2}


def test_static_parts_stay_and_mig_mode_with_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, profile="dgx-a100")
    (part,) = bench.machine.mig(1, "2g.20gb")
    (given,) = bench.preparer.prepare(claim("a", ("p", "gpu-1-mig-2g20gb-14-0")))
    assert [m.uuid for m in read(bench.container([given])).gpus[0].migs] == [part.uuid]
    bench.preparer.unprepare("a")
    bench.start().clean_up()
    assert bench.machine.mig_state().parts == (part,)


def test_a_part_in_use_is_not_destroyed_and_the_claim_stays(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=DYNAMIC)
    (given,) = bench.preparer.prepare(claim("a", ("p", "gpu-2-mig-1g10gb-19-0")))
    bench.machine.part_in_use(given.partition or "")
    with pytest.raises(PrepareError, match="In use by another client"):
        bench.preparer.unprepare("a")
    assert set(bench.preparer.claims()) == {"a"}
    bench.machine.heal()
    bench.preparer.unprepare("a")
    assert not bench.machine.mig_state().parts
    assert not bench.machine.mig_state().on


def test_a_place_that_is_taken_fails_the_claim(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=DYNAMIC)
    bench.machine.mig(2, "7g.80gb")  # made by hand, beside the driver
    with pytest.raises(PrepareError, match="error creating MIG device gpu-2-mig-1g10gb-19-3: The place is taken"):
        bench.preparer.prepare(claim("a", ("p", "gpu-2-mig-1g10gb-19-3")))


def test_parts_take_their_time_one_claim_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a claim that waits for the lock too long is refused, as NVIDIA's driver does."""
    bench = Bench(tmp_path, gates=DYNAMIC)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if seconds == 3.0:
            with pytest.raises(PrepareError, match="error acquiring prep/unprep lock"):
                bench.preparer.prepare(claim("late", ("p", "gpu-3")))

    monkeypatch.setattr("ray_dra.simulated.machine.time.sleep", sleep)
    monkeypatch.setattr("ray_dra.simulated.dra.prepare.LOCK_SECONDS", 0.01)
    bench.machine.take_seconds(create_part=3.0, destroy_part=1.0)
    bench.preparer.prepare(claim("a", ("p", "gpu-2-mig-1g10gb-19-0"), ("p", "gpu-2-mig-1g10gb-19-1")))
    bench.preparer.unprepare("a")
    assert slept == [3.0, 3.0, 1.0, 1.0]


SLICES = {"kind": "GpuConfig", "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}}


def test_time_slices_are_set_on_the_gpu_and_set_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=frozenset({"TimeSlicingSettings"}))
    bench.preparer.prepare(claim("a", ("g", "gpu-1"), ("g", "gpu-2"), config=[opaque(SLICES)]))
    assert [bench.machine.gpu_sharing(gpu) for gpu in (0, 1)] == [("Default", False), ("Long", False)]
    bench.preparer.unprepare("a")
    assert bench.machine.gpu_sharing(1) == ("Default", False)


def test_an_mps_daemon_has_the_limits_and_the_container_its_folders(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=frozenset({"MPSSupport"}))
    limits = {"defaultPinnedDeviceMemoryLimit": "20Gi", "defaultPerDevicePinnedMemoryLimit": {"1": "512Mi"}}
    mps = {
        "kind": "GpuConfig",
        "sharing": {"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 25, **limits}},
    }
    bench.preparer.prepare(claim("a", ("g", "gpu-1"), ("g", "gpu-2"), config=[opaque(mps)]))
    (daemon,) = (tmp_path / "state" / "mps").iterdir()
    uuids = sorted(bench.machine.node.uuid(gpu) for gpu in (1, 2))
    assert json.loads((daemon / "control.json").read_text()) == {
        "devices": uuids,
        "threads": 25,
        "memory": {uuids[0]: "20480M", uuids[1]: "512M"},
        "multiUser": False,
    }
    assert (daemon / "shm").stat().st_mode & 0o7777 == 0o1777, "a container's user writes there"
    spec = yaml.safe_load(next(bench.cdi.iterdir()).read_text())
    for device in spec["devices"]:
        paths = {m["containerPath"]: m["hostPath"] for m in device["containerEdits"]["mounts"]}
        assert (paths["/dev/shm"], paths["/tmp/nvidia-mps"]) == (str(daemon / "shm"), str(daemon / "pipe"))
    assert bench.machine.gpu_sharing(1) == ("Default", True)
    bench.preparer.unprepare("a")
    assert bench.machine.gpu_sharing(1) == ("Default", False)
    assert not daemon.exists()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"defaultPinnedDeviceMemoryLimit": "1Ki"}, "value set too low"),
        ({"defaultPerDevicePinnedMemoryLimit": {"7": "1Gi"}}, "invalid device: 7"),
    ],
)
def test_limits_that_mps_cannot_have_fail_the_claim(tmp_path: Path, limits: dict[str, Any], message: str) -> None:
    bench = Bench(tmp_path, gates=frozenset({"MPSSupport"}))
    mps = {"kind": "GpuConfig", "sharing": {"strategy": "MPS", "mpsConfig": limits}}
    with pytest.raises(PrepareError, match=message):
        bench.preparer.prepare(claim("a", ("g", "gpu-1"), config=[opaque(mps)]))


def test_several_claims_share_a_device_with_one_configuration(tmp_path: Path) -> None:
    gates = frozenset({"ConsumableShares", "TimeSlicingSettings", "DynamicMIG"})
    bench = Bench(tmp_path, gates=gates, shares="4")
    name = "gpu-2-mig-1g10gb-19-0"
    (first,) = bench.preparer.prepare(claim("a", ("p", name)))
    (second,) = bench.preparer.prepare(claim("b", ("p", name)))
    assert first.partition == second.partition
    bench.preparer.prepare(claim("c", ("g", "gpu-1"), config=[opaque(SLICES)]))
    bench.preparer.prepare(claim("d", ("g", "gpu-1"), config=[opaque(SLICES)]))
    with pytest.raises(PrepareError, match="conflicting configuration"):
        bench.preparer.prepare(claim("e", ("g", "gpu-1")))
    for uid, left in (("a", 1), ("b", 0)):
        bench.preparer.unprepare(uid)
        assert len(bench.machine.mig_state().parts) == left
    for uid, interval in (("c", "Long"), ("d", "Default")):
        bench.preparer.unprepare(uid)
        assert bench.machine.gpu_sharing(1) == (interval, False)


def test_mps_and_consumable_shares_exclude_each_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=frozenset({"ConsumableShares", "MPSSupport"}), shares="memory")
    mps = {"kind": "GpuConfig", "sharing": {"strategy": "MPS"}}
    with pytest.raises(PrepareError, match="not supported when consumable shares"):
        bench.preparer.prepare(claim("a", ("g", "gpu-1"), config=[opaque(mps)]))


def test_a_parted_box_gives_whole_partitions_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, gates=frozenset({"FabricManagerPartitioning"}))
    with pytest.raises(PrepareError, match=r"GPU module set \[1 2\] does not match"):
        bench.preparer.prepare(claim("a", ("g", "gpu-0"), ("g", "gpu-1")))
    assert len(bench.preparer.prepare(claim("a", ("g", "gpu-0"), ("g", "gpu-2")))) == 2
    assert len(bench.preparer.prepare(claim("b", *[("g", f"gpu-{gpu}") for gpu in range(4, 8)]))) == 4
