"""The image for arm64 (GB200, GB300) on a machine that runs no program of it: made, unpacked by containerd, looked at.

By hand, as root: it fetches a Debian base and 400 MB of wheels for that processor.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.cluster.image import SITE, build_for, containerd, image_name

AARCH64 = 183  # of ELF files
NEEDED = ("usr/bin/python3", f"{SITE}/ray/core/src/ray/raylet/raylet", f"{SITE}/ray_dra/cli/__main__.py", "etc/passwd")


def machine_of(file: Path) -> int | None:
    """For which processor it is; None: it is no program and no library."""
    with file.open("rb") as opened:
        head = opened.read(20)
    return struct.unpack_from("<H", head, 18)[0] if head[:4] == b"\x7fELF" and len(head) == 20 else None


@pytest.mark.by_hand
@pytest.mark.timeout(1800)
def test_the_image_for_arm64_is_made_and_unpacks(tmp_path: Path) -> None:
    archive = build_for("aarch64", tmp_path)
    with containerd(tmp_path / "root") as ctr:
        ctr("images", "import", "--platform", "linux/arm64", "--snapshotter", "overlayfs", str(archive))
        (found,) = ctr("images", "ls", f"name=={image_name()}").splitlines()[1:]
    assert "linux/arm64" in found
    layers = list((tmp_path / "root" / "io.containerd.snapshotter.v1.overlayfs" / "snapshots").glob("*/fs"))
    assert len(layers) == 3
    for name in NEEDED:
        assert any((layer / name).exists() for layer in layers), name
    files = [path for layer in layers for path in layer.rglob("*") if path.is_file() and not path.is_symlink()]
    programs = {path: machine for path in files if (machine := machine_of(path)) is not None}
    assert len(programs) > 500
    assert {path.name: machine for path, machine in programs.items() if machine != AARCH64} == {}
