"""The stored form: what was written by each version is read, a newer one is not, and what cannot be read is refused
before it is written."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ray_dra
from ray_dra.core.gangs.gang import Gang
from ray_dra.core.gangs.stages import StageTimes
from ray_dra.core.model.device import FabricKind
from ray_dra.core.model.locality import Locality
from ray_dra.core.model.request import MAX_DEVICES_PER_BUNDLE
from ray_dra.errors import InvalidRequest, RayDraError
from ray_dra.translate import names
from ray_dra.translate.files import records, shared_records
from ray_dra.translate.ray.bundles import request_from_bundles
from ray_dra.translate.ray.devices import gpu
from tests.core.machines import gang

HOUSE = Path(ray_dra.__file__).parent
GOLDEN = Path(__file__).parent.parent / "golden" / "records"


class Form(NamedTuple):
    version: int
    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]


FORMS = {
    names.GANG_KEY: Form(records.GANG_VERSION, records.gang_from_bytes, records.gang_to_bytes),
    names.FAILED_KEY: Form(records.FAILURE_VERSION, records.failure_from_bytes, records.failure_to_bytes),
    names.NODE_KEY: Form(records.NODE_VERSION, records.known_from_bytes, records.known_to_bytes),
    names.GPU_IDS_KEY: Form(records.GPU_IDS_VERSION, records.gpu_ids_from_bytes, records.gpu_ids_to_bytes),
    names.MAP_KEY: Form(shared_records.MAP_VERSION, shared_records.map_from_bytes, shared_records.map_to_bytes),
    names.SLOT_KEY: Form(shared_records.SLOT_VERSION, shared_records.slot_from_bytes, shared_records.slot_to_bytes),
    names.LOCALITY_KEY: Form(
        shared_records.LOCALITY_VERSION, shared_records.policy_from_bytes, shared_records.policy_to_bytes
    ),
    names.QUEUES_KEY: Form(records.DECLARED_VERSION, records.declared_from_bytes, records.declared_to_bytes),
    names.ASIDE_KEY: Form(shared_records.ASIDE_VERSION, shared_records.aside_from_bytes, shared_records.aside_to_bytes),
}
MARKS = {names.SESSION_KEY, names.VERIFIED_KEY, names.GO_KEY}
STRICT = sorted(FORMS.keys() - {names.ASIDE_KEY})


def golden(key: str) -> list[bytes]:
    """What each version wrote, from 0 on."""
    found = sorted(GOLDEN.glob(f"{key.strip('/')}-*"), key=version_of)
    assert [version_of(file) for file in found] == list(range(FORMS[key].version + 1))
    return [file.read_bytes() for file in found]


def version_of(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])


def test_every_key_of_the_store_has_a_form() -> None:
    """And no form is kept of a key that is gone."""
    keys = {value for name, value in vars(names).items() if name.endswith("_KEY")}
    assert keys == FORMS.keys() | MARKS
    assert {file.stem.rpartition("-")[0] + "/" for file in GOLDEN.iterdir()} == FORMS.keys()


@pytest.mark.parametrize("key", FORMS)
def test_every_version_is_read_and_says_the_same(key: str) -> None:
    """A file a version, written by that version; never edited, only added to."""
    form = FORMS[key]
    *before, now = golden(key)
    assert form.write(form.read(now)) == now, "the form has changed: it is a new version, with a file of its own"
    for data in before:
        if key == names.NODE_KEY:  # 0 did not keep what the raylet offers
            old, new = records.known_from_bytes(data), records.known_from_bytes(now)
            assert old.node is not None
            assert new.node is not None
            assert replace(old, node=replace(old.node, resources=new.node.resources, labels=new.node.labels)) == new
        elif key == names.GANG_KEY:  # 0 and 1 kept no history, and up to 3 there were no times of stages
            old_gang, new_gang = records.gang_from_bytes(data), records.gang_from_bytes(now)
            assert new_gang.times != StageTimes()
            assert new_gang.notice is not None  # up to 6 there were none
            assert new_gang.quota is not None  # nor up to 9
            assert new_gang.batch  # nor up to 10
            assert new_gang.runs_for is not None  # nor up to 11
            assert new_gang.ends is not None
            assert new_gang.on_fault.acts  # nor up to 13
            assert new_gang.notice.faulty
            assert new_gang.reshape is not None  # nor up to 16
            assert new_gang.shape_failed
            assert new_gang.reshaped
            assert new_gang.beside is not None  # nor up to 17
            assert new_gang.could_start  # nor up to 18
            assert new_gang.promised is not None
            assert new_gang.team  # nor up to 19
            assert new_gang.started is not None  # nor up to 20
            assert new_gang.eviction is not None
            assert new_gang.preempted
            assert new_gang.reshape.gpus  # nor up to 21
            assert new_gang.movable  # nor up to 22
            assert new_gang.consolidated
            assert new_gang.eviction.moves
            assert new_gang.eviction.repairs  # nor up to 25
            kept = old_gang.history and new_gang.history
            same = replace(new_gang, times=old_gang.times, history=kept, notice=old_gang.notice)
            same = replace(same, quota=old_gang.quota, batch=old_gang.batch)
            assert new_gang.replacing  # nor up to 14
            assert new_gang.allocation is not None
            assert new_gang.allocation.renewed
            assert new_gang.allocation.kept is not None  # nor up to 26
            same = replace(same, replacing=old_gang.replacing, allocation=old_gang.allocation)
            same = replace(same, on_fault=old_gang.on_fault, first_by_program=old_gang.first_by_program)
            same = replace(same, runs_for=old_gang.runs_for, ends=old_gang.ends, reshape=old_gang.reshape)
            same = replace(same, beside=old_gang.beside, could_start=old_gang.could_start, promised=old_gang.promised)
            same = replace(same, team=old_gang.team)
            same = replace(same, restarts=old_gang.restarts, moves=old_gang.moves)
            same = replace(same, started=old_gang.started, eviction=old_gang.eviction, preempted=old_gang.preempted)
            assert new_gang.spares  # nor up to 27
            assert new_gang.reshape.comes.request.locality.level  # nor up to 28
            same = replace(same, spares=old_gang.spares)
            assert new_gang.shrunk is not None  # nor up to 25
            same = replace(same, shrunk=old_gang.shrunk)
            if old_gang.reshape is not None:
                left = old_gang.reshape.leaves  # up to 26 nothing was kept
                leaves = replace(new_gang.reshape.leaves, shrunk=left.shrunk, allocation=left.allocation)
                comes = replace(new_gang.reshape.comes, request=old_gang.reshape.comes.request)
                assert old_gang.reshape == replace(
                    new_gang.reshape, gpus=old_gang.reshape.gpus, leaves=leaves, comes=comes
                )
            same = replace(same, movable=old_gang.movable, consolidated=old_gang.consolidated)
            assert old_gang == replace(same, shape_failed=old_gang.shape_failed, reshaped=old_gang.reshaped)
        elif key == names.LOCALITY_KEY:  # 0 did not say what is done about faults, nor 1 named a queue
            told, was = shared_records.policy_from_bytes(now), shared_records.policy_from_bytes(data)
            assert told.on_fault
            assert told.queue
            assert was == replace(told, on_fault=was.on_fault, queue="")
        elif key == names.FAILED_KEY:  # 0 did not count them
            assert records.failure_from_bytes(data) == replace(records.failure_from_bytes(now), number=0)
        else:
            assert form.read(data) == form.read(now)


def test_what_a_gang_asks_of_devices_is_kept() -> None:
    asked = gpu(memory=[">=80G", "<200Gi"], compute_capability=">=9.0", driver_version="!=580.65.06", product="A")
    wanted = Gang(request_from_bundles([{"GPU": 2}], devices=asked), 1)
    again = records.gang_from_bytes(records.gang_to_bytes(wanted))
    assert again == wanted
    assert again.request.bundles[0].criteria == asked


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (b'"value":80000000000', b'"value":[8,0,0]'),
        (b'"value":80000000000', b'"value":-1'),
        (b'"value":[9,0,0]', b'"value":9'),
        (b'"value":[9,0,0]', b'"value":[-9,0,0]'),
        (b'"name":"memory"', b'"name":"uuid) || (x"'),
        (b'"count":2', b'"count":-1'),
        (b'"count":2', b'"count":0'),
    ],
)
def test_what_no_gang_can_ask_of_devices_is_refused(was: bytes, now: bytes) -> None:
    """Such a record ended each plan in a TypeError, or asked the cluster for what was never checked."""
    asked = gpu(memory=">=80G", compute_capability=">=9.0")
    data = records.gang_to_bytes(Gang(request_from_bundles([{"GPU": 2}], devices=asked), 1))
    assert was in data
    with pytest.raises(RayDraError, match="cannot be read"):
        records.gang_from_bytes(data.replace(was, now))


def test_a_box_in_a_record_that_does_not_say_so_is_known_by_its_id() -> None:
    for data in golden(names.NODE_KEY)[:2]:
        rack, box = (data, data.replace(b"9c6f5af3-53bf-49b5-a436-b66766c413c0.1", b"box.t0"))
        for there, kind in ((rack, FabricKind.MULTI_NODE), (box, FabricKind.BOX)):
            node = records.known_from_bytes(there).node
            assert node is not None
            assert {device.fabric_kind for device in node.devices} == {kind}


def newer(key: str) -> bytes:
    form = FORMS[key]
    return golden(key)[-1].replace(b'"version":%d' % form.version, b'"version":%d' % (form.version + 1), 1)


@pytest.mark.parametrize("key", STRICT)
def test_a_newer_version_is_not_read(key: str) -> None:
    with pytest.raises(RayDraError, match="newer version"):
        FORMS[key].read(newer(key))


def test_a_newer_record_that_lies_aside_is_shown_as_it_is() -> None:
    """It is aside already: there is nowhere else to put it."""
    found = shared_records.aside_from_bytes(newer(names.ASIDE_KEY))
    assert "newer version" in found.reason
    assert found.data == newer(names.ASIDE_KEY)


@pytest.mark.parametrize(
    ("key", "data"),
    [
        (names.MAP_KEY, b'{"version":1}'),
        (names.MAP_KEY, b'{"version":1,"bundles":[[["0","GPU-0","n","c"]]]}'),
        (names.MAP_KEY, b'{"version":1,"bundles":[[[true,"GPU-0","n","c"]]]}'),
        (names.MAP_KEY, b'{"version":1,"bundles":[[[0,"GPU-0","n"]]]}'),
        (names.MAP_KEY, b'{"version":1,"bundles":[[[0,5,"n","c"]]]}'),
        (names.MAP_KEY, b'{"version":"1","bundles":[]}'),
        (names.MAP_KEY, b"{}"),
        (names.SLOT_KEY, b'{"version":1,"uuids":["GPU-0"]}'),
        (names.SLOT_KEY, b'{"version":1,"uuids":"GPU-0","clique":null}'),
        (names.SLOT_KEY, b'{"version":1,"uuids":["GPU-0",null],"clique":null}'),
        (names.SLOT_KEY, b'[["GPU-0"]]'),
        (names.GANG_KEY, b'{"version":1}'),
        (names.GANG_KEY, golden(names.GANG_KEY)[-1].replace(b'"sequence":1', b'"sequence":"1"')),
        (names.GANG_KEY, golden(names.GANG_KEY)[-1].replace(b'"detached":false', b'"detached":0')),
        (names.GANG_KEY, golden(names.GANG_KEY)[-1].replace(b'"moves":2', b'"moves":2.0')),
        (names.GANG_KEY, golden(names.GANG_KEY)[-1].replace(b'"stage":"drains"', b'"stage":"comes"')),
        (names.GANG_KEY, golden(names.GANG_KEY)[-1].replace(b'"reshape":{"stage"', b'"reshape":{"state"')),
        (names.GANG_KEY, golden(names.GANG_KEY)[-1].replace(b'"ranks":[0,1]}', b'"ranks":[1,0]}')),
        (names.GANG_KEY, golden(names.GANG_KEY)[-1].replace(b'"ranks":[0,1]}', b'"ranks":[0,3]}')),
        (names.GANG_KEY, golden(names.GANG_KEY)[-1].replace(b'"grows":false', b'"grows":true')),
        (names.NODE_KEY, golden(names.NODE_KEY)[-1].replace(b'"name":"t0"', b'"name":0')),
        (names.NODE_KEY, golden(names.NODE_KEY)[1].replace(b'"ready":true', b'"ready":"yes"')),
        (names.GPU_IDS_KEY, golden(names.GPU_IDS_KEY)[-1].replace(b":0", b':"0"')),
        (names.GPU_IDS_KEY, b'{"version":3,"bundles":{},"foreign":{"0":[1]}}'),
        (names.GPU_IDS_KEY, golden(names.GPU_IDS_KEY)[0].replace(b": 0", b': "0"')),
        (names.GPU_IDS_KEY, golden(names.GPU_IDS_KEY)[1].replace(b'"strangers"', b'"foreign"')),
        (names.GPU_IDS_KEY, golden(names.GPU_IDS_KEY)[1].replace(b":0", b':"0"')),
        (names.GANG_KEY, golden(names.GANG_KEY)[-1].replace(b'"version":29', b'"version":"29"')),
        (names.NODE_KEY, golden(names.NODE_KEY)[-1].replace(b'"version":8', b'"version":true')),
        (names.GPU_IDS_KEY, b'{"version":1,"bundles":{"g/0":{"0":-1}}}'),
        (names.NODE_KEY, b'{"version":1,"name":"n"}'),
        (names.FAILED_KEY, golden(names.FAILED_KEY)[-1].replace(b":7", b":-7")),
        (names.FAILED_KEY, golden(names.FAILED_KEY)[-1].replace(b":7", b":" + b"7" * 20)),
    ],
)
def test_what_is_no_such_record_is_refused(key: str, data: bytes) -> None:
    assert data not in golden(key)
    with pytest.raises(RayDraError):
        FORMS[key].read(data)


def test_what_worker_processes_read_costs_them_no_more_than_the_standard_library() -> None:
    code = (
        "import sys; import ray_dra.translate.files.shared_records, ray_dra.translate.names;"
        "print([m for m in ('pydantic', 'yaml', 'networkx', 'kubernetes', 'ray') if m in sys.modules])"
    )
    bare = (  # without ray_dra/__init__, which a worker has loaded when it comes here
        f"import sys, types; made = types.ModuleType('ray_dra'); made.__path__ = [{str(HOUSE)!r}];"
        f"sys.modules['ray_dra'] = made; {code}"
    )
    done = subprocess.run([sys.executable, "-c", bare], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("key", FORMS)
@given(data=st.data())
def test_whatever_bytes_there_are_the_error_is_typed_and_encodes(key: str, data: st.DataObject) -> None:
    read, good = FORMS[key].read, golden(key)[-1]
    at, until = sorted(data.draw(st.tuples(st.integers(0, len(good)), st.integers(0, len(good)))))
    scraps = [
        b"",
        b"null",
        b"5",
        b'"x"',
        b"[]",
        b"{}",
        b"NaN",
        b"[" * 5_000,
        b"9" * 5_000,
        b"\xff",
        b"\n\n",
        b'"\\ud800"',
    ]
    bad = good[:at] + data.draw(st.one_of(st.binary(max_size=20), st.sampled_from(scraps))) + good[until:]
    try:
        read(bad)
    except RayDraError as error:
        str(error).encode()
        assert len(str(error)) < 2_000
    records.traces_of(bad)


def unchecked(good: Any, **change: Any) -> Any:
    """As a program could send it that does not go by the api: without the checks of the class itself."""
    made = object.__new__(type(good))
    for name in good.__dataclass_fields__:
        object.__setattr__(made, name, change.get(name, getattr(good, name)))
    return made


def each(field: str, *values: Any) -> list[dict[str, Any]]:
    return [{field: value} for value in values]


NEAR = Locality(cliques=1)
WRONG = [
    *each("name", 5, None, [], math.nan, b"x", "\ud800", {"a": 1}),
    *each("namespace", 5, None, "\udfff"),
    *each("owner", 5, None),
    *each("detached", "x", 2, None),
]
WRONG_REQUESTS = [
    *each("priority", 1.5, math.nan, "1", None, []),
    *each("gang", 5, "\ud800"),
    *each("exclude", {"n": 1}),
    *each("locality", *(unchecked(NEAR, **wrong) for wrong in each("required", 2, "x", None))),
    *each("locality", *(unchecked(NEAR, **wrong) for wrong in each("exclusive", 2, "x", None))),
    *each("locality", unchecked(NEAR, required=False, patience=10**400), unchecked(NEAR, connect="any")),
    *each("bundles", gang(1, products=("NVIDIA GB200", 5)).bundles),  # type: ignore[arg-type]
    *each("bundles", *(gang(1, resources={"CPU": amount}).bundles for amount in (math.nan, math.inf))),
    *each("bundles", gang(1, resources={"CPU": "1"}).bundles, gang(1, resources={"\ud800": 1.0}).bundles),  # type: ignore[dict-item]
]


@pytest.mark.parametrize("change", WRONG, ids=ascii)
def test_what_could_not_be_read_back_is_refused(change: dict[str, Any]) -> None:
    refused(unchecked(Gang(gang(4), 1), **change))


@pytest.mark.parametrize("change", WRONG_REQUESTS, ids=ascii)
def test_so_is_such_a_request(change: dict[str, Any]) -> None:
    refused(Gang(unchecked(gang(4), **change), 1))


def refused(bad: Gang) -> None:
    with pytest.raises(InvalidRequest) as caught:
        records.gang_to_bytes(bad)
    str(caught.value).encode()


def change(at: list[Any], value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets what lies at a path of a gang's record."""

    def make(record: dict[str, Any]) -> None:
        *before, last = at
        place: Any = record
        for key in before:
            place = place[key]
        place[last] = value

    return make


BUNDLES = ["allocation", 1]
GRANTS = [*BUNDLES, 0, 1]
NOT_ITS_OWN: dict[str, Callable[[dict[str, Any]], object]] = {
    "another gang's": change(["allocation", 0], "h"),
    "a bundle less": lambda record: record["allocation"][1].pop(),
    "a device less": lambda record: record["allocation"][1][0][1].pop(),
    "a device of another node": change([*GRANTS, 0, 0], "t1"),
    "a position before the first": change([*GRANTS, 0, 1], -1),
    "a position that no node has": change([*GRANTS, 0, 1], MAX_DEVICES_PER_BUNDLE),
    "a share of a device that was asked for whole": change([*GRANTS, 0, 6], 500),
    "a device twice": lambda record: record["allocation"][1][0][1].__setitem__(0, record["allocation"][1][0][1][1]),
}


@pytest.mark.parametrize("name", NOT_ITS_OWN)
def test_an_allocation_that_is_not_for_its_gang_is_refused(name: str) -> None:
    record = {**json.loads(golden(names.GANG_KEY)[-1]), "reshape": None}
    last = change([*GRANTS, 0, 1], MAX_DEVICES_PER_BUNDLE - 1)
    last(record)
    assert records.gang_from_bytes(json.dumps(record).encode()).allocation is not None
    record = {**json.loads(golden(names.GANG_KEY)[-1]), "reshape": None}
    NOT_ITS_OWN[name](record)
    with pytest.raises(RayDraError, match="not for this gang"):
        records.gang_from_bytes(json.dumps(record).encode())


NO_SENSE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no hex": (change(["group"], "zz" * 18), "placement group"),
    "short": (change(["group"], "00"), "placement group"),
    "empty": (change(["group"], ""), "placement group"),
    "left": (change(["old_groups"], ["a/b"]), "placement group"),
    "no time": (change(["history", 0, "at"], math.nan), "time"),
    "no end of time": (change(["history", 0, "at"], math.inf), "time"),
    "late": (change(["history", 0, "at"], 1e12), "time"),
    "early": (change(["history", 0, "at"], -1e12), "time"),
    "no time of a stage": (change(["times", "since"], math.nan), "time"),
    "a time under nothing": (change(["times", "spent", 0, 1], -5.0), "time"),
    "amount": (change(["request", "bundles", 0, "resources"], {"CPU": math.nan}), "amount"),
    "held amount": (change([*BUNDLES, 0, 2], {"CPU": math.inf}), "amount"),
}


@pytest.mark.parametrize("name", NO_SENSE)
def test_a_gang_that_could_not_be_given_back_is_refused(name: str) -> None:
    """Its group could not be removed, or no further record of it be written."""
    make, why = NO_SENSE[name]
    record = json.loads(golden(names.GANG_KEY)[-1])
    record["history"] = [{"at": 0.0, "was": None, "to": "held", "why": "submitted"}]
    assert records.gang_from_bytes(json.dumps(record).encode()).history
    make(record)
    with pytest.raises(RayDraError, match=why):
        records.gang_from_bytes(json.dumps(record).encode())


@pytest.mark.parametrize(
    ("record", "traces"),
    [
        ({"owner": "job", "detached": False, "group": "aa" * 18, "moves": 0}, ("job", "aa" * 18, 0)),
        ({"owner": "job", "detached": False, "group": "aa" * 18, "moves": 9999, "more": []}, ("job", "aa" * 18, 9999)),
        ({"owner": "job", "detached": True, "group": 5, "moves": 10_000}, (None, None, None)),
        ({"owner": "job", "group": None, "moves": -1}, (None, None, None)),
        ({"group": "zz" * 18}, (None, None, None)),
        ({"owner": 5, "detached": False, "moves": True}, (None, None, None)),
        ({"owner": "job", "detached": 0, "moves": 1.0}, (None, None, None)),
        ([], (None, None, None)),
        ("owner", (None, None, None)),
    ],
)
def test_of_an_unreadable_gang_what_can_be_told_is_told(record: Any, traces: tuple[Any, ...]) -> None:
    found = records.traces_of(json.dumps(record).encode())
    assert (found.owner, found.group, found.moves) == traces
