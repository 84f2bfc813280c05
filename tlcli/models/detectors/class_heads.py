"""Which layers of a detector depend on the classes, and how many classes a file tells apart."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from tlcli.errors import WeightsError

# By architecture: the modules whose size depends on the number of classes, and how many anchors
# share the outputs of the first of them.
_LOGITS = "head.classification_head.cls_logits"
_SSD_MAPS = 6
_HEADS: Mapping[str, tuple[tuple[str, ...], int]] = MappingProxyType(
    {
        "fasterrcnn": (
            ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"),
            1,
        ),
        "retinanet": ((_LOGITS,), 9),
        "fcos": ((_LOGITS,), 1),
        "ssd300": (
            tuple(f"head.classification_head.module_list.{i}" for i in range(_SSD_MAPS)),
            4,
        ),
        "ssdlite320": (
            tuple(f"head.classification_head.module_list.{i}.1" for i in range(_SSD_MAPS)),
            6,
        ),
    }
)


def architecture_of(model: str) -> str:
    """Return `fasterrcnn`, `retinanet`, `fcos`, `ssd300` or `ssdlite320` for a detector's name."""
    return model.rpartition("/")[2].partition("_")[0]


def class_layers(model: str) -> tuple[str, ...]:
    """Return the dotted names of the modules whose size depends on the number of classes."""
    return _HEADS[architecture_of(model)][0]


def count_classes(model: str, tensors: Mapping[str, Tensor], *, origin: str) -> int:
    """Return how many classes a detector's file tells apart, without the background.

    Args:
        model: The detector's name.
        tensors: By today's key names.
        origin: What the tensors are called in messages.

    Raises:
        WeightsError: If the file has no such head.
    """
    layers, anchors = _HEADS[architecture_of(model)]
    weight = tensors.get(f"{layers[0]}.weight")
    if weight is None or weight.ndim == 0 or weight.shape[0] % anchors:
        raise WeightsError(
            f"{origin} has no class head of {model} ('{layers[0]}'). Give the weights of exactly "
            "this detector."
        )
    return int(weight.shape[0] // anchors - 1)
