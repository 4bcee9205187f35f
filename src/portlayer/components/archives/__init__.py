"""Reading image archives: OCI image layouts, docker-archives and root filesystems, as tars that stream in.

    images = await read_archive(body, staging, name=None, format="auto")
    for image in images:
        for layer in image.layers:
            async with aclosing(open_layer(layer)) as tar:
                await driver.put_layer(layer.diff_id, tar)

Sources: OCI image spec 1.1 (image-layout.md, image-index.md, manifest.md, config.md); Docker image spec 1.2,
"Combined image JSON + filesystem changeset format".
"""

from portlayer.components.archives.compression import open_layer
from portlayer.components.archives.config import ConfigFile, read_config
from portlayer.components.archives.reading import read_archive
from portlayer.components.archives.values import ArchivedImage, ArchivedLayer

__all__ = ["ArchivedImage", "ArchivedLayer", "ConfigFile", "open_layer", "read_archive", "read_config"]
