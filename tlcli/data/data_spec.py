"""What `--data` says before anything is read."""

from pathlib import Path

SAMPLE = "sample:"
TORCHVISION = "torchvision:"
HUB = "hf:"


def absolute_spec(spec: str) -> str:
    """Return a data specification that means the same from any folder."""
    if spec.startswith((SAMPLE, TORCHVISION)):
        return spec
    if spec.startswith(HUB):
        folder = hub_folder(spec)
        return spec if folder is None else f"{HUB}{folder}"
    return str(Path(spec).expanduser().resolve())


def hub_folder(spec: str) -> Path | None:
    """Return the absolute folder that `hf:PATH` means; None where it is a name of the hub."""
    folder = Path(spec.removeprefix(HUB)).expanduser()
    return folder.resolve() if folder.is_dir() else None
