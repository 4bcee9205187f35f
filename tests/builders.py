"""Values that tests need again and again: specs of containers, networks and endpoints, and a layer to run on."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import secrets
from collections.abc import Sequence
from typing import Any

import images

from portlayer.model.base import now
from portlayer.model.execution import ContainerImage, ContainerSpec, Process, Resources
from portlayer.model.interaction import InteractionSpec
from portlayer.model.names import new_id
from portlayer.model.network import EndpointSpec, NetworkSpec, Subnet
from portlayer.model.storage import MountSpec

APPLETS = (
    *("[", "ash", "cat", "echo", "env", "false", "hostname", "id", "kill", "ls", "mkdir", "nslookup"),
    *("printf", "pwd", "readlink", "rm", "seq", "sh", "sleep", "stat", "stty", "test", "touch", "true", "wc"),
)
PASSWD = b"root:x:0:0:root:/root:/bin/sh\ncookie:x:1000:1000::/home:/bin/sh\n"
GROUP = b"root:x:0:\ncookie:x:1000:\nbakers:x:2000:\n"


def diff_id(tar: bytes) -> str:
    """The diffID of an uncompressed tar."""
    return f"sha256:{hashlib.sha256(tar).hexdigest()}"


@functools.cache
def layer() -> tuple[str, bytes]:
    """diffID and tar of a small root filesystem: busybox with APPLETS, passwd and group."""
    tar = images.tar(
        [
            *(images.directory(name) for name in ("bin", "dev", "etc", "home", "proc", "root", "sys")),
            images.directory("tmp", mode=0o1777),
            images.file("bin/busybox", images.BUSYBOX.read_bytes(), mode=0o755),
            *(images.symlink(f"bin/{name}", "busybox") for name in APPLETS),
            images.file("etc/passwd", PASSWD),
            images.file("etc/group", GROUP),
        ]
    )
    return diff_id(tar), tar


def container(
    *args: str,
    layers: Sequence[str] | None = None,
    env: Sequence[str] = (),
    cwd: str = "/",
    user: str = "",
    init: bool = False,
    stdin: bool = False,
    terminal: bool = False,
    endpoints: Sequence[EndpointSpec] = (),
    mounts: Sequence[MountSpec] = (),
    **fields: Any,
) -> ContainerSpec:
    """A container that runs *args* on `layer()` or on *layers*; *fields* are those of ContainerSpec."""
    ident = new_id()
    name = fields.pop("name", f"c-{ident[:8]}")
    return ContainerSpec(
        id=ident,
        vch="default",
        name=name,
        image=ContainerImage(id=ident, name="busybox:latest", layers=tuple(layers or (layer()[0],))),
        process=Process(
            args=args or ("true",),
            env=("PATH=/bin", *env),
            cwd=cwd,
            user=user,
            terminal=terminal,
            init=init,
        ),
        hostname=fields.pop("hostname", name),
        created_at=now(),
        substrate="test",
        host="test",
        resources=fields.pop("resources", Resources()),
        endpoints={one.network: one for one in endpoints},
        mounts={one.destination: one for one in mounts},
        interaction=InteractionSpec(stdin=stdin, terminal=terminal, bound=True) if stdin or terminal else None,
        **fields,
    )


def network(*subnets: str, **fields: Any) -> NetworkSpec:
    """A bridge network on *subnets*, by default one, whose first addresses are the gateways."""
    ident = new_id()
    return NetworkSpec(
        id=ident,
        name=fields.pop("name", f"n-{ident[:8]}"),
        type="bridge",
        subnets=tuple(
            Subnet(subnet=subnet, gateway=str(ipaddress.ip_network(subnet)[1]))
            for subnet in subnets or ("10.213.1.0/24",)
        ),
        created_at=now(),
        **fields,
    )


def endpoint(of: NetworkSpec, host: int, **fields: Any) -> EndpointSpec:
    """A bound endpoint in network *of* with the address number *host* of its first subnet, and of its second, which is
    IPv6, where it has one."""
    subnet, *more = (ipaddress.ip_network(one.subnet) for one in of.subnets)
    if more:
        fields |= {
            "address6": str(more[0][host]),
            "prefix_length6": more[0].prefixlen,
            "gateway6": of.subnets[1].gateway or "",
        }
    return EndpointSpec(
        id=new_id(),
        network=of.id,
        network_name=of.name,
        mac_address="02:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(5)),
        bound=True,
        address=str(subnet[host]),
        prefix_length=subnet.prefixlen,
        gateway=of.subnets[0].gateway or "",
        **fields,
    )


def mount(volume: str, destination: str, **fields: Any) -> MountSpec:
    """Volume id *volume* at *destination*; *fields* are those of MountSpec."""
    return MountSpec(volume=volume, volume_name=f"v-{volume[:8]}", destination=destination, **fields)
