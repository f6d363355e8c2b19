"""SeaweedFS with TLS, which pgBackRest insists on; we reach it the same way."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support import machine
from tests.support.s3 import S3Server

BUCKET = "bench-repository"
_VALID = datetime.timedelta(days=2)


@dataclass(frozen=True)
class Store:
    """A running server with an empty bucket; `authority` is the certificate to trust."""

    server: S3Server
    port: int
    authority: Path

    def variables(self) -> dict[str, str]:
        """What leads our programs here."""
        return {
            "AWS_S3_BUCKET": BUCKET,
            "AWS_S3_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"https://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": self.server.access_key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret_key,
            "SSL_CERT_FILE": str(self.authority),
        }

    def stored(self) -> tuple[int, int]:
        """Bytes and number of the objects in the bucket."""
        sizes = [found["size"] for chunk in self.server.store(BUCKET).list() for found in chunk]
        return sum(sizes), len(sizes)


@contextmanager
def tls_store() -> Iterator[Store]:
    (port,) = machine.free_ports(1)
    folder = machine.new_dir("tls")
    authority, certificate, key = _certificates(folder)
    options = (f"-s3.cert.file={certificate}", f"-s3.key.file={key}", f"-s3.port.https={port}")
    with S3Server(options) as server:
        server.make_bucket(BUCKET)
        yield Store(server, port, authority)


def _certificates(folder: Path) -> tuple[Path, Path, Path]:
    """An authority, and a certificate for 127.0.0.1 with its key."""
    ours, its = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _signed("pgproof bench authority", "pgproof bench authority", ours, ours, authority=True)
    certificate = _signed("127.0.0.1", "pgproof bench authority", its, ours, authority=False)
    paths = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    paths[0].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(
        its.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def _signed(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _VALID)
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        # pgBackRest looks for its endpoint among the DNS names, even when it is an address.
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("127.0.0.1")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())
