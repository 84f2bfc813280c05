"""A trained classifier on disk: weights, and all that is needed to build it anywhere."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tlcli.backbones import weight_files
from tlcli.backbones.catalog import SOURCES, parse_backbone_name
from tlcli.backbones.stages import Stage, find_stages
from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import DataError, ModelError
from tlcli.models.feature_classifier import FeatureClassifier
from tlcli.models.head import HeadSpec, read_linear_head, replace_heads
from tlcli.results.atomic import replacing, write_text
from tlcli.results.json_text import to_json_text
from tlcli.results.records import SCHEMA_VERSION

CLASSIFICATION = "classification"
DETECTION = "detection"


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What `model.json` holds; the weights beside it have the source library's own key names."""

    model: str
    """Source and architecture, `timm/resnet18`."""
    weights: str
    """Tag of the pretrained weights it started from, `none`, or `file`."""
    weights_sha256: str | None
    shape_tag: str | None
    """Published weights whose variant of the architecture was built."""
    input_size: int | None = None
    """Side of the images in pixels if the user chose it."""
    head: HeadSpec
    layers: tuple[str, ...] = ()
    """Stages whose outputs the head works on; none means it is the network's own head."""
    pool: str | None = None
    """How those became vectors."""
    classes: tuple[str, ...]
    is_multi_label: bool = False
    """Whether outputs are yes or no of each class, instead of one class of all."""
    class_titles: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Preprocessing
    feature_dim: int

    @property
    def has_own_head(self) -> bool:
        """Say whether the head stands where the network's own stood, not on features beside it."""
        return not self.layers and self.head.kind != "knn"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ModelDescription":
        """Rebuild from `to_json`."""
        fields = {key: value for key, value in values.items() if key != "schema_version"}
        head = fields["head"]
        fields["head"] = HeadSpec(**{**head, "hidden": tuple(head["hidden"])})
        fields["layers"] = tuple(fields.get("layers", ()))
        fields["classes"] = tuple(fields["classes"])
        fields["preprocessing"] = Preprocessing.from_json(fields["preprocessing"])
        return cls(**fields)


def build_network(description: ModelDescription) -> tuple[nn.Module, tuple[Stage, ...]]:
    """Build the described network with random weights; return it with its stages.

    A `FeatureClassifier` where the head is not the network's own; the stages are those of the
    network in it.

    Raises:
        ModelError: If the installed libraries do not have the architecture.
    """
    name = parse_backbone_name(description.model)
    source = SOURCES[name.source]
    network = source.build(
        name.architecture,
        tag=description.shape_tag,
        num_classes=None,
        input_size=description.input_size,
        in_channels=description.preprocessing.channels,
    )
    heads = source.head_names(network)
    stages = find_stages(network, head_names=heads)
    if description.has_own_head:
        replace_heads(
            network,
            head_names=heads,
            num_classes=len(description.classes),
            spec=description.head,
        )
        return network, stages
    classifier = FeatureClassifier(
        network,
        head_names=heads,
        stages=stages,
        input_size=description.preprocessing.input_size,
        layers=description.layers,
        pool=description.pool,
        spec=description.head,
        num_classes=len(description.classes),
        in_channels=description.preprocessing.channels,
    )
    return classifier, stages


def save_weights(network: nn.Module, path: Path) -> None:
    """Write all parameters and buffers of a network as safetensors, in whole or not at all."""
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in network.state_dict().items()
    }
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read what `save_weights` wrote.

    Raises:
        DataError: If the file is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"The weights {path} cannot be read ({error}); train again, or finish the run with "
            "--resume."
        ) from error


def write_description(description: ModelDescription, path: Path) -> None:
    """Write `model.json`."""
    write_text(path, to_json_text(description.to_json()))


def saved_kind(path: Path) -> str:
    """Return what the model that a `model.json` describes does: `classification` or `detection`.

    Raises:
        DataError: If it is missing or damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return str(values.get("kind", CLASSIFICATION))
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is missing or damaged ({error}): is this a finished run?"
        ) from error


def read_description(path: Path) -> ModelDescription:
    """Read `model.json`.

    Raises:
        DataError: If it is missing, or not what `write_description` writes.
    """
    if (kind := saved_kind(path)) != CLASSIFICATION:
        raise DataError(f"{path} describes a model for {kind}. Give the run of a classifier.")
    try:
        return ModelDescription.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is missing or damaged ({error}): is this a finished run?"
        ) from error


def load_network(folder: Path) -> tuple[nn.Module, ModelDescription]:
    """Rebuild the trained network of a run folder.

    Raises:
        DataError: If a file is missing or damaged.
        ModelError: If the installed libraries do not have the architecture.
        WeightsError: If weights and description do not belong together.
    """
    description = read_description(folder / "model.json")
    network, _ = build_network(description)
    path = folder / "model.safetensors"
    weight_files.load_state(network, read_weights(path), head_names=(), origin=str(path))
    return network, description


def linear_head_of(folder: Path) -> tuple[Tensor, Tensor]:
    """Return weight (K, D) and bias (K,) of the linear head of a run folder.

    They are for `set_linear_head`; D is the width of the network's embedding.

    Raises:
        DataError: If a file is missing or damaged.
        ModelError: If the head is not linear or does not work on the embedding.
    """
    description = read_description(folder / "model.json")
    if description.is_multi_label:
        raise ModelError(f"{folder} has a head for any number of classes, not for one per image.")
    if description.layers or description.head.kind != "linear":
        on = f"outputs of {', '.join(description.layers)}" if description.layers else "embeddings"
        raise ModelError(
            f"{folder} has a head of kind '{description.head.kind}' on {on}. Only a linear head on "
            "the embedding can be taken over; make one with extract-features --head linear."
        )
    network, _ = load_network(folder)
    name = parse_backbone_name(description.model)
    return read_linear_head(network, head_names=SOURCES[name.source].head_names(network))
