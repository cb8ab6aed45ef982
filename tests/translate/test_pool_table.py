"""Pools as rows."""

from __future__ import annotations

from ray_dra.core.gangs.standing import PoolStanding
from ray_dra.translate.pool_table import POOL_HEADERS, plain_pool, pool_row


def test_a_row_says_what_is_left() -> None:
    pool = PoolStanding("p", "id", "time slices, Short", 2, False, 0.5, 0.333, 1, 2, None, 0.75)
    row = dict(zip(POOL_HEADERS, pool_row(pool), strict=True))
    assert (row["GANGS"], row["LEFT"], row["WAITING"]) == ("0.333 (1 gang)", "1.167", "2")
    assert row["STATE"] == "not ready: takes no new gangs"
    assert plain_pool(pool)["per_program"] == 0.75
