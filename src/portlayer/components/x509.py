"""X.509, as far as a port layer needs it: a CA, and what it signs for processes and clients. No I/O.

A process may serve and call, a client may only call: the kind is written into the certificate, and into the one URI of
its names, so that neither can pose as the other.
Source: RFC 5280.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from portlayer.model.certificates import PROCESS_NAME
from portlayer.model.errors import InvalidArgument
from portlayer.model.grants import Grant

PublicKey = CertificatePublicKeyTypes
CA_DAYS = 3653
SKEW = dt.timedelta(hours=1)
"""How far the clock of who looks at a certificate may be behind."""
_PROCESS, _CLIENT = "portlayer:process:", "portlayer:client:"
_CA_DEPTH = 4
_MAX_NAME = 64
_RSA_BITS = 2048, 8192
_CURVE_BITS = 256


@dataclass(frozen=True)
class Chained:
    """A certificate as DER, and, as PEM, with those that lead to older keys of its CA."""

    der: bytes
    pem: str


@dataclass(frozen=True)
class Pair:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def key_pem(self) -> bytes:
        """The key as PKCS 8."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def make_ca() -> Pair:
    """A CA of its own, with a name that no other has."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common=f"portlayer CA {secrets.token_hex(4)}")
    return Pair(_sign_ca(name, key.public_key(), name, key), key)


def cross_sign(older: Pair, newer: Pair) -> x509.Certificate:
    """The certificate of *newer* as *older* signs it: who trusts only that one trusts this one too."""
    subject = newer.certificate.subject
    return _sign_ca(subject, newer.key.public_key(), older.certificate.subject, older.key)


def issue_process(ca: Pair, process: str, names: Iterable[str], lifetime: dt.timedelta) -> Pair:
    """For the process called *process*, at *names*: DNS names or addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    known = [_general(name) for name in dict.fromkeys((PROCESS_NAME, *names))]
    alternative = x509.SubjectAlternativeName([*known, x509.UniformResourceIdentifier(_PROCESS + process)])
    builder = _builder(ca, _name(common=process), key.public_key(), lifetime, x509.random_serial_number())
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    return Pair(builder.add_extension(alternative, critical=False).sign(ca.key, hashes.SHA256()), key)


def requested(request: bytes) -> PublicKey:
    """The public key of a signing request, whose sender has shown to have the private one. Raises InvalidArgument."""
    try:
        read = x509.load_pem_x509_csr(request)
        public, shown = read.public_key(), read.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidArgument("This is no certificate signing request in PEM.", pointer="/request") from None
    if not _is_strong(public) or not shown:
        raise InvalidArgument(
            "The request's key has to be RSA of 2048 to 8192 bits, of an elliptic curve of 256 or more, or Ed25519, "
            "and to have signed the request.",
            pointer="/request",
        )
    return public


def _is_strong(key: PublicKey) -> bool:
    match key:
        case rsa.RSAPublicKey():
            return _RSA_BITS[0] <= key.key_size <= _RSA_BITS[1]
        case ec.EllipticCurvePublicKey():
            return key.curve.key_size >= _CURVE_BITS
        case _:
            return isinstance(key, ed25519.Ed25519PublicKey)


def issue_client(ca: Pair, grant: Grant, public: PublicKey, lifetime: dt.timedelta) -> x509.Certificate:
    """For the holder of *grant*, whose id is the serial number."""
    subject = _name(grant.subject, unit=grant.role, organization=grant.vch or "")
    builder = _builder(ca, subject, public, lifetime, int(grant.id, 16))
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_CLIENT + grant.id)])
    return builder.add_extension(names, critical=False).sign(ca.key, hashes.SHA256())


def is_process(certificate: x509.Certificate) -> bool:
    """Whether the CA has signed *certificate* for a process."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return any(uri.startswith(_PROCESS) for uri in names.get_values_for_type(x509.UniformResourceIdentifier))


def is_signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether *ca* itself has signed *certificate*."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def read(encoded: bytes) -> x509.Certificate | None:
    """The certificate in DER; None where it is none."""
    try:
        return x509.load_der_x509_certificate(encoded)
    except ValueError:
        return None


def known(encoded: bytes) -> x509.Certificate:
    """The same of one that we have made."""
    return x509.load_der_x509_certificate(encoded)


def pair(certificate: bytes, key: bytes) -> Pair:
    """A certificate in DER with its key in PEM, of ours."""
    private = serialization.load_pem_private_key(key, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise TypeError("a CA's key is on an elliptic curve")
    return Pair(known(certificate), private)


def lasts(certificate: x509.Certificate, now: dt.datetime) -> bool:
    """Whether *certificate* is good at *now*, as for its time."""
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def pem(*certificates: x509.Certificate) -> bytes:
    """*certificates* as they stand in files."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _sign_ca(
    subject: x509.Name, public: ec.EllipticCurvePublicKey, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    moment = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
    builder = builder.not_valid_before(moment - SKEW).not_valid_after(moment + dt.timedelta(days=CA_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=_CA_DEPTH), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return builder.add_extension(authority, critical=False).sign(key, hashes.SHA256())


def _builder(
    ca: Pair, subject: x509.Name, public: PublicKey, lifetime: dt.timedelta, serial: int
) -> x509.CertificateBuilder:
    """What is the same for processes and clients; it lasts no longer than the CA does."""
    moment = dt.datetime.now(dt.UTC)
    end = min(moment + lifetime, ca.certificate.not_valid_after_utc)
    builder = x509.CertificateBuilder(ca.certificate.subject, subject, public, serial)
    builder = builder.not_valid_before(moment - SKEW).not_valid_after(end)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    return builder.add_extension(authority, critical=False)


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


def _name(common: str, unit: str = "", organization: str = "") -> x509.Name:
    """A subject for people to read."""
    parts = (
        (NameOID.ORGANIZATION_NAME, organization),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        (NameOID.COMMON_NAME, common),
    )
    return x509.Name([x509.NameAttribute(oid, text[:_MAX_NAME]) for oid, text in parts if text])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
