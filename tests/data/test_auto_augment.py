"""Against torchvision's own RandAugment and TrivialAugmentWide."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from tlcli.data.augment import view_generator
from tlcli.data.auto_augment import (
    OPERATIONS,
    POLICIES,
    STRENGTHS,
    PolicyName,
    change_picture,
    rand_augment,
    trivial_augment,
)

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8))
THEIRS: dict[PolicyName, type[v2.Transform]] = {
    "randaugment": v2.RandAugment,
    "trivialaugment": v2.TrivialAugmentWide,
}
SIGNED = {name for name, (_, is_signed) in v2.RandAugment._AUGMENTATION_SPACE.items() if is_signed}


def generator(view: int) -> np.random.Generator:
    return view_generator(seed=3, content_key=9, view=view)


def by_torchvision(name: str, *, policy: PolicyName, strength: int, is_negative: bool) -> bytes:
    """Apply the operation with torchvision's own table of magnitudes."""
    transform = THEIRS[policy]()
    magnitudes_of, is_signed = transform._AUGMENTATION_SPACE[name]
    magnitudes = magnitudes_of(STRENGTHS, IMAGE.height, IMAGE.width)
    value = 0.0 if magnitudes is None else float(magnitudes[strength])
    if is_signed and is_negative:
        value = -value
    changed: Image.Image = transform._apply_image_or_video_transform(
        IMAGE, name, value, interpolation=InterpolationMode.NEAREST, fill={}
    )
    return changed.tobytes()


@pytest.mark.parametrize("policy", THEIRS)
def test_operations__are_torchvisions_at_every_strength(policy: PolicyName) -> None:
    assert tuple(OPERATIONS[policy]) == tuple(THEIRS[policy]._AUGMENTATION_SPACE)
    for name in OPERATIONS[policy]:
        for strength in range(STRENGTHS):
            for is_negative in (False, True):
                how = {"policy": policy, "strength": strength, "is_negative": is_negative}
                ours = change_picture(IMAGE, name, **how)  # type: ignore[arg-type]
                theirs = by_torchvision(name, **how)  # type: ignore[arg-type]
                assert ours.tobytes() == theirs, (name, how)


def test_rand_augment__two_operations_of_strength_nine_in_a_row() -> None:
    names = list(OPERATIONS["randaugment"])
    drawn: Counter[str] = Counter()
    for view in range(200):
        rng, expected = generator(view), IMAGE
        for _ in range(2):
            name, is_negative = names[rng.integers(14)], bool(rng.random() < 0.5)
            drawn[name] += 1
            expected = change_picture(
                expected, name, policy="randaugment", strength=9, is_negative=is_negative
            )
        assert rand_augment(IMAGE, generator(view)).tobytes() == expected.tobytes()
    assert set(drawn) == set(names)


def test_trivial_augment__one_operation_of_any_strength() -> None:
    names = list(OPERATIONS["trivialaugment"])
    strengths = set()
    for view in range(300):
        rng = generator(view)
        name, strength, is_negative = (
            names[rng.integers(14)],
            int(rng.integers(31)),
            bool(rng.random() < 0.5),
        )
        strengths.add(strength)
        expected = change_picture(
            IMAGE, name, policy="trivialaugment", strength=strength, is_negative=is_negative
        )
        assert trivial_augment(IMAGE, generator(view)).tobytes() == expected.tobytes()
    assert strengths == set(range(31))


@pytest.mark.parametrize("policy", POLICIES)
def test_policies__draw_from_their_generator_alone(policy: PolicyName) -> None:
    before = torch.get_rng_state()
    first = [POLICIES[policy](IMAGE, generator(view)).tobytes() for view in range(20)]
    torch.manual_seed(7)
    after = torch.get_rng_state()
    again = [POLICIES[policy](IMAGE, generator(view)).tobytes() for view in reversed(range(20))]
    assert again[::-1] == first
    assert len(set(first)) > 10
    assert torch.equal(torch.get_rng_state(), after)
    torch.set_rng_state(before)
