"""Mixtures against torchvision's MixUp and CutMix, given the same random numbers."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import v2
from toy import image_batch

from tlcli.data.loaders import ImageBatch
from tlcli.engine.mixing import Mixing, Mixture, cut, mixed_images, mixed_targets, with_mixing

IMAGES = torch.randn(5, 3, 12, 16, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 2, 2, 1, 0])


def by_torchvision(cls: type[Any], params: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    transform = cls(num_classes=3)
    transform.make_params = lambda _: params
    images, targets = transform(IMAGES, TARGETS)
    return images, targets


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_mixed__blends_as_torchvisions_mixup(share: float) -> None:
    mixture = Mixture(share=share)
    images, targets = by_torchvision(v2.MixUp, {"lam": share})

    torch.testing.assert_close(mixed_images(IMAGES, mixture), images)
    torch.testing.assert_close(mixed_targets(TARGETS, mixture, num_classes=3), targets)


@pytest.mark.parametrize("middle", [(0, 0), (8, 6), (15, 11)])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.9, 1.0])
def test_mixed__pastes_as_torchvisions_cutmix(
    share: float, middle: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter(middle)
    theirs = v2.CutMix(num_classes=3)
    monkeypatch.setattr(theirs._dist, "sample", lambda *_: torch.tensor(share))
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([next(drawn)]))
    images, targets = theirs(IMAGES, TARGETS)

    mixture = cut(float(torch.tensor(share)), middle=middle, size=(12, 16))

    assert mixture.box is not None
    assert torch.equal(mixed_images(IMAGES, mixture), images)
    torch.testing.assert_close(mixed_targets(TARGETS, mixture, num_classes=3), targets)


@given(
    share=st.floats(0, 1),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    where=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
)
def test_cut__share_is_the_area_that_stays(
    share: float, height: int, width: int, where: tuple[float, float]
) -> None:
    middle = int(where[0] * width), int(where[1] * height)
    mixture = cut(share, middle=middle, size=(height, width))
    pixels = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, height, width)

    stayed = (mixed_images(pixels, mixture)[1] == 1).float().mean()

    assert mixture.share == pytest.approx(float(stayed), abs=1e-5)
    assert mixture.share >= share - 1e-9 or math.isclose(mixture.share, share, abs_tol=1e-6)


def test_mixed__single_image_is_itself() -> None:
    for mixture in (Mixture(share=0.3), Mixture(share=0.3, box=(0, 0, 5, 5))):
        torch.testing.assert_close(mixed_images(IMAGES[:1], mixture), IMAGES[:1])
        targets = mixed_targets(TARGETS[1:2], mixture, num_classes=3)
        torch.testing.assert_close(targets, torch.tensor([[0.0, 0.0, 1.0]]))


def drawn(mixing: Mixing, count: int = 600) -> list[Mixture]:
    rng = np.random.default_rng(5)
    return [mixing.draw(rng, size=(4000, 4000)) for _ in range(count)]


def test_draw__shares_follow_the_beta_law() -> None:
    shares = [mixture.share for mixture in drawn(Mixing(mixup=0.4), 3000)]
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_draw__boxes_lie_around_uniform_middles() -> None:
    boxes = np.array([m.box for m in drawn(Mixing(cutmix=5.0), 3000)])
    uncut = boxes[(boxes[:, 0] > 0) & (boxes[:, 2] < 4000)]
    middles = (uncut[:, 0] + uncut[:, 2]) / 2
    assert 500 < middles.min() < middles.max() < 3500
    law = stats.uniform(1500, 1000)
    inner = middles[(middles > 1500) & (middles < 2500)]
    assert stats.kstest(inner, law.cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("mixing", "cuts"),
    [
        (Mixing(mixup=1.0), (0, 0)),
        (Mixing(cutmix=1.0), (600, 600)),
        (Mixing(mixup=1.0, cutmix=1.0), (250, 350)),
    ],
    ids=str,
)
def test_draw__one_of_those_that_are_on(mixing: Mixing, cuts: tuple[int, int]) -> None:
    number = sum(mixture.box is not None for mixture in drawn(mixing))
    assert cuts[0] <= number <= cuts[1]


def test_draw__nothing_to_draw_is_a_fault() -> None:
    with pytest.raises(ValueError, match="neither mixup nor cutmix is on"):
        drawn(Mixing(), 1)


def plain_steps(_epoch: int, done: int) -> Iterator[list[ImageBatch]]:
    yield from [[image_batch(range(3)), image_batch(range(3, 6))] for _ in range(4)][done:]


def test_with_mixing__mixtures_depend_on_seed_epoch_and_step_alone() -> None:
    def mixtures(seed: int, epoch: int, done: int = 0) -> list[list[Mixture]]:
        steps = with_mixing(plain_steps, mixing=Mixing(mixup=0.2, cutmix=1.0), seed=seed)
        return [[batch.mixture for batch in step] for step in steps(epoch, done)]

    whole = mixtures(0, 3)
    flat = [mixture for step in whole for mixture in step]
    assert mixtures(0, 3, done=2) == whole[2:]
    assert len(set(flat)) == len(flat) == 8
    assert mixtures(1, 3) != whole
    assert mixtures(0, 4) != whole


def test_with_mixing__leaves_the_batches_as_they_are() -> None:
    steps = with_mixing(plain_steps, mixing=Mixing(mixup=0.2), seed=0)
    for mixed, plain in zip(steps(0, 0), plain_steps(0, 0), strict=True):
        for ours, theirs in zip(mixed, plain, strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.targets, theirs.targets)
            assert torch.equal(ours.indices, theirs.indices)
