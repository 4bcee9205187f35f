"""The soak: mixed work against a real server that is killed again and again; see `__main__`."""
