"""Certificates for tests: of a port layer's own CA, and of somebody else's that writes files."""

from __future__ import annotations

import base64
import datetime as dt
import functools
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from portlayer.components import x509 as ours
from portlayer.rest import tls
from portlayer.rest.tls import Chain

Contexts = Callable[[], ssl.SSLContext]


@functools.cache
def private_ca() -> ours.Pair:
    """A CA as a port layer makes it, for servers of no particular one."""
    return ours.make_ca()


def pem(ca: ours.Pair | None = None) -> str:
    return ours.pem((ca or private_ca()).certificate).decode()


def chain(pair: ours.Pair) -> Chain:
    return Chain(certificates=ours.pem(pair.certificate), key=pair.key_pem)


def process(name: str = "test", ca: ours.Pair | None = None, lifetime: dt.timedelta = dt.timedelta(days=1)) -> Chain:
    """What a process proves itself with, at 127.0.0.1."""
    return chain(ours.issue_process(ca or private_ca(), name, ["127.0.0.1"], lifetime))


@functools.cache
def serving() -> Contexts:
    """What a server at 127.0.0.1 meets connections with."""
    context = tls.server_side(process(), None, [pem()])
    return lambda: context


def calling(own: Chain | None = None, ca: ours.Pair | None = None) -> Contexts:
    """What a client opens connections with."""
    context = tls.client_side(pem(ca), own)
    return lambda: context


class Authority:
    """A private CA, none of ours, that writes PEM files into *directory*."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"ca of {directory.name}")])
        self._write("ca", self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0)), self._key)

    def issue(self, name: str, address: str = "127.0.0.1", days: float = 1, serial: int = 0, process: str = "") -> None:
        """<name>.pem and <name>.key, for *address*. process: the name of one of ours that it pretends to be of."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        also = [x509.UniformResourceIdentifier(f"portlayer:process:{process}")] if process else []
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address)), *also])
        self._write(name, self._sign(subject, key, names, days, serial), key)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
        days: float = 1,
        serial: int = 0,
    ) -> bytes:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), serial or x509.random_serial_number())
        builder = builder.not_valid_before(now - dt.timedelta(days=2))
        builder = builder.not_valid_after(now + dt.timedelta(days=days)).add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, certificate: bytes, key: ec.EllipticCurvePrivateKey) -> None:
        (self.directory / f"{name}.pem").write_bytes(certificate)
        (self.directory / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def request(wrong: str) -> str:
    """A signing request that is none: nothing, *nonsense*, of a *weak* or *short* key, or *unsigned* by its key."""
    if wrong in ("", "nonsense"):
        return wrong
    curve = ec.SECP224R1() if wrong == "short" else ec.SECP256R1()
    key = rsa.generate_private_key(65537, 1024) if wrong == "weak" else ec.generate_private_key(curve)
    made = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
    text = made.public_bytes(serialization.Encoding.DER)
    if wrong == "unsigned":
        text = text[:-4] + bytes(byte ^ 1 for byte in text[-4:])
    inside, kind = base64.encodebytes(text).decode(), "CERTIFICATE REQUEST"
    return f"-----BEGIN {kind}-----\n{inside}-----END {kind}-----\n"


def encrypted_key() -> bytes:
    """A private key that opens with a password."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"gibson")
    )
