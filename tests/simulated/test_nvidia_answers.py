"""The simulated driver takes and refuses the configurations that NVIDIA's takes and refuses, but for those noted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_dra.core.model.gpu_sharing import INTERVALS, GpuSharing
from ray_dra.simulated.dra.configs import BadConfig, decode
from ray_dra.simulated.dra.gates import GATES
from ray_dra.translate.kube.claims import shared_by
from ray_dra.translate.ray.devices import mps, time_slicing
from ray_dra.translate.vendors import NVIDIA
from tests.simulated.nvidia_answers import CONFIGS, Said


@pytest.mark.parametrize("said", CONFIGS, ids=[each.name for each in CONFIGS])
def test_a_configuration_is_taken_where_nvidias_driver_takes_it(said: Said) -> None:
    try:
        decode(said.thing, GATES if said.gates else frozenset())
        taken = True
    except BadConfig:
        taken = False
    assert taken is said.taken, said.why


def test_nothing_is_taken_that_nvidias_driver_refuses() -> None:
    assert not [said.name for said in CONFIGS if said.taken and not said.theirs]


@given(
    st.builds(mps, memory=st.none() | st.integers(1 << 20, 1 << 62), threads=st.none() | st.integers(1, 100))
    | st.builds(time_slicing, st.sampled_from(INTERVALS))
)
def test_whatever_a_gang_is_told_of_its_shares_is_taken(sharing: GpuSharing) -> None:
    decode(shared_by(sharing, NVIDIA)["opaque"]["parameters"], GATES)
