"""Who calls, and for which tenant."""

from __future__ import annotations

from portlayer.model.access import ROOT, Role
from portlayer.model.base import Value

DEFAULT_VCH = "default"


class Caller(Value):
    """The identity behind one call, which was found to be allowed to make it.

    vch: name of the tenant that the call is for.
    idempotency_key: the caller's own key for a creation without a handle; the same key gives the same answer.
    subject, role: who it is; inside of a process, the operator.
    """

    vch: str = DEFAULT_VCH
    idempotency_key: str | None = None
    subject: str = ROOT.subject
    role: Role = ROOT.role
