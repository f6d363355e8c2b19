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
    certificate, key = _self_signed("127.0.0.1")
    (cluster.data_dir / "server.crt").write_bytes(certificate)
    (cluster.data_dir / "server.key").write_bytes(key)
    (cluster.data_dir / "server.key").chmod(0o600)
    machine.give_to_service(cluster.data_dir)
    cluster.psql("ALTER SYSTEM SET ssl = on")
    cluster.psql("SELECT pg_reload_conf()")
    machine.wait_until(lambda: cluster.psql("SHOW ssl") == "on", "TLS to be on")
    other = folder / "other-authority.crt"
    other.write_bytes(_self_signed("another authority")[0])
    return other


def _self_signed(name: str) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private
