from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.peers.oci import default_spec

DOCKER: dict[str, Any] = {
    "process": {"args": ["sleep"], "env": [], "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1048576}]},
    "root": {"path": "/var/lib/docker/overlay2/x/merged"},
    "hooks": {"prestart": [{"path": "/proc/4/exe"}]},
    "mounts": [
        {"type": "proc", "source": "proc", "destination": "/proc"},
        {"type": "bind", "source": "/var/lib/docker/containers/x/hosts", "destination": "/etc/hosts"},
    ],
    "linux": {
        "namespaces": [{"type": "network", "path": "/run/netns/x"}, {"type": "pid"}],
        "seccomp": {"syscalls": []},
    },
}


def test_what_belongs_to_one_container_of_dockers_is_dropped_and_the_rest_kept() -> None:
    spec = default_spec(DOCKER, Path("/bundles"))
    assert spec["root"]["path"] == "/bundles/rootfs"
    assert spec["process"]["args"] == ["true"]
    assert "hooks" not in spec
    assert "rlimits" not in spec["process"]
    assert [mount["source"] for mount in spec["mounts"]] == ["proc", "/bundles/hosts"]
    assert spec["linux"]["namespaces"] == [{"type": "network"}, {"type": "pid"}]
    assert spec["linux"]["seccomp"] == {"syscalls": []}


def test_dockers_own_spec_stays_as_it_was() -> None:
    default_spec(DOCKER, Path("/bundles"))
    assert DOCKER["hooks"]
