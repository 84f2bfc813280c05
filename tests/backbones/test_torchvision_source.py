import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models as zoo

from tlcli.backbones.torchvision_source import TorchvisionSource
from tlcli.errors import ModelError, WeightsError

SOURCE = TorchvisionSource()
NAMES = [
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "efficientnet_b3",
    "efficientnet_v2_m",
    "inception_v3",
    "mobilenet_v3_large",
    "vit_b_16",
    "vit_h_14",
    "swin_t",
    "swin_v2_t",
    "convnext_tiny",
    "regnet_y_16gf",
    "maxvit_t",
    "densenet121",
    "googlenet",
]


def build_on_meta(
    name: str, *, tag: str | None = None, num_classes: int | None = None
) -> nn.Module:
    with torch.device("meta"):
        return SOURCE.build(name, tag=tag, num_classes=num_classes)


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        (name, tag)
        for name in NAMES
        for tag in (entry.name for entry in zoo.get_model_weights(name))
    ],
)
def test_preprocessing__is_that_of_the_weights(name: str, tag: str) -> None:
    preset = zoo.get_model_weights(name)[tag].transforms()
    found = SOURCE.preprocessing(name, tag=tag)
    assert [found.input_size] == [(crop, crop) for crop in preset.crop_size]
    assert [found.resize_size] == [(size, size) for size in preset.resize_size]
    assert found.crop_mode == "center"
    assert found.interpolation == preset.interpolation.value
    assert found.mean == tuple(preset.mean)
    assert found.std == tuple(preset.std)


@pytest.mark.parametrize(
    ("name", "tag", "resize", "crop", "interpolation"),
    [
        ("resnet50", "IMAGENET1K_V1", 256, 224, "bilinear"),
        ("resnet50", "IMAGENET1K_V2", 232, 224, "bilinear"),
        ("inception_v3", "IMAGENET1K_V1", 342, 299, "bilinear"),
        ("efficientnet_b0", "IMAGENET1K_V1", 256, 224, "bicubic"),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", 384, 384, "bicubic"),
        ("swin_t", "IMAGENET1K_V1", 232, 224, "bicubic"),
    ],
)
def test_preprocessing__known_numbers(
    name: str, tag: str, resize: int, crop: int, interpolation: str
) -> None:
    found = SOURCE.preprocessing(name, tag=tag)
    assert found.resize_size == (resize, resize)
    assert found.input_size == (crop, crop)
    assert found.interpolation == interpolation
    assert found.mean == (0.485, 0.456, 0.406)
    assert found.std == (0.229, 0.224, 0.225)


def test_preprocessing__without_tag_is_that_of_the_default() -> None:
    assert SOURCE.preprocessing("resnet50", tag=None).resize_size == (232, 232)


@pytest.mark.parametrize("ask", [SOURCE.preprocessing, SOURCE.class_names, SOURCE.cached_weights])
def test_entry__unknown_tag(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(ModelError, match="torchvision/resnet50 has no weights called 'a1_in1k'"):
        ask("resnet50", tag="a1_in1k")


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_b_16", "efficientnet_v2_s"])
def test_tags__default_first_and_each_once(name: str) -> None:
    enum = zoo.get_model_weights(name)
    names = [tag.name for tag in SOURCE.tags(name)]
    assert names[0] == enum.DEFAULT.name
    assert sorted(names) == sorted(entry.name for entry in enum)


def test_tags__licence_and_accuracy_as_a_fraction() -> None:
    newest, oldest = SOURCE.tags("resnet50")
    assert (newest.name, newest.license) == ("IMAGENET1K_V2", "BSD-3-Clause")
    assert newest.top1 == pytest.approx(0.80858, abs=1e-9)
    assert oldest.name == "IMAGENET1K_V1"
    assert oldest.top1 == pytest.approx(0.7613, abs=1e-9)
    swag = {tag.name: tag for tag in SOURCE.tags("vit_b_16")}["IMAGENET1K_SWAG_E2E_V1"]
    assert swag.license == "https://github.com/facebookresearch/SWAG/blob/main/LICENSE"


@pytest.mark.parametrize(
    ("name", "head", "width"),
    [
        ("resnet18", "fc", 512),
        ("vgg11_bn", "classifier.6", 4096),
        ("densenet121", "classifier", 1024),
        ("mobilenet_v3_small", "classifier.3", 1024),
        ("convnext_tiny", "classifier.2", 768),
        ("vit_b_16", "heads.head", 768),
        ("swin_t", "head", 768),
        ("squeezenet1_1", "classifier.1", 512),
        ("inception_v3", "fc", 2048),
        ("maxvit_t", "classifier.5", 512),
    ],
)
def test_head_names(name: str, head: str, width: int) -> None:
    network = build_on_meta(name, num_classes=7)
    assert SOURCE.head_names(network) == (head,)
    assert tuple(network.get_parameter(f"{head}.weight").shape[:2]) == (7, width)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", set()),
        ("vit_b_16", {"class_token", "encoder.pos_embedding"}),
        (
            "swin_t",
            {
                f"features.{stage}.{block}.attn.relative_position_bias_table"
                for stage, blocks in ((1, 2), (3, 2), (5, 6), (7, 2))
                for block in range(blocks)
            },
        ),
    ],
)
def test_no_weight_decay(name: str, expected: set[str]) -> None:
    assert SOURCE.no_weight_decay(build_on_meta(name)) == expected


def test_class_names__wordnet_ids_where_imagenet_1k() -> None:
    names = SOURCE.class_names("resnet50", tag="IMAGENET1K_V2")
    assert len(names) == 1000
    assert names[:2] == ("n01440764", "n01443537")
    titles = zoo.ResNet50_Weights.IMAGENET1K_V2.meta["categories"]
    assert (titles[0], titles[1]) == ("tench", "goldfish")  # the same order


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_build__auxiliary_heads_are_not_there(name: str) -> None:
    network = build_on_meta(name, tag="IMAGENET1K_V1", num_classes=5).train()
    assert not [n for n, _ in network.named_parameters() if n.lower().startswith("aux")]
    out = network(torch.empty(2, 3, 96, 96, device="meta"))
    assert isinstance(out, Tensor)
    assert out.shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "tag", "tokens"),
    [
        ("vit_b_16", None, 197),
        ("vit_b_16", "IMAGENET1K_V1", 197),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", 577),
        ("vit_h_14", None, 1370),
    ],
)
def test_build__in_the_shape_of_the_weights(name: str, tag: str | None, tokens: int) -> None:
    network = build_on_meta(name, tag=tag)
    assert network.get_parameter("encoder.pos_embedding").shape[1] == tokens
    patch = network.patch_size
    side, _ = SOURCE.preprocessing(name, tag=tag).input_size
    assert (side // patch) ** 2 + 1 == tokens  # preprocessing and network agree


INIT = {"inception_v3": {"init_weights": False}, "googlenet": {"init_weights": False}}
RENAMES = {
    "densenet121": {r"(denselayer\d+\.(?:norm|conv))([12]\.)": r"\1.\2"},
    "vit_b_16": {r"mlp\.0\.": "mlp.linear_1.", r"mlp\.3\.": "mlp.linear_2."},
    "vit_b_32": {r"mlp\.0\.": "mlp.linear_1.", r"mlp\.3\.": "mlp.linear_2."},
}


def renamed(key: str, renames: dict[str, str]) -> str:
    for pattern, replacement in renames.items():
        key = re.sub(pattern, replacement, key)
    return key


@pytest.mark.parametrize(("name", "count"), [("densenet121", 58 * 12), ("vit_b_16", 12 * 4)])
def test_current_keys__of_files_older_than_todays_names(name: str, count: int) -> None:
    state = build_on_meta(name).state_dict()
    old = {renamed(key, RENAMES[name]): tensor for key, tensor in state.items()}
    assert len(set(old) - set(state)) == count
    assert SOURCE.current_keys(name, old) == state
    assert SOURCE.current_keys(name, state) == state


def publish(name: str, *, renames: dict[str, str]) -> tuple[Path, nn.Module]:
    """Put weights where torchvision finds them; return the file and torchvision's own network."""
    entry = zoo.get_model_weights(name).DEFAULT
    with torch.device("meta"):
        network = zoo.get_model(name, **INIT.get(name, {}))
    state = network.to_empty(device="cpu").state_dict()
    generator = torch.Generator().manual_seed(0)
    for tensor in state.values():
        values = torch.rand(tensor.shape, generator=generator)
        tensor.copy_(values + 0.5 if tensor.ndim < 2 else (values - 0.5) / 10)
    for key in list(state):
        state[renamed(key, renames)] = state.pop(key)
    assert bool(renames) == (set(state) != set(network.state_dict()))
    if renames:  # such files are older than versions of modules and counters of batches
        state._metadata = {}  # type: ignore[attr-defined]
        for key in [key for key in state if key.endswith("num_batches_tracked")]:
            del state[key]
    path = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return path, zoo.get_model(name, weights=entry)


@pytest.mark.usefixtures("hub_folders", "sockets_forbidden")
@pytest.mark.parametrize(
    "name",
    [
        "shufflenet_v2_x0_5",
        pytest.param("densenet121", marks=pytest.mark.slow),
        pytest.param("vit_b_32", marks=pytest.mark.slow),
        pytest.param("inception_v3", marks=pytest.mark.slow),
        pytest.param("googlenet", marks=pytest.mark.slow),
        "mnasnet0_5",
    ],
)
def test_load_published__same_logits_as_torchvision_itself(name: str) -> None:
    path, expected = publish(name, renames=RENAMES.get(name, {}))
    tag = SOURCE.tags(name)[0].name
    assert SOURCE.cached_weights(name, tag=tag) == path
    network = SOURCE.load_published(name, tag=tag, path=path)
    ours = network.state_dict()
    theirs = {k: v for k, v in expected.state_dict().items() if not k.startswith("AuxLogits.")}
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    assert getattr(network, "transform_input", None) == getattr(expected, "transform_input", None)
    side = SOURCE.preprocessing(name, tag=tag).input_size[0]
    images = torch.rand(1, 3, side, side)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), expected.eval()(images))


def test_load_published__cut_off_file(tmp_path: Path) -> None:
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save(zoo.resnet18().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=f"{path}.* is damaged, cut off or not a weights file"):
        SOURCE.load_published("resnet18", tag="IMAGENET1K_V1", path=path)


def test_load_published__of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(zoo.squeezenet1_1().state_dict(), path)
    with pytest.raises(WeightsError, match="fits another architecture"):
        SOURCE.load_published("resnet18", tag="IMAGENET1K_V1", path=path)


@pytest.mark.usefixtures("hub_folders", "sockets_forbidden")
def test_cached_weights__none_yet() -> None:
    assert SOURCE.cached_weights("squeezenet1_1", tag="IMAGENET1K_V1") is None


@pytest.mark.usefixtures("sockets_forbidden")
def test_cached_weights__found_and_loaded_without_a_socket(
    cached_squeezenet: Path, shared_weights: Path
) -> None:
    assert SOURCE.cached_weights("squeezenet1_1", tag="IMAGENET1K_V1") == cached_squeezenet
    assert SOURCE.cached_weights("squeezenet1_0", tag="IMAGENET1K_V1") is None
    assert SOURCE.download_weights("squeezenet1_1", tag="IMAGENET1K_V1") == cached_squeezenet
    network = SOURCE.load_published("squeezenet1_1", tag="IMAGENET1K_V1", path=cached_squeezenet)
    expected = load_file(shared_weights / "torchvision_squeezenet1_1.safetensors")
    assert all(torch.equal(network.state_dict()[k], tensor) for k, tensor in expected.items())
