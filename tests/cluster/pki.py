"""The cluster's certificates: one authority, client certificates that carry a user and groups, kubeconfigs."""

from __future__ import annotations

import datetime
import ipaddress
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAYS = 30


class Authority:
    """Writes into `folder`: ca.crt, and for each name NAME.crt and NAME.key."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ray-dra-testbed")])
        constraints = (x509.BasicConstraints(ca=True, path_length=None), True)
        self._certificate = self._sign(self._name, self._key.public_key(), [constraints])
        (folder / "ca.crt").write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        # Service account tokens are signed by a key of their own.
        account = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        _write_key(folder / "service-account.key", account)
        public = account.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (folder / "service-account.pub").write_bytes(public)

    def server(self, name: str, hosts: list[str]) -> tuple[str, str]:
        """A serving certificate for these addresses and names; paths of certificate and key."""
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        alternatives = (x509.SubjectAlternativeName(names), False)
        return self._issue(name, [(NameOID.COMMON_NAME, name)], ExtendedKeyUsageOID.SERVER_AUTH, [alternatives])

    def client(self, name: str, user: str, *groups: str) -> tuple[str, str]:
        """A client certificate: Kubernetes reads the user from CN and the groups from O."""
        subject = [(NameOID.COMMON_NAME, user), *((NameOID.ORGANIZATION_NAME, group) for group in groups)]
        return self._issue(name, subject, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def kubeconfig(self, to: Path, server: str, user: str, *groups: str) -> Path:
        certificate, key = self.client(to.stem, user, *groups)
        return write_kubeconfig(
            to, server, self.folder / "ca.crt", {"client-certificate": certificate, "client-key": key}
        )

    def _issue(
        self,
        name: str,
        subject: list[tuple[x509.ObjectIdentifier, str]],
        usage: x509.ObjectIdentifier,
        extensions: list[tuple[x509.ExtensionType, bool]],
    ) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        full = x509.Name([x509.NameAttribute(kind, value) for kind, value in subject])
        signed = self._sign(full, key.public_key(), [*extensions, (x509.ExtendedKeyUsage([usage]), False)])
        certificate, secret = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        _write_key(secret, key)
        return str(certificate), str(secret)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        extensions: list[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=_DAYS))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def write_kubeconfig(to: Path, server: str, authority: Path, user: dict[str, str]) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "testbed",
        "clusters": [{"name": "testbed", "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [{"name": "testbed", "user": user}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
    }
    to.write_text(json.dumps(content, indent=1))
    to.chmod(0o600)
    return to


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
