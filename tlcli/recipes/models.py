"""`tlcli models`: what there is, and what one model is made of."""

import fnmatch
from dataclasses import dataclass
from typing import Any

from tlcli.backbones.catalog import SOURCES, BackboneName, list_backbones, parse_backbone_name
from tlcli.backbones.pretrained import WeightsChoice, build_untrained, find_weights
from tlcli.results.records import SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One line of `models list`."""

    name: str
    tags: tuple[str, ...]
    """Published weights, the default first."""
    available: tuple[str, ...] | None
    """Those that lie on this machine; None if not looked for."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        available = None if self.available is None else list(self.available)
        return {"name": self.name, "weights": list(self.tags), "available": available}


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What `models show` prints."""

    name: str
    parameters: int
    feature_dim: int
    preprocessing: dict[str, Any]
    stages: tuple[tuple[str, str, int], ...]
    """Name for --unfreeze, label with all it holds, number of parameters."""
    weights: tuple[dict[str, Any], ...]
    """Tag, licence, top1, and the path on this machine or None."""

    def to_json(self) -> dict[str, Any]:
        """Return the document of `models show --json`."""
        stages = [{"name": n, "holds": label, "parameters": p} for n, label, p in self.stages]
        return {
            "schema_version": SCHEMA_VERSION,
            **vars(self),
            "stages": stages,
            "weights": list(self.weights),
        }


def list_models(
    pattern: str, *, source: str | None, pretrained_only: bool, available_only: bool, limit: int
) -> list[ModelRow]:
    """Return the models that match, source by source, by name.

    Args:
        pattern: A glob over the architecture or `source/architecture`; without wildcards it may
            stand anywhere in the name.
        source: `torchvision` or `timm`; None is both.
        pretrained_only: Only models with published weights.
        available_only: Only models with weights on this machine.
        limit: At most so many; 0 is all.
    """
    rows: list[ModelRow] = []
    for name in filter(lambda text: _matches(text, pattern), list_backbones(source)):
        if limit and len(rows) == limit:
            break
        row = _row(parse_backbone_name(name), look_here=available_only)
        if (row.tags or not pretrained_only) and (row.available or not available_only):
            rows.append(row)
    return rows


def show_model(text: str) -> ModelCard:
    """Return what one model is made of; nothing is downloaded.

    Raises:
        ModelError: If there is no such model.
    """
    name = parse_backbone_name(text)
    backbone = build_untrained(name, weights=WeightsChoice(kind="none"))
    sizes = {key: p.numel() for key, p in backbone.network.named_parameters()}
    return ModelCard(
        name=str(name),
        parameters=sum(sizes.values()),
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
            "path": str(path) if (path := find_weights(name, tag.name)) else None,
        }
        for tag in SOURCES[name.source].tags(name.architecture)
    ]


def _row(name: BackboneName, *, look_here: bool) -> ModelRow:
    tags = tuple(tag.name for tag in SOURCES[name.source].tags(name.architecture))
    here = tuple(tag for tag in tags if find_weights(name, tag)) if look_here else None
    return ModelRow(name=str(name), tags=tags, available=here)


def _matches(name: str, pattern: str) -> bool:
    glob = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return fnmatch.fnmatch(name, glob) or fnmatch.fnmatch(name.partition("/")[2], glob)
