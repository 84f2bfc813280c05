"""The few-shot curve: fair draws, and intervals that say how much the draw matters."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from toy import CollectedTalk

from recipes.feature_runs import extract, part_of, solve
from recipes.runs import record_of, rows_of
from tlcli.config import HeadKind, ProbeHeadConfig
from tlcli.errors import ConfigError, DataError
from tlcli.recipes.feature_part import FeaturePart, ResidentRows
from tlcli.recipes.few_shot import (
    Draw,
    check_enough,
    curve_of,
    draw_per_class,
    parse_shots,
    run_few_shot,
    write_few_shot,
)


@given(
    sizes=st.lists(st.integers(3, 20), min_size=1, max_size=6),
    count=st.integers(1, 3),
    seed=st.integers(0, 2**40),
    repeat=st.integers(0, 100),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_draw_per_class__so_many_of_every_class_and_none_twice(
    sizes: list[int], count: int, seed: int, repeat: int, data: st.DataObject
) -> None:
    ordered = [label for label, size in enumerate(sizes) for _ in range(size)]
    targets = np.array(data.draw(st.permutations(ordered)), dtype=np.int64)

    chosen = draw_per_class(targets, count=count, seed=seed, repeat=repeat)

    assert np.bincount(targets[chosen], minlength=len(sizes)).tolist() == [count] * len(sizes)
    assert (np.diff(chosen) > 0).all()


@given(seed=st.integers(0, 2**40), repeat=st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_draw_per_class__fewer_shots_are_among_more(seed: int, repeat: int) -> None:
    targets = np.arange(60) % 4
    draws = [
        set(draw_per_class(targets, count=count, seed=seed, repeat=repeat).tolist())
        for count in (1, 2, 5, 15)
    ]

    assert draws[0] < draws[1] < draws[2] < draws[3] == set(range(60))


def test_draw_per_class__depends_on_seed_and_repeat_alone() -> None:
    targets = np.arange(300) % 3

    def draw(seed: int, repeat: int) -> tuple[int, ...]:
        np.random.default_rng().normal()  # noise elsewhere does not matter
        return tuple(draw_per_class(targets, count=2, seed=seed, repeat=repeat).tolist())

    assert draw(5, 1) == draw(5, 1)
    assert len({draw(seed, repeat) for seed in range(4) for repeat in range(5)}) == 20


def test_draw_per_class__every_image_is_as_likely() -> None:
    targets = np.repeat([0, 1], [4, 12])
    drawn = np.zeros(16)
    for repeat in range(3000):
        drawn[draw_per_class(targets, count=2, seed=0, repeat=repeat)] += 1

    shares = drawn / 3000
    assert shares[:4] == pytest.approx(2 / 4, abs=0.05)
    assert shares[4:] == pytest.approx(2 / 12, abs=0.04)


@pytest.mark.parametrize(
    ("text", "shots"), [("1,5,10", (1, 5, 10)), ("10, 1 ,1", (1, 10)), ("3", (3,))]
)
def test_parse_shots__numbers(text: str, shots: tuple[int, ...]) -> None:
    assert parse_shots(text) == shots


@pytest.mark.parametrize("text", ["", "0", "1,0", "-1", "1.5", "a", "1,,2", "1;2"])
def test_parse_shots__nonsense(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--shots '{text}' is not understood: write numbers"):
        parse_shots(text)


def test_check_enough__the_smallest_class_decides() -> None:
    targets = np.repeat([0, 1, 2], [5, 3, 9])
    check_enough(targets, shots=3, num_classes=3)
    with pytest.raises(DataError, match="--shots 4: the smallest class has 3 train images"):
        check_enough(targets, shots=4, num_classes=3)
    with pytest.raises(DataError, match="the smallest class has 0 train images"):
        check_enough(targets, shots=1, num_classes=4)


def draws_of(values: dict[int, list[float]]) -> list[Draw]:
    return [
        Draw(
            shots=shots,
            repeat=repeat,
            penalty=0.1,
            metrics={"top1": top1, "macro_f1": top1 / 2, "loss": 1 - top1},
        )
        for shots, tops in values.items()
        for repeat, top1 in enumerate(tops)
    ]


def test_curve_of__interval_is_students_t() -> None:
    values = {5: [0.5, 0.6, 0.8, 0.7], 1: [0.2, 0.4]}

    points = curve_of(draws_of(values))

    assert [(point.shots, point.n) for point in points] == [(1, 2), (5, 4)]
    for point in points:
        tops = values[point.shots]
        mean = sum(tops) / len(tops)
        error = math.sqrt(sum((v - mean) ** 2 for v in tops) / (len(tops) - 1) / len(tops))
        low, high = scipy.stats.t.interval(0.95, len(tops) - 1, loc=mean, scale=error)
        assert (point.mean, point.low, point.high) == pytest.approx((mean, low, high), rel=1e-12)
    # by hand: mean 0.3, standard error 0.1, quantile 12.7062 for one degree of freedom
    assert points[0].high == pytest.approx(0.3 + 12.7062 * 0.1, rel=1e-5)


def test_curve_of__one_repeat_has_no_interval() -> None:
    (point,) = curve_of(draws_of({3: [0.5]}))
    assert (point.mean, point.n) == (0.5, 1)
    assert math.isnan(point.low)
    assert math.isnan(point.high)


def test_write_few_shot__table_picture_and_record(tmp_path: Path) -> None:
    draws = draws_of({1: [0.2, 0.4], 5: [0.5, 0.6]})

    curve = write_few_shot(tmp_path, draws, split="test")

    rows = rows_of(tmp_path / "few_shot.csv")
    assert list(rows[0]) == [
        *("shots", "repeat", "penalty", "test/top1", "test/macro_f1", "test/loss")
    ]
    assert [(r["shots"], r["repeat"], float(r["test/top1"])) for r in rows] == [
        ("1", "0", 0.2),
        ("1", "1", 0.4),
        ("5", "0", 0.5),
        ("5", "1", 0.6),
    ]
    with Image.open(tmp_path / "few_shot.png") as image:
        assert image.format == "PNG"
    assert [(p["shots"], p["split"], p["repeats"]) for p in curve] == [
        (1, "test", 2),
        (5, "test", 2),
    ]
    assert curve[0]["top1"] == pytest.approx(0.3)
    assert len(curve[0]["interval"]) == 2
    single = write_few_shot(tmp_path, draws_of({3: [0.5]}), split="val")
    assert single[0]["interval"] is None


def blobs(count: int, *, seed: int, spread: float = 1.0) -> FeaturePart:
    """Rows of three classes around far apart centres."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    centres = 4 * torch.eye(3, 6)
    rows = centres[targets] + spread * torch.randn(count, 6, generator=generator)
    return FeaturePart(rows=ResidentRows(rows), targets=targets.numpy())


def curve_on_blobs(head: HeadKind, **options: Any) -> tuple[list[Draw], CollectedTalk]:
    talk = CollectedTalk()
    config = ProbeHeadConfig(head=head, shots="1,8", repeats=3)
    values: dict[str, Any] = {"penalties": (1.0, 3.0), "num_classes": 3, "seed": 0, **options}
    draws = run_few_shot(
        blobs(60, seed=0, spread=2.0),
        blobs(90, seed=1),
        blobs(300, seed=2),
        config=config,
        memory_limit=1 << 30,
        talk=talk,
        **values,
    )
    return draws, talk


@pytest.mark.parametrize("head", ["linear", "ridge", "knn"])
def test_run_few_shot__more_images_are_better(head: HeadKind) -> None:
    draws, talk = curve_on_blobs(head)

    tops = {shots: [d.metrics["top1"] for d in draws if d.shots == shots] for shots in (1, 8)}
    assert [(draw.shots, draw.repeat) for draw in draws] == [
        (s, r) for s in (1, 8) for r in (0, 1, 2)
    ]
    assert np.mean(tops[8]) > np.mean(tops[1]) + 0.05
    assert talk.notes == [
        f"{images} per class: top-1 {100 * np.mean(tops[shots]):.1f} %."
        for shots, images in ((1, "1 image"), (8, "8 images"))
    ]


def test_run_few_shot__more_neighbours_than_rows_are_left_out_or_told() -> None:
    draws, _ = curve_on_blobs("knn", penalties=(2.0, 20.0))
    assert {draw.penalty for draw in draws if draw.shots == 1} == {2.0}
    with pytest.raises(ConfigError, match="--penalties: 20 neighbours are more than the 3 train"):
        curve_on_blobs("knn", penalties=(20.0,))


def test_run_few_shot__all_images_give_the_head_of_all(tmp_path: Path, features: Path) -> None:
    summary, _ = solve(features, head="knn", shots="1,20", repeats=2, output=tmp_path / "run")

    rows = rows_of(tmp_path / "run" / "few_shot.csv")
    whole, best = summary["results"]["test"]["metrics"], summary["best"]["neighbours"]
    assert [float(r["test/top1"]) for r in rows if r["shots"] == "20"] == [whole["top1"]] * 2
    assert [float(r["penalty"]) for r in rows if r["shots"] == "20"] == [best] * 2
    assert float(rows[-1]["test/loss"]) == pytest.approx(whole["loss"], rel=1e-3)
    assert summary["few_shot"] == record_of(tmp_path / "run")["few_shot"]
    assert [point["split"] for point in summary["few_shot"]] == ["test", "test"]
    tops = [float(row["test/top1"]) for row in rows if row["shots"] == "1"]
    assert summary["few_shot"][0]["top1"] == pytest.approx(sum(tops) / 2)


def test_run_few_shot__linear_heads_are_scikit_learns_on_features_of_one_scale(
    tmp_path: Path, features: Path
) -> None:
    solve(features, shots="3", repeats=3, penalties="0.01,1", seed=5, output=tmp_path / "run")

    parts = {split: part_of(features, split) for split in ("train", "val", "test")}
    rows, labels = parts["train"][0], np.array(parts["train"][1])
    targets = np.unique(labels, return_inverse=True)[1]
    for draw in rows_of(tmp_path / "run" / "few_shot.csv"):
        chosen = draw_per_class(targets, count=3, seed=5, repeat=int(draw["repeat"]))
        few = rows[chosen]
        mean, variances = few.mean(axis=0), few.var(axis=0)
        scale = math.sqrt(variances[variances > 0].mean())
        scored = []
        for penalty in (0.01, 1.0):
            oracle = LogisticRegression(C=penalty, tol=1e-8, max_iter=10_000)
            oracle.fit((few - mean) / scale, labels[chosen])
            found = {}
            for split in ("val", "test"):
                probs = oracle.predict_proba((parts[split][0] - mean) / scale)
                right = oracle.classes_[probs.argmax(axis=1)] == np.array(parts[split][1])
                found[split] = (right.mean(), log_loss(parts[split][1], probs))
            scored.append((-found["val"][0], found["val"][1], penalty, found["test"]))
        _, _, penalty, (top1, loss) = min(scored)
        assert float(draw["penalty"]) == penalty
        assert float(draw["test/top1"]) == top1
        assert float(draw["test/loss"]) == pytest.approx(loss, rel=2e-3)


def test_run_few_shot__is_reported_on_val_where_there_is_no_test(
    tmp_path: Path, noisy: Path, timm_files: dict[str, Path]
) -> None:
    for split in ("train", "val"):
        shutil.copytree(noisy / split, tmp_path / "photos" / split)
    weights = timm_files["test_resnet"]
    options: dict[str, Any] = {"weights": weights, "shots": "2", "repeats": 1}

    summary, _ = extract(tmp_path / "photos", tmp_path / "s", **options)

    assert set(summary["results"]) == {"val"}
    (point,) = summary["few_shot"]
    assert (point["split"], point["interval"], point["repeats"]) == ("val", None, 1)
    (row,) = rows_of(tmp_path / "s" / "head" / "few_shot.csv")
    assert float(row["val/top1"]) == point["top1"]
