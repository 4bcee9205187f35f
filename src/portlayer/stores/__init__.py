"""Stores: implementations of interfaces.store. sqlite is the embedded default; memory is a verified fake."""
