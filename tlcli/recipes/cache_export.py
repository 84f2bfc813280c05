"""`tlcli cache export`: features as files for other tools."""

from pathlib import Path
from typing import Literal

from tlcli.data.store.feature_export import export_npy, export_parquet
from tlcli.errors import ConfigError
from tlcli.recipes.feature_folder import open_features

ExportFormat = Literal["npy", "parquet"]
_SUFFIXES: dict[str, ExportFormat] = {".npy": "npy", ".parquet": "parquet"}


def export_store(text: str, *, kind: ExportFormat | None, output: Path) -> int:
    """Write the features of a store for other tools and return how many rows that are.

    Args:
        text: A folder of features, or a name from `tlcli cache list`.
        kind: None means what the suffix of `output` says, `npy` without one.
        output: A new folder for `npy`, a new file for `parquet`.

    Raises:
        ConfigError: If `output` exists, or its suffix is that of another format.
        DataError: If there are no finished features at `text`.
    """
    by_suffix = _SUFFIXES.get(output.suffix)
    if kind is not None and by_suffix not in (None, kind):
        raise ConfigError(
            f"--output '{output}' ends as {by_suffix}, --format asks for {kind}: make them agree, "
            "or leave out --format."
        )
    folder = open_features(text)
    if output.exists():
        raise ConfigError(f"'{output}' exists: choose another --output.")
    export = {"npy": export_npy, "parquet": export_parquet}[kind or by_suffix or "npy"]
    export(folder.store, output)
    return len(folder.items)
