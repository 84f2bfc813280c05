"""What `--data` says before anything is read."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tlcli.errors import DataError

T = TypeVar("T")

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


def load_sample(spec: str, samples: Mapping[str, Callable[[], T]]) -> T:
    """Return a data set that needs no files of the user.

    Args:
        spec: `sample:NAME`.
        samples: What makes each, by specification.

    Raises:
        DataError: there is none of that name.
    """
    if spec in samples:
        return samples[spec]()
    names = [sample.removeprefix(SAMPLE) for sample in samples]
    close = difflib.get_close_matches(spec.removeprefix(SAMPLE), names, n=1)
    hint = f" Did you mean {SAMPLE}{close[0]}?" if close else ""
    raise DataError(f"No sample data called '{spec}'.{hint} There is {', '.join(samples)}.")
