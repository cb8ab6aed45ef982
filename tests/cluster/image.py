"""The testbed's container image, made without Docker or a registry: what kube/image/Dockerfile makes with them.

Three layers: a Debian base (debootstrap), the locked Python packages (uv), and this checkout's `ray_dra`. The first two
are big and change seldom, so they are unpacked once into a containerd folder in the cache, which every node shares
read-only (`share`); the third is imported anew at each start. Neighbour: `nodes.py`.

`build_for` makes the same image for another processor, as far as that goes where none of its programs run: packages are
unpacked and not set up.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from ray_dra.simulated.library import MACHINE, library_folder
from tests.cluster import binaries
from tests.cluster.binaries import PROJECT, Say

REQUIREMENTS = PROJECT / "kube" / "image" / "requirements.txt"
IMAGE_FILE = REQUIREMENTS.with_name("kustomization.yaml")  # the one place that says what the manifests run
PAUSE_IMAGE = "localhost/pause:testbed"
USER = (1000, 100)  # whom containers run as where a pod says nothing, as in Ray's own images

SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = ("python3", "wget", "procps", "ca-certificates")
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
# As pip does in a real image; uv does not, and Debian's own goes by the times of files, which are made equal here.
# Without it each of a pod's six Pythons compiles Ray anew, which is a second of CPU each.
COMPILE = ("python3", "-m", "compileall", "-q", "-f", "-j0", "--invalidation-mode", "unchecked-hash")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # Debian's names, and OCI's
OLDEST_GLIBC = "2.28"  # that the locked wheels allow
_NOT_NEEDED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
_PRESERVED = 1_700_000_000  # the time of every file, so that equal content makes equal layers

CONTAINERD_CONFIG = """\
version = 3
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
[grpc]
address = "{state}/containerd.sock"
"""


def image_name() -> str:
    """The image of Ray with ray-dra, as the manifests call it."""
    (named,) = yaml.safe_load(IMAGE_FILE.read_text())["images"]
    return f"{named['name']}:{named['newTag']}"


def base_folder() -> Path:
    """A containerd root that holds the big layers, unpacked; its name tells what is in them."""
    recipe = json.dumps([SUITE, PYTHON, PACKAGES, COMPILE, _NOT_NEEDED, _PRESERVED, PAUSE_IMAGE, USER])
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + recipe.encode() + binaries.folder("containerd").name.encode())
    return binaries.cache() / f"image-{key.hexdigest()[:16]}"


def build(say: Say = print) -> None:
    """The big layers, where the cache lacks them. Needs root (debootstrap, overlay)."""
    final = base_folder()
    if final.exists():
        return
    with binaries.locked(binaries.cache() / "image.lock"):
        if final.exists():
            return
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=binaries.cache(), prefix=".image-") as text:
            work = Path(text)
            say("making the container image's base with debootstrap ...")
            _debootstrap(work / "base")
            say("installing the locked Python packages into the image ...")
            _python_packages(work / "python")
            _compile(work / "base", work / "python")
            tars = [_layer(work / name, work / f"{name}.tar") for name in ("base", "python")]
            layers = {_digest(tar): tar.stat().st_size for tar in tars}
            _archive(work / "image.tar", PAUSE_IMAGE, layers, {"Entrypoint": ["/bin/sleep", "infinity"]}, include=tars)
            with containerd(work / "root") as ctr:
                ctr("images", "import", "--snapshotter", "overlayfs", str(work / "image.tar"))
            (work / "root" / "layers.json").write_text(json.dumps(list(layers.items())))
            (work / "root").rename(final)
        say(f"image made in {time.monotonic() - started:.0f} s")


def build_for(machine: str, to: Path, say: Say = print) -> Path:
    """An OCI archive of the image for another processor, in the folder `to`. Needs root.

    Nothing of it is run: the base's packages are unpacked without their scripts, wheels are taken for that processor,
    and the simulated library is compiled for it.
    """
    say(f"unpacking the base for {machine} ...")
    _debootstrap(to / "base", machine)
    say(f"unpacking the locked Python packages for {machine} ...")
    _python_packages(to / "python", machine)
    _code(
        to / "code", machine, [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.{OLDEST_GLIBC}"]
    )
    tars = [_layer(to / name, to / f"{name}.tar") for name in ("base", "python", "code")]
    layers = {_digest(tar): tar.stat().st_size for tar in tars}
    config: dict[str, object] = {"Cmd": ["bash"], "User": ":".join(map(str, USER))}
    _archive(to / "image.tar", image_name(), layers, config, include=tars, machine=machine)
    return to / "image.tar"


def _debootstrap(target: Path, machine: str = "") -> None:
    """Debian's base. `machine`: of another processor, whose packages are unpacked and not set up."""
    if shutil.which("debootstrap") is None:
        raise RuntimeError("debootstrap is missing: run tests/cluster/apt.sh as root")
    foreign = ["--foreign", f"--arch={ARCHITECTURES[machine]}"] if machine else []
    command = ["debootstrap", *foreign, "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"debootstrap failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    if machine:  # what Debian calls required is unpacked, all else lies there
        for package in sorted((target / "var" / "cache" / "apt" / "archives").glob("*.deb")):
            unpack = (
                f"dpkg-deb --fsys-tarfile {shlex.quote(str(package))} | tar -x --keep-directory-symlink -C {target}"
            )
            subprocess.run(["bash", "-o", "pipefail", "-c", unpack], check=True, capture_output=True)
        for name in ("passwd", "group"):
            shutil.copy(target / "usr" / "share" / "base-passwd" / f"{name}.master", target / "etc" / name)
        shutil.rmtree(target / "debootstrap")
    for path in _NOT_NEEDED:
        shutil.rmtree(target / path, ignore_errors=True)
    with (target / "etc" / "passwd").open("a") as users:
        users.write(f"ray:x:{USER[0]}:{USER[1]}::/home/ray:/bin/bash\n")
    home = target / "home" / "ray"
    home.mkdir()
    os.chown(home, *USER)


def _python_packages(target: Path, machine: str = "") -> None:
    """Wheels for the image's Python and processor, whatever runs here; their commands into /usr/local/bin."""
    site = target / SITE
    site.mkdir(parents=True)
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    command = [uv, "pip", "install", "--quiet", "--target", str(site), "--python-version", PYTHON, "--link-mode=copy"]
    command += ["--only-binary=:all:", "--require-hashes", "-r", str(REQUIREMENTS)]
    command += [f"--python-platform={machine}-manylinux_{OLDEST_GLIBC.replace('.', '_')}"] if machine else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the image's Python packages do not install:\n{done.stderr[-3000:]}")
    commands = target / "usr" / "local" / "bin"
    commands.mkdir(parents=True)
    for script in (site / "bin").iterdir():
        text = script.read_bytes()
        if text.startswith(b"#!") and b"python" in text.split(b"\n", 1)[0]:
            text = b"#!/usr/bin/python3\n" + text.split(b"\n", 1)[1]
        (commands / script.name).write_bytes(text)
        (commands / script.name).chmod(0o755)
    shutil.rmtree(site / "bin")


def _compile(base: Path, packages: Path) -> None:
    """Bytecode for the image's Python, made by it; the mount ends with the commands."""
    there = f"mount --bind {packages} {base}/mnt && exec chroot {base} sh -c "
    system = " ".join((*COMPILE, "/usr/lib/python3", f"/usr/lib/python{PYTHON}"))
    ours = " ".join((*COMPILE, "-s", "/mnt", "-p", "/", f"/mnt/{SITE}"))
    command = ["unshare", "--mount", "sh", "-c", f"{there}'{system}; {ours}'"]  # a few files are templates of no Python
    done = subprocess.run(command, capture_output=True, text=True)
    if not list((packages / SITE / "ray" / "__pycache__").glob("*.pyc")):
        raise RuntimeError(f"the image's Python packages do not compile:\n{(done.stdout + done.stderr)[-3000:]}")


def _layer(folder: Path, tar: Path) -> Path:
    """A tar of the folder."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = _PRESERVED
        return info

    with tarfile.open(tar, "w") as out:
        for path in sorted(folder.iterdir()):
            out.add(path, arcname=path.name, filter=plain)
    return tar


def _digest(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            whole.update(block)
    return whole.hexdigest()


def _archive(
    to: Path,
    name: str,
    layers: dict[str, int],
    config: dict[str, object],
    *,
    include: list[Path],
    machine: str = MACHINE,
) -> None:
    """An OCI image archive of `layers` (digest: size). Only `include` travels; the others are in the store already."""
    with tarfile.open(to, "w") as out:

        def blob(data: bytes, kind: str) -> dict[str, object]:
            digest = hashlib.sha256(data).hexdigest()
            info = tarfile.TarInfo(f"blobs/sha256/{digest}")
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
            return {
                "mediaType": f"application/vnd.oci.image.{kind}+json",
                "digest": f"sha256:{digest}",
                "size": len(data),
            }

        for path in include:
            out.add(path, arcname=f"blobs/sha256/{_digest(path)}")
        image = {
            "architecture": ARCHITECTURES[machine],
            "os": "linux",
            "config": {"Env": [f"PATH={_PATH}", "LANG=C.UTF-8", "RAY_DISABLE_DOCKER_CPU_WARNING=1"], **config},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob(json.dumps(image).encode(), "config.v1"),
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}
                for digest, size in layers.items()
            ],
        }
        top = blob(json.dumps(manifest).encode(), "manifest.v1")
        top["annotations"] = {"io.containerd.image.name": name}
        for file, content in (
            ("index.json", {"schemaVersion": 2, "manifests": [top]}),
            ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
        ):
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(file)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@contextmanager
def containerd(root: Path) -> Iterator[Callable[..., str]]:
    """A containerd on `root` for the time of the block; yields `ctr`, run in the namespace of Kubernetes' images."""
    programs = binaries.folder("containerd")
    with tempfile.TemporaryDirectory(prefix="ray-dra-ctr-") as state:
        config = Path(state) / "config.toml"
        config.write_text(CONTAINERD_CONFIG.format(root=root, state=state))
        log = (Path(state) / "log").open("w+")
        daemon = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", str(programs / "containerd"), "--config", str(config)],
            stdout=log,
            stderr=log,
        )

        def ctr(*arguments: str) -> str:
            command = [str(programs / "ctr"), "--address", f"{state}/containerd.sock", "-n", "k8s.io", *arguments]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"`ctr {' '.join(arguments)}` failed:\n{done.stderr[-3000:]}")
            return done.stdout

        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    ctr("version")
                    break
                except RuntimeError as error:
                    if daemon.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        raise RuntimeError(f"containerd does not start:\n{log.read()[-3000:]}") from error
                    time.sleep(0.05)
            yield ctr
        finally:
            daemon.terminate()
            daemon.wait()
            log.close()


def prepare(run: Path) -> Path:
    """A containerd root in the cluster's folder with both images, code of this checkout included.

    The big layers stay in the cache: what is copied is containerd's books, what is linked its layers.
    """
    base = base_folder()
    layers = dict(json.loads((base / "layers.json").read_text()))
    root = run / "images"
    clone(base, root)
    with tempfile.TemporaryDirectory(dir=run) as text:
        work = Path(text)
        _code(work / "code")
        tar = _layer(work / "code", work / "code.tar")
        _archive(
            work / "image.tar",
            image_name(),
            {**layers, _digest(tar): tar.stat().st_size},
            {"Cmd": ["bash"], "User": ":".join(map(str, USER))},
            include=[tar],
        )
        with containerd(root) as ctr:
            ctr("images", "import", "--snapshotter", "overlayfs", str(work / "image.tar"))
    return root


def _code(target: Path, machine: str = MACHINE, compiler: list[str] | None = None) -> None:
    """This checkout's `ray_dra`, with its library compiled, and its command."""
    code = target / SITE
    shutil.copytree(PROJECT / "ray_dra", code / "ray_dra", ignore=shutil.ignore_patterns("__pycache__", "compiled"))
    if sys.version_info[:2] == tuple(map(int, PYTHON.split("."))):
        options = [*COMPILE[1:], "-s", str(target), "-p", "/", str(code)]
        subprocess.run([sys.executable, *options], check=True)
    command = target / "usr" / "local" / "bin" / "ray-dra"
    command.parent.mkdir(parents=True)
    command.write_text("#!/usr/bin/python3\nfrom ray_dra.cli import main\n\nmain()\n")
    command.chmod(0o755)
    library_folder(compiler=compiler, cache=code / "ray_dra" / "simulated" / "compiled", machine=machine)


def clone(base: Path, root: Path) -> None:
    """Another containerd's root with the same images: books copied, layers linked, since nobody changes them."""
    for folder, folders, files in os.walk(base):
        here = Path(folder)
        there = root / here.relative_to(base)
        there.mkdir(parents=True, exist_ok=True)
        shared = here.name in ("snapshots", "sha256")
        for name in [*folders, *files] if shared else files:
            if shared:
                (there / name).symlink_to((here / name).resolve())
            else:
                shutil.copy2(here / name, there / name)
        if shared:
            folders.clear()
