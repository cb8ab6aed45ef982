"""Anything that a server may send: as values, as lists, and as lines of a watch."""

from __future__ import annotations

import json

from hypothesis import strategies as st

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("5n")

WORDS = """metadata name namespace labels annotations resourceVersion items continue type object status spec allocatable
cpu memory conditions taints key effect code message reason devices pool driver generation resourceSliceCount uid
allocation results device requests exactly selectors cel expression workerGroupSpecs groupName template containers
schedulingGates holderIdentity leaseDurationSeconds renewTime nodes attributes capacity value"""

keys = st.sampled_from(WORDS.split()) | st.text(max_size=3)

anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=25
)

as_json = anything.map(lambda value: json.dumps(value).encode())

events = st.fixed_dictionaries(
    {"type": st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "ODD"]), "object": anything}
).map(lambda event: json.dumps(event).encode())

lists = st.fixed_dictionaries({"items": anything, "metadata": anything}).map(lambda each: json.dumps(each).encode())

lines = st.lists(as_json | events | st.binary(max_size=30), max_size=4).map(lambda each: b"\n".join([*each, b""]))

answers = st.tuples(st.sampled_from([200, 200, 200, 201, 400, 403, 404, 409, 410, 422, 500]), lines | lists | as_json)
