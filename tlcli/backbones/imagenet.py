"""What the outputs of ImageNet-pretrained heads mean."""

from functools import cache


@cache
def synsets(subset: str) -> tuple[str, ...]:
    """Return the WordNet ids of an ImageNet subset in the order of the outputs.

    Args:
        subset: timm's word for it: `imagenet-1k`, `imagenet-12k`, `imagenet-22k`.
    """
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo(subset).label_names())


@cache
def titles(subset: str) -> dict[str, str]:
    """Return a readable name for every WordNet id of an ImageNet subset."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo(subset)
    return dict(zip(info.label_names(), info.label_descriptions(), strict=True))
