"""What proves who somebody is where the kernel cannot: bearer tokens, and certificates of the private CA."""

from __future__ import annotations

from portlayer.model.access import Role
from portlayer.model.base import Value

CERTIFICATE_DAYS = 90


class Grant(Value):
    """A token or a certificate as it is listed: all but what proves it. vch: the tenant that it is for; None: an
    operator's, for all."""

    id: str
    subject: str
    role: Role
    vch: str | None = None
    created_at: str
    expires_at: str | None = None


class Wanted(Value):
    """A viewer or user has a vch, an operator has none. ttl_seconds: how long it is good; None: until it is deleted."""

    subject: str
    role: Role
    vch: str | None = None
    ttl_seconds: int | None = None


class CreateToken(Wanted):
    pass


class NewToken(Value):
    """A token that was just made. secret: what its holder sends; it is told now, and kept by nobody. A repeated request
    under the same Idempotency-Key is told it again."""

    secret: str
    token: Grant


class Tokens(Value):
    tokens: tuple[Grant, ...]
    next: str | None


class CreateCertificate(Wanted):
    """request: a certificate signing request, PEM. Its public key is taken, and nothing else of it: the private one
    stays where it was made."""

    request: str
    ttl_seconds: int | None = CERTIFICATE_DAYS * 86400


class NewCertificate(Value):
    """pem: the certificate, and what leads from it to older keys of the CA."""

    pem: str
    certificate: Grant


class Certificates(Value):
    certificates: tuple[Grant, ...]
    next: str | None


class ListGrants(Value):
    limit: int = 100
    after: str | None = None


class GrantRef(Value):
    id: str


class RotateCa(Value):
    """forget: trust no older key any more; else the last ones stay trusted, and what they have signed stays good."""

    forget: bool = False


class Authorities(Value):
    """The private CA. pem: the certificates to trust, the newest last; more than one after a rotation."""

    pem: str
