"""Names to sources: `timm/resnet18.a1_in1k`, a bare `resnet50`, or what `resnet81` may mean."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tlcli.backbones.protocol import BackboneSource
from tlcli.backbones.timm_source import TimmSource
from tlcli.backbones.torchvision_source import TorchvisionSource
from tlcli.errors import ModelError

SOURCES: Mapping[str, BackboneSource] = MappingProxyType(
    {"torchvision": TorchvisionSource(), "timm": TimmSource()}
)
"""In the order in which a bare name is looked up."""


@dataclass(frozen=True, kw_only=True)
class BackboneName:
    """A model that exists: its source, its architecture there, and a tag if one was given."""

    source: str
    architecture: str
    tag: str | None = None

    def __str__(self) -> str:
        return f"{self.source}/{self.architecture}"


def list_backbones(source: str | None = None) -> list[str]:
    """Return `source/architecture` of every classification model, source by source."""
    names = [f"{key}/{name}" for key in SOURCES for name in SOURCES[key].list_names()]
    return [name for name in names if source is None or name.startswith(f"{source}/")]


def parse_backbone_name(text: str) -> BackboneName:
    """Find the model a user means.

    Args:
        text: `source/architecture`, `architecture`, either with `.tag` behind it for timm.

    Raises:
        ModelError: If no source has it; the message names the nearest.
    """
    prefix, slash, rest = text.partition("/")
    if slash and prefix not in SOURCES:
        raise ModelError(
            f"No model is called '{text}': '{prefix}' is no source. Sources: {', '.join(SOURCES)}."
        )
    architecture, _, tag = (rest if slash else text).partition(".")
    having = [
        source
        for source in ([prefix] if slash else SOURCES)
        if architecture in SOURCES[source].list_names()
    ]
    # A bare name with a tag is the source's that publishes the tag: resnet50.a1_in1k is timm's.
    for source in (tag and _publishing(tag, architecture, having)) or having:
        return BackboneName(source=source, architecture=architecture, tag=tag or None)
    raise ModelError(_unknown(text, architecture, source=prefix if slash else None))


def _publishing(tag: str, architecture: str, sources: Sequence[str]) -> list[str]:
    return [s for s in sources if tag in [t.name for t in SOURCES[s].tags(architecture)]]


def _unknown(text: str, architecture: str, *, source: str | None) -> str:
    by_architecture: dict[str, str] = {}
    for name in list_backbones(source):
        by_architecture.setdefault(name.partition("/")[2], name)
    near = difflib.get_close_matches(architecture, list(by_architecture), n=3, cutoff=0.6)
    hint = " or ".join(f"'{by_architecture[name]}'" for name in near)
    question = f"Did you mean {hint}? " if hint else ""
    return f"No model is called '{text}'. {question}Run 'tlcli models list' to see what there is."
