"""`tlcli models show`: what one model is made of, and which weights are here."""

from dataclasses import dataclass
from typing import Any

from tlcli.backbones.catalog import SOURCES, BackboneName, parse_backbone_name
from tlcli.backbones.pretrained import WeightsChoice, build_untrained, find_weights
from tlcli.errors import ModelError
from tlcli.models.detectors import torchvision_detectors as detectors
from tlcli.results.records import SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What `models show` prints."""

    name: str
    parameters: int
    gmacs: float | None
    """Billions of multiply-adds for one image; None if nobody published it."""
    feature_dim: int
    preprocessing: dict[str, Any]
    stages: tuple[tuple[str, str, int], ...]
    """Name for --unfreeze, label with all it holds, number of parameters."""
    weights: tuple[dict[str, Any], ...]
    """Tag, licence, top1, input size, pretraining, and the path on this machine or None."""

    def to_json(self) -> dict[str, Any]:
        """Return the document of `models show --json`."""
        stages = [{"name": n, "holds": label, "parameters": p} for n, label, p in self.stages]
        return {
            "schema_version": SCHEMA_VERSION,
            **vars(self),
            "stages": stages,
            "weights": list(self.weights),
        }


def show_model(text: str) -> ModelCard:
    """Return what one model is made of; nothing is downloaded.

    Raises:
        ModelError: If there is no such model, or it is a detector.
    """
    if text.removeprefix(detectors.PREFIX) in detectors.NAMED:
        raise ModelError(
            f"'{text}' is a detector: `tlcli models list --task detection` tells what is published "
            "of it, and `tlcli detect-finetune --dry-run --model` its stages on your data."
        )
    name = parse_backbone_name(text)
    backbone = build_untrained(name, weights=WeightsChoice(kind="none"))
    sizes = {key: p.numel() for key, p in backbone.network.named_parameters()}
    return ModelCard(
        name=str(name),
        parameters=sum(sizes.values()),
        gmacs=SOURCES[name.source].facts(name.architecture).gmacs,
        feature_dim=backbone.feature_dim,
        preprocessing=backbone.preprocessing.to_json(),
        stages=tuple(
            (stage.name, stage.label, sum(n for key, n in sizes.items() if stage.owns(key)))
            for stage in backbone.stages
        ),
        weights=tuple(_weights(name)),
    )


def _weights(name: BackboneName) -> list[dict[str, Any]]:
    return [
        {
            "tag": tag.name,
            "license": tag.license,
            "top1": tag.top1,
            "input_size": tag.input_size,
            "pretraining": tag.pretraining,
            "path": str(path) if (path := find_weights(name, tag.name)) else None,
        }
        for tag in SOURCES[name.source].tags(name.architecture)
    ]
