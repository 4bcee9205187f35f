"""Where execution gets layers: from the storage component, wherever that is."""

from __future__ import annotations

from portlayer.interfaces.storage import Blob, Storage
from portlayer.model.caller import Caller
from portlayer.model.errors import Unavailable
from portlayer.model.storage import LayerRef


class StorageLayers:
    """Implements interfaces.storage.LayerSource. storage: set once it is known. host: in whose name it is asked."""

    def __init__(self, host: str) -> None:
        self.storage: Storage | None = None
        self._subject = f"host {host}"

    async def open(self, vch: str, digest: str, offset: int) -> Blob:
        if self.storage is None:
            raise Unavailable("This process is starting; come again.", retry_after_seconds=1)
        request = LayerRef(digest=digest, offset=offset)
        return await self.storage.get_layer(Caller(vch=vch, subject=self._subject), request)
