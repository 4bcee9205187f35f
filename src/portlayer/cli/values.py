"""What people write for sizes, times, variables, labels and volumes, and the values that it stands for."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import get_args

import msgspec

from portlayer.client.options import RestartName
from portlayer.model.base import rfc3339
from portlayer.model.errors import InvalidArgument
from portlayer.model.execution import RestartPolicy
from portlayer.model.network import Port, Subnet

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([bkmgt]?)i?b?", re.IGNORECASE)
_POWERS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_PORT = re.compile(r"(?:(?:([^:]*|\[.*\]):)?(\d{0,5}):)?(\d{1,5})(?:/(tcp|udp|sctp))?")
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_bytes(text: str) -> int:
    """Bytes of `64m`, `1.5g`, `512k` or `1048576`; units are powers of 1024, as docker has them."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"{text!r} is no size; write it as 64m, 1.5g or a number of bytes.")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


def parse_number(text: str) -> float:
    """A finite number: JSON has no other, and would carry them as none at all."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidArgument(f"{text!r} is no number; write it as 2 or 0.5.")
    return number


def parse_moment(text: str | None) -> str | None:
    """A time as the API takes it: RFC 3339, seconds since the epoch, or as long ago as `10m` or `1h30m` say."""
    match = _DURATION.fullmatch(text) if text else None
    if match is None or not any(match.groups()):
        return text
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    ago = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return rfc3339(time.time_ns() - int(ago * 1e9))


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """`key=value`, or `key` alone for an empty value."""
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def parse_environment(
    texts: Sequence[str], files: Sequence[Path] = (), ours: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """`NAME=value`, or `NAME` alone for our own value of it; first what *files* say, a variable a line."""
    lines = [line for file in files for line in _lines(file)]
    variables: dict[str, str] = {}
    for text in (*lines, *texts):
        name, equals, value = text.partition("=")
        if not name:
            raise InvalidArgument(f"{text!r} is no variable; write NAME=value.")
        if equals or name in ours:
            variables[name] = value if equals else ours[name]
    return tuple(f"{name}={value}" for name, value in variables.items())


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{file} cannot be read: {error}.") from None
    stripped = (line.lstrip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


@dataclass(frozen=True)
class VolumeOption:
    """A volume in a container. name: None makes an anonymous one."""

    name: str | None
    destination: str
    read_only: bool = False


def parse_volume(text: str) -> VolumeOption:
    """`name:/path`, `name:/path:ro`, or `/path` for an anonymous volume. Paths of the host are refused."""
    parts = text.split(":")
    if len(parts) == 1 and text.startswith("/"):
        return VolumeOption(None, text)
    if text.startswith(("/", ".", "~")):
        raise InvalidArgument(
            f"{text!r} names a path of the host. Containers get volumes only, since the host may be another "
            "machine; write -v NAME:/path."
        )
    if len(parts) not in (2, 3) or not parts[0] or not parts[1].startswith("/"):
        raise InvalidArgument(f"{text!r} is no volume; write NAME:/path, NAME:/path:ro or /path.")
    if parts[2:] not in ([], ["rw"], ["ro"]):
        raise InvalidArgument(f"{parts[2]!r} is no way to join a volume; write ro or rw.")
    return VolumeOption(parts[0], parts[1], read_only=parts[2:] == ["ro"])


def parse_port(text: str) -> Port:
    """`containerPort`, `hostPort:containerPort` or `hostAddress:hostPort:containerPort`, with `/tcp` or `/udp` behind.

    Without a host port, one is chosen. An IPv6 address stands in brackets.
    """
    match = _PORT.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"{text!r} is no port; write [[ADDRESS:]HOSTPORT:]PORT[/udp].")
    address, host, container, protocol = match.groups()
    return msgspec.convert(
        {
            "containerPort": int(container),
            "hostPort": int(host or 0),
            "hostAddress": (address or "").strip("[]"),
            "protocol": protocol or "tcp",
        },
        Port,
    )


def parse_subnets(subnets: Iterable[str], gateways: Iterable[str]) -> list[Subnet]:
    """*subnets*, each with the one of *gateways* that it holds."""
    found = [Subnet(subnet=subnet) for subnet in subnets]
    for gateway in gateways:
        place = next((place for place, one in enumerate(found) if _holds(one.subnet, gateway)), None)
        if place is None or found[place].gateway is not None:
            raise InvalidArgument(
                f"{gateway} is no gateway of a --subnet, or a second one; name the subnet that it is in."
            )
        found[place] = Subnet(subnet=found[place].subnet, gateway=gateway)
    return found


def _holds(subnet: str, address: str) -> bool:
    try:
        return ip_address(address) in ip_network(subnet)
    except ValueError:
        return False


def parse_restart(text: str) -> RestartPolicy:
    """`no`, `always`, `unless-stopped`, `on-failure` or `on-failure:3`."""
    name, colon, count = text.partition(":")
    for known in get_args(RestartName):
        if name == known and (not colon or count.isdecimal()):
            return RestartPolicy(name=known, maximum_retry_count=int(count or 0))
    raise InvalidArgument(f"{text!r} is no restart policy; use no, always, unless-stopped or on-failure[:N].")
