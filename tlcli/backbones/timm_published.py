"""What timm publishes of its models outside of the package: sizes, cost and ImageNet top-1.

`timm_published.csv` is made by `benchmarks/make_timm_table.py` from the folder `results/` of
huggingface/pytorch-image-models (Apache-2.0), commit aa4b5850: one row per architecture with
parameters (millions) and GMACs at `img_size`, one per `architecture.tag` with top-1 at `img_size`.
"""

import csv
from functools import cache
from importlib.resources import files

_MILLION = 1_000_000
Row = dict[str, str]


def parameters(architecture: str, *, tag: str | None) -> int | None:
    """Return how many parameters timm counts, rounded to ten thousand; None if it does not say."""
    for name in (architecture, f"{architecture}.{tag}"):
        if text := _rows().get(name, {}).get("params_m"):
            return round(float(text) * _MILLION)
    return None


def gmacs(architecture: str) -> float | None:
    """Return billions of multiply-adds for one image of the size that timm timed it with."""
    text = _rows().get(architecture, {}).get("gmacs")
    return float(text) if text else None


def top1(architecture: str, *, tag: str) -> float | None:
    """Return ImageNet validation top-1 of published weights as a fraction, None if not measured."""
    text = _rows().get(f"{architecture}.{tag}", {}).get("top1")
    return float(text) if text else None


@cache
def _rows() -> dict[str, Row]:
    table = files("tlcli.backbones").joinpath("timm_published.csv")
    lines = table.read_text(encoding="utf-8").splitlines()
    return {row["name"]: row for row in csv.DictReader(lines)}
