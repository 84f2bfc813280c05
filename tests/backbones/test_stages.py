"""Stages of real architectures; weights do not matter here, so most live on the meta device."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import nn

from tlcli.backbones.catalog import SOURCES, list_backbones
from tlcli.backbones.stages import HEAD, Stage, find_stages
from tlcli.errors import ModelError

TORCHVISION = [
    "torchvision/resnet18",
    "torchvision/vgg11_bn",
    "torchvision/efficientnet_b0",
    "torchvision/mobilenet_v2",
    "torchvision/mobilenet_v3_small",
    "torchvision/convnext_tiny",
    "torchvision/vit_b_16",
    "torchvision/swin_t",
    "torchvision/densenet121",
    "torchvision/regnet_y_400mf",
    "torchvision/squeezenet1_1",
    "torchvision/inception_v3",
    "torchvision/googlenet",
    "torchvision/maxvit_t",
]
TIMM = [
    "timm/resnet18",
    "timm/vgg11",
    "timm/efficientnet_b0",
    "timm/tf_efficientnet_lite0",
    "timm/mobilenetv2_050",
    "timm/mobilenetv3_small_050",
    "timm/convnext_atto",
    "timm/vit_tiny_patch16_224",
    "timm/deit_tiny_distilled_patch16_224",
    "timm/eva02_tiny_patch14_224",
    "timm/swin_tiny_patch4_window7_224",
    "timm/densenet121",
    "timm/regnety_002",
    "timm/inception_v3",
    "timm/maxvit_rmlp_pico_rw_256",
    "timm/mobilenetv4_conv_small",
    "timm/twins_svt_small",
]
FAMILIES = [*TORCHVISION, *TIMM]

EXACT = {
    "torchvision/resnet18": ["conv1", "layer1", "layer2", "layer3", "layer4"],
    "timm/resnet18": ["conv1", "layer1", "layer2", "layer3", "layer4"],
    "timm/tf_efficientnet_lite0": ["conv_stem", *(f"blocks.{i}" for i in range(7)), "conv_head"],
    "torchvision/efficientnet_b0": [f"features.{i}" for i in range(9)],
    "torchvision/mobilenet_v2": [f"features.{i}" for i in range(19)],
    "torchvision/mobilenet_v3_small": [*(f"features.{i}" for i in range(13)), "classifier.0"],
    "timm/vit_tiny_patch16_224": ["patch_embed", *(f"blocks.{i}" for i in range(12))],
    "timm/deit_tiny_distilled_patch16_224": ["patch_embed", *(f"blocks.{i}" for i in range(12))],
    "torchvision/vit_b_16": [
        "conv_proj",
        *(f"encoder.layers.encoder_layer_{i}" for i in range(12)),
    ],
    "torchvision/convnext_tiny": [f"features.{i}" for i in range(8)],
    "timm/convnext_atto": ["stem", "stages.0", "stages.1", "stages.2", "stages.3"],
    "torchvision/swin_t": [f"features.{i}" for i in range(8)],
    "timm/swin_tiny_patch4_window7_224": ["patch_embed", *(f"layers.{i}" for i in range(4))],
    "timm/twins_svt_small": [f"blocks.{i}" for i in range(4)],
    "timm/coat_lite_tiny": [f"serial_blocks{i}" for i in range(1, 5)],
    "torchvision/regnet_y_400mf": ["stem", *(f"trunk_output.block{i}" for i in range(1, 5))],
    "timm/regnety_002": ["stem", "s1", "s2", "s3", "s4"],
    "torchvision/densenet121": [
        "features.conv0",
        "features.denseblock1",
        "features.transition1",
        "features.denseblock2",
        "features.transition2",
        "features.denseblock3",
        "features.transition3",
        "features.denseblock4",
    ],
    "torchvision/vgg11_bn": [
        *(f"features.{i}" for i in (0, 4, 8, 11, 15, 18, 22, 25)),
        "classifier.0",
        "classifier.3",
    ],
    "torchvision/squeezenet1_1": [f"features.{i}" for i in (0, 3, 4, 6, 7, 9, 10, 11, 12)],
}


@cache
def model(name: str) -> tuple[nn.Module, tuple[str, ...], tuple[Stage, ...]]:
    """Network, head names and stages, on the meta device."""
    source_name, _, architecture = name.partition("/")
    source = SOURCES[source_name]
    # RegNet copies values of a tensor while it is built, which the meta device cannot.
    with torch.device("cpu" if "/regnet" in name else "meta"):
        network = source.build(architecture, tag=None, num_classes=None)
    heads = source.head_names(network)
    return network.to("meta").eval(), heads, find_stages(network, head_names=heads)


def executed_stages(name: str) -> list[str]:
    """Names of the stages whose modules a forward pass enters, in that order."""
    network, _, stages = model(name)
    seen: list[str] = []

    def remember(stage: str) -> None:
        seen.append(stage)

    hooks = []
    for module_name, module in network.named_modules():
        owners = [stage.name for stage in stages if module_name and stage.owns(module_name)]
        for owner in owners:
            hooks.append(module.register_forward_pre_hook(lambda *_, o=owner: remember(o)))
    source, _, architecture = name.partition("/")
    size = SOURCES[source].preprocessing(architecture, tag=None).input_size
    with torch.no_grad():
        network(torch.empty(1, 3, *size, device="meta"))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", FAMILIES)
def test_find_stages__every_tensor_in_exactly_one_stage(name: str) -> None:
    network, _, stages = model(name)
    tensors = [*dict(network.named_parameters()), *dict(network.named_buffers())]
    assert len(tensors) > 10
    owners = {tensor: [s.name for s in stages if s.owns(tensor)] for tensor in tensors}
    assert {tensor: names for tensor, names in owners.items() if len(names) != 1} == {}


@pytest.mark.parametrize("name", FAMILIES)
def test_find_stages__every_module_in_one_stage_or_around_several(name: str) -> None:
    network, _, stages = model(name)
    members = [member for stage in stages for member in stage.members]
    assert len(set(members)) == len(members)
    for module_name, _ in network.named_modules():
        owners = [stage.name for stage in stages if stage.owns(module_name)]
        holds = any(member.startswith(f"{module_name}.") for member in members)
        is_container = module_name == "" or holds
        assert len(owners) == (0 if is_container else 1), module_name


@pytest.mark.parametrize("name", FAMILIES)
def test_find_stages__last_stage_is_the_head_and_holds_the_head_layers(name: str) -> None:
    network, heads, stages = model(name)
    assert stages[-1].name == HEAD == "head"
    assert [stage.name for stage in stages].count(HEAD) == 1
    for head in heads:
        assert stages[-1].owns(head)
        assert network.get_submodule(head).weight.shape[0] == 1000
    in_head = {n for n, _ in network.named_parameters() if stages[-1].owns(n)}
    own = {n for n, _ in network.named_parameters() if n.startswith(tuple(f"{h}." for h in heads))}
    assert in_head == own


@pytest.mark.parametrize("name", FAMILIES)
def test_find_stages__in_the_order_of_a_forward_pass(name: str) -> None:
    seen = executed_stages(name)
    _, _, stages = model(name)
    entered = [seen[0], *(later for earlier, later in pairwise(seen) if earlier != later)]
    assert entered == [stage.name for stage in stages]  # each entered once, none left out


@pytest.mark.parametrize("name", FAMILIES)
def test_find_stages__each_body_stage_has_a_weight_matrix(name: str) -> None:
    network, _, stages = model(name)
    for stage in stages:
        assert any(p.ndim > 1 for n, p in network.named_parameters() if stage.owns(n)), stage


@pytest.mark.parametrize("name", list(EXACT))
def test_find_stages__exact_names(name: str) -> None:
    assert [stage.name for stage in model(name)[2]] == [*EXACT[name], "head"]


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("torchvision/vit_b_16", ["class_token", "encoder.pos_embedding"]),
        ("timm/vit_tiny_patch16_224", ["cls_token", "pos_embed"]),
        ("timm/deit_tiny_distilled_patch16_224", ["cls_token", "dist_token", "pos_embed"]),
        ("timm/eva02_tiny_patch14_224", ["cls_token", "pos_embed"]),
    ],
)
def test_find_stages__tokens_and_positions_in_the_first(name: str, tensors: list[str]) -> None:
    network, _, stages = model(name)
    parameters = dict(network.named_parameters())
    for tensor in tensors:
        assert tensor in parameters
        assert stages[0].owns(tensor)
        assert tensor in stages[0].companions


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("torchvision/vit_b_16", "encoder.ln"),
        ("torchvision/swin_t", "norm"),
        ("torchvision/convnext_tiny", "classifier.0"),
        ("torchvision/densenet121", "features.norm5"),
        ("timm/vit_tiny_patch16_224", "norm"),
        ("timm/eva02_tiny_patch14_224", "fc_norm"),
        ("timm/swin_tiny_patch4_window7_224", "norm"),
        ("timm/convnext_atto", "head.norm"),
        ("timm/maxvit_rmlp_pico_rw_256", "norm"),
        ("timm/densenet121", "features.norm5"),
        ("timm/efficientnet_b0", "bn2"),
        ("timm/mobilenetv4_conv_small", "norm_head"),
    ],
)
def test_find_stages__closing_norm_belongs_to_the_last_block(name: str, norm: str) -> None:
    network, _, stages = model(name)
    assert list(network.get_submodule(norm).parameters())
    assert stages[-2].owns(norm)
    assert norm in stages[-2].companions


def test_find_stages__norm_behind_a_stem_belongs_to_it() -> None:
    assert model("timm/resnet18")[2][0].members == ("conv1", "bn1", "act1", "maxpool")


def test_find_stages__both_heads_of_distilled_models_are_head() -> None:
    _, heads, stages = model("timm/deit_tiny_distilled_patch16_224")
    assert heads == ("head", "head_dist")
    assert {"head", "head_dist"} <= set(stages[-1].members)


def test_find_stages__of_a_plain_sequence() -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.Linear(6, 2))
    stages = find_stages(network, head_names=["3"])
    assert [(stage.name, stage.members) for stage in stages] == [
        ("0", ("0", "1")),
        ("2", ("2",)),
        ("head", ("3",)),
    ]


def test_find_stages__unknown_head_layer() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(ModelError, match="The head layer 'fc' does not exist in this network"):
        find_stages(network, head_names=["fc"])


@pytest.mark.parametrize("layers", [[nn.Linear(4, 2)], [nn.BatchNorm1d(4), nn.Linear(4, 2)]])
def test_find_stages__nothing_before_the_head(layers: list[nn.Module]) -> None:
    network = nn.Sequential(*layers)
    with pytest.raises(ModelError, match="no layers before its head that could be frozen"):
        find_stages(network, head_names=[str(len(layers) - 1)])


def test_owns__whole_parts_of_names_only() -> None:
    stage = Stage(name="blocks.1", members=("blocks.1", "norm"))
    owned = ["blocks.1", "blocks.1.attn.qkv.weight", "norm", "norm.weight"]
    others = ["blocks.10", "blocks.10.attn.qkv.weight", "blocks", "norm_pre.weight", "x.norm", ""]
    assert [stage.owns(name) for name in owned] == [True] * 4
    assert [stage.owns(name) for name in others] == [False] * 6


def test_label__names_what_else_holds_weights() -> None:
    _, _, stages = model("timm/vit_tiny_patch16_224")
    assert stages[0].label == "patch_embed (+ cls_token, pos_embed)"
    assert stages[-2].label == "blocks.11 (+ norm)"
    assert stages[5].label == "blocks.4"


@pytest.mark.slow
@pytest.mark.parametrize("name", list_backbones("torchvision"))
def test_find_stages__all_of_torchvision(name: str) -> None:
    _, heads, stages = model(name)
    seen = executed_stages(name)
    entered = [seen[0], *(later for earlier, later in pairwise(seen) if earlier != later)]
    assert entered == [stage.name for stage in stages]
    assert len(stages) >= 5
    assert stages[-1].owns(heads[0])
    model.cache_clear()
