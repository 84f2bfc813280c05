"""Trunk and tail together are the network, to the bit, forwards and backwards."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.joined_networks import (
    AlwaysRandom,
    AsksForSizes,
    AsksForTheCount,
    AsksForValues,
    AsksOfNone,
    ChangesWhatIsCut,
    CrossedByLists,
    DropsInItsOwnCode,
    DropsInPlace,
    GivesWholeNumbers,
    HasOptions,
    MixesImages,
    SpreadsSizes,
    UsesTheCount,
    Windows,
)
from tlcli.backbones.catalog import parse_backbone_name
from tlcli.backbones.pretrained import build_untrained, choose_weights
from tlcli.backbones.stages import Stage
from tlcli.models.boundary import (
    TRIED_IMAGES,
    NoBoundaryError,
    SplitNetwork,
    split_network,
    trunk_share,
)
from tlcli.models.staged import StagedModel
from tlcli.models.stochastic_layers import set_drop_path, set_head_dropout

SIZE = 64


def staged(name: str, *, open_stages: int, **options: Any) -> StagedModel:
    """Return a network whose last stages are trained, with statistics that are not 0 and 1."""
    torch.manual_seed(0)
    parsed = parse_backbone_name(name)
    backbone = build_untrained(parsed, weights=choose_weights(parsed, "none"), **options)
    for module in backbone.network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_()
    model = StagedModel(backbone.network, stages=backbone.stages)
    model.open_stages([stage.name for stage in backbone.stages[-open_stages:]])
    return model


def pictures(size: int = SIZE) -> Tensor:
    return torch.randn(TRIED_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(1))


def gradients(model: StagedModel, logits: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


CASES = [
    ("timm/test_resnet", 1, [(96,)]),
    ("timm/test_resnet", 2, [(192, 4, 4)]),
    ("timm/test_vit", 2, [(17, 64)]),
    ("timm/test_efficientnet", 2, [(64, 2, 2)]),
    ("timm/test_nfnet", 3, None),
    ("torchvision/resnet18", 2, [(256, 4, 4)]),
    ("torchvision/mobilenet_v3_small", 3, None),
    ("torchvision/shufflenet_v2_x0_5", 2, [(192, 2, 2)]),
]


@pytest.mark.parametrize(("name", "open_stages", "shapes"), CASES)
def test_split__halves_are_the_whole_to_the_bit(
    name: str, open_stages: int, shapes: Sequence[tuple[int, ...]] | None
) -> None:
    options = {"input_size": SIZE} if "vit" in name else {}
    model = staged(name, open_stages=open_stages, **options)
    split = split_network(model, example=pictures())
    assert shapes is None or list(split.shapes) == shapes
    for is_training in (False, True):
        model.train(is_training)
        torch.manual_seed(5)
        whole = gradients(model, model(pictures()))
        torch.manual_seed(5)
        with torch.no_grad():
            values = split.trunk(pictures())
        halves = gradients(model, split.tail(*values))
        trained = {key for key, p in model.named_parameters() if p.requires_grad}
        assert halves.keys() == whole.keys() == trained
        assert all(torch.equal(halves[key], whole[key]) for key in whole)


def test_split__head_alone_takes_the_embedding() -> None:
    model = staged("timm/test_vit", open_stages=1, input_size=SIZE)

    split = split_network(model, example=pictures())

    assert split.shapes == ((64,),)
    assert split.values_per_image == 64


def test_split__what_is_left_out_at_random_is_in_the_tail() -> None:
    model = staged("timm/test_vit", open_stages=2, input_size=SIZE)
    set_drop_path(model.network, rate=0.5)
    set_head_dropout(model.network, head_names=["head"], rate=0.5)
    split = split_network(model, example=pictures())
    model.train()

    with torch.no_grad():
        values = split.trunk(pictures())
        first, second = split.tail(*values), split.tail(*values)
        torch.manual_seed(3)
        whole = model(pictures())
        torch.manual_seed(3)
        again = split.tail(*split.trunk(pictures()))

    assert all(torch.equal(a, b) for a, b in zip(values, split.trunk(pictures()), strict=True))
    assert not torch.equal(first, second)
    assert torch.equal(whole, again)


def test_split__a_trained_step_moves_the_tail_only() -> None:
    model = staged("torchvision/resnet18", open_stages=2)
    split = split_network(model, example=pictures())
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = split.trunk(pictures())[0]

    gradients(model, split.tail(*split.trunk(pictures())))
    optimizer.step()

    assert torch.equal(split.trunk(pictures())[0], before)
    with torch.no_grad():
        model.eval()
        assert torch.equal(split.tail(before), model(pictures()))


def test_split__mode_of_the_model_stays() -> None:
    model = staged("timm/test_resnet", open_stages=2)
    for is_training in (True, False):
        model.train(is_training)
        split_network(model, example=pictures())
        assert model.training is is_training
        assert model.network.layer1.training is False  # type: ignore[union-attr]
        assert model.network.layer4.training is is_training  # type: ignore[union-attr]


def test_split__no_tensor_moves() -> None:
    model = staged("torchvision/resnet18", open_stages=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}

    split = split_network(model.train(), example=pictures())
    share = trunk_share(model, split, example=pictures())

    assert 0.2 < share < 0.8  # T / (T + 3t), whatever the picture
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_split__nothing_frozen() -> None:
    model = staged("timm/test_resnet", open_stages=8)

    with pytest.raises(NoBoundaryError, match="nothing is frozen before the first layer"):
        split_network(model, example=pictures())


def own_model(network: nn.Module) -> StagedModel:
    stages = (Stage(name="body", members=("body",)), Stage(name="head", members=("head",)))
    model = StagedModel(network, stages=stages)
    model.open_stages(["head"])
    return model


def test_split__number_of_images_may_cross() -> None:
    model = own_model(UsesTheCount())

    split = split_network(model, example=pictures())

    assert_is_whole(split, model)


def assert_is_whole(split: SplitNetwork, model: StagedModel) -> None:
    """In both modes, for another number of images than it was cut with."""
    more = torch.cat([pictures(), pictures().flip(2)])[:5]
    for is_training in (True, False):
        model.train(is_training)
        torch.manual_seed(3)
        whole = model(more)
        torch.manual_seed(3)
        halves = split.tail(*split.trunk(more))
        assert torch.equal(whole, halves)
        assert whole.std() > 0


@pytest.mark.parametrize(
    ("network", "shapes"),
    [
        (AsksForSizes(), [(4,)]),
        (SpreadsSizes(), [(4,)]),
        (HasOptions(), [(4,)]),
        (DropsInItsOwnCode(), [(4,)]),
        (DropsInPlace(), [(4,)]),
        (CrossedByLists(), [(4, 62, 62), (4,), (4,)]),
        (Windows(), [(4, 4)]),
    ],
)
def test_split__code_that_joins_layers(
    network: nn.Module, shapes: Sequence[tuple[int, ...]]
) -> None:
    model = own_model(network)

    split = split_network(model, example=pictures())

    assert list(split.shapes) == shapes
    assert_is_whole(split, model)


def test_split__items_of_lists_have_names() -> None:
    split = split_network(own_model(CrossedByLists()), example=pictures())

    assert sorted(split.names) == ["body_0_0", "body_0_1", "body_1"]


def test_split__says_up_to_which_layers_the_trunk_goes() -> None:
    def layers(name: str, open_stages: int) -> tuple[str, ...]:
        options = {"input_size": SIZE} if "vit" in name else {}
        model = staged(name, open_stages=open_stages, **options)
        return split_network(model, example=pictures()).layers

    assert layers("timm/test_resnet", 2) == ("layer3",)
    assert layers("torchvision/mobilenet_v3_small", 3) == ("features.11",)
    assert layers("torchvision/shufflenet_v2_x0_5", 1) == ("conv5",)  # its mean is no layer
    assert layers("timm/test_vit", 2) == ("blocks.4",)
    crossed = split_network(own_model(CrossedByLists()), example=pictures())
    assert crossed.layers == ("body",) * 3
    hrnet = split_network(staged("timm/hrnet_w18_small", open_stages=4), example=pictures())
    assert hrnet.layers[0] == "downsamp_modules.0.2 + incre_modules.1"  # the sum of both


def test_split__rows_of_windows_belong_to_their_image() -> None:
    split = split_network(own_model(Windows()), example=pictures())

    swapped = split.trunk(pictures().flip(0))[0]

    assert torch.allclose(swapped.flip(0), split.trunk(pictures())[0], atol=1e-6)


def test_split__tail_follows_the_mode_of_the_model() -> None:
    model = own_model(DropsInItsOwnCode())
    split = split_network(model, example=pictures())
    values = split.trunk(pictures())

    model.train()
    assert not torch.equal(split.tail(*values), split.tail(*values))
    model.eval()
    assert torch.equal(split.tail(*values), split.tail(*values))


def test_split__draws_no_random_number_of_the_run() -> None:
    model = own_model(DropsInItsOwnCode())
    torch.manual_seed(5)
    expected = torch.rand(3)

    torch.manual_seed(5)
    split_network(model, example=pictures())

    assert torch.equal(torch.rand(3), expected)


def test_split__failure_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoBoundaryError, match="cannot be traced"):
        split_network(own_model(AsksOfNone()), example=pictures())

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (AsksForValues(), r"cannot be traced \(its code asks for the value of 'gt'\)"),
        (AsksForTheCount(), r"cannot be traced \(its code asks for the value of 'gt'\)"),
        (MixesImages(), "at 'sub' is not the same for the same image"),
        (MixesImages(only_these=True), "at 'getitem' has no row for each image"),
        (AlwaysRandom(1.0), "at 'mean' is not the same for the same image"),
        (AlwaysRandom(1e-4), "its frozen part gives other values in training"),
        (GivesWholeNumbers(), "at 'mod' is torch.int64"),
        (ChangesWhatIsCut(), "its two halves do not give what the whole gives"),
    ],
)
def test_split__what_cannot_be_cut_says_why(network: nn.Module, reason: str) -> None:
    with pytest.raises(NoBoundaryError, match=reason):
        split_network(own_model(network), example=pictures())
