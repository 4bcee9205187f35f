"""Frozen values and pure functions. Nothing here does I/O, and nothing here imports another layer."""
