import itertools
import random
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomErasing, RandomResizedCrop
from torchvision.transforms import functional as F

from tlcli.config import Augment
from tlcli.data.augment import (
    AUGMENTATIONS,
    Augmentation,
    AugmentLevel,
    erase_part,
    jitter_colours,
    random_crop_box,
    train_transform,
    view_generator,
)
from tlcli.data.auto_augment import POLICIES
from tlcli.data.preprocessing import Preprocessing
from tlcli.data.transforms import eval_transform
from tlcli.errors import ConfigError

P = Preprocessing(
    input_size=(24, 32),
    resize_size=(28, 36),
    interpolation="bicubic",
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
LEVELS = list(AUGMENTATIONS)


def generator(view: int = 0, seed: int = 0, content_key: int = 7) -> np.random.Generator:
    return view_generator(seed=seed, content_key=content_key, view=view)


def test_view_generator__is_numpys_philox_at_its_counter() -> None:
    key = np.array([5, 6], dtype=np.uint64)
    philox = np.random.Philox(key=key, counter=np.array([0, 0, 0, 9], dtype=np.uint64))
    ours = view_generator(seed=5, content_key=6, view=9)
    assert np.array_equal(ours.random(10), np.random.Generator(philox).random(10))


@given(*[st.tuples(*[st.integers(0, 2**64 - 1)] * 3)] * 2)
def test_view_generator__differs_with_each_number(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    first, second = (
        view_generator(seed=seed, content_key=key, view=view).integers(2**63, size=3).tolist()
        for seed, key, view in (a, b)
    )
    assert (first == second) == (a == b)


def test_view_generator__out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"The seed -1 does not lie in 0\.\.2\^64-1"):
        generator(seed=-1)
    with pytest.raises(ConfigError, match="The view"):
        generator(view=2**64)


@pytest.mark.parametrize("level", LEVELS)
def test_train_transform__a_view_does_not_depend_on_what_came_before(level: str) -> None:
    transform = train_transform(P, level=level)
    views = [transform(IMAGE, generator(view)) for view in range(6)]
    for view in (4, 1, 5):
        assert torch.equal(transform(IMAGE, generator(view)), views[view])
    assert all(view.shape == (3, 24, 32) and view.dtype == torch.uint8 for view in views)


@pytest.mark.parametrize("level", LEVELS)
def test_train_transform__leaves_global_generators_alone(level: str) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = train_transform(P, level=level)(IMAGE, generator())
    torch.manual_seed(torch.initial_seed() + 1)
    random.seed(1)
    second = train_transform(P, level=level)(IMAGE, generator())
    assert torch.equal(first, second)
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    train_transform(P, level=level)(IMAGE, generator())
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_train_transform__none_is_the_evaluation_view() -> None:
    expected = eval_transform(P)(IMAGE)
    for view in range(4):
        assert torch.equal(train_transform(P, level="none")(IMAGE, generator(view)), expected)


def test_train_transform__flip_is_the_view_or_its_mirror() -> None:
    plain = eval_transform(P)(IMAGE)
    mirrored = 0
    for view in range(200):
        found = train_transform(P, level="flip")(IMAGE, generator(view))
        mirrored += torch.equal(found, plain.flip(2))
        assert torch.equal(found, plain) or torch.equal(found, plain.flip(2))
    assert 70 < mirrored < 130


@pytest.mark.parametrize(
    ("level", "smallest"),
    [("light", 0.5), ("medium", 0.25), ("randaugment", 0.25), ("trivialaugment", 0.25)],
)
def test_train_transform__crop_is_the_models_resize_of_the_drawn_box(
    level: str, smallest: float
) -> None:
    boxes = set()
    for view in range(20):
        rng = generator(view)
        box = random_crop_box((50, 70), rng, scale=(smallest, 1), ratio=(3 / 4, 4 / 3))
        expected = F.resized_crop(IMAGE, *box, [24, 32], F.InterpolationMode.BICUBIC)
        if rng.random() < 0.5:
            expected = F.hflip(expected)
        if level == "medium":
            expected = jitter_colours(expected, rng, strength=0.3)
        if level in POLICIES:
            expected = POLICIES[level](expected, rng)
        found = train_transform(P, level=level)(IMAGE, generator(view))
        assert torch.equal(found, F.pil_to_tensor(expected))
        boxes.add(box)
    assert len(boxes) > 15


def test_random_crop_box__has_torchvisions_law() -> None:
    image = Image.new("RGB", (90, 60))
    torch.manual_seed(0)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.25, 1], [3 / 4, 4 / 3]) for _ in range(3000)]
    )
    rng = generator(3)
    ours = np.array(
        [random_crop_box((60, 90), rng, scale=(0.25, 1), ratio=(3 / 4, 4 / 3)) for _ in range(3000)]
    )
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.001
    assert stats.ks_2samp(ours[:, 2:].prod(1), theirs[:, 2:].prod(1)).pvalue > 0.001


def test_random_crop_box__log_of_the_ratio_is_uniform() -> None:
    rng = generator(4)
    boxes = np.array(
        [
            random_crop_box((4000, 4000), rng, scale=(0.2, 0.4), ratio=(3 / 4, 4 / 3))
            for _ in range(8000)
        ]
    )
    logs = np.log(boxes[:, 3] / boxes[:, 2])
    law = stats.uniform(np.log(3 / 4), 2 * np.log(4 / 3))
    assert stats.kstest(logs, law.cdf).pvalue > 0.01
    areas = boxes[:, 2] * boxes[:, 3] / 4000**2
    assert stats.kstest(areas, stats.uniform(0.2, 0.2).cdf).pvalue > 0.01


@given(height=st.integers(1, 400), width=st.integers(1, 400), view=st.integers(0, 1000))
def test_random_crop_box__lies_inside(height: int, width: int, view: int) -> None:
    top, left, h, w = random_crop_box(
        (height, width), generator(view), scale=(0.5, 1), ratio=(3 / 4, 4 / 3)
    )
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h > 0
    assert w > 0


@pytest.mark.parametrize("size", [(400, 10), (10, 400), (1, 1000)])
def test_random_crop_box__falls_back_as_torchvision(size: tuple[int, int]) -> None:
    image = Image.new("RGB", (size[1], size[0]))
    expected = RandomResizedCrop.get_params(image, [0.9, 1], [3 / 4, 4 / 3])
    assert random_crop_box(size, generator(), scale=(0.9, 1), ratio=(3 / 4, 4 / 3)) == expected


def test_jitter_colours__zero_strength_changes_nothing() -> None:
    assert jitter_colours(IMAGE, generator(), strength=0).tobytes() == IMAGE.tobytes()


def test_jitter_colours__applies_all_three_in_random_order() -> None:
    steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
    orders = set()
    for view in range(40):
        factors = generator(view).uniform(0.5, 1.5, size=3)
        outcomes = {}
        for order in itertools.permutations(range(3)):
            image = IMAGE
            for which in order:
                image = steps[which](image, factors[which])
            outcomes[image.tobytes()] = order
        orders.add(outcomes[jitter_colours(IMAGE, generator(view), strength=0.5).tobytes()])
    assert len(orders) == 6


def test_jitter_colours__factors_reach_their_range() -> None:
    gray = Image.new("RGB", (4, 4), (100, 100, 100))  # only brightness moves a flat gray picture
    values = [
        np.asarray(jitter_colours(gray, generator(view), strength=0.3))[0, 0, 0]
        for view in range(300)
    ]
    assert 69 <= min(values) < 73
    assert 127 < max(values) <= 131
    assert np.mean(values) == pytest.approx(100, abs=3)


def test_train_transform__unknown_names() -> None:
    with pytest.raises(ConfigError, match="Unknown augmentation 'heavy'; use none, flip, light"):
        train_transform(P, level="heavy")


def test_levels__are_those_of_the_config() -> None:
    assert get_args(Augment) == get_args(AugmentLevel) == tuple(AUGMENTATIONS)


@pytest.mark.parametrize(
    ("level", "strengths", "expected"),
    [
        ("none", {"crop_scale": 0.3}, Augmentation(smallest_crop=0.3)),
        ("none", {"color_jitter": 0.2}, Augmentation(jitter=0.2)),
        (
            "light",
            {"random_erasing": 0.5},
            Augmentation(flips=True, smallest_crop=0.5, erasing=0.5),
        ),
        (
            "strong",
            {"crop_scale": 1.0, "color_jitter": 0.0, "random_erasing": 0.0},
            Augmentation(flips=True, smallest_crop=1.0),
        ),
        ("medium", {}, Augmentation(flips=True, smallest_crop=0.25, jitter=0.3)),
    ],
    ids=str,
)
def test_train_transform__single_strengths_replace_those_of_the_level(
    level: AugmentLevel, strengths: dict[str, float], expected: Augmentation
) -> None:
    assert train_transform(P, level=level, **strengths).augmentation == expected


def test_train_transform__strong_jitters_and_then_erases() -> None:
    erased = 0
    for view in range(40):
        rng = generator(view)
        box = random_crop_box((50, 70), rng, scale=(0.08, 1), ratio=(3 / 4, 4 / 3))
        picture = F.resized_crop(IMAGE, *box, [24, 32], F.InterpolationMode.BICUBIC)
        picture = F.hflip(picture) if rng.random() < 0.5 else picture
        expected = F.pil_to_tensor(jitter_colours(picture, rng, strength=0.4))
        if rng.random() < 0.25:
            erased += 1
            expected = erase_part(expected, rng, colour=P.mean)
        found = train_transform(P, level="strong")(IMAGE, generator(view))
        assert torch.equal(found, expected)
    assert 3 <= erased <= 20


def erased_boxes(views: int) -> np.ndarray:
    """Erase white images and read off row, column, height and width of what became gray."""
    white = torch.full((3, 60, 90), 255, dtype=torch.uint8)
    found = []
    for view in range(views):
        image = erase_part(white, generator(view), colour=(0.2, 0.4, 0.6))
        rows, columns = torch.nonzero(image[0] != 255, as_tuple=True)
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert len(rows) == height * width  # a full rectangle
        assert image[:, rows[0], columns[0]].tolist() == [51, 102, 153]
        found.append((int(rows.min()), int(columns.min()), height, width))
    assert torch.equal(white, torch.full_like(white, 255))
    return np.array(found)


def test_erase_part__has_torchvisions_law() -> None:
    ours = erased_boxes(1500)
    torch.manual_seed(0)
    blank = torch.zeros(3, 60, 90)
    theirs = np.array(
        [RandomErasing.get_params(blank, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(1500)]
    )
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.001


def test_erase_part__picture_of_one_row_is_left_alone() -> None:
    pixels = torch.full((3, 1, 50), 9, dtype=torch.uint8)
    assert torch.equal(erase_part(pixels, generator(), colour=(0.5,) * 3), pixels)
