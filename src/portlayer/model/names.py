"""Identifiers and names: how they are minted and what they may look like."""

from __future__ import annotations

import hashlib
import re
import secrets

from portlayer.model.errors import InvalidArgument

SHORT_ID = 12  # of an id's digits are enough for people, and name a container on its networks
_ID = re.compile(r"[0-9a-f]{32}")
_IMAGE_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LABEL = re.compile(r"[^\x00-\x1f=]{1,255}")
_IMAGE_NAME_LENGTH = 255


def _image_name() -> re.Pattern[str]:
    """The grammar of references in the OCI distribution project, but that a host is told by a dot, a port or its being
    localhost: without, `Foo/bar` would be on a host called Foo."""
    label = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
    port = r"(?::[0-9]+)"
    host = rf"(?:{label}(?:\.{label})+{port}?|{label}{port}|localhost|\[[0-9a-fA-F:]+\]{port}?)"
    part = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
    digest = r"[a-zA-Z][a-zA-Z0-9]*(?:[-_+.][a-zA-Z][a-zA-Z0-9]*)*:[0-9a-fA-F]{32,}"
    return re.compile(rf"(?:{host}/)?{part}(?:/{part})*(?::\w[\w.-]{{0,127}})?(?:@{digest})?", re.ASCII)


_IMAGE_NAME = _image_name()


def new_id() -> str:
    """A random 128-bit identifier: 32 lower-case hex digits."""
    return secrets.token_hex(16)


def derived_id(*parts: str) -> str:
    """An identifier that the same *parts* always give, and others never."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def is_id(ref: str) -> bool:
    """Whether *ref* looks like an identifier; such a string is never a name."""
    return _ID.fullmatch(ref) is not None


def check_name(name: str, pointer: str = "/name") -> str:
    """*name* itself where it may name a container, network or volume.

    Raises:
        InvalidArgument: empty, over 128 characters, other than letters, digits, `_`, `.`, `-`, not starting
            with a letter or digit, or looking like an id.
    """
    if is_id(name):
        raise InvalidArgument(f"{name!r} looks like an id; choose another name.", pointer=pointer)
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f"{name[:140]!r} is no name: use 1 to 128 letters, digits, '_', '.' or '-', "
            "starting with a letter or a digit.",
            pointer=pointer,
        )
    return name


def image_id(ref: str) -> str | None:
    """The image id that *ref* is, with or without `sha256:`; None where it is a name."""
    match = _IMAGE_ID.fullmatch(ref)
    return match[1] if match else None


def is_digest(text: str) -> bool:
    """Whether *text* is the digest of a blob, `sha256:<hex>`."""
    return _DIGEST.fullmatch(text) is not None


def check_image_name(name: str, pointer: str = "/name") -> str:
    """*name* with `:latest` added where it has no tag; raises InvalidArgument where it cannot name an image."""
    if is_id(name) or image_id(name) or not _is_image_name(name):
        remedy = "its repository has lower case alone" if _is_image_name(name.lower()) else "such as 'busybox:latest'"
        raise InvalidArgument(f"{name[:140]!r} is no image name; {remedy}.", pointer=pointer)
    return name if ":" in name.rsplit("/", 1)[-1] or "@" in name else f"{name}:latest"


def _is_image_name(name: str) -> bool:
    return len(name) <= _IMAGE_NAME_LENGTH and _IMAGE_NAME.fullmatch(name) is not None


def check_labels(labels: dict[str, str], pointer: str = "/labels") -> dict[str, str]:
    """*labels* themselves where every key is 1 to 255 printable characters without '='."""
    for key in labels:
        if _LABEL.fullmatch(key) is None:
            raise InvalidArgument(f"{key[:260]!r} is no label key.", pointer=pointer)
    return labels
