import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from torch import nn

from tlcli.backbones.timm_source import TimmSource
from tlcli.errors import ModelError, WeightsError

SOURCE = TimmSource()


def build_on_meta(
    name: str, *, tag: str | None = None, num_classes: int | None = None
) -> nn.Module:
    with torch.device("meta"):
        return SOURCE.build(name, tag=tag, num_classes=num_classes)


@pytest.mark.parametrize(
    "full_name",
    [
        "resnet18.a1_in1k",
        "resnet50.a1_in1k",
        "resnet50.tv_in1k",
        "vit_small_patch16_224.augreg_in21k_ft_in1k",
        "vit_base_patch16_clip_224.openai_ft_in1k",
        "deit_tiny_distilled_patch16_224.fb_in1k",
        "convnext_atto.d2_in1k",
        "swin_tiny_patch4_window7_224.ms_in1k",
        "tf_efficientnet_lite0.in1k",
        "efficientnet_b0.ra_in1k",
        "inception_v3.tv_in1k",
        "maxvit_tiny_tf_224.in1k",
        "regnety_002.pycls_in1k",
        "mobilenetv4_conv_small.e2400_r224_in1k",
        "eva02_tiny_patch14_336.mim_in22k_ft_in1k",
        "vit_base_patch16_siglip_224.webli",
    ],
)
def test_preprocessing__is_timms_own_evaluation(full_name: str) -> None:
    name, _, tag = full_name.partition(".")
    config = resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(full_name).to_dict())
    resize, crop, *_, normalize = create_transform(**config, is_training=False).transforms
    sides = (resize.size, resize.size) if isinstance(resize.size, int) else tuple(resize.size)
    found = SOURCE.preprocessing(name, tag=tag)
    assert found.resize_size == sides
    assert found.input_size == tuple(crop.size)
    assert found.interpolation == resize.interpolation.value
    assert found.mean == pytest.approx(tuple(normalize.mean.tolist()), abs=1e-7)
    assert found.std == pytest.approx(tuple(normalize.std.tolist()), abs=1e-7)
    assert found.crop_mode == config["crop_mode"]


@pytest.mark.parametrize(
    ("name", "tag", "resize", "crop", "interpolation", "mean"),
    [
        ("resnet18", "a1_in1k", 235, 224, "bicubic", 0.485),  # crop_pct .95, floored
        ("convnext_atto", "d2_in1k", 256, 224, "bicubic", 0.485),
        ("swin_tiny_patch4_window7_224", "ms_in1k", 248, 224, "bicubic", 0.485),
        ("vit_base_patch16_siglip_224", "webli", 248, 224, "bicubic", 0.5),
        ("tf_efficientnet_lite0", "in1k", 256, 224, "bicubic", 0.5),
        ("inception_v3", "tf_in1k", 341, 299, "bicubic", 0.5),
        ("test_vit", "r160_in1k", 168, 160, "bicubic", 0.5),
        ("caformer_s18", "sail_in1k_384", 384, 384, "bicubic", 0.485),  # crop_pct 1
    ],
)
def test_preprocessing__known_numbers(
    name: str, tag: str, resize: int, crop: int, interpolation: str, mean: float
) -> None:
    found = SOURCE.preprocessing(name, tag=tag)
    assert found.resize_size == (resize, resize)
    assert found.input_size == (crop, crop)
    assert found.interpolation == interpolation
    assert found.mean[0] == mean


def test_preprocessing__squash_is_kept() -> None:
    found = SOURCE.preprocessing("convnext_base", tag="fb_in22k_ft_in1k_384")
    assert found.crop_mode == "squash"
    assert found.resize_size == found.input_size == (384, 384)


def test_preprocessing__without_tag_is_that_of_the_default() -> None:
    default = SOURCE.tags("resnet50")[0].name
    assert SOURCE.preprocessing("resnet50", tag=None) == SOURCE.preprocessing(
        "resnet50", tag=default
    )


def test_tags__default_first_and_all_of_timms() -> None:
    names = [tag.name for tag in SOURCE.tags("resnet50")]
    assert names[0] == timm.models.get_pretrained_cfg("resnet50").tag
    assert sorted(names) == sorted(
        full.partition(".")[2] for full in timm.list_pretrained("resnet50.*")
    )
    assert len(names) > 15


def test_tags__licence() -> None:
    licences = {tag.name: tag.license for tag in SOURCE.tags("tf_efficientnet_lite0")}
    assert licences == {"in1k": "apache-2.0"}


def test_tags__none_published() -> None:
    assert timm.list_pretrained("coatnet_0_224.*") == []
    assert SOURCE.tags("coatnet_0_224") == ()


@pytest.mark.parametrize(
    "ask",
    [
        lambda: SOURCE.preprocessing("resnet18", tag="bogus"),
        lambda: SOURCE.class_names("resnet18", tag="bogus"),
        lambda: SOURCE.build("resnet18", tag="bogus", num_classes=None),
        lambda: SOURCE.cached_weights("resnet18", tag="bogus"),
        lambda: SOURCE.download_weights("resnet18", tag="bogus"),
    ],
)
def test_config__unknown_tag(ask: Callable[[], object]) -> None:
    with pytest.raises(
        ModelError, match=r"^timm/resnet18 has no weights called 'bogus'\. There are: .*a1_in1k"
    ):
        ask()


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("resnet18", ("fc",)),
        ("vit_tiny_patch16_224", ("head",)),
        ("deit_tiny_distilled_patch16_224", ("head", "head_dist")),
        ("levit_128", ("head.linear", "head_dist.linear")),
        ("levit_384_s8", ("head.linear", "head_dist.linear")),  # its config names the first only
        ("convnext_atto", ("head.fc",)),
        ("tf_efficientnet_lite0", ("classifier",)),
        ("vgg11", ("head.fc",)),
        ("densenet121", ("classifier",)),
    ],
)
def test_head_names(name: str, heads: tuple[str, ...]) -> None:
    network = build_on_meta(name, num_classes=7)
    assert SOURCE.head_names(network) == heads
    for head in heads:
        assert network.get_parameter(f"{head}.weight").shape[0] == 7


def test_head_names__of_a_layer_that_is_not_there() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    network.pretrained_cfg = {"classifier": "head"}  # type: ignore[assignment]

    with pytest.raises(ModelError, match="is 'head', but it has no such layer"):
        SOURCE.head_names(network)


def test_head_names__of_a_network_that_names_none() -> None:
    with pytest.raises(ModelError, match="timm does not say which layer of Identity is its head"):
        SOURCE.head_names(nn.Identity())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", set()),
        ("vit_tiny_patch16_224", {"cls_token", "pos_embed"}),
        ("deit_tiny_distilled_patch16_224", {"cls_token", "pos_embed", "dist_token"}),
        (
            "swin_tiny_patch4_window7_224",
            {
                f"layers.{layer}.blocks.{block}.attn.relative_position_bias_table"
                for layer, blocks in enumerate((2, 2, 6, 2))
                for block in range(blocks)
            },
        ),
    ],
)
def test_no_weight_decay__as_full_parameter_names(name: str, expected: set[str]) -> None:
    network = build_on_meta(name)
    assert SOURCE.no_weight_decay(network) == expected
    assert expected <= set(dict(network.named_parameters()))


@pytest.mark.parametrize(
    ("name", "tag", "count", "first"),
    [
        ("resnet18", "a1_in1k", 1000, "n01440764"),
        ("vit_small_patch16_224", "augreg_in21k", 21843, None),
        ("convnext_tiny", "fb_in22k", 21841, None),
        ("convnext_tiny", "in12k", 11821, None),
    ],
)
def test_class_names__fit_the_published_head(
    name: str, tag: str, count: int, first: str | None
) -> None:
    config = timm.models.get_pretrained_cfg(f"{name}.{tag}")
    assert config.num_classes == count
    names = SOURCE.class_names(name, tag=tag)
    assert len(names) == count
    assert first is None or names[0] == first


def test_class_names__unknown_where_the_head_is_no_imagenet() -> None:
    assert SOURCE.class_names("vit_base_patch16_siglip_224", tag="webli") == ()


@pytest.mark.parametrize(
    ("num_classes", "tag", "outputs"),
    [(None, None, 1000), (7, None, 7), (None, "fb_in22k", 21841), (7, "fb_in22k", 7)],
)
def test_build__outputs(num_classes: int | None, tag: str | None, outputs: int) -> None:
    network = build_on_meta("convnext_tiny", tag=tag, num_classes=num_classes)
    assert network.get_parameter("head.fc.weight").shape[0] == outputs


def test_build__a_head_even_where_published_without_one() -> None:
    assert timm.models.get_pretrained_cfg("vit_small_patch14_dinov2.lvd142m").num_classes == 0
    network = build_on_meta("vit_small_patch14_dinov2", tag="lvd142m")
    assert network.get_parameter("head.weight").shape[0] == 1000


@pytest.fixture
def vit_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(timm.create_model("test_vit", num_classes=1000).state_dict(), path)
    return path


@pytest.mark.usefixtures("sockets_forbidden")
def test_load_published__every_tensor(vit_file: Path) -> None:
    network = SOURCE.load_published("test_vit", tag="r160_in1k", path=vit_file)
    expected = load_file(vit_file)
    assert set(network.state_dict()) == set(expected)
    assert all(torch.equal(network.state_dict()[k], tensor) for k, tensor in expected.items())


def test_load_published__of_another_model(vit_file: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        SOURCE.load_published("test_resnet", tag="r160_in1k", path=vit_file)
    message = str(caught.value)
    assert message.startswith(
        f"{vit_file} does not hold the weights of timm/test_resnet.r160_in1k (RuntimeError: Error"
    )
    assert message.endswith("Delete the file and run again to fetch it anew.")
    assert "\n" not in message


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("pwned"),)  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("file_name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"junk" * 100),
        ("pytorch_model.bin", b""),
        ("pytorch_model.bin", b"junk" * 100),
        ("pytorch_model.bin", b"PK\x03\x04" + bytes(100)),
        ("pytorch_model.bin", pickle.dumps({"a": 1})),
        ("pytorch_model.bin", pickle.dumps(Trap())),
    ],
)
def test_load_published__damaged_file(
    file_name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / file_name).write_bytes(content)
    with pytest.raises(WeightsError, match="does not hold the weights of timm/test_vit"):
        SOURCE.load_published("test_vit", tag="r160_in1k", path=tmp_path / file_name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.usefixtures("hub_folders", "sockets_forbidden")
def test_cached_weights__none_yet() -> None:
    assert SOURCE.cached_weights("tf_efficientnet_lite0", tag="in1k") is None


@pytest.mark.usefixtures("sockets_forbidden")
def test_cached_weights__found_and_loaded_without_a_socket(
    cached_lite0: Path, shared_weights: Path
) -> None:
    assert SOURCE.cached_weights("tf_efficientnet_lite0", tag="in1k") == cached_lite0
    assert SOURCE.cached_weights("tf_efficientnet_lite1", tag="in1k") is None
    network = SOURCE.load_published("tf_efficientnet_lite0", tag="in1k", path=cached_lite0)
    expected = load_file(shared_weights / "timm_tf_efficientnet_lite0.safetensors")
    assert all(torch.equal(network.state_dict()[k], tensor) for k, tensor in expected.items())


def test_cached_weights__found_in_the_folder_of_torch_hub(
    hub_folders: tuple[Path, Path],
) -> None:
    url = timm.models.get_pretrained_cfg("tf_efficientnet_lite0.in1k").url
    assert url.startswith("https://")
    path = hub_folders[0] / "hub" / "checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert SOURCE.cached_weights("tf_efficientnet_lite0", tag="in1k") == path
