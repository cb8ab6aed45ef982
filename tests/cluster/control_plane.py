"""What runs of Kubernetes itself, as programs for the supervisor: etcd, API server, controller manager, scheduler,
cluster DNS and KubeRay's operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.binaries import folder, program
from tests.cluster.pki import Authority
from tests.cluster.supervise import Program

SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
AUDIT = "audit.log"  # a line of JSON for each request of a service account


@dataclass(frozen=True)
class Ports:
    """Inside a network namespace of its own the usual ones; on the machine itself free ones."""

    api: int = 443
    etcd: int = 2379
    etcd_peer: int = 2380
    controllers: int = 10257
    scheduler: int = 10259


@dataclass(frozen=True)
class Options:
    """How the control plane runs.

    Args:
        gates: feature gates of API server, controller manager and scheduler.
        runtime_config: API groups and versions to serve besides the default ones.
        grace: seconds without a lease until a node is NotReady.
        scheduler_qps, controllers_qps: client limits; None: the defaults (50 and 20 requests a second).
    """

    gates: Mapping[str, bool] = field(default_factory=dict)
    runtime_config: tuple[str, ...] = ()
    grace: int = 20
    scheduler_qps: int | None = None
    controllers_qps: int | None = None


def programs(
    run: Path, pki: Authority, address: str, hosts: list[str], ports: Ports, options: Options
) -> list[Program]:
    """In the order in which they need each other. `address`: where those inside reach the API server."""
    server, key = pki.server("apiserver", ["kubernetes", "kubernetes.default.svc", "localhost", API_SERVICE, *hosts])
    kubelet_certificate, kubelet_key = pki.client("apiserver-kubelet-client", "apiserver", "system:masters")
    here = f"https://{address}:{ports.api}"
    gates = [f"--feature-gates={','.join(f'{k}={str(v).lower()}' for k, v in options.gates.items())}"]
    gates = gates if options.gates else []
    files = pki.folder

    def config(name: str, user: str, *groups: str) -> Path:
        return pki.kubeconfig(run / f"{name}.kubeconfig", here, user, *groups)

    controllers = config("controllers", "system:kube-controller-manager")
    scheduler = config("scheduler", "system:kube-scheduler")
    etcd = f"http://127.0.0.1:{ports.etcd}"
    peer = f"http://127.0.0.1:{ports.etcd_peer}"
    return [
        Program(
            "etcd",
            [
                program("etcd"),
                f"--data-dir={run}/etcd",
                "--unsafe-no-fsync",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--log-level=warn",
            ],
        ),
        Program(
            "apiserver",
            [
                program("kube-apiserver"),
                f"--etcd-servers={etcd}",
                f"--secure-port={ports.api}",
                f"--bind-address={'0.0.0.0' if address != '127.0.0.1' else address}",
                f"--advertise-address={address}",
                f"--tls-cert-file={server}",
                f"--tls-private-key-file={key}",
                f"--client-ca-file={files}/ca.crt",
                f"--requestheader-client-ca-file={files}/ca.crt",
                "--requestheader-allowed-names=front-proxy-client",
                f"--kubelet-client-certificate={kubelet_certificate}",
                f"--kubelet-client-key={kubelet_key}",
                "--kubelet-preferred-address-types=InternalIP",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-signing-key-file={files}/service-account.key",
                f"--service-account-key-file={files}/service-account.pub",
                f"--service-cluster-ip-range={SERVICES}",
                "--endpoint-reconciler-type=none" if address == "127.0.0.1" else "--endpoint-reconciler-type=lease",
                "--allow-privileged=true",
                f"--audit-policy-file={_audit_policy(run)}",
                f"--audit-log-path={run / AUDIT}",
                *(f"--runtime-config={item}" for item in options.runtime_config),
                *gates,
            ],
        ),
        Program(
            "controllers",
            [
                program("kube-controller-manager"),
                f"--kubeconfig={controllers}",
                f"--authentication-kubeconfig={controllers}",
                f"--authorization-kubeconfig={controllers}",
                "--leader-elect=false",
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={files}/service-account.key",
                f"--root-ca-file={files}/ca.crt",
                f"--secure-port={ports.controllers}",
                "--bind-address=127.0.0.1",
                f"--cert-dir={run}/controllers",
                f"--node-monitor-grace-period={options.grace}s",
                *_limits(options.controllers_qps),
                *gates,
            ],
        ),
        Program(
            "scheduler",
            [
                program("kube-scheduler"),
                f"--kubeconfig={scheduler}",
                f"--authentication-kubeconfig={scheduler}",
                f"--authorization-kubeconfig={scheduler}",
                "--leader-elect=false",
                f"--secure-port={ports.scheduler}",
                "--bind-address=127.0.0.1",
                f"--cert-dir={run}/scheduler",
                *_limits(options.scheduler_qps),
                *gates,
            ],
        ),
    ]


def _limits(qps: int | None) -> list[str]:
    return [] if qps is None else [f"--kube-api-qps={qps}", f"--kube-api-burst={qps * 2}"]


def dns(run: Path, pki: Authority, address: str, server: str) -> Program:
    """CoreDNS for cluster.local, on the bridge's address. A short life for answers: heads come and go in tests."""
    kubeconfig = pki.kubeconfig(run / "dns.kubeconfig", server, "system:kube-dns", "system:masters")
    corefile = run / "Corefile"
    corefile.write_text(
        f".:53 {{\n  bind {address}\n  errors\n  ready {address}:8181\n"
        f"  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {kubeconfig}\n    ttl 1\n  }}\n}}\n"
    )
    return Program("dns", [program("coredns"), "-conf", str(corefile)])


def _audit_policy(run: Path) -> Path:
    """What service accounts ask for, without the contents."""
    path = run / "audit-policy.yaml"
    path.write_text(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n"
        'rules:\n  - {level: Metadata, userGroups: ["system:serviceaccounts"]}\n  - level: None\n'
    )
    return path


def operator(run: Path, pki: Authority, server: str, metrics: str, health: str) -> Program:
    """KubeRay's operator, from its own module."""
    kubeconfig = pki.kubeconfig(run / "operator.kubeconfig", server, "kuberay-operator", "system:masters")
    command = [
        program("kuberay-operator"),
        f"--kubeconfig={kubeconfig}",
        "--enable-leader-election=false",
        f"--metrics-addr={metrics}",
        f"--health-probe-bind-address={health}",
        "--use-kubernetes-proxy=true",  # it runs outside the pods' network; RayJobs' heads are asked through the API
    ]
    return Program("operator", command)


def custom_resources() -> list[Path]:
    """KubeRay's CRDs, from the same module as the operator."""
    return sorted(folder("kuberay").glob("ray.io_*.yaml"))
