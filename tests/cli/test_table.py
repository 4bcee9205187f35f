"""The table of commands, without a server."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import typer

import portlayer.cli
from portlayer.cli.main import COMMANDS
from portlayer.cli.values import VolumeOption, parse_bytes, parse_port, parse_restart, parse_subnets, parse_volume
from portlayer.model.errors import InvalidArgument
from portlayer.model.network import Subnet


def test_every_command_is_in_its_module_and_every_module_in_the_table() -> None:
    offered = set()
    for found in pkgutil.iter_modules(portlayer.cli.__path__):
        module = importlib.import_module(f"portlayer.cli.{found.name}")
        app = getattr(module, "app", None)
        if not isinstance(app, typer.Typer) or found.name == "main":
            continue
        group = typer.main.get_group(app)
        names = {name for name, (where, _) in COMMANDS.items() if where == found.name}
        assert names, f"no command is in {found.name}"
        offered |= names & group.commands.keys() or names
    assert offered == set(COMMANDS)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64m", 64 << 20), ("1.5g", 3 << 29), ("512K", 512 << 10), ("1048576", 1 << 20), ("1GiB", 1 << 30)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


def test_volumes_ports_and_restarts() -> None:
    assert parse_volume("jar:/jar:ro") == VolumeOption("jar", "/jar", read_only=True)
    assert parse_volume("/jar") == VolumeOption(None, "/jar")
    assert (parse_port("80").container_port, parse_port("80").host_port) == (80, 0)
    full = parse_port("127.0.0.1:8080:80/udp")
    assert (full.host_address, full.host_port, full.container_port, full.protocol) == ("127.0.0.1", 8080, 80, "udp")
    assert parse_port("[fd00::1]:8080:80").host_address == "fd00::1"
    assert parse_restart("on-failure:3").maximum_retry_count == 3


def test_gateways_go_to_their_subnets() -> None:
    assert parse_subnets(["10.1.2.0/24", "fd00:1::/64"], ["fd00:1::9", "10.1.2.9"]) == [
        Subnet(subnet="10.1.2.0/24", gateway="10.1.2.9"),
        Subnet(subnet="fd00:1::/64", gateway="fd00:1::9"),
    ]
    for gateways in (["10.1.3.9"], ["10.1.2.9", "10.1.2.8"], ["x"]):
        with pytest.raises(InvalidArgument, match=f"^{gateways[-1]} is no gateway"):
            parse_subnets(["10.1.2.0/24"], gateways)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_bytes, "much"),
        (parse_bytes, "-1m"),
        (parse_volume, "/host:/jar"),
        (parse_volume, "./host:/jar"),
        (parse_volume, "jar"),
        (parse_volume, "jar:relative"),
        (parse_volume, "jar:/jar:rx"),
        (parse_port, "eighty"),
        (parse_port, "1:2:3:4"),
        (parse_restart, "sometimes"),
        (parse_restart, "on-failure:x"),
    ],
)
def test_what_cannot_be_read_is_refused(parse: object, text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)  # type: ignore[operator]
