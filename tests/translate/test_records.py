"""The stored form: what was written by each version is read, a newer one is not, and what cannot be read is refused
before it is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.gangs.lifecycle import Gang
from ray_dra.core.model.locality import Locality
from ray_dra.errors import InvalidRequest, RayDraError
from ray_dra.translate.files import records
from tests.core.machines import gang

GOLDEN = Path(__file__).parent / "golden" / "records"
FORMS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {  # kind -> (from bytes, to bytes)
    "gang": (records.gang_from_bytes, records.gang_to_bytes),
    "node": (records.known_from_bytes, records.known_to_bytes),
    "slots": (records.slots_from_bytes, records.slots_to_bytes),
}


@pytest.mark.parametrize("kind", FORMS)
def test_every_version_is_read_and_says_the_same(kind: str) -> None:
    """A file a version, written by that version; never edited, only added to."""
    read, write = FORMS[kind]
    found = sorted(GOLDEN.glob(f"{kind}-*"))
    assert [int(file.stem.rpartition("-")[2]) for file in found] == list(range(records.VERSION + 1))
    *before, now = (file.read_bytes() for file in found)
    assert write(read(now)) == now, "the form has changed: it is a new version, with a file of its own"
    for data in before:
        if kind == "node":  # 0 did not keep what the raylet offers
            old, new = records.known_from_bytes(data), records.known_from_bytes(now)
            assert old.node is not None
            assert new.node is not None
            assert replace(old, node=replace(old.node, resources=new.node.resources, labels=new.node.labels)) == new
        else:
            assert read(data) == read(now)


@pytest.mark.parametrize("kind", FORMS)
def test_a_newer_version_is_not_read(kind: str) -> None:
    data = (GOLDEN / f"{kind}-{records.VERSION}.json").read_bytes()
    newer = data.replace(b'"version":%d' % records.VERSION, b'"version":%d' % (records.VERSION + 1))
    with pytest.raises(RayDraError, match="newer version"):
        FORMS[kind][0](newer)


@pytest.mark.parametrize("kind", [*FORMS, "map"])
@given(data=st.data())
def test_whatever_bytes_there_are_the_error_is_typed_and_encodes(kind: str, data: st.DataObject) -> None:
    read = FORMS[kind][0] if kind in FORMS else records.map_from_bytes
    good = b'[[[0,"GPU-0","n","c"]]]' if kind == "map" else (GOLDEN / f"{kind}-{records.VERSION}.json").read_bytes()
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
