"""Commit: all that a handle carries, as one change or not at all. The protocol is told in ARCHITECTURE.md."""
