from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform
from torchvision import models
from torchvision.transforms import Compose, InterpolationMode, Normalize, ToTensor
from torchvision.transforms._presets import ImageClassification

from tlcli.data.catalog import load_table
from tlcli.data.images import read_image
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.transforms import eval_transform, normalize
from tlcli.errors import ConfigError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(300, 200), (200, 301), (61, 60), (224, 224), (500, 97), (97, 500), (1, 9)]


def noise(size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(size)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def seen(image: Image.Image, p: Preprocessing) -> torch.Tensor:
    return normalize(eval_transform(p)(image)[None], mean=p.mean, std=p.std)[0]


def square(side: int, *, resize: int, **values) -> Preprocessing:
    whole = {"mean": MEAN, "std": STD, **values}
    return Preprocessing(input_size=(side, side), resize_size=(resize, resize), **whole)


@pytest.mark.parametrize(
    "weights",
    [
        models.ResNet50_Weights.IMAGENET1K_V1,
        models.ResNet50_Weights.IMAGENET1K_V2,
        models.Inception_V3_Weights.IMAGENET1K_V1,
        models.EfficientNet_B0_Weights.IMAGENET1K_V1,
        models.Swin_V2_T_Weights.IMAGENET1K_V1,
        models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1,
    ],
    ids=str,
)
@pytest.mark.parametrize("size", SIZES)
def test_eval_transform__equals_torchvision(
    weights: models.WeightsEnum, size: tuple[int, int]
) -> None:
    preset = weights.transforms()
    assert isinstance(preset, ImageClassification)
    p = square(
        preset.crop_size[0],
        resize=preset.resize_size[0],
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )
    assert torch.equal(seen(noise(size), p), preset(noise(size)))


def timm_preprocessing(config: dict) -> Preprocessing:
    height, width = config["input_size"][1:]
    pct = config["crop_pct"]
    return Preprocessing(
        input_size=(height, width),
        resize_size=(int(height // pct), int(width // pct)),
        crop_mode=config["crop_mode"],
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize(
    ("side", "interpolation"),
    [((64, 64), "bicubic"), ((64, 64), "bilinear"), ((48, 80), "bicubic"), ((80, 48), "lanczos")],
)
def test_eval_transform__equals_timm(
    crop_mode: str, crop_pct: float, side: tuple[int, int], interpolation: str
) -> None:
    config = {
        "input_size": (3, *side),
        "interpolation": interpolation,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.5, 0.2, 0.1),
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
    }
    theirs = create_transform(**config, is_training=False)
    for size in SIZES[:-1]:
        ours = seen(noise(size), timm_preprocessing(config))
        assert torch.equal(ours, theirs(noise(size))), size


@pytest.mark.parametrize(
    "name",
    [
        "resnet50.a1_in1k",
        "vit_small_patch16_224.augreg_in21k_ft_in1k",
        "convnext_tiny.fb_in22k_ft_in1k",
        "eva02_tiny_patch14_336.mim_in22k_ft_in1k",
        "vit_base_patch16_clip_224.openai",
    ],
)
def test_eval_transform__equals_timm_for_its_models(name: str) -> None:
    config = timm.data.resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg(name).to_dict(), use_test_size=True
    )
    theirs = create_transform(**config, is_training=False)
    p = timm_preprocessing(config)
    for size in SIZES[:4]:
        assert torch.equal(seen(noise(size), p), theirs(noise(size)))


def test_eval_transform__real_photos(shared_data: Path) -> None:
    preset = models.ResNet18_Weights.DEFAULT.transforms()
    paths = load_table(str(shared_data / "brain_mri")).paths("unsplit")[::25]
    for path in paths:
        image = read_image(path).image
        assert torch.equal(seen(image, square(224, resize=256)), preset(image))


def test_eval_transform__pillow_differs_from_tensors() -> None:
    image = noise((300, 200))
    ours = seen(image, square(64, resize=72))
    preset = ImageClassification(crop_size=64, resize_size=72)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert not torch.equal(ours, preset(tensor))


def test_eval_transform__uint8_of_input_size() -> None:
    p = Preprocessing(input_size=(40, 56), resize_size=(44, 60), mean=MEAN, std=STD)
    pixels = eval_transform(p)(noise((300, 200)))
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 40, 56)


def test_eval_transform__unknown_names() -> None:
    p = square(8, resize=8)
    with pytest.raises(ConfigError, match="Unknown interpolation 'area'; use nearest, bilinear"):
        eval_transform(replace(p, interpolation="area"))
    with pytest.raises(ConfigError, match="Unknown crop mode 'random'; use center, squash"):
        eval_transform(replace(p, crop_mode="random"))


def test_eval_transform__all_filters_are_torchvisions() -> None:
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"):
        preset = ImageClassification(
            crop_size=16, resize_size=20, interpolation=InterpolationMode(name)
        )
        image = noise((50, 40))
        assert torch.equal(seen(image, square(16, resize=20, interpolation=name)), preset(image))


def test_normalize__equals_to_tensor_and_normalize() -> None:
    images = [noise((16, 16)) for _ in range(2)]
    every_value = Image.fromarray(
        np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    )
    images.append(every_value)
    for mean, std in (
        (MEAN, STD),
        ((0.5,) * 3, (0.5,) * 3),
        ((0.481, 0.457, 0.408), (0.268, 0.261, 0.275)),
    ):
        theirs = Compose([ToTensor(), Normalize(mean, std)])
        expected = torch.stack([theirs(image) for image in images])
        batch = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in images])
        before = batch.clone()
        ours = normalize(batch, mean=mean, std=std)
        assert ours.dtype == torch.float32
        assert torch.equal(ours, expected)
        assert torch.equal(batch, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_normalize__same_bits_on_cuda() -> None:
    batch = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    ours = normalize(batch.cuda(), mean=MEAN, std=STD)
    assert torch.equal(ours.cpu(), normalize(batch, mean=MEAN, std=STD))
