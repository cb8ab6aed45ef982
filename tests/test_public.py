"""The flat public namespace, and how light the import is."""

from __future__ import annotations

import pickle
import subprocess
import sys

import ray_dra
from ray_dra import errors


def test_every_public_name_is_there() -> None:
    assert sorted(ray_dra.__all__) == ray_dra.__all__
    for name in ray_dra.__all__:
        assert getattr(ray_dra, name) is not None


def test_the_import_is_light() -> None:
    """No Ray, no pydantic, no networkx: Ray reads any ImportError in here as "no such module"."""
    code = "import sys, ray_dra; print([m for m in ('ray', 'pydantic', 'networkx', 'pynvml') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_error_is_ours_and_travels() -> None:
    """They cross from the coordinator's process to the driver's, with everything they carry."""
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.RayDraError)]
    assert len(kinds) > 10
    for kind in kinds:
        error = kind("why", place="there", wanted="much", available="little")
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is kind
        assert str(copy) == str(error)
        assert kind.__name__ in (errors.__doc__ or "")
        assert all(text in str(copy) for text in ("why", "there", "much", "little"))
