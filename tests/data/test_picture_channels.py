"""Gray pictures and pictures with transparency, from the file to the normalised tensor."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision.transforms import InterpolationMode, v2

from tlcli.config.parts import IN_CHANNELS
from tlcli.data.augment import AUGMENTATIONS, erase_part, train_transform, view_generator
from tlcli.data.auto_augment import OPERATIONS, POLICIES, STRENGTHS, change_picture
from tlcli.data.image_check import count_converted
from tlcli.data.images import PICTURE_MODES, read_image
from tlcli.data.loaders import ImageDataset, image_batches, ordered_batches
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.transforms import eval_transform, normalize

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (40, 64, 4), dtype=np.uint8)
RGBA = Image.fromarray(COLOURS)
PICTURES = {1: RGBA.convert("L"), 3: RGBA.convert("RGB"), 4: RGBA}
OF_PLACE = {"Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}


def preprocessing(channels: int, **values: object) -> Preprocessing:
    whole = {
        "input_size": (24, 32),
        "resize_size": (28, 36),
        "interpolation": "bicubic",
        "mean": (0.4, 0.5, 0.6, 0.3)[:channels],
        "std": (0.5, 0.25, 0.2, 0.1)[:channels],
        **values,
    }
    return Preprocessing(**whole)  # type: ignore[arg-type]


def generator(view: int) -> np.random.Generator:
    return view_generator(seed=3, content_key=9, view=view)


def pixels(path: Path, *, channels: int) -> np.ndarray:
    image = read_image(path, channels=channels).image
    assert image.mode == PICTURE_MODES[channels]
    return np.asarray(image).astype(int)


def luma(rgb: np.ndarray) -> np.ndarray:
    """ITU-R 601-2 as Pillow documents it: L = R * 299/1000 + G * 587/1000 + B * 114/1000."""
    weighted: np.ndarray = rgb[..., :3].astype(float) @ np.array([0.299, 0.587, 0.114])
    return weighted


def test_picture_modes__are_those_of_the_option() -> None:
    assert tuple(PICTURE_MODES) == IN_CHANNELS


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_read_image__gray_stays_gray(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    PICTURES[1].save(path)
    assert np.array_equal(pixels(path, channels=1), np.asarray(Image.open(path)))
    assert np.array_equal(pixels(path, channels=3)[..., 0], pixels(path, channels=1))


def test_read_image__colours_become_their_luma(tmp_path: Path) -> None:
    PICTURES[3].save(tmp_path / "a.png")
    assert np.abs(pixels(tmp_path / "a.png", channels=1) - luma(COLOURS)).max() <= 1


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_read_image__sixteen_bit_gray(tmp_path: Path, suffix: str, channels: int) -> None:
    values = np.array([[0, 128, 129, 257], [1000, 32768, 65406, 65535]], dtype=np.uint16)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(values).save(path)
    found = pixels(path, channels=channels)
    gray = np.rint(values / 257).astype(int)
    if channels == 1:
        assert np.array_equal(found, gray)
    else:
        assert np.array_equal(found[..., :3], np.repeat(gray[..., None], 3, axis=2))
        assert (found[..., 3] == 255).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_read_image__transparency_is_kept_or_on_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    RGBA.convert(mode).save(path)
    stored = np.asarray(RGBA.convert(mode).convert("RGBA")).astype(int)
    assert np.array_equal(pixels(path, channels=4), stored)
    share = stored[..., 3] / 255
    on_white = luma(stored) * share + 255 * (1 - share)
    assert np.abs(pixels(path, channels=1) - on_white).max() <= 2


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_read_image__transparent_palette_entry(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(path, transparency=0)
    found = pixels(path, channels=4)
    assert found[0, 0].tolist()[3] == 0
    assert found[0, 1].tolist() == [200, 100, 50, 255]
    assert pixels(path, channels=1).tolist() == [[255, 124]]  # white, and 59.8 + 58.7 + 5.7


def test_read_image__transparent_colour_of_rgb_and_of_gray(tmp_path: Path) -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    rgb.save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    Image.fromarray(np.array([[7, 8]], dtype=np.uint8)).save(tmp_path / "l.png", transparency=7)
    assert pixels(tmp_path / "rgb.png", channels=4).tolist() == [[[1, 2, 3, 0], [4, 5, 6, 255]]]
    assert pixels(tmp_path / "l.png", channels=4)[..., 3].tolist() == [[0, 255]]
    assert pixels(tmp_path / "l.png", channels=1).tolist() == [[255, 8]]


@pytest.mark.parametrize(("channels", "wanted"), [(1, [76]), (4, [254, 0, 0, 255])])
def test_read_image__cmyk_jpeg(tmp_path: Path, channels: int, wanted: list[int]) -> None:
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=95)  # pure red
    found = pixels(path, channels=channels).reshape(-1, len(wanted)).mean(axis=0)
    assert np.abs(found - wanted).max() < 10


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"]
)
@pytest.mark.parametrize("channels", PICTURE_MODES)
@pytest.mark.parametrize("orientation", [1, 6])
def test_read_image__every_mode_that_a_tiff_holds(
    tmp_path: Path, mode: str, channels: int, orientation: int
) -> None:
    path = tmp_path / "a.tif"
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = PICTURES[1].convert("I").convert(mode) if mode == "I;16" else RGBA.convert(mode)
    image.save(path, exif=exif)
    found = pixels(path, channels=channels)
    assert found.shape[:2] == ((64, 40) if orientation == 6 else (40, 64))
    plain = pixels(path, channels=3)
    if channels == 1:
        assert np.abs(found - luma(plain)).max() <= 1
    if channels == 4 and "A" not in mode:
        assert np.array_equal(found[..., :3], plain)
        assert (found[..., 3] == 255).all()


def test_read_image__other_numbers_of_channels(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        read_image(tmp_path / "a.png", channels=2)


def test_count_converted__looks_at_headers(tmp_path: Path) -> None:
    images = {
        "gray.png": PICTURES[1],
        "colour.jpg": PICTURES[3],
        "alpha.png": RGBA,
        "gray_alpha.png": RGBA.convert("LA"),
        "palette.gif": PICTURES[3].quantize(8),
        "one_bit.png": PICTURES[1].convert("1"),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    Image.fromarray(np.full((2, 2), 300, dtype=np.uint16)).save(tmp_path / "sixteen.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = [*sorted(tmp_path.iterdir()), tmp_path / "gone.png"]

    def found(channels: int) -> int:
        return count_converted(paths, channels=channels, threads=2)

    assert found(1) == 3  # colour.jpg, alpha.png, palette.gif
    assert found(4) == 5  # all but those with transparency, and what is no image
    assert found(3) == 0


@pytest.mark.parametrize("channels", PICTURE_MODES)
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_eval_transform__equals_timm(channels: int, crop_mode: str) -> None:
    wanted = preprocessing(channels, crop_mode=crop_mode, resize_size=(30, 40))
    theirs = create_transform(
        input_size=(channels, 24, 32),
        interpolation="bicubic",
        mean=wanted.mean,
        std=wanted.std,
        crop_pct=0.8,
        crop_mode=crop_mode,
        is_training=False,
    )
    for picture in (PICTURES[channels], PICTURES[channels].resize((20, 9))):
        ours = normalize(eval_transform(wanted)(picture)[None], mean=wanted.mean, std=wanted.std)
        assert torch.equal(ours[0], theirs(picture))


def test_eval_transform__transparent_colours_do_not_bleed() -> None:
    """Pillow resizes colours by the weight of their transparency."""
    halves = np.zeros((8, 8, 4), dtype=np.uint8)
    halves[:, :4] = (255, 0, 0, 0)  # transparent red
    halves[:, 4:] = (0, 0, 255, 255)
    wanted = preprocessing(4, input_size=(2, 2), resize_size=(2, 2), interpolation="bilinear")
    seen = eval_transform(wanted)(Image.fromarray(halves))
    assert seen[0].max() == 0  # no red where anything can be seen
    assert seen[3].min() < 128 < seen[3].max()


@pytest.mark.parametrize("channels", PICTURE_MODES)
@pytest.mark.parametrize("level", AUGMENTATIONS)
def test_train_transform__makes_views_of_every_mode(channels: int, level: str) -> None:
    transform = train_transform(preprocessing(channels), level=level)  # type: ignore[arg-type]
    views = [transform(PICTURES[channels], generator(view)) for view in range(30)]
    again = [transform(PICTURES[channels], generator(view)) for view in reversed(range(30))]
    assert all(view.shape == (channels, 24, 32) for view in views)
    assert all(torch.equal(a, b) for a, b in zip(views, again[::-1], strict=True))
    different = len({view.numpy().tobytes() for view in views})
    assert (
        different == {"none": 1, "flip": 2}[level] if level in ("none", "flip") else different > 25
    )


def test_train_transform__jitter_keeps_transparency() -> None:
    plain = train_transform(preprocessing(4), level="none")
    jittered = train_transform(preprocessing(4), level="none", color_jitter=0.9)
    for view in range(10):
        before, after = (one(RGBA, generator(view)) for one in (plain, jittered))
        assert torch.equal(before[3], after[3])
        assert not torch.equal(before[:3], after[:3])


@pytest.mark.parametrize("channels", PICTURE_MODES)
def test_erase_part__fills_every_channel_with_its_mean(channels: int) -> None:
    picture = torch.full((channels, 24, 32), 7, dtype=torch.uint8)
    mean = preprocessing(channels).mean
    erased = erase_part(picture, generator(0), colour=mean)
    for channel, value in zip(erased, mean, strict=True):
        assert set(channel.flatten().tolist()) == {7, round(255 * value)}
    assert (erased != 7).all(dim=0).sum() == (erased != 7).any(dim=0).sum()


@pytest.mark.parametrize("policy", OPERATIONS)
def test_change_picture__gray_as_torchvision_does(policy: str) -> None:
    transform = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}[policy]()
    gray = PICTURES[1]
    for name, (magnitudes_of, is_signed) in transform._AUGMENTATION_SPACE.items():
        magnitudes = magnitudes_of(STRENGTHS, gray.height, gray.width)
        value = 0.0 if magnitudes is None else -float(magnitudes[20]) * (2 * (not is_signed) - 1)
        value = abs(value) if not is_signed else value
        theirs = transform._apply_image_or_video_transform(
            gray, name, value, interpolation=InterpolationMode.NEAREST, fill={}
        )
        ours = change_picture(
            gray,
            name,
            policy=policy,  # type: ignore[arg-type]
            strength=20,
            is_negative=value < 0,
        )
        assert ours.mode == "L"
        assert ours.tobytes() == theirs.tobytes(), name
        assert (name != "Color") or ours.tobytes() == gray.tobytes()


@pytest.mark.parametrize("policy", OPERATIONS)
@pytest.mark.parametrize("name", OPERATIONS["randaugment"])
@pytest.mark.parametrize("is_negative", [False, True])
def test_change_picture__transparency_moves_but_keeps_its_values(
    policy: str, name: str, is_negative: bool
) -> None:
    for strength in (0, 9, 30):

        def changed(
            image: Image.Image, *, strength: int = strength, is_negative: bool = is_negative
        ) -> Image.Image:
            return change_picture(
                image,
                name,
                policy=policy,  # type: ignore[arg-type]
                strength=strength,
                is_negative=is_negative,
            )

        found = changed(RGBA)
        alpha = RGBA.getchannel("A")
        wanted_alpha = changed(alpha) if name in OF_PLACE else alpha
        assert found.mode == "RGBA"
        assert found.getchannel("A").tobytes() == wanted_alpha.tobytes()
        assert found.convert("RGB").tobytes() == changed(PICTURES[3]).tobytes()
    assert RGBA.tobytes() == Image.fromarray(COLOURS).tobytes()


@pytest.mark.parametrize("policy", POLICIES)
@given(view=st.integers(0, 10_000))
def test_policies__never_fail_on_any_mode(policy: str, view: int) -> None:
    for picture in PICTURES.values():
        changed = POLICIES[policy](picture, generator(view))  # type: ignore[index]
        assert (changed.mode, changed.size) == (picture.mode, picture.size)


@pytest.mark.parametrize("channels", [1, 4])
def test_normalize__of_other_channels(channels: int) -> None:
    wanted = preprocessing(channels)
    batch = torch.from_numpy(RNG.integers(0, 256, (2, channels, 5, 6), dtype=np.uint8))
    mean, std = (torch.tensor(values)[:, None, None] for values in (wanted.mean, wanted.std))
    expected = (batch / 255 - mean) / std
    for images in (batch, batch.contiguous(memory_format=torch.channels_last)):
        ours = normalize(images, mean=wanted.mean, std=wanted.std)
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_image_dataset__reads_as_many_channels(tmp_path: Path, num_workers: int) -> None:
    RGBA.save(tmp_path / "a.png")
    wanted = replace(preprocessing(4), input_size=(40, 64), resize_size=(40, 64))
    dataset = ImageDataset(
        [tmp_path / "a.png"] * 2,
        [0, 1],
        transform=eval_transform(replace(wanted, crop_mode="squash")),
        channels=4,
    )
    (batch,) = image_batches(
        dataset, ordered_batches(2, batch_size=2), num_workers=num_workers, pin_memory=False
    )
    assert np.array_equal(batch.images[1].permute(1, 2, 0).numpy(), COLOURS)


def test_border__is_padded_with_each_channels_mean() -> None:
    wanted = preprocessing(4, crop_mode="border", input_size=(20, 20), resize_size=(16, 16))
    seen = eval_transform(wanted)(ImageOps.pad(RGBA, (16, 16)))
    assert seen[:, 0, 0].tolist() == [round(255 * value) for value in wanted.mean]
