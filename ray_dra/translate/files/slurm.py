"""A cluster from Slurm's topology.conf: each block of the plugin topology/block is a clique. What topograph writes
for Slurm has the same form.

Source of the form: Slurm's manual pages topology.conf(5) and, for lists of hosts, scontrol(1) (`show hostnames`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from ray_dra.core.model.device import Device, DeviceId
from ray_dra.core.model.node import Node
from ray_dra.errors import InvalidRequest, InvalidSnapshot, shown
from ray_dra.translate.files.plain import read_file
from ray_dra.translate.files.sense import MAX_DEVICES

MOST_NODES = 100_000
MOST_DIGITS = 9
_PAIR = re.compile(r"\b(\w+)=(\S+)")  # without \b it takes the square of a long word's length
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def read_slurm(path: Path, gpus: int) -> tuple[Node, ...]:
    """The nodes of a topology.conf, with so many GPUs each; a block's nodes are one clique, in their order.

    Raises:
        InvalidRequest: no node has so many GPUs.
        InvalidSnapshot: the file cannot be read, or is no topology of blocks; says in which line. Or a snapshot has no
            room for so many GPUs.
    """
    if not 1 <= gpus <= 64:
        raise InvalidRequest("A node has from 1 to 64 GPUs.", place="GPUs of a node", wanted=str(gpus))
    nodes: dict[str, Node] = {}
    blocks: set[str] = set()
    for number, line in lines(read_file(path)):
        place = f"{path}, line {number}"
        pairs = pairs_of(line)
        if "switchname" in pairs:
            raise InvalidSnapshot(
                "A tree of switches does not say which nodes share NVLink; blocks do (topology/block).",
                place=place,
                wanted="BlockName=... Nodes=...",
                available=shown(line),
            )
        if "blocksizes" in pairs and "blockname" not in pairs:
            continue
        block, hosts = pairs.get("blockname", ""), pairs.get("nodes", "")
        if not block or not hosts:
            raise InvalidSnapshot(
                "This is no block.", place=place, wanted="BlockName=... Nodes=...", available=shown(line)
            )
        if block in blocks:
            raise InvalidSnapshot("The block is there twice.", place=place, available=shown(block))
        blocks.add(block)
        for order, name in enumerate(hostnames(hosts, place)):
            if name in nodes:
                raise InvalidSnapshot("The node is in two blocks, or twice in one.", place=place, available=name)
            nodes[name] = _node(name, block, order, gpus)
            _check_count(len(nodes), place)
            if len(nodes) * gpus > MAX_DEVICES:
                raise InvalidSnapshot("There are too many GPUs.", place=place, wanted=f"{MAX_DEVICES} at most")
    if not nodes:
        raise InvalidSnapshot("There is no block in it.", place=str(path), wanted="BlockName=... Nodes=...")
    return tuple(nodes.values())


def lines(data: bytes) -> Iterator[tuple[int, str]]:
    """(number of the first, text) of each line without its comment; a backslash at the end goes on with the next."""
    number, whole = 0, ""
    for at, line in enumerate(data.decode("utf-8-sig", errors="replace").splitlines(), 1):
        number = number or at
        line = line.partition("#")[0].rstrip()
        if line.endswith("\\"):
            whole += line[:-1]
            continue
        whole += line
        if whole.strip():
            yield number, whole.strip()
        number, whole = 0, ""
    if whole.strip():
        yield number, whole.strip()


def pairs_of(line: str) -> dict[str, str]:
    """What a line says by `Key=value`; keys are in small letters."""
    return {key.lower(): value for key, value in _PAIR.findall(line)}


def hostnames(hosts: str, place: str = "hosts") -> Iterator[str]:
    """The names in a list of hosts, such as `r1n[01-03,7],login`, in order. InvalidSnapshot where it is none."""
    count = 0
    for part in _parts(hosts, place):
        choices: list[list[str]] = []
        size = 1
        for at, piece in enumerate(re.split(r"\[([^\[\]]*)\]", part)):
            choices.append(_numbers(piece, place) if at % 2 else [piece])
            size *= len(choices[-1])
            _check_count(count + size, place)
        count += size
        for each in product(*choices):
            name = "".join(each)
            if not _NAME.fullmatch(name):
                raise InvalidSnapshot("This is no name of a host.", place=place, available=shown(name))
            yield name


def _parts(hosts: str, place: str) -> Iterator[str]:
    """Split at the commas that are outside of brackets."""
    depth, start = 0, 0
    for at, letter in enumerate(hosts):
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            break
        if letter == "," and not depth:
            yield hosts[start:at]
            start = at + 1
    if depth:
        raise InvalidSnapshot("A bracket is open or closed too often.", place=place, available=shown(hosts))
    yield hosts[start:]


def _numbers(ranges: str, place: str) -> list[str]:
    """`01-03,7` as texts, with the zeros in front that the first one has."""
    found: list[str] = []
    for each in ranges.split(","):
        match = _RANGE.fullmatch(each)
        if match is None or len(match[1]) > MOST_DIGITS or len(match[2] or "") > MOST_DIGITS:
            raise InvalidSnapshot("This is no range of numbers.", place=place, available=shown(each))
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MOST_NODES:
            raise InvalidSnapshot(
                "The range ends before it begins, or is too long.", place=place, available=shown(each)
            )
        found += [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
        _check_count(len(found), place)
    return found


def _check_count(nodes: int, place: str) -> None:
    """Asked as soon as anything is counted: a line of a few MiB can say more names than there is memory for."""
    if nodes > MOST_NODES:
        raise InvalidSnapshot("There are too many nodes.", place=place, wanted=f"{MOST_NODES} at most")


def _node(name: str, block: str, order: int, gpus: int) -> Node:
    devices = tuple(
        Device(DeviceId("slurm", name, f"gpu-{at}"), at, f"{name}/gpu-{at}", domains=(block,)) for at in range(gpus)
    )
    linked = tuple(tuple(int(at != other) for other in range(gpus)) for at in range(gpus))
    return Node(name, devices, links=linked, order=order)
