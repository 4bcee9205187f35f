"""nftables in process: libnftables through ctypes, a tenth of the time of a spawned `nft`.

Source: libnftables(3).
"""

from __future__ import annotations

import ctypes
from typing import Any

import msgspec

_LIBRARY = "libnftables.so.1"
_OUTPUT_JSON = 1 << 4


class NftError(Exception):
    """nftables is missing, or refused a command: its own words."""


class _Answer(msgspec.Struct):
    nftables: list[dict[str, Any]]


class Nft:
    """A connection to nftables in the network namespace of the calling thread. Used by one thread at a time."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise NftError(f"{_LIBRARY} cannot be loaded ({error}); install the package libnftables1") from error
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        self._library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        self._library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
        if not self._context:
            raise NftError("libnftables gives no context: out of memory, or no permission to use netlink")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        self._library.nft_ctx_free(self._context)

    def run(self, commands: str) -> None:
        """Run *commands*, in nft's language, as one transaction: all or none."""
        if self._library.nft_run_cmd_from_buffer(self._context, ctypes.c_char_p(commands.encode())) != 0:
            raise NftError(_reason(self._library.nft_ctx_get_error_buffer(self._context)))

    def query(self, command: str) -> list[dict[str, Any]]:
        """The objects that a list command answers, each `{kind: {…}}`; the first is nft's `metainfo`.

        Source: libnftables-json(5).
        """
        self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON)
        try:
            self.run(command)
        finally:
            self._library.nft_ctx_output_set_flags(self._context, 0)
        return msgspec.json.decode(self._library.nft_ctx_get_output_buffer(self._context), type=_Answer).nftables


def _reason(buffer: bytes) -> str:
    """The first error in nft's report, without the place in the input and the line that points at it."""
    for line in buffer.decode(errors="replace").splitlines():
        if "Error: " in line:
            return line.partition("Error: ")[2]
    return buffer.decode(errors="replace").strip() or "nftables gave no reason"
