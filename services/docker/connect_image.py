"""What the image of Kafka Connect holds beyond Kafka: the plugins and the worker's properties.

`python -m services.docker.connect_image FOLDER` lays them out, as the embedded Connect has them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from services.embedded import jars
from services.embedded.connect import SETTINGS, Connect
from services.settings import Settings, read_settings

# What differs from the embedded one: names of the compose file.
_ADDRESSES = {
    "bootstrap.servers": "kafka:9092",
    "listeners": "http://0.0.0.0:8083",
    "rest.advertised.host.name": "connect",
}


def lay_out(settings: Settings, folder: Path) -> None:
    """Write `folder`/plugins and `folder`/worker.properties; the jars are fetched where the cache lacks them.

    Raises:
        MendableError: a jar can't be fetched, or is not the locked one.
    """
    with tempfile.TemporaryDirectory() as scratch:
        worker = Connect(settings.model_copy(update={"state_dir": Path(scratch)}))
        jars.ensure(worker.plugins, settings.cache_dir)
        worker.prepare()
        shutil.copytree(worker.folder / "plugins", folder / "plugins", symlinks=False)
    properties = {**SETTINGS, **_ADDRESSES, "plugin.path": str(folder / "plugins")}
    (folder / "worker.properties").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))


if __name__ == "__main__":
    lay_out(read_settings(), Path(sys.argv[1]))
