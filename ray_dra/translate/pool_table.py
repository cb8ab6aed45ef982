"""Pools of shared GPUs as rows, and as plain values: what `ray-dra pools` shows. Neighbour: `queue_table.py`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ray_dra.core.gangs.standing import PoolStanding
from ray_dra.translate.lines import several

POOL_HEADERS = ("POOL", "GPUS", "SHARED BY", "TASKS", "GANGS", "LEFT", "WAITING", "STATE")


def pool_row(pool: PoolStanding) -> list[str]:
    """The cells under POOL_HEADERS: amounts in GPUs."""
    gangs = f"{pool.shared:g} ({several(pool.gangs, 'gang')})" if pool.gangs else "0"
    left = f"{round(pool.gpus - pool.tasks - pool.shared, 3):g}"
    state = "ready" if pool.ready else "not ready: takes no new gangs"
    return [pool.name, str(pool.gpus), pool.sharing, f"{pool.tasks:g}", gangs, left, str(pool.waiting), state]


def plain_pool(pool: PoolStanding) -> dict[str, Any]:
    """A pool for programs; `per_gang`, `per_program`: None where there is no such limit."""
    return asdict(pool)
