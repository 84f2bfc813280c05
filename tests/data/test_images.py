import hashlib
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from tlcli.data.images import content_key, is_image_name, read_image
from tlcli.errors import BadImageError, DataError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (10, 14, 3), dtype=np.uint8)


def pixels(path: Path) -> np.ndarray:
    picture = read_image(path)
    assert picture.image.mode == "RGB"
    return np.asarray(picture.image).astype(int)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "tga"])
def test_read_image__lossless_formats_give_their_pixels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(path)
    assert np.array_equal(pixels(path), COLOURS)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "jp2", "avif", "gif"])
def test_read_image__other_formats_equal_pillow(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(path)
    assert np.array_equal(pixels(path), np.asarray(Image.open(path).convert("RGB")))


def test_read_image__content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    Image.fromarray(COLOURS).save(path, format="PNG")
    assert np.array_equal(pixels(path), COLOURS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image__exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOURS).save(path, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(path))
    assert np.array_equal(pixels(path), np.asarray(expected))
    assert (pixels(path).shape[:2] == (14, 10)) == (orientation >= 5)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "lzw.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image__stored_pixels_stay_as_they_lie(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"compression": "tiff_lzw"} if suffix.startswith("lzw") else {}
    blocks = np.kron(COLOURS[:5, :7], np.ones((16, 16, 1), dtype=np.uint8))  # JPEG keeps these
    Image.fromarray(blocks).save(path, exif=exif, **options)
    stored = np.asarray(read_image(path, upright=False).image).astype(int)
    assert stored.shape == (80, 112, 3)
    tolerance = 12 if suffix == "jpg" else 0
    assert np.abs(stored[8::16, 8::16] - COLOURS[:5, :7]).max() <= tolerance
    # the upright one is a turned copy of it, whatever Pillow does while loading
    turns = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).transpose(1, 0, 2),
        8: np.rot90(stored),
    }
    assert np.array_equal(pixels(path), turns[orientation])


def test_read_image__broken_exif_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOURS).save(path, exif=b"Exif\0\0rubbish that is no TIFF header")
    assert np.array_equal(pixels(path), COLOURS)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_read_image__alpha_is_composited_on_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    alpha = np.linspace(0, 255, 140).round().astype(np.uint8).reshape(10, 14)
    image = Image.fromarray(COLOURS).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    image.save(path)
    colour = np.asarray(image.convert("RGBA"))[..., :3].astype(float)
    weight = alpha[..., None] / 255
    expected = colour * weight + 255 * (1 - weight)
    assert np.abs(pixels(path) - expected).max() <= 1
    assert pixels(path)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_read_image__transparent_palette_entry_becomes_white(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), mode="P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(path, transparency=0)
    white, colour = [255, 255, 255], [200, 100, 50]
    assert pixels(path).tolist() == [[white, colour], [colour, white]]


def test_read_image__transparent_colour_of_rgb_becomes_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)).save(
        path, transparency=(1, 2, 3)
    )
    assert pixels(path).tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_read_image__palette_without_transparency(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.fromarray(COLOURS).quantize(16)
    image.save(path)
    assert np.array_equal(pixels(path), np.asarray(image.convert("RGB")))


def test_read_image__one_bit_is_black_and_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[True, False]])).save(path)
    assert pixels(path).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_read_image__sixteen_bit_gray_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    values = np.array([[0, 128, 129, 257], [1000, 32768, 65406, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(path)
    expected = np.rint(values / 257).astype(int)
    assert expected.max() == 255
    assert np.array_equal(pixels(path), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "pgm"])
def test_read_image__dark_sixteen_bit_gray_stays_dark(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.full((2, 2), 200, dtype=np.uint16)).save(path)
    assert (pixels(path) == 1).all()


def test_read_image__integers_of_32_bits(tmp_path: Path) -> None:
    values = np.array([[0, 255]], dtype=np.int32)
    Image.fromarray(values).save(tmp_path / "small.tif")
    Image.fromarray(values * 257).save(tmp_path / "large.tif")
    for name in ("small.tif", "large.tif"):
        assert pixels(tmp_path / name)[..., 0].tolist() == [[0, 255]]
    Image.fromarray(values * 1000).save(tmp_path / "huge.tif")
    with pytest.raises(BadImageError, match=r"values 0\.\.255000 do not fit 16 bits"):
        read_image(tmp_path / "huge.tif")


def test_read_image__cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=95)  # pure red
    red = pixels(path).reshape(-1, 3).mean(axis=0)
    assert red[0] > 240
    assert red[1] < 15
    assert red[2] < 15


def test_read_image__lab_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.new("LAB", (4, 4), (255, 128, 128)).save(path)  # L* = 100, no colour: white
    assert pixels(path).min() > 245


def test_read_image__float_is_refused_with_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((3, 3), dtype=np.float32)).save(path)
    with pytest.raises(BadImageError, match=r"a\.tif: its pixels are floating.*8 bit first"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_read_image__first_frame_of_many(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert Image.open(path).n_frames == 2
    assert (pixels(path) == 255).all()


def test_read_image__empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    with pytest.raises(BadImageError, match=r"Cannot decode .*a\.jpg: the file is empty"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif"])
def test_read_image__truncated_file_is_never_half_gray(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadImageError, match=rf"Cannot decode .*a\.{suffix}: "):
        read_image(path)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_read_image__unknown_format(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("<html>404 Not Found</html>")
    with pytest.raises(BadImageError, match=r"a\.jpg: not an image format known here"):
        read_image(path)


@pytest.mark.parametrize(("side", "reason"), [(11, "121 pixels|11 x 11"), (30, "900 pixels")])
def test_read_image__decompression_bomb_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, reason: str
) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (side, side)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BadImageError, match=reason):
            read_image(path)


def test_read_image__missing_file_is_no_bad_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*gone\.png: No such file") as caught:
        read_image(tmp_path / "gone.png")
    assert not isinstance(caught.value, BadImageError)


@given(data=st.binary(min_size=1, max_size=200))
def test_read_image__bytes_of_any_kind_fail_in_words(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    buffer = BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, format="PNG")
    path = tmp_path_factory.getbasetemp() / "fuzz.png"
    path.write_bytes(buffer.getvalue()[:33] + data)  # a good header, then rubbish
    with pytest.raises(BadImageError, match=r"Cannot decode .*fuzz\.png"):
        read_image(path)


def test_read_image__same_in_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    Image.fromarray(COLOURS).quantize(64).save(path)
    expected = pixels(path)
    with ThreadPoolExecutor(8) as executor:
        for found in executor.map(pixels, [path] * 64):
            assert np.array_equal(found, expected)


def test_content_key__is_that_of_the_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "copy.jpg"):
        Image.fromarray(COLOURS).save(tmp_path / name, format="PNG")
    Image.fromarray(COLOURS[::-1]).save(tmp_path / "other.png")
    keys = [read_image(tmp_path / name).content_key for name in ("a.png", "copy.jpg", "other.png")]
    data = (tmp_path / "a.png").read_bytes()
    assert keys[0] == int(hashlib.blake2b(data, digest_size=8).hexdigest(), 16)
    assert keys[0] == keys[1] != keys[2]
    assert 0 <= content_key(b"") < 2**64


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.JPG", True), ("b.Tiff", True), ("c.avif", True), ("d.txt", False), ("jpg", False)],
)
def test_is_image_name__by_suffix(name: str, expected: bool) -> None:
    assert is_image_name(name) is expected
