"""The image for both processors, as far as it goes without a container builder: every locked package has a wheel for
them, and the simulated library compiles for them."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ray_dra.simulated.library import NAME, library_folder

IMAGE = Path(__file__).parents[1] / "kube" / "image"
MACHINES = {"x86_64": 62, "aarch64": 183}  # of ELF files


def index_answers() -> bool:
    """Whether there is a package index to ask."""
    host = urlsplit(os.environ.get("UV_INDEX_URL") or os.environ.get("PIP_INDEX_URL") or "https://pypi.org")
    try:
        socket.create_connection((host.hostname or "", host.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("python", ["3.10", "3.13"])
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("lock", ["requirements.txt", "build-requirements.txt"])
def test_every_locked_package_has_a_wheel(lock: str, machine: str, python: str, tmp_path: Path) -> None:
    """By hash, as the image's build takes them; nothing is downloaded but what describes them."""
    uv = shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if uv is None:
        pytest.skip("uv is not there to ask by")
    if not index_answers():
        pytest.skip("there is no package index to ask")
    command = [uv, "pip", "install", "--dry-run", "--quiet", "--require-hashes", "--only-binary=:all:"]
    command += [f"--python-platform={machine}-manylinux_2_28", f"--python-version={python}"]
    command += ["--target", str(tmp_path), "-r", str(IMAGE / lock)]
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_the_simulated_library_compiles(machine: str, tmp_path: Path) -> None:
    """By the image's own compiler, for the oldest C library that its wheels allow."""
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.2.28"]
    folder = library_folder(compiler=compiler, cache=tmp_path, machine=machine)
    made = (folder / NAME).read_bytes()
    assert (folder == library_folder(cache=tmp_path)) is (machine == os.uname().machine), "each looks for its own"
    assert made[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", made, 18) == (MACHINES[machine],)
