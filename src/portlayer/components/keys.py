"""The schema: every key in the store. Values are JSON of the type named beside the key.

/meta/keys                                       KeyRing: the epoch of handles; sealing keys, wrapped by the host's key
/meta/ca                                         CaRecord: the private CA, its keys wrapped by the host's key
/subnets                                         Subnets: CIDR -> network, of all tenants on this substrate; our /48
/grants/<kind>/<id>                              GrantRecord: token or certificate, as a digest (lease, if it ends)
/processes/<id>                                  Process: of ours, and lives (lease)
/hosts/<host>                                    HostRecord: what it has, and what is told of it
/placed/<host>/<vch>/<container>                 Capacity: what the container's limits take of the host
/room/<host>                                     empty: written by whoever takes of a room that is held to
/gone/networks/<host>/<network>                  network deleted, still to be removed from that host
/gone/volumes/<host>/<volume>                    the same of a volume
/layers/<diffID>/<vch>/<image>                   empty: this image has the layer
/blobs/<digest>/<vch>/<image>                    empty: this image has the layer in that form
/ports/<host>/<protocol>/<port>                  the endpoint that publishes it
/vchs/<vch>                                      VchRecord: written when it is made, its quota changes, it goes
/v/<vch>/containers/<id>                         ContainerRecord: what is committed
/v/<vch>/observed/<id>                           Observed: what is known of its process
/v/<vch>/intents/<id>                            Intent, or Joined: a commit under way (also its lock)
/v/<vch>/receipts/<handle id>                    Committed (lease: outlives the handle)
/v/<vch>/removed/<container>                     empty: it was there (lease: outlives every handle to it)
/v/<vch>/networks/<id>                           NetworkSpec
/v/<vch>/addresses/<network>/<address>           Address (lease until committed)
/v/<vch>/addresses6/<network>/<address>          the same of IPv6
/v/<vch>/leases/<endpoint>                       Lease: what a bind has reserved (lease)
/v/<vch>/attached/<container>/<attachment>       the process in which its output is read (lease)
/v/<vch>/images/<id>                             Image
/v/<vch>/volumes/<id>                            Volume
/v/<vch>/names/<kind>/<name>                     the id
/v/<vch>/uses/<kind>/<id>/<container>            empty: the container uses it
/v/<vch>/hosts/<network>/<host>                  empty: the host has this network
/v/<vch>/quota/<resource>                        empty: written by whoever takes of what has a limit (see quota.py)
/v/<vch>/idempotency/<digest>                    Replay: answer of a creation (lease)
/v/<vch>/events/<transaction>/<index>            Event (lease: retention; bounded by count)
/v/<vch>/written/<container or volume>           its bytes on disk, where the storage has a limit (see written.py)
/v/<vch>/kv/<key>                                bytes
"""

from __future__ import annotations

KEY_RING = "/meta/keys"
CA = "/meta/ca"
SUBNETS = "/subnets"
PROCESSES = "/processes/"
HOSTS = "/hosts/"
VCHS = "/vchs/"
LAYERS = "/layers/"
BLOBS = "/blobs/"


def vch(name: str) -> str:
    return f"{VCHS}{name}"


def grants(kind: str) -> str:
    """Prefix of all tokens, or certificates."""
    return f"/grants/{kind}/"


def process(ident: str) -> str:
    return f"{PROCESSES}{ident}"


def host(name: str) -> str:
    return f"{HOSTS}{name}"


def placed(host: str) -> str:
    return f"/placed/{host}/"


def place(host: str, vch: str, container: str) -> str:
    return f"/placed/{host}/{vch}/{container}"


def room(host: str) -> str:
    return f"/room/{host}"


def all_of(vch: str) -> str:
    """Prefix of all that a VCH has."""
    return f"/v/{vch}/"


def quota(vch: str, resource: str) -> str:
    return f"/v/{vch}/quota/{resource}"


def entities(vch: str, kind: str) -> str:
    """Prefix of all *kind*: `containers`, `observed`, `intents`, `networks`, `images`, `volumes`, `kv`."""
    return f"/v/{vch}/{kind}/"


def entity(vch: str, kind: str, ident: str) -> str:
    return f"/v/{vch}/{kind}/{ident}"


def name(vch: str, kind: str, text: str) -> str:
    return f"/v/{vch}/names/{kind}/{text}"


def addresses(vch: str, network: str, version: int = 4) -> str:
    return f"/v/{vch}/addresses{'6' if version == 6 else ''}/{network}/"


def address(vch: str, network: str, text: str) -> str:
    """Of IPv4 or IPv6."""
    return f"{addresses(vch, network, 6 if ':' in text else 4)}{text}"


def names(vch: str, kind: str) -> str:
    """Prefix of all names of *kind*."""
    return f"/v/{vch}/names/{kind}/"


def uses(vch: str, kind: str, ident: str) -> str:
    return f"/v/{vch}/uses/{kind}/{ident}/"


def use(vch: str, kind: str, ident: str, container: str) -> str:
    return f"/v/{vch}/uses/{kind}/{ident}/{container}"


def attachments(vch: str, container: str) -> str:
    return f"/v/{vch}/attached/{container}/"


def layer_users(diff_id: str) -> str:
    return f"{LAYERS}{diff_id}/"


def layer_user(diff_id: str, vch: str, image: str) -> str:
    return f"{LAYERS}{diff_id}/{vch}/{image}"


def blob_users(digest: str, vch: str = "") -> str:
    """Prefix of the images, of all VCHs or of one, that have the blob."""
    return f"/blobs/{digest}/{vch}/" if vch else f"/blobs/{digest}/"


def blob_user(digest: str, vch: str, image: str) -> str:
    return f"/blobs/{digest}/{vch}/{image}"


def port(host: str, protocol: str, number: int) -> str:
    return f"/ports/{host}/{protocol}/{number}"


def ports(host: str) -> str:
    return f"/ports/{host}/"


def network_hosts(vch: str, network: str) -> str:
    return f"/v/{vch}/hosts/{network}/"


def gone(kind: str, host: str) -> str:
    """Prefix of the *kind*, `networks` or `volumes`, that are still to be removed from *host*."""
    return f"/gone/{kind}/{host}/"


LAST_OF_REVISION = 99_999
"""The index of the last event of a transaction."""


def last(key: str) -> str:
    """The part after the last slash."""
    return key.rpartition("/")[2]
