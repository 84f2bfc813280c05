import copy
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision import models as zoo

from tests.models.networks import Sample, sample
from tlcli.backbones.stages import find_stages
from tlcli.errors import ConfigError, ModelError
from tlcli.models.features import FeatureExtractor, select_layers
from tlcli.models.head import set_linear_head

FAMILIES = {
    "torchvision/resnet18": 64,
    "torchvision/squeezenet1_1": 64,
    "torchvision/mobilenet_v3_small": 64,
    "torchvision/densenet121": 64,
    "torchvision/convnext_tiny": 64,
    "torchvision/efficientnet_b0": 64,
    "torchvision/swin_t": 64,
    "torchvision/regnet_y_400mf": 64,
    "torchvision/googlenet": 96,
    "torchvision/inception_v3": 96,
    "timm/test_resnet": 64,
    "timm/test_vit": None,
    "timm/test_efficientnet": 64,
    "timm/test_convnext": 64,
    "timm/test_nfnet": 64,
    "timm/test_mambaout": 64,
    "timm/deit_tiny_distilled_patch16_224": None,
    "timm/crossvit_tiny_240": None,
    "timm/swin_tiny_patch4_window7_224": None,
    "timm/levit_128s": None,
    "timm/mobilenetv3_small_050": 64,
    "timm/resnetv2_18": 64,
    "timm/xcit_nano_12_p8_224": None,
}
SLOW = {
    "torchvision/vit_b_16": None,
    "torchvision/maxvit_t": None,
    "torchvision/vgg11": 64,
    "timm/vgg11": 64,
    "timm/volo_d1_224": None,
}
"""Of the same kinds as others, or large."""


def extractor_of(
    model: Sample, *, layers: tuple[str, ...] = (), pool: str | None = None
) -> FeatureExtractor:
    return FeatureExtractor(
        model.network,
        head_names=model.head_names,
        stages=model.stages,
        input_size=model.input_size,
        layers=layers,
        pool=pool,
    )


def as_sample(network: nn.Module, *, head: str, side: int) -> Sample:
    return Sample(
        network=network.eval(),
        head_names=(head,),
        stages=find_stages(network, head_names=[head]),
        input_size=(side, side),
    )


def tiny_vit_of_torchvision() -> Sample:
    network = zoo.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    )
    return as_sample(network, head="heads.head", side=32)


def outputs_of(network: nn.Module, module: str, images: Tensor) -> Tensor:
    """What a module puts out, by a hook of our own."""
    seen: list[Tensor] = []
    handle = network.get_submodule(module).register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.clone())
    )
    network(images)
    handle.remove()
    return seen[-1]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *FAMILIES.items(),
        *(pytest.param(*item, marks=pytest.mark.slow) for item in SLOW.items()),
    ],
)
def test_embedding__a_linear_head_on_it_is_the_network_with_that_head(
    name: str, side: int | None
) -> None:
    model = sample(name, side)
    extractor = extractor_of(model)
    images = model.images()
    embedding = extractor(images)["embedding"]
    assert embedding.shape == (2, extractor.feature_dim)
    assert not torch.equal(embedding[0], embedding[1])
    generator = torch.Generator().manual_seed(2)
    scale = extractor.feature_dim**0.5 * embedding.abs().mean()
    weight = torch.randn(5, extractor.feature_dim, generator=generator) / scale
    bias = torch.randn(5, generator=generator) - weight @ embedding.mean(0)
    set_linear_head(model.network, head_names=model.head_names, weight=weight, bias=bias)
    logits = model.network(images)
    assert logits.min() < 0 < logits.max()
    torch.testing.assert_close(embedding @ weight.T + bias, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("timm/deit_tiny_distilled_patch16_224", 2 * 192),
        ("timm/crossvit_tiny_240", 96 + 192),
        ("torchvision/squeezenet1_1", 512),
        ("torchvision/inception_v3", 2048),
    ],
)
def test_embedding__width(name: str, width: int) -> None:
    extractor = extractor_of(sample(name, FAMILIES[name]))
    assert extractor.names == ("embedding",)
    assert extractor.shapes == {"embedding": (width,)}
    assert extractor.feature_dim == width


class TokenLabels(nn.Module):
    """A class token with a head, and tokens with an auxiliary one, as VOLO has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, stride=4)
        self.head = nn.Linear(6, 4)
        self.aux_head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.conv(images).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(tokens[:, 0]) + 0.5 * self.aux_head(tokens[:, 1:]).amax(1)
        return logits


def test_embedding__head_over_tokens_beside_one_over_a_vector_is_left_out() -> None:
    network = TokenLabels().eval()
    heads = ("head", "aux_head")
    stages = find_stages(network, head_names=heads)
    model = Sample(network=network, head_names=heads, stages=stages, input_size=(16, 16))
    embedding = extractor_of(model)(model.images())["embedding"]
    assert embedding.shape == (2, 6)
    weight, bias = torch.randn(5, 6), torch.randn(5)
    set_linear_head(network, head_names=heads, weight=weight, bias=bias)
    torch.testing.assert_close(network(model.images()), embedding @ weight.T + bias)


class TokensToTheEnd(nn.Module):
    """A linear head on every token, averaged behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, stride=4)
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(images).movedim(1, -1)).mean((1, 2))
        return logits


def test_embedding__linear_head_over_positions_that_are_averaged_behind_it() -> None:
    model = as_sample(TokensToTheEnd(), head="head", side=16)
    embedding = extractor_of(model)(model.images())["embedding"]
    torch.testing.assert_close(embedding, model.network.conv(model.images()).mean((2, 3)))
    head = model.network.head
    torch.testing.assert_close(head(embedding), model.network(model.images()))


def test_embedding__head_that_is_never_called() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    network.forward = lambda images: network[1](network[0](images))
    with pytest.raises(ModelError, match=r"The head 2 of this network is not called .*Use --layer"):
        extractor_of(as_sample(network, head="2", side=8))


def test_embedding__of_squeezenet_is_the_mean_of_its_last_map() -> None:
    model = sample("torchvision/squeezenet1_1", 64)
    found = extractor_of(model)(model.images())["embedding"]
    last = model.network.features(model.images())
    torch.testing.assert_close(found, last.mean((2, 3)))


def test_embedding__the_head_itself_is_not_run() -> None:
    model = sample("timm/test_resnet", 64)
    extractor = extractor_of(model)
    ran: list[int] = []
    model.network.fc.register_forward_hook(lambda *_: ran.append(1))
    extractor(model.images())
    assert ran == []
    model.network(model.images())
    assert ran == [1]


@pytest.mark.parametrize(
    ("name", "stage", "module", "axes"),
    [
        ("torchvision/resnet18", "layer2", "layer2", (2, 3)),
        ("torchvision/squeezenet1_1", "features.0", "features.2", (2, 3)),  # ReLU in place, pool
        ("torchvision/densenet121", "features.denseblock4", "features.norm5", (2, 3)),
        ("torchvision/mobilenet_v3_small", "features.12", "features.12", (2, 3)),
        ("torchvision/swin_t", "features.1", "features.1", (1, 2)),
        ("torchvision/swin_t", "features.7", "norm", (1, 2)),
        ("timm/swin_tiny_patch4_window7_224", "layers.1", "layers.1", (1, 2)),
        ("timm/test_convnext", "stages.3", "norm_pre", (2, 3)),  # behind it: pooling, then a norm
        ("timm/test_efficientnet", "conv_head", "bn2", (2, 3)),
        ("timm/xcit_nano_12_p8_224", "blocks.3", "blocks.3", (1,)),
    ],
)
def test_stage__equals_a_hook_of_our_own(
    name: str, stage: str, module: str, axes: tuple[int, ...]
) -> None:
    model = sample(name, FAMILIES[name])
    images = model.images()
    whole = outputs_of(copy.deepcopy(model.network), module, images)
    as_it_is = extractor_of(model, layers=(stage,), pool="none")
    average = extractor_of(model, layers=(stage,))
    largest = extractor_of(model, layers=(stage,), pool="max")
    assert torch.equal(as_it_is(images)[stage], whole)
    assert torch.equal(average(images)[stage], whole.mean(axes))
    assert torch.equal(largest(images)[stage], whole.amax(axes))
    assert as_it_is.shapes == {stage: tuple(whole.shape[1:])}
    assert average.shapes == largest.shapes == {stage: tuple(whole.mean(axes).shape[1:])}
    assert as_it_is.feature_dim == whole[0].numel()


@pytest.mark.parametrize(
    ("name", "stage", "module", "prefix"),
    [
        ("timm/test_vit", "blocks.2", "blocks.2", 1),
        ("timm/test_vit", "blocks.5", "norm", 1),
        ("tiny_vit", "encoder.layers.encoder_layer_1", "encoder.ln", 1),
        ("timm/deit_tiny_distilled_patch16_224", "blocks.3", "blocks.3", 2),
        ("timm/xcit_nano_12_p8_224", "cls_attn_blocks.1", "norm", 1),
    ],
)
def test_stage__tokens_without_those_before_the_image(
    name: str, stage: str, module: str, prefix: int
) -> None:
    model = tiny_vit_of_torchvision() if name == "tiny_vit" else sample(name, FAMILIES[name])
    images = model.images()
    tokens = outputs_of(copy.deepcopy(model.network), module, images)
    found = {
        pool: extractor_of(model, layers=(stage,), pool=pool)(images)[stage]
        for pool in ("avg", "max", "cls", "none")
    }
    assert torch.equal(found["avg"], tokens[:, prefix:].mean(1))
    assert torch.equal(found["max"], tokens[:, prefix:].amax(1))
    assert torch.equal(found["cls"], tokens[:, 0])
    assert torch.equal(found["none"], tokens)


def test_stage__output_that_is_a_tuple_of_branches() -> None:
    model = sample("timm/crossvit_tiny_240")
    network = copy.deepcopy(model.network)
    seen: list[Tensor] = []
    network.blocks[1].register_forward_hook(lambda _m, _i, output: seen.append(output[0]))
    network(model.images())
    found = extractor_of(model, layers=("blocks.1",))(model.images())["blocks.1"]
    assert torch.equal(found, seen[0][:, 1:].mean(1))


def test_stages__several_in_the_order_of_the_network() -> None:
    model = sample("timm/test_resnet", 64)
    names = tuple(stage.name for stage in model.stages[:-1])
    extractor = extractor_of(model, layers=("layer4", "conv1*", "layer[23]", "last:4"))
    found = extractor(model.images())
    assert tuple(found) == extractor.names == names
    assert {name: tuple(part.shape[1:]) for name, part in found.items()} == extractor.shapes
    assert extractor.feature_dim == sum(part.shape[1] for part in found.values())
    for name, part in found.items():
        assert torch.equal(part, extractor_of(model, layers=(name,))(model.images())[name])


def test_stages__of_every_family_have_the_shapes_foretold() -> None:
    for name in ("timm/levit_128s", "timm/test_mambaout", "torchvision/inception_v3"):
        model = sample(name, FAMILIES[name])
        extractor = extractor_of(model, layers=("all",))
        found = extractor(model.images(count=3))
        assert {key: tuple(part.shape) for key, part in found.items()} == {
            key: (3, *shape) for key, shape in extractor.shapes.items()
        }


def test_stages__the_pass_ends_behind_the_last_one() -> None:
    model = sample("timm/test_resnet", 64)
    extractor = extractor_of(model, layers=("layer1", "layer2"))
    ran: list[str] = []
    for name in ("layer2", "layer3"):
        model.network.get_submodule(name).register_forward_pre_hook(
            lambda *_, name=name: ran.append(name)
        )
    extractor(model.images())
    assert ran == ["layer2"]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["layr4"], "--layer 'layr4' matches no stage of this model. Did you mean 'layer4'?"),
        (["layer4", "x"], "--layer 'x' matches no stage of this model. Stages: conv1, layer1,"),
        (["head"], "--layer 'head' matches no stage of this model."),
        (["last:9"], "--layer 'last:9': the model has 5 stages before its head; use last:1 to"),
        ([""], "--layer '' matches no stage of this model."),
    ],
)
def test_select_layers__unknown(patterns: list[str], message: str) -> None:
    stages = ("conv1", "layer1", "layer2", "layer3", "layer4", "head")
    with pytest.raises(ConfigError) as caught:
        select_layers(patterns, stages=stages)
    assert str(caught.value).startswith(message)
    assert "head, " not in str(caught.value)
    assert "layer4, head" not in str(caught.value)


def test_select_layers() -> None:
    stages = ("conv1", "layer1", "layer2", "head")
    assert select_layers(["all"], stages=stages) == stages[:-1]
    assert select_layers(["last:1", " conv1 "], stages=stages) == ("conv1", "layer2")
    assert select_layers(["*"], stages=stages) == stages[:-1]


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/levit_128s"])
def test_pool__class_token_where_there_is_none(name: str) -> None:
    model = sample(name, FAMILIES[name])
    last = model.stages[-2].name
    with pytest.raises(ModelError) as caught:
        extractor_of(model, layers=(last,), pool="cls")
    assert str(caught.value) == (
        f"--pool cls: the output of {last} has no class token. Use --pool avg or max."
    )


def test_pool__register_tokens_are_no_class_token() -> None:
    network = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=16,
        depth=2,
        num_heads=2,
        class_token=False,
        reg_tokens=2,
        global_pool="avg",
    )
    model = as_sample(network, head="head", side=32)
    tokens = outputs_of(copy.deepcopy(network), "blocks.0", model.images())
    assert tokens.shape[1] == 2 + 16
    found = extractor_of(model, layers=("blocks.0",))(model.images())["blocks.0"]
    assert torch.equal(found, tokens[:, 2:].mean(1))
    with pytest.raises(ModelError, match=r"blocks\.0 has no class token"):
        extractor_of(model, layers=("blocks.0",), pool="cls")


def test_pool__without_layer() -> None:
    with pytest.raises(ConfigError, match=r"--pool avg works on --layer: the penultimate"):
        extractor_of(sample("timm/test_resnet", 64), pool="avg")


def test_train__changes_nothing() -> None:
    model = sample("timm/test_efficientnet", 64)
    extractor = extractor_of(model)
    before = extractor(model.images())["embedding"]
    state = {key: tensor.clone() for key, tensor in model.network.state_dict().items()}
    extractor.train()
    assert torch.equal(extractor(model.images())["embedding"], before)
    assert all(torch.equal(state[k], t) for k, t in model.network.state_dict().items())
    assert not any(module.training for module in extractor.modules())


def test_init__leaves_the_network_as_it_was() -> None:
    model = sample("timm/test_vit")
    logits = model.network(model.images())
    keys = list(model.network.state_dict())
    extractor_of(model)
    extractor_of(model, layers=("blocks.3",))
    assert torch.equal(model.network(model.images()), logits)
    assert list(model.network.state_dict()) == keys


def test_deepcopy__has_a_network_of_its_own() -> None:
    model = sample("timm/test_resnet", 64)
    extractor = extractor_of(model, layers=("layer4",))
    expected = extractor(model.images())["layer4"]
    twin = copy.deepcopy(extractor)
    assert torch.equal(twin(model.images())["layer4"], expected)
    twin.network.layer4.register_forward_pre_hook(lambda _m, inputs: (inputs[0] * 2,))
    assert not torch.equal(twin(model.images())["layer4"], expected)
    assert torch.equal(extractor(model.images())["layer4"], expected)


def test_forward__layer_replaced_since() -> None:
    model = sample("timm/test_resnet", 64)
    extractor = extractor_of(model)
    model.network.fc = nn.Linear(96, 3)
    with pytest.raises(ModelError, match="did not call fc as it did for blank images, or the"):
        extractor(model.images())


def test_forward__an_error_of_the_network_is_not_swallowed() -> None:
    model = sample("timm/test_vit")
    extractor = extractor_of(model)
    with pytest.raises(RuntimeError, match="channels"):
        extractor(torch.zeros(1, 5, 160, 160))
    assert extractor(model.images())["embedding"].shape == (2, 64)


@pytest.mark.parametrize(
    ("name", "layers", "pool"),
    [
        ("timm/test_resnet", (), None),
        ("timm/test_resnet", ("layer1", "layer4"), "none"),
        ("timm/deit_tiny_distilled_patch16_224", (), None),
    ],
)
def test_forward__in_several_threads_at_once(
    name: str, layers: tuple[str, ...], pool: str | None
) -> None:
    model = sample(name, FAMILIES[name])
    extractor = extractor_of(model, layers=layers, pool=pool)
    rounds = 8 if "deit" in name else 60
    images = [model.images(seed=seed, count=1) for seed in range(3)]
    expected = [extractor(image) for image in images]
    wrong: list[str] = []
    finished: list[int] = []
    start = threading.Barrier(len(images))

    def work(number: int) -> None:
        start.wait()
        with torch.inference_mode():
            for _ in range(rounds):
                found = extractor(images[number])
                wrong.extend(
                    f"{number} {key}"
                    for key, part in found.items()
                    if not torch.equal(part, expected[number][key])
                )
        finished.append(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(images))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(finished) == [0, 1, 2]
    assert wrong == []
    assert not torch.equal(expected[0][extractor.names[0]], expected[1][extractor.names[0]])


def test_forward__two_extractors_of_one_network_do_not_hear_each_other() -> None:
    model = sample("timm/test_resnet", 64)
    early = extractor_of(model, layers=("layer1",))
    late = extractor_of(model, layers=("layer1", "layer4"), pool="max")
    fresh = sample("timm/test_resnet", 64)
    layer1 = outputs_of(fresh.network, "layer1", model.images())
    assert torch.equal(early(model.images())["layer1"], layer1.mean((2, 3)))
    assert torch.equal(late(model.images())["layer1"], layer1.amax((2, 3)))
