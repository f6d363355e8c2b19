"""Certificates for a test server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support import machine
from tests.support.postgres import Cluster


def give_certificate(cluster: Cluster, folder: Path) -> Path:
    """Turn TLS on with a certificate that nobody trusts; return the file of another authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    _switch_on(cluster, _certificate("127.0.0.1", key, "127.0.0.1", key, ca=True), key)
    other = folder / "other-authority.crt"
    other.write_bytes(_certificate("another authority", key, "another authority", key, ca=True))
    return other


def give_trusted_certificate(cluster: Cluster, name: str, folder: Path) -> Path:
    """Turn TLS on with a certificate for the host `name` that an authority of our own has signed; return the authority's."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _certificate("an authority", authority_key, "an authority", authority_key, ca=True)
    server = _certificate(name, server_key, "an authority", authority_key, ca=False)
    _switch_on(cluster, server, server_key)
    trusted = folder / "authority.crt"
    trusted.write_bytes(authority)
    return trusted


def _switch_on(cluster: Cluster, certificate: bytes, key: ec.EllipticCurvePrivateKey) -> None:
    (cluster.data_dir / "server.crt").write_bytes(certificate)
    (cluster.data_dir / "server.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    (cluster.data_dir / "server.key").chmod(0o600)
    machine.give_to_service(cluster.data_dir)
    cluster.psql("ALTER SYSTEM SET ssl = on")
    cluster.psql("SELECT pg_reload_conf()")
    machine.wait_until(lambda: cluster.psql("SHOW ssl") == "on", "TLS to be on")


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> bytes:
    now = datetime.now(UTC)
    subject, signed_by = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer)
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signed_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)
