"""The settings of the kernel's network that we change: of the namespace that the calling thread is in.

IPv6 forwards for all links of a host or for none, and a host that forwards takes itself for a router, which listens to
no other: it would lose what routers have told it. Links that listen are told to go on (accept_ra 2) before that.

Source: the kernel's Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from portlayer.substrates.linux import files

_NET = Path("/proc/sys/net")
_LINKS6 = _NET / "ipv6/conf"
_IPV6 = Path("/proc/net/if_inet6")
_NEW_LINKS = "/proc/sys/net/ipv6/conf/default"
_SILENT = ("accept_ra", "accept_dad")
_NOT_LINKS = {"all", "default", "lo"}
_IF_NO_ROUTER, _ALWAYS = "1", "2"


def has_ipv6() -> bool:
    """Whether this kernel has IPv6; whether its links use it is a setting of each."""
    return _IPV6.exists()


def put(value: str, *place: str) -> None:
    """Let a setting be *value*, where the kernel has it."""
    setting = _NET.joinpath(*place)
    if setting.exists() and setting.read_text().strip() != value:
        setting.write_text(value)


def new_links_have(ipv6: bool) -> None:
    """Whether links that are made from now on have IPv6. Where a network has none to offer, address detection would
    only delay and chatter; where it has, we give out addresses, and nobody is heard who says he is a router."""
    try:
        files.write(f"{_NEW_LINKS}/disable_ipv6", b"0" if ipv6 else b"1")
    except FileNotFoundError:
        return  # this kernel has no IPv6 at all
    if ipv6:
        for name in _SILENT:
            files.write(f"{_NEW_LINKS}/{name}", b"0")


def open_bridge(name: str, ipv6: bool) -> None:
    """As `new_links_have`, for the bridge *name*. Published ports can be reached by 127.0.0.1 as well."""
    put("0" if ipv6 else "1", "ipv6/conf", name, "disable_ipv6")
    for setting in _SILENT if ipv6 else ():
        put("0", "ipv6/conf", name, setting)
    put("1", "ipv4/conf", name, "route_localnet")


def forward(ipv6: bool) -> None:
    """The host forwards."""
    put("1", "ipv4", "ip_forward")
    if not ipv6 or (_LINKS6 / "all/forwarding").read_text().strip() != "0":
        return
    for link in _LINKS6.iterdir():
        setting = link / "accept_ra"
        with suppress(FileNotFoundError):  # it went away meanwhile
            if link.name not in _NOT_LINKS and setting.read_text().strip() == _IF_NO_ROUTER:
                setting.write_text(_ALWAYS)
    put("1", "ipv6/conf/all/forwarding")
