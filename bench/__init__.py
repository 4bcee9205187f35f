"""The comparison with the peers: `python -m bench` from the repository root, as root."""
