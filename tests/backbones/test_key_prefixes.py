"""Networks found inside of what training scripts save around them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tlcli.backbones.key_prefixes import below_best_prefix
from tlcli.backbones.pretrained import create_backbone
from tlcli.errors import WeightsError

NAME = "timm/test_resnet"
KEYS = ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.weight", "fc.weight", "fc.bias")

parts = st.text(alphabet="abcdefghij_", min_size=1, max_size=6)


def numbered(keys: Any, *, start: int = 0) -> dict[str, Tensor]:
    return {key: torch.tensor(start + i) for i, key in enumerate(keys)}


@given(st.lists(parts, max_size=4), st.lists(parts, max_size=3))
def test_below_best_prefix__any_prefix_is_found(prefix: list[str], others: list[str]) -> None:
    before = "".join(f"{part}." for part in prefix)
    own = numbered(KEYS)
    file = {f"{before}{key}": tensor for key, tensor in own.items()}
    file |= {f"projector_{other}.bias": torch.tensor(-1) for other in others}

    found, remarks = below_best_prefix(file, wanted=KEYS)

    assert {key: found[key] for key in KEYS} == own
    assert bool(remarks) == bool(prefix)
    if prefix:
        assert found == own
        assert remarks[0].startswith(f"took the 5 tensors below '{before}'")


@pytest.mark.parametrize(
    ("prefixes", "chosen"),
    [
        (("student.", "teacher."), "teacher."),
        (("model.", "model_ema.module."), "model_ema.module."),
        (("encoder_q.", "encoder_k."), "encoder_q."),
        (("a.", ""), ""),
    ],
)
def test_below_best_prefix__of_several_networks(prefixes: tuple[str, ...], chosen: str) -> None:
    file: dict[str, Tensor] = {}
    for place, prefix in enumerate(prefixes):
        file |= {f"{prefix}{k}": v for k, v in numbered(KEYS, start=10 * place).items()}

    found, _ = below_best_prefix(file, wanted=KEYS)

    start = 10 * prefixes.index(chosen)
    assert {key: int(found[key]) for key in KEYS} == {k: start + i for i, k in enumerate(KEYS)}


def test_below_best_prefix__foreign_names_stay_as_they_are() -> None:
    file = numbered(["stem.weight", "body.0.kernel"])
    assert below_best_prefix(file, wanted=KEYS) == (file, ())


def test_below_best_prefix__tells_what_it_left_out() -> None:
    file = numbered([*(f"net.{key}" for key in KEYS), "loss.weight", "queue", "head.0.weight"])
    _, remarks = below_best_prefix(file, wanted=KEYS)
    assert remarks == (
        "took the 5 tensors below 'net.', left out 3 others: loss.weight, queue, head.0.*",
    )


def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return dict(timm.create_model("test_resnet").state_dict())


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": tensor for key, tensor in tensors.items()}


def without_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if not key.startswith("fc.")}


SAVED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "lightning": (
        {"state_dict": named("model.backbone.", state()) | {"criterion.weight": torch.ones(3)}},
        (
            "took 'state_dict' of the file",
            "took the 92 tensors below 'model.backbone.', left out 1 other: criterion.weight",
        ),
    ),
    "dino": (
        {
            "student": named("module.backbone.", {k: v + 1 for k, v in state().items()}),
            "teacher": named("backbone.", without_head(state()))
            | {"head.mlp.0.weight": torch.ones(2, 2)},
            "epoch": 7,
        },
        ("took 'teacher' of the file, not: student, epoch", "took the 90 tensors below"),
    ),
    "averaged": (
        {"model": {k: v + 1 for k, v in state().items()}, "model_ema": state()},
        ("took 'model_ema' of the file, not: model",),
    ),
    "moco": (
        {
            "state_dict": named("module.encoder_q.", without_head(state()))
            | {"module.queue": torch.ones(4)}
        },
        ("took 'state_dict' of the file", "took the 90 tensors below"),
    ),
    "compiled": (named("_orig_mod.module.", state()), ("removed the prefix '_orig_mod.'",)),
}


@pytest.mark.parametrize("way", SAVED)
def test_create_backbone__takes_the_network_out_of_what_was_saved(tmp_path: Path, way: str) -> None:
    content, told = SAVED[way]
    torch.save(content, tmp_path / "saved.pth")

    backbone = create_backbone(NAME, weights=str(tmp_path / "saved.pth"))

    loaded = backbone.network.state_dict()
    body = without_head(state())
    assert all(torch.equal(loaded[key], tensor) for key, tensor in body.items())
    for words in told:
        assert any(remark.startswith(words) for remark in backbone.weights.remarks), words


def test_create_backbone__foreign_names_load_nothing(tmp_path: Path) -> None:
    foreign = {f"layers/{i}": tensor for i, tensor in enumerate(state().values())}
    torch.save({"model": foreign}, tmp_path / "foreign.pth")

    with pytest.raises(WeightsError, match=r"\(0% of the model's tensors match\)") as caught:
        create_backbone(NAME, weights=str(tmp_path / "foreign.pth"))

    assert "unexpected (in the file, not in the model): 92" in str(caught.value)
