"""What the records answer: an index by name and by address, and who may be told what.

Who asks is known by the bridge that the question came over and its source address. It is told of the networks that it
is in itself, of all of them whichever gateway it asked, and of no other.
"""

from __future__ import annotations

from portlayer.substrates.linux.names import wire
from portlayer.substrates.linux.names.records import Incarnation, Network, Place, packed

_REVERSE, _REVERSE6 = ".in-addr.arpa", ".ip6.arpa"
_NIBBLES = 32

Entry = tuple[str, Place]  # an incarnation, and one of its places


class Book:
    """Networks and incarnations by id."""

    def __init__(self) -> None:
        self.networks: dict[str, Network] = {}
        self._incarnations: dict[str, Incarnation] = {}
        self._by_name: dict[tuple[str, str], list[Entry]] = {}
        self._by_address: dict[tuple[str, bytes], list[Entry]] = {}

    def put(self, incarnation: str, places: Incarnation) -> None:
        """From now on *incarnation* has *places*, and no others."""
        self.drop(incarnation)
        self._incarnations[incarnation] = places
        for place in places:
            for name in _keys(place):
                self._by_name.setdefault((place.network, name), []).append((incarnation, place))
            for address in place.addresses:
                self._by_address.setdefault((place.network, packed(address)), []).append((incarnation, place))

    def drop(self, incarnation: str) -> None:
        """Forget it; one that is not known is fine."""
        for place in self._incarnations.pop(incarnation, ()):
            for name in _keys(place):
                key = place.network, name
                if left := _others(self._by_name.pop(key, ()), incarnation):
                    self._by_name[key] = left
            for address in place.addresses:
                where = place.network, packed(address)
                if left := _others(self._by_address.pop(where, ()), incarnation):
                    self._by_address[where] = left

    def incarnations(self) -> list[str]:
        return list(self._incarnations)

    def who(self, network: str, address: bytes) -> list[str]:
        """The incarnations that have *address* in *network*: one, and while it is replaced, two."""
        return [incarnation for incarnation, _ in self._by_address.get((network, address), ())]

    def networks_of(self, incarnation: str, first: str) -> list[str]:
        """The networks that *incarnation* is in, *first* before the others."""
        places = self._incarnations.get(incarnation, ())
        return sorted({place.network for place in places}, key=lambda network: network != first)

    def named(self, networks: list[str], name: str) -> list[Entry]:
        """Who is called *name*, alone or with `.<network name>` after it, in *networks*."""
        found: list[Entry] = []
        for network in networks:
            found += self._by_name.get((network, name), ())
            known = self.networks.get(network)
            suffix = f".{known.name.lower()}" if known is not None else ""
            if suffix and name.endswith(suffix):
                found += self._by_name.get((network, name[: -len(suffix)]), ())
        return found

    def at(self, networks: list[str], address: bytes) -> list[Entry]:
        """Who has *address* in one of *networks*."""
        return [entry for network in networks for entry in self._by_address.get((network, address), ())]

    def full_name(self, place: Place) -> bytes:
        """`<container>.<network>` on the wire, with the short id where the container's name cannot be a DNS name."""
        network = self.networks[place.network].name if place.network in self.networks else ""
        names = (place.names[0], place.names[-1])
        return next((found for name in names if (found := wire.pack_name(name, network))), b"") or wire.pack_name(
            place.names[-1]
        )

    def resolvers(self, networks: list[str], of_host: tuple[str, ...]) -> tuple[str, ...]:
        """Whom to ask for other names: those of the first of *networks* that has a way out; none where none has."""
        for network in networks:
            known = self.networks.get(network)
            if known is not None and not known.internal:
                return known.servers or of_host
        return ()


def address_in(name: str) -> bytes | None:
    """The address that a reverse look-up of *name* is about; None where it is none."""
    try:
        if name.endswith(_REVERSE):
            parts = name[: -len(_REVERSE)].split(".")
            return packed(".".join(reversed(parts))) if len(parts) == 4 else None
        if name.endswith(_REVERSE6):
            nibbles = name[: -len(_REVERSE6)].split(".")
            return bytes.fromhex("".join(reversed(nibbles))) if _are_nibbles(nibbles) else None
    except (OSError, ValueError):
        return None
    return None


def _are_nibbles(parts: list[str]) -> bool:
    return len(parts) == _NIBBLES and all(len(part) == 1 for part in parts)


def _keys(place: Place) -> set[str]:
    return {name.lower() for name in place.names}


def _others(entries: list[Entry] | tuple[()], incarnation: str) -> list[Entry]:
    return [entry for entry in entries if entry[0] != incarnation]
