"""Compiles nvml_sim.c into libnvidia-ml.so.1, once for each version of the source.

With the machine's own C compiler; without one, with the compiler in the `ziglang` package.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import resources, util
from pathlib import Path

from ray_dra.errors import SimulationError

NAME = "libnvidia-ml.so.1"
MACHINE = os.uname().machine
COMPILED = Path(__file__).with_name("compiled")  # put there when an image is built, for machines without a compiler


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "ray-dra"


def compilers() -> list[list[str]]:
    """The commands that may compile C here, the machine's own first."""
    found = [[path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    if util.find_spec("ziglang") is not None:
        found.append([sys.executable, "-m", "ziglang", "cc"])
    return found


def library_folder(*, compiler: list[str] | None = None, cache: Path | None = None, machine: str = MACHINE) -> Path:
    """The folder for LD_LIBRARY_PATH; compiles first when neither the package nor the cache has one for this source.

    Args:
        compiler: the command to compile with; None: the first of `compilers()`.
        cache: compile into this folder, whatever is there; None: the user's cache.
        machine: the processor that the compiler compiles for, as `uname` calls it.

    Raises:
        SimulationError: no compiler, or it fails.
    """
    source = (resources.files("ray_dra.simulated") / "nvml_sim.c").read_bytes()
    commands = [compiler] if compiler is not None else compilers()
    key = hashlib.sha256(source + sys.platform.encode() + machine.encode()).hexdigest()[:16]
    folder = (cache or cache_folder()) / f"nvml-{key}"
    for found in (COMPILED / folder.name, folder):
        if cache is None and (found / NAME).exists():
            return found
    if not commands:
        raise SimulationError(
            "There is no C compiler; install gcc, or pip install 'ray-dra[simulated]' for ziglang.",
            place="PATH",
            wanted="cc, gcc, clang or ziglang",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Compiled aside and renamed, so that two processes can do it at once.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".build-") as work:
        (Path(work) / "nvml_sim.c").write_bytes(source)
        command = [*commands[0], "-shared", "-fPIC", "-O2", "-o", NAME, "nvml_sim.c", "-lpthread", "-ldl"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise SimulationError(
                "The simulated NVML library does not compile.", place=commands[0][0], available=done.stderr[-2000:]
            )
        folder.mkdir(exist_ok=True)
        os.replace(Path(work) / NAME, folder / NAME)
    return folder
