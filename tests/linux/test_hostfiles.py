"""The hosts and resolv.conf files of a container."""

from __future__ import annotations

from linux.netlab import endpoint, network

from portlayer.model.execution import ContainerImage, ContainerSpec, Process, replace
from portlayer.substrates.linux import hostfiles

HOST = """\
# by hand
domain example.org
search example.org example.net
nameserver 127.0.0.53
nameserver 192.0.2.1
nameserver fe80::1%eth0
options edns0 trust-ad
"""


def container(*endpoints) -> ContainerSpec:
    return ContainerSpec(
        id="c",
        vch="default",
        name="monster",
        image=ContainerImage(id="i", name="i", layers=()),
        process=Process(args=("true",), env=()),
        hostname="cookie",
        created_at="",
        substrate="linux",
        host="h",
        endpoints={made.network: made for made in endpoints},
    )


def test_hosts_names_the_bound_endpoints_only():
    bound, joined = endpoint(network(1), 2), replace(endpoint(network(2), 2), bound=False, address="")
    lines = hostfiles.hosts_file(container(bound, joined)).splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-1] == "10.210.1.2\tcookie monster"
    assert not any("10.210.2" in line for line in lines)


def test_both_addresses_lead_to_its_names():
    lines = hostfiles.hosts_file(container(endpoint(network(1, ipv6=True), 2))).splitlines()
    assert lines[-2:] == ["10.210.1.2\tcookie monster", "fd00:210:1::2\tcookie monster"]


def test_a_name_like_the_hostname_stands_once():
    assert hostfiles.hosts_file(replace(container(endpoint(network(1), 2)), name="cookie")).endswith(".2\tcookie\n")


def test_resolv_keeps_what_a_container_can_use_of_the_hosts():
    text = hostfiles.resolv_file(container(), HOST)
    assert text.splitlines() == [
        "domain example.org",
        "search example.org example.net",
        "options edns0 trust-ad",
        "nameserver 192.0.2.1",
    ]


def test_the_gateways_of_networks_take_the_place_of_the_hosts_servers():
    spec = container(endpoint(network(1, dns=("192.0.2.53",)), 2), endpoint(network(2), 2))
    assert hostfiles.resolv_file(spec, HOST + "options ndots:3 rotate\n").splitlines() == [
        "domain example.org",
        "search example.org example.net",
        "options edns0 trust-ad rotate ndots:0",
        "nameserver 10.210.1.1",
        "nameserver 10.210.2.1",
    ]


def test_a_container_has_its_names_where_it_is_bound():
    net = network(1)
    bound, joined = replace(endpoint(net, 2), aliases=("db",)), replace(endpoint(network(2), 2), bound=False)
    (place,) = hostfiles.places(replace(container(bound, joined), id="0123456789abcdef" * 2))
    assert (place.network, place.addresses, place.names) == (net.id, ("10.210.1.2",), ("monster", "db", "0123456789ab"))


def test_a_host_with_a_local_resolver_gives_what_that_one_asks(tmp_path):
    usual, upstream = tmp_path / "usual", tmp_path / "upstream"
    assert hostfiles.host_resolv_conf(usual, upstream) == ""
    usual.write_text("nameserver 127.0.0.53\n")
    assert hostfiles.host_resolv_conf(usual, upstream) == usual.read_text()
    upstream.write_text("nameserver 192.0.2.1\n")
    assert hostfiles.host_resolv_conf(usual, upstream) == upstream.read_text()
    usual.write_text("nameserver 192.0.2.2\n")
    assert hostfiles.host_resolv_conf(usual, upstream) == usual.read_text()
