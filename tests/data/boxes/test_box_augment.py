"""Random views: boxes move with what is painted under them."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tlcli.data.augment import view_generator
from tlcli.data.boxes.box_augment import BoxAugmentLevel, augment_boxes

LEVELS = get_args(BoxAugmentLevel)
GRAYS = (60, 75, 105, 120)
"""Of the labels 1, 2, ...: changes of colour and contrast leave their order."""
BACKGROUND = 90
BORDER = 2
"""Pixels inside of a box where it may be mixed with its surroundings by resizing."""

Sample = tuple[Tensor, Tensor, Tensor]


@st.composite
def painted(draw: st.DrawFn) -> Sample:
    """A gray picture with up to one box in each quarter, in the gray of its label."""
    width, height = draw(st.integers(32, 90)), draw(st.integers(32, 90))
    image = torch.full((3, height, width), BACKGROUND, dtype=torch.uint8)
    boxes, labels = [], []
    for quarter in draw(st.sets(st.integers(0, 3))):
        left, top = quarter % 2 * (width // 2), quarter // 2 * (height // 2)
        x0 = left + draw(st.integers(0, width // 2 - 8))
        y0 = top + draw(st.integers(0, height // 2 - 8))
        x1 = draw(st.integers(x0 + 2, left + width // 2))
        y1 = draw(st.integers(y0 + 2, top + height // 2))
        label = draw(st.integers(1, len(GRAYS)))
        image[:, y0:y1, x0:x1] = GRAYS[label - 1]
        boxes.append([x0, y0, x1, y1])
        labels.append(label)
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return image, corners, torch.tensor(labels, dtype=torch.int64)


def one_sample() -> Sample:
    image = torch.arange(3 * 20 * 30).remainder(251).to(torch.uint8).reshape(3, 20, 30)
    boxes = torch.tensor([[2.0, 3.5, 10.25, 12.0], [0.0, 0.0, 30.0, 20.0], [29.5, 1.0, 30.0, 2.0]])
    return image, boxes, torch.tensor([3, 1, 2])


def augment(sample: Sample, *, level: Any, seed: int = 0, view: int = 0) -> Sample:
    generator = view_generator(seed=seed, content_key=1, view=view)
    image, boxes, labels = sample
    return augment_boxes(image, boxes, labels, level=level, generator=generator)


def is_equal(one: Sample, other: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def pixels_under(image: Tensor, box: Tensor) -> np.ndarray:
    """Return the gray values well inside of a box; may be none."""
    x0, y0 = (int(np.ceil(v)) + BORDER for v in box[:2].tolist())
    x1, y1 = (int(np.floor(v)) - BORDER for v in box[2:].tolist())
    inside = image[:, max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    return inside.numpy().astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(sample=painted(), level=st.sampled_from(LEVELS), view=st.integers(0, 2**32))
def test_augment_boxes__boxes_stay_with_what_is_under_them(
    sample: Sample, level: str, view: int
) -> None:
    image, boxes, labels = augment(sample, level=level, view=view)

    height, width = image.shape[1:]
    assert image.dtype is torch.uint8
    assert (boxes.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert tuple(boxes.shape) == (len(labels), 4)
    assert len(labels) <= len(sample[2])
    assert bool((boxes >= 0).all())
    assert bool((boxes[:, 2:] <= boxes.new_tensor([width, height])).all())
    assert bool((boxes[:, 2:] - boxes[:, :2] >= 1).all())
    found: dict[int, int] = {}
    for box, label in zip(boxes, labels.tolist(), strict=True):
        inside = pixels_under(image, box)
        if inside.size:
            assert np.ptp(inside) <= 2  # nothing of the background in it
            gray = int(np.median(inside))
            assert abs(found.setdefault(label, gray) - gray) <= 2
            if level != "medium":
                assert abs(gray - GRAYS[label - 1]) <= 2
    assert [found[label] for label in sorted(found)] == sorted(found.values())
    assert len(set(found.values())) == len(found)


@settings(max_examples=60, deadline=None)
@given(sample=painted(), view=st.integers(0, 2**32))
def test_augment_boxes__no_whole_box_is_lost_by_shrinking_or_growing(
    sample: Sample, view: int
) -> None:
    """Every region of a box's gray that is left in the picture has its box."""
    image, boxes, labels = augment(sample, level="light", view=view)

    covered = torch.zeros(image.shape[1:], dtype=torch.bool)
    for box in boxes:
        x0, y0 = (int(np.floor(v)) for v in box[:2].tolist())
        x1, y1 = (int(np.ceil(v)) for v in box[2:].tolist())
        covered[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = True
    if len(labels) == len(sample[2]):
        for gray in GRAYS:
            is_gray = (image == gray).all(dim=0)
            assert not bool((is_gray & ~covered).any())


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "none"])
def test_augment_boxes__a_view_is_made_from_its_generator_alone(level: str) -> None:
    sample = one_sample()
    torch.manual_seed(1)
    first = [augment(sample, level=level, view=view) for view in range(6)]
    torch.manual_seed(2)
    again = [augment(sample, level=level, view=view) for view in range(6)]

    assert all(map(is_equal, first, again))
    assert any(not is_equal(first[0], other) for other in first[1:])
    others = [augment(sample, level=level, seed=1, view=view) for view in range(6)]
    assert not all(map(is_equal, first, others))


@pytest.mark.parametrize("level", LEVELS)
def test_augment_boxes__global_randomness_and_arguments_are_left_as_they_were(level: str) -> None:
    sample = one_sample()
    copies = tuple(tensor.clone() for tensor in sample)
    torch.manual_seed(3)
    before, before_numpy = torch.get_rng_state(), repr(np.random.get_state())

    for view in range(4):
        augment(sample, level=level, view=view)

    assert torch.equal(torch.get_rng_state(), before)
    assert repr(np.random.get_state()) == before_numpy
    assert is_equal(sample, copies)


def test_augment_boxes__none_is_the_picture_itself() -> None:
    sample = one_sample()

    assert is_equal(augment(sample, level="none"), sample)


def test_augment_boxes__flip_mirrors_half_of_the_time_exactly() -> None:
    image, boxes, labels = one_sample()
    mirrored = torch.stack([30 - boxes[:, 2], boxes[:, 1], 30 - boxes[:, 0], boxes[:, 3]], dim=1)
    flipped = (image.flip(-1), mirrored, labels)

    views = [augment(one_sample(), level="flip", view=view) for view in range(40)]

    is_flipped = [is_equal(view, flipped) for view in views]
    is_plain = [is_equal(view, one_sample()) for view in views]
    assert all(a != b for a, b in zip(is_flipped, is_plain, strict=True))
    assert 8 <= sum(is_flipped) <= 32


@pytest.mark.parametrize("level", LEVELS)
def test_augment_boxes__picture_without_boxes(level: str) -> None:
    image = one_sample()[0]
    nothing = (image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

    for view in range(8):
        seen, boxes, labels = augment(nothing, level=level, view=view)

        assert (tuple(boxes.shape), boxes.dtype) == ((0, 4), torch.float32)
        assert (tuple(labels.shape), labels.dtype) == ((0,), torch.int64)
        assert (seen.ndim, seen.shape[0], seen.dtype) == (3, 3, torch.uint8)


@pytest.mark.parametrize("level", LEVELS)
def test_augment_boxes__result_is_of_plain_tensors(level: str) -> None:
    assert [type(value) for value in augment(one_sample(), level=level)] == [Tensor] * 3


@pytest.mark.parametrize("size", [(60, 80), (80, 60), (60, 60)])
def test_augment_boxes__light_enlarges_and_shrinks_pictures_of_any_shape(
    size: tuple[int, int],
) -> None:
    """By 0.75 to 1.33, also where the sides differ."""
    image = torch.full((3, *size), BACKGROUND, dtype=torch.uint8)
    middle = torch.tensor([size[1] / 2, size[0] / 2])
    boxes = torch.cat([middle - 4, middle + 4])[None]
    scales = []
    for view in range(80):
        _, left, _ = augment((image, boxes, torch.tensor([1])), level="light", view=view)
        scales += ((left[:, 3] - left[:, 1]) / 8).tolist()

    assert 0.7 < min(scales) < 0.85
    assert 1.2 < max(scales) < 1.36


def test_augment_boxes__light_keeps_the_frame_and_cuts_nothing_small() -> None:
    """A box is learned from only if a quarter of it can be seen."""
    image = torch.full((3, 60, 60), BACKGROUND, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [20.0, 20.0, 40.0, 40.0]])
    shares = []
    for view in range(60):
        seen, left, labels = augment((image, boxes, torch.tensor([1, 2])), level="light", view=view)
        assert tuple(seen.shape) == (3, 60, 60)
        sides = left[:, 2:] - left[:, :2]
        areas = dict(zip(labels.tolist(), sides.prod(dim=1).tolist(), strict=True))
        if 2 in areas and 1 in areas:
            shares.append(areas[1] / areas[2])

    assert len(shares) > 20
    assert min(shares) > 0.2  # the middle one is hardly ever cut itself
    assert any(share < 0.99 for share in shares)
