"""TLS as it is spoken here: 1.2 or 1.3, forward secrecy and AEAD alone, HTTP/1.1, no sessions that are taken up again.

Whether a client's certificate is good at this time is looked at with each call, not at the handshake, so that a caller
is told, and a connection is worth no more than what it was opened with.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence

from portlayer.model.base import Value
from portlayer.model.certificates import PROCESS_NAME
from portlayer.model.errors import InvalidArgument

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL
_EXPIRED, _NOT_YET = 10, 9
_UNTRUSTED = frozenset({2, 18, 19, 20, 21})
_WRONG_NAME = frozenset({62, 64})


class Chain(Value):
    """PEM: a certificate with those that lead to its CA, and its private key."""

    certificates: bytes
    key: bytes


def server_side(own: Chain, given: Chain | None, trusted: Sequence[str], *, times_later: bool = True) -> ssl.SSLContext:
    """For who listens. own: what it shows to processes, and to everybody where no other certificate is *given*.

    trusted: PEM of the CAs of clients, who need not have a certificate. times_later: whoever takes the call looks at
    the times of the client's.
    """
    inner = _serving(own, trusted, times_later=times_later)
    if given is None:
        return inner
    outer = _serving(given, trusted, times_later=times_later)

    def choose(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        if name == PROCESS_NAME:
            connection.context = inner

    outer.sni_callback = choose
    return outer


def _serving(own: Chain, trusted: Sequence[str], *, times_later: bool) -> ssl.SSLContext:
    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.verify_mode = ssl.CERT_OPTIONAL
    if times_later:
        context.verify_flags |= _NO_CHECK_TIME
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    _load(context, own)
    for authority in trusted:
        _trust(context, authority)
    return context


def client_side(trusted: str | None, own: Chain | None = None) -> ssl.SSLContext:
    """For who calls. trusted: PEM of the only CAs that are; None: the system's. own: what it proves itself with.

    Raises:
        InvalidArgument: these are no certificates, or no such pair.
    """
    context = _hardened(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if own is not None:
        _load(context, own)
    if trusted is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, trusted)
    return context


def _hardened(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, chain: Chain) -> None:
    """Python reads a chain from a file alone: this one is in memory, and nowhere else."""
    descriptor = os.memfd_create("chain", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(chain.certificates + b"\n" + chain.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
    except ssl.SSLError as error:
        raise InvalidArgument(
            f"The certificate and its key do not go together, or are no PEM, or the key has a password: {_said(error)}."
        ) from None
    finally:
        os.close(descriptor)


def _trust(context: ssl.SSLContext, authorities: str) -> None:
    try:
        context.load_verify_locations(cadata=authorities)
    except (ssl.SSLError, ValueError) as error:
        said = _said(error) if isinstance(error, ssl.SSLError) else str(error)
        raise InvalidArgument(f"The CA's certificates cannot be read: {said}.") from None


def distrust(error: BaseException) -> str | None:
    """Why the other end of a connection is not taken for what it should be, as *error* has it; None: it is not that."""
    found: BaseException | None = error
    while not isinstance(found, ssl.SSLCertVerificationError) or not hasattr(
        found, "verify_code"
    ):  # aiohttp's has none
        if found is None:
            return None
        found = found.__cause__ or found.__context__
    if found.verify_code in _WRONG_NAME:
        return "its certificate is for another name"
    if found.verify_code == _EXPIRED:
        return "its certificate has expired"
    if found.verify_code == _NOT_YET:
        return "its certificate is not good yet; look at the clocks"
    if found.verify_code in _UNTRUSTED:
        return "its certificate is of a CA that is not trusted here"
    return f"its certificate is no good ({found.verify_message})"


def _said(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
