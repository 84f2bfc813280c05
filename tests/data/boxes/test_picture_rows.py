"""Pictures as rows: what the detector would see, and back again."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from tlcli.data.boxes.picture_rows import PictureLimits, packed, row_bytes_for, unpacked
from tlcli.data.images import Picture

SHORT, LONG = 40, 66
NOTHING = [0.0] * 3, [1.0] * 3


def noise(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8)


@settings(max_examples=60, deadline=None)
@example(height=77, width=77)  # 77 * (40 / 77) is a little less than 40
@given(height=st.integers(8, 200), width=st.integers(8, 200))
def test_shrunk__the_detector_sees_what_it_saw_before(height: int, width: int) -> None:
    pixels = noise(height, width)
    resize = GeneralizedRCNNTransform(SHORT, LONG, *NOTHING).resize

    small = PictureLimits(shortest=SHORT, longest=LONG).shrunk(pixels)
    seen, _ = resize(small.float())
    directly, _ = resize(pixels.float())

    assert small.shape[1] <= height
    assert small.shape[2] <= width
    # rounding of scales in torchvision takes a pixel from the side that should be exact
    assert all(0 <= a - b <= 1 for a, b in zip(seen.shape, directly.shape, strict=True))
    if seen.shape == directly.shape:
        assert float((seen - directly).abs().max()) <= 0.501
    assert (small.shape == seen.shape) or torch.equal(small, pixels)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 200))
def test_shrunk__to_a_square(height: int, width: int) -> None:
    pixels = noise(height, width)
    resize = GeneralizedRCNNTransform(SHORT, SHORT, *NOTHING, fixed_size=(SHORT, SHORT)).resize

    small = PictureLimits(shortest=SHORT, longest=None).shrunk(pixels)
    seen, _ = resize(small.float())
    directly, _ = resize(pixels.float())

    assert small.shape[1:] == (min(height, SHORT), min(width, SHORT))
    assert float((seen - directly).abs().max()) <= 0.51


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), key=st.integers(0, 2**64 - 1))
def test_packed__comes_back(height: int, width: int, key: int) -> None:
    pixels = noise(height, width).permute(1, 2, 0).numpy()
    picture = Picture(image=Image.fromarray(pixels), content_key=key)

    row = packed(picture, limits=None, row_bytes=row_bytes_for([(height, width), (5, 3)]))
    back = unpacked(row)

    assert np.array_equal(np.asarray(back.image), pixels)
    assert back.content_key == key


def test_packed__too_large_for_its_row() -> None:
    picture = Picture(image=Image.new("RGB", (20, 10)), content_key=0)
    with pytest.raises(ValueError, match="20 x 10 pixels are more than"):
        packed(picture, limits=None, row_bytes=row_bytes_for([(10, 15)]))


@given(sizes=st.lists(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), min_size=1))
def test_row_bytes_for__an_eighth_too_long_at_most(sizes: list[tuple[int, int]]) -> None:
    needed = 16 + 3 * max(height * width for height, width in sizes)
    assert needed <= row_bytes_for(sizes) <= needed * 9 // 8 + 1


def test_row_bytes_for__pictures_that_are_much_alike_share_rows() -> None:
    assert row_bytes_for([(480, 640)]) == row_bytes_for([(480, 638), (10, 10)])
    assert row_bytes_for([(480, 640)]) < row_bytes_for([(640, 640)])
