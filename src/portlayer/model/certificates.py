"""What the certificates of a port layer have in common."""

from __future__ import annotations

PROCESS_NAME = "process.portlayer.internal"
"""The name that the processes of a port layer ask for when they speak to each other: who answers to it with a
certificate of its CA is one of them."""
