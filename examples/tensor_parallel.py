"""A small model trained by tensor and data parallelism, with collectives over Ray actors.

Two layers, Megatron's split: the first by columns and the second by rows, so that one all-reduce a
layer inside the tensor-parallel group gives the output; gradients are averaged across the groups. In
NumPy, so that it runs on two CPU cores; each rank would drive its GPUs the same way.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import ray_dra

Array = npt.NDArray[np.float64]
INPUTS, HIDDEN, OUTPUTS, BATCH = 16, 64, 4, 64


@dataclass(frozen=True)
class Place:
    """Where a rank ran, as it saw it itself."""

    rank: int
    cuda_visible_devices: str
    devices: tuple[Any, ...]


class Group:
    """Ranks that reduce together: a ring of actors passing arrays on."""

    def __init__(self, name: str, members: list[int], rank: int, peers: list[Any]) -> None:
        self.name = name
        self.size = len(members)
        self.next = peers[members[(members.index(rank) + 1) % self.size]]


class Rank:
    """One rank: its shard of the model, its part of the data, and a mailbox for its ring neighbours."""

    def __init__(self, rank: int, tensor_parallel: int, world: int) -> None:
        self.rank, self.tp, self.world = rank, tensor_parallel, world
        self.shard, self.replica = rank % tensor_parallel, rank // tensor_parallel
        random = np.random.default_rng(self.shard)
        width = HIDDEN // tensor_parallel
        self.first: Array = random.normal(0, INPUTS**-0.5, (INPUTS, width))
        self.second: Array = random.normal(0, HIDDEN**-0.5, (width, OUTPUTS))
        self.data = np.random.default_rng(1000 + self.replica)
        self.teacher: Array = np.random.default_rng(7).normal(0, 1, (INPUTS, OUTPUTS))
        self.mail: dict[tuple[str, int], asyncio.Future[Array]] = {}
        self.sent: dict[str, int] = {}
        self.groups: dict[str, Group] = {}

    async def place(self) -> Place:
        return Place(self.rank, os.environ.get("CUDA_VISIBLE_DEVICES", ""), ray_dra.get_devices())

    async def join(self, peers: list[Any]) -> None:
        first = self.replica * self.tp
        tensor = list(range(first, first + self.tp))
        data = list(range(self.shard, self.world, self.tp))
        self.groups = {
            "tensor": Group("tensor", tensor, self.rank, peers),
            "data": Group("data", data, self.rank, peers),
        }

    async def put(self, key: tuple[str, int], value: Array) -> None:
        self._future(key).set_result(value)

    def _future(self, key: tuple[str, int]) -> asyncio.Future[Array]:
        return self.mail.setdefault(key, asyncio.get_running_loop().create_future())

    async def _all_reduce(self, group: Group, value: Array) -> Array:
        """Sum over the group: everyone passes on what it received, size - 1 times."""
        total, passing = value, value
        for _ in range(group.size - 1):
            key = (group.name, self.sent.get(group.name, 0))
            self.sent[group.name] = key[1] + 1
            group.next.put.remote(key, passing)
            passing = await self._future(key)
            del self.mail[key]
            total = total + passing
        return total

    async def step(self, rate: float) -> float:
        """One step of gradient descent on a fresh batch; the loss over all replicas."""
        x = self.data.normal(0, 1, (BATCH, INPUTS))
        wanted = np.tanh(x @ self.teacher)
        hidden = np.tanh(x @ self.first)
        output = await self._all_reduce(self.groups["tensor"], hidden @ self.second)
        error = output - wanted
        slope = 2 * error / error.size
        second = hidden.T @ slope
        first = x.T @ ((slope @ self.second.T) * (1 - hidden**2))
        replicas = self.groups["data"].size
        loss = np.full(1, np.mean(error**2))
        flat = await self._all_reduce(self.groups["data"], np.concatenate([first.ravel(), second.ravel(), loss]))
        flat = flat / replicas
        self.first -= rate * flat[: first.size].reshape(first.shape)
        self.second -= rate * flat[first.size : -1].reshape(second.shape)
        return float(flat[-1])
