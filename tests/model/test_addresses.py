"""The arithmetic of networks."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from portlayer.model import addresses
from portlayer.model.errors import InvalidArgument, ResourceExhausted
from portlayer.model.network import Subnet

_PRIVATE = {4: IPv4Network("10.0.0.0/8"), 6: IPv6Network("fd00::/16")}


@st.composite
def networks(draw: st.DrawFn, free: int = 10, least: int = 2, version: int = 0) -> IPv4Network | IPv6Network:
    """A subnet of 10.0.0.0/8 or of fd00::/16, or of that of *version*, with *least* to *free* bits of its own."""
    private = _PRIVATE[version or draw(st.sampled_from((4, 6)))]
    length = max(private.prefixlen, private.max_prefixlen - draw(st.integers(least, free)))
    host = draw(st.integers(0, private.num_addresses - 1))
    return ip_network((str(private[host]), length), strict=False)


@st.composite
def subnets(draw: st.DrawFn, free: int = 10) -> Subnet:
    """A completed subnet, with ranges that may overlap and touch its ends, and any gateway."""
    network = draw(networks(free))
    kind = type(network.network_address)
    first, last = int(network.network_address), int(network.broadcast_address)
    inside = st.integers(first, last)
    pairs = draw(st.lists(st.tuples(inside, inside), max_size=3))
    ranges = tuple("-".join(str(kind(end)) for end in sorted(pair)) for pair in pairs)
    gateway = str(kind(draw(st.integers(first + 1, last - 1))))
    try:
        return addresses.complete(Subnet(subnet=str(network), gateway=gateway, ranges=ranges))
    except InvalidArgument:
        assume(False)  # the ranges leave nothing
        raise


@given(subnets())
def test_candidates_are_what_may_be_handed_out_and_capacity_counts_them(subnet):
    network = ip_network(subnet.subnet)
    allowed = {
        str(host)
        for host in network.hosts()  # of IPv6 all but the first, of IPv4 all but the first and the last
        if str(host) != subnet.gateway and (not subnet.ranges or any(_within(host, text) for text in subnet.ranges))
    }
    listed = list(addresses.candidates(subnet))
    assert set(listed) == allowed
    assert len(listed) == len(allowed) == addresses.capacity([subnet])
    assert listed == sorted(listed, key=lambda text: int(ip_address(text)))


def _within(host: IPv4Address | IPv6Address, text: str) -> bool:
    first, last = map(ip_address, text.split("-"))
    return first <= host <= last


@given(subnets(), st.data())
def test_candidates_go_around_from_any_start(subnet, data):
    network = ip_network(subnet.subnet)
    kind = type(network.network_address)
    start = kind(data.draw(st.integers(int(network.network_address) - 5, int(network.broadcast_address) + 5)))
    straight, around = list(addresses.candidates(subnet)), list(addresses.candidates(subnet, str(start)))
    turn = sum(kind(address) < start for address in straight)
    assert around == straight[turn:] + straight[:turn]


def test_the_largest_subnet_is_walked_lazily():
    subnet = addresses.complete(Subnet(subnet="10.0.0.0/8"))
    assert list(islice(addresses.candidates(subnet, "10.200.0.255"), 2)) == ["10.200.0.255", "10.200.1.0"]
    assert addresses.capacity([subnet]) == 2**24 - 3


@given(subnets(free=96), st.data())
def test_a_subnet_without_end_is_counted_and_walked_from_anywhere(subnet, data):
    network = ip_network(subnet.subnet)
    kind = type(network.network_address)
    start = kind(data.draw(st.integers(int(network.network_address), int(network.broadcast_address))))
    found = list(islice(addresses.candidates(subnet, str(start)), 3))
    assert len(set(found)) == min(3, addresses.capacity([subnet]))
    for address in found:
        assert addresses.check_address(address, [subnet]) == (address, subnet)
        assert addresses.subnet_of(address, [subnet]) == subnet
        assert not subnet.ranges or any(_within(kind(address), text) for text in subnet.ranges)


@given(subnets())
def test_completing_twice_changes_nothing(subnet):
    assert addresses.complete(subnet) == subnet


def test_a_subnet_gets_its_first_address_as_gateway():
    assert addresses.complete(Subnet(subnet="10.1.2.0/24")) == Subnet(subnet="10.1.2.0/24", gateway="10.1.2.1")


def test_a_range_may_be_a_block():
    subnet = addresses.complete(Subnet(subnet="10.1.2.0/24", ranges=("10.1.2.252/30", "10.1.2.9")))
    assert list(addresses.candidates(subnet)) == ["10.1.2.9", "10.1.2.252", "10.1.2.253", "10.1.2.254"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.1.2.0", "write it like"),
        ("10.1.2.0/", "write it like"),
        ("10.1.2.0/-1", "write it like"),
        ("ten/24", "no IP address"),
        ("10.1.2.5/24", r"did you mean 10\.1\.2\.0/24"),
        ("10.0.0.0/7", "8 to 30"),
        ("10.1.2.0/31", "8 to 30"),
        ("10.1.2.0/" + "9" * 5000, "8 to 30"),
        ("127.1.0.0/16", "loopback"),
        ("169.254.8.0/24", "link-local"),
        ("224.0.0.0/8", "multicast"),
        ("255.255.255.0/24", "reserved"),
        ("0.0.0.0/8", "this host"),
        ("010.1.2.0/24", "no IP address"),
        ("10.1.2.0\0/24", "no IP address"),
        ("10.1.2.0/٢٤", "write it like"),
        ("", "write it like"),
        ("fd00:1::", "write it like"),
        ("fd00:1::5/64", "did you mean fd00:1::/64"),
        ("fd00::/8", "32 to 126"),
        ("fd00::/127", "32 to 126"),
        ("fd00:::/64", "no IP address"),
        ("fd00::%eth0/64", "names a link"),
        ("::/64", "reserved"),
        ("::ffff:10.1.2.0/120", "reserved"),
        ("fe80::/64", "link-local"),
        ("ff05::/64", "multicast"),
    ],
)
def test_what_cannot_be_a_subnet(text, words):
    with pytest.raises(InvalidArgument, match=words) as refusal:
        addresses.check_subnet(text, "/subnets/1/subnet")
    assert refusal.value.facts == {"pointer": "/subnets/1/subnet"}


def test_ipv6_is_written_one_way():
    given_ = Subnet(
        subnet="FD00:0:0:1::/64", gateway="fd00:0::1:0:0:0:1", ranges=("fd00::1:0:0:0:0/125", "fd00:0:0:1::A")
    )
    assert addresses.complete(given_) == Subnet(
        subnet="fd00:0:0:1::/64",
        gateway="fd00:0:0:1::1",
        ranges=("fd00:0:0:1::1-fd00:0:0:1::7", "fd00:0:0:1::a-fd00:0:0:1::a"),
    )


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"gateway": "fd00::1"}, "/subnets/0/gateway"),
        ({"ranges": ("fd00::1-fd00::9",)}, "/subnets/0/ranges/0"),
        ({"ranges": ("10.1.2.3-fd00::9",)}, "/subnets/0/ranges/0"),
        ({"ranges": ("fd00::/64",)}, "/subnets/0/ranges/0"),
        ({"gateway": "10.1.3.1"}, "/subnets/0/gateway"),
        ({"gateway": "10.1.2.0"}, "/subnets/0/gateway"),
        ({"gateway": "10.1.2.255"}, "/subnets/0/gateway"),
        ({"gateway": "gate"}, "/subnets/0/gateway"),
        ({"ranges": ("10.1.2.9-10.1.2.3",)}, "/subnets/0/ranges/0"),
        ({"ranges": ("10.1.2.9", "10.1.2.9-10.1.3.3")}, "/subnets/0/ranges/1"),
        ({"ranges": ("10.1.2.5/30",)}, "/subnets/0/ranges/0"),
        ({"ranges": ("some",)}, "/subnets/0/ranges/0"),
        ({"ranges": ("10.1.2.0",)}, "/subnets/0/ranges"),
        ({"ranges": ("10.1.2.1",)}, "/subnets/0/ranges"),
    ],
)
def test_what_does_not_fit_a_subnet(fields, pointer):
    with pytest.raises(InvalidArgument) as refusal:
        addresses.complete(Subnet(subnet="10.1.2.0/24", **fields))
    assert refusal.value.facts == {"pointer": pointer}


def test_an_address_asked_for_by_name():
    known = [addresses.complete(Subnet(subnet=text)) for text in ("10.1.2.0/24", "10.1.3.0/24")]
    assert addresses.check_address("10.1.3.9", known) == ("10.1.3.9", known[1])
    for wrong in ("10.1.2.1", "10.1.2.0", "10.1.3.255", "10.1.4.2", "x"):
        with pytest.raises(InvalidArgument):
            addresses.check_address(wrong, known)


def test_an_ipv6_address_asked_for_by_name():
    known = [addresses.complete(Subnet(subnet="fd00:1::/64"))]
    assert addresses.check_address("FD00:1::0:9", known) == ("fd00:1::9", known[0])
    assert addresses.check_address("fd00:1::ffff:ffff:ffff:ffff", known)[1] == known[0]
    for wrong in ("fd00:1::1", "fd00:1::", "fd00:2::9", "fd00:1::9%eth0", "10.1.2.9", "x"):
        with pytest.raises(InvalidArgument):
            addresses.check_address(wrong, known)


@given(networks(24), networks(24))
def test_subnets_overlap_where_they_share_an_address(a, b):
    shared = a.version == b.version and (a.network_address in b or b.network_address in a)
    assert addresses.overlaps(str(a), str(b)) == addresses.overlaps(str(b), str(a)) == shared


@given(st.lists(networks(20).map(str), max_size=20))
def test_a_chosen_subnet_is_free(taken):
    pools = ("10.0.0.0/14", "172.30.0.0/23")
    chosen = addresses.choose_subnet(taken, pools)
    assert not any(addresses.overlaps(chosen, cidr) for cidr in taken)
    assert addresses.check_subnet(chosen) == chosen


def test_subnets_are_chosen_in_order_until_none_is_left():
    pools, taken = ("10.9.0.0/23", "10.9.9.0/28"), []
    for expected in ("10.9.0.0/24", "10.9.1.0/24", "10.9.9.0/28"):
        taken.append(addresses.choose_subnet(taken, pools))
        assert taken[-1] == expected
    with pytest.raises(ResourceExhausted) as refusal:
        addresses.choose_subnet(taken, pools)
    assert refusal.value.facts == {"resource": "subnets"}


@given(st.binary(min_size=5, max_size=5), st.lists(st.tuples(st.integers(0, 65535), st.integers(56, 126)), max_size=20))
def test_a_chosen_subnet_of_our_site_is_the_first_free_one(random, used):
    site = IPv6Network(addresses.make_site(random))
    assert (site.prefixlen, site.network_address.packed[:6]) == (48, b"\xfd" + random)
    taken = [
        str(IPv6Network((int(site.network_address) + (number << 64), length), strict=False)) for number, length in used
    ]
    chosen = addresses.choose_subnet([*taken, "10.0.0.0/8", "fe80::/10"], (str(site),))
    assert chosen == addresses.check_subnet(chosen)
    assert chosen == next(
        str(block)
        for block in site.subnets(new_prefix=64)
        if not any(block.overlaps(IPv6Network(cidr)) for cidr in taken)
    )


def test_a_site_within_what_the_host_uses_has_no_subnet_left():
    with pytest.raises(ResourceExhausted):
        addresses.choose_subnet(["fd00::/8"], (addresses.make_site(b"12345"),))


def test_a_mac_address_is_written_one_way():
    assert addresses.check_mac("02-42-AB-00-00-01") == "02:42:ab:00:00:01"
    for wrong in ("", "02:42", "02:42:ab:00:00:0g", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"):
        with pytest.raises(InvalidArgument) as refusal:
            addresses.check_mac(wrong)
        assert refusal.value.facts == {"pointer": "/macAddress"}


@given(st.text(max_size=40))
def test_the_mac_address_of_an_endpoint(endpoint):
    mac = addresses.mac_of(endpoint)
    assert mac == addresses.mac_of(endpoint) == addresses.check_mac(mac)
    assert int(mac[:2], 16) & 0b10


@given(st.text(max_size=40))
def test_whatever_is_given_the_refusal_is_ours(text):
    for check in (
        addresses.check_subnet,
        addresses.check_mac,
        lambda it: addresses.complete(Subnet(subnet="10.1.2.0/24", ranges=(it,))),
        lambda it: addresses.complete(Subnet(subnet="fd00:1::/64", ranges=(it,), gateway=it)),
        lambda it: addresses.check_address(it, [Subnet(subnet="fd00:1::/64", gateway="fd00:1::1")]),
    ):
        with suppress(InvalidArgument):
            check(text)
