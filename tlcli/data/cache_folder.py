"""Where `tlcli` keeps what it can make again."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return `TLCLI_CACHE_DIR` if that is set and not empty, else the user's cache folder."""
    chosen = os.environ.get("TLCLI_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("tlcli")
