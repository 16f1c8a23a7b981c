"""Certificates for tests: an authority, a server on this machine, and a client."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Certificates:
    """PEM files. `server` and `client` hold a certificate of the authority `ca` and its key."""

    ca: Path
    server: Path
    client: Path

    def server_context(self, *, needs_client: bool) -> ssl.SSLContext:
        """Return TLS for a server; `needs_client` refuses clients without a certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.load_cert_chain(self.server)
        context.verify_mode = ssl.CERT_REQUIRED if needs_client else ssl.CERT_NONE
        return context


def make_certificates(folder: Path) -> Certificates:
    """Write certificates into `folder` that are valid for a day; the server's is for localhost."""
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "client.pem")
    authority = ec.generate_private_key(ec.SECP256R1())
    is_authority = x509.BasicConstraints(ca=True, path_length=None)
    made.ca.write_bytes(_pem(_certificate("authority", authority, authority, is_authority)))
    for path in (made.server, made.client):
        key = ec.generate_private_key(ec.SECP256R1())
        place = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        path.write_bytes(_pem(_certificate(path.stem, key, authority, place)) + _key(key))
    return made


def _certificate(
    name: str, key: Key, authority: Key, extension: x509.ExtensionType
) -> x509.Certificate:
    now, public, signer = datetime.now(UTC), key.public_key(), authority.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("authority"))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(extension, critical=True)
        # From Python 3.13 on, the default context asks for these.
        .add_extension(_usage(signs=key is authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
        .sign(authority, hashes.SHA256())
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
