"""Where `tlcli` keeps what it can make again."""

import os
from pathlib import Path

import platformdirs

from tlcli.errors import MachineError


def cache_folder() -> Path:
    """Return `TLCLI_CACHE_DIR` if that is set and not empty, else the user's cache folder.

    Raises:
        MachineError: The path is taken by something that is no folder.
    """
    chosen = os.environ.get("TLCLI_CACHE_DIR")
    folder = Path(chosen) if chosen else platformdirs.user_cache_path("tlcli")
    if folder.exists() and not folder.is_dir():
        raise MachineError(
            f"The cache folder '{folder}' is not a folder. Move what lies there, or set "
            "TLCLI_CACHE_DIR to another place."
        )
    return folder
