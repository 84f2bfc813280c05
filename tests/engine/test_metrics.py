import math
import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import (
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from tlcli.engine.metrics import classification_report, fast_metrics, paired_difference
from tlcli.errors import DataError, NonFiniteLossError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def make_outputs(num_images: int, num_classes: int, *, seed: int = 0) -> tuple[Floats, Integers]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(num_classes, size=num_images)
    logits = rng.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), targets] += 1.0
    return log_softmax(logits), targets


def names(num_classes: int) -> list[str]:
    return [f"c{i}" for i in range(num_classes)]


def loop_ece(log_probs: Floats, targets: Integers) -> float:
    """Guo et al. 2017, eq. 3, image by image."""
    bins: list[list[tuple[float, float]]] = [[] for _ in range(15)]
    for row, target in zip(log_probs, targets, strict=True):
        confidence = math.exp(max(row))
        number = next(m for m in range(15) if confidence <= (m + 1) / 15 or m == 14)
        bins[number].append((float(np.argmax(row) == target), confidence))
    total = 0.0
    for members in (b for b in bins if b):
        accuracy = sum(right for right, _ in members) / len(members)
        confidence = sum(c for _, c in members) / len(members)
        total += len(members) / len(targets) * abs(accuracy - confidence)
    return total


def oracle_metrics(log_probs: Floats, targets: Integers) -> dict[str, float]:
    predictions = log_probs.argmax(axis=1)
    labels = np.arange(log_probs.shape[1])
    present = np.unique(targets)
    return {
        "top1": float((predictions == targets).mean()),
        "top5": float(top_k_accuracy_score(targets, log_probs, k=5, labels=labels)),
        "macro_f1": f1_score(targets, predictions, labels=present, average="macro"),
        "loss": log_loss(targets, np.exp(log_probs), labels=labels),
        "ece": loop_ece(log_probs, targets),
    }


@pytest.mark.parametrize(("num_images", "num_classes"), [(300, 7), (50, 40), (1000, 10)])
def test_classification_report__metrics_match_sklearn(num_images: int, num_classes: int) -> None:
    log_probs, targets = make_outputs(num_images, num_classes)
    report = classification_report(
        log_probs, targets, split="val", classes=names(num_classes), resamples=1
    )
    assert report.metrics == pytest.approx(oracle_metrics(log_probs, targets), abs=1e-12)
    assert list(report.metrics) == ["top1", "top5", "macro_f1", "loss", "ece"]
    assert (report.kind, report.split, report.num_images) == ("classification", "val", num_images)


def test_fast_metrics__are_those_of_the_report() -> None:
    log_probs, targets = make_outputs(200, 8)
    report = classification_report(log_probs, targets, split="v", classes=names(8), resamples=1)
    fast = fast_metrics(log_probs, targets)
    assert list(fast) == ["loss", "top1", "top5", "macro_f1"]
    assert fast == {name: report.metrics[name] for name in fast}


def test_fast_metrics__blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs, targets = make_outputs(103, 9)
    whole = fast_metrics(log_probs, targets)
    monkeypatch.setattr("tlcli.engine.metrics._BLOCK_VALUES", 9 * 10)
    assert fast_metrics(log_probs, targets) == whole


def test_fast_metrics__float32_is_summed_in_float64() -> None:
    log_probs, targets = make_outputs(5000, 6)
    single = log_probs.astype(np.float32)
    expected = -single[np.arange(5000), targets].astype(np.float64).mean()
    assert fast_metrics(single, targets)["loss"] == pytest.approx(expected, rel=1e-14)


def test_classification_report__per_class_matches_sklearn() -> None:
    log_probs, targets = make_outputs(150, 5)
    report = classification_report(log_probs, targets, split="v", classes=names(5), resamples=1)
    expected = precision_recall_fscore_support(targets, log_probs.argmax(axis=1))
    rows = [[row[k] for k in ("precision", "recall", "f1", "support")] for row in report.per_class]
    np.testing.assert_allclose(np.array(rows, dtype=float).T, expected, atol=1e-15)
    assert [row["class"] for row in report.per_class] == names(5)
    assert report.remarks == ()


def test_classification_report__absent_class_is_left_out_and_named() -> None:
    log_probs = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]])
    report = classification_report(
        log_probs, np.array([0, 2, 2]), split="val", classes=["ant", "bee", "cat"], resamples=1
    )
    assert report.per_class == [
        {"class": "ant", "precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1},
        {"class": "bee", "precision": 0.0, "recall": None, "f1": None, "support": 0},
        {"class": "cat", "precision": None, "recall": 0.0, "f1": 0.0, "support": 2},
    ]
    assert report.metrics["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert report.remarks == (
        "1 of 3 classes has no image in split 'val' and is left out of macro_f1: 'bee'.",
    )


def test_classification_report__long_remark_names_five() -> None:
    log_probs, _ = make_outputs(3, 9)
    report = classification_report(
        log_probs, np.zeros(3, dtype=int), split="val", classes=names(9), resamples=1
    )
    assert report.remarks[0].startswith("8 of 9 classes have no image")
    assert report.remarks[0].endswith(": 'c1', 'c2', 'c3', 'c4', 'c5' and 3 more.")


def test_fast_metrics__equal_probabilities_go_to_the_lower_index() -> None:
    log_probs = np.log(np.full((7, 7), 1 / 7))
    metrics = fast_metrics(log_probs, np.arange(7))
    assert metrics["top1"] == pytest.approx(1 / 7)
    assert metrics["top5"] == pytest.approx(5 / 7)


@pytest.mark.parametrize("num_classes", [2, 4, 5])
def test_fast_metrics__top5_is_one_with_five_classes_or_fewer(num_classes: int) -> None:
    log_probs, targets = make_outputs(50, num_classes)
    assert fast_metrics(log_probs, targets)["top5"] == 1.0


def test_classification_report__ece_by_hand() -> None:
    log_probs = np.log(np.array([[0.59, 0.41], [0.55, 0.45], [0.62, 0.38]]))
    # The ninth bin ends at 9/15 = 0.6 and holds the first two images, the tenth the last.
    expected = (abs(2 - (0.59 + 0.55)) + abs(0 - 0.62)) / 3
    report = classification_report(
        log_probs, np.array([0, 0, 1]), split="v", classes=["a", "b"], resamples=1
    )
    assert report.metrics["ece"] == pytest.approx(expected)


def test_classification_report__intervals_equal_a_plain_loop_with_the_same_draws() -> None:
    log_probs, targets = make_outputs(60, 8)
    report = classification_report(
        log_probs, targets, split="v", classes=names(8), seed=5, resamples=40
    )
    random = np.random.Generator(np.random.Philox(5))
    samples = []
    for _ in range(40):
        drawn = random.integers(60, size=60)
        samples.append(oracle_metrics(log_probs[drawn], targets[drawn]))
    for name, interval in report.intervals.items():
        expected = np.quantile([sample[name] for sample in samples], [0.025, 0.975])
        assert interval == pytest.approx(tuple(expected), abs=1e-12), name


def test_classification_report__seed_decides_the_intervals() -> None:
    log_probs, targets = make_outputs(80, 6)
    first, same, other = (
        classification_report(
            log_probs, targets, split="v", classes=names(6), seed=seed, resamples=50
        )
        for seed in (1, 1, 2)
    )
    assert first == same
    assert first.intervals["loss"] != other.intervals["loss"]
    assert first.metrics == other.metrics


def test_classification_report__intervals_cover_the_truth() -> None:
    truth, covered, trials = 0.7, 0, 200
    rng = np.random.default_rng(0)
    log_probs = np.log(np.tile([0.7, 0.3], (150, 1)))
    for _ in range(trials):
        targets = (rng.random(150) > truth).astype(np.int64)
        low, high = classification_report(
            log_probs, targets, split="v", classes=["a", "b"], resamples=200
        ).intervals["top1"]
        covered += low <= truth <= high
    assert 0.89 <= covered / trials <= 0.985  # 0.95, within 3 standard errors and small-sample bias


def test_classification_report__one_image() -> None:
    report = classification_report(
        np.log([[0.2, 0.8]]), np.array([1]), split="v", classes=["a", "b"], resamples=10
    )
    expected = {"top1": 1.0, "top5": 1.0, "macro_f1": 1.0, "loss": -math.log(0.8), "ece": 0.2}
    assert report.metrics == pytest.approx(expected)
    for name, interval in report.intervals.items():
        assert interval == pytest.approx((expected[name],) * 2)


@given(st.integers(1, 40), st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_classification_report__ranges(num_images: int, num_classes: int, seed: int) -> None:
    log_probs, targets = make_outputs(num_images, num_classes, seed=seed)
    report = classification_report(
        log_probs, targets, split="v", classes=names(num_classes), resamples=5
    )
    fractions = [report.metrics[name] for name in ("top1", "top5", "macro_f1", "ece")]
    assert all(-1e-12 <= value <= 1 + 1e-12 for value in fractions)
    assert report.metrics["top1"] <= report.metrics["top5"]
    assert report.metrics["loss"] >= 0
    assert all(low <= high for low, high in report.intervals.values())
    assert sum(int(row["support"] or 0) for row in report.per_class) == num_images


@given(st.integers(2, 40), st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_fast_metrics__order_of_images_and_classes_does_not_matter(
    num_images: int, num_classes: int, seed: int
) -> None:
    log_probs, targets = make_outputs(num_images, num_classes, seed=seed)
    rng = np.random.default_rng(seed)
    images, classes = rng.permutation(num_images), rng.permutation(num_classes)
    shuffled = log_probs[images][:, classes]
    moved = np.argsort(classes)[targets[images]]
    assert fast_metrics(shuffled, moved) == pytest.approx(fast_metrics(log_probs, targets))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_fast_metrics__non_finite_outputs_are_counted(
    bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlcli.engine.metrics._BLOCK_VALUES", 10)
    log_probs, targets = make_outputs(20, 5)
    log_probs[[3, 17], [0, 4]] = bad
    with pytest.raises(NonFiniteLossError, match="outputs for 2 of 20 images are NaN or infinite"):
        fast_metrics(log_probs, targets)


def test_fast_metrics__no_images_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no images to evaluate"):
        fast_metrics(np.empty((0, 3)), np.empty(0, dtype=np.int64))


@pytest.mark.parametrize(
    ("log_probs", "targets", "message"),
    [
        (np.zeros((2, 3)), [0, 1], "must sum to 1"),
        (np.zeros(3), [0, 1, 2], "do not fit"),
        (np.zeros((2, 3)), [0], "do not fit"),
        (np.zeros((2, 3)), [0, 3], r"targets 0\.\.3 for 3 classes"),
        (np.zeros((2, 3)), [-1, 0], r"targets -1\.\.0 for 3 classes"),
    ],
)
def test_fast_metrics__faulty_arguments(
    log_probs: Floats, targets: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fast_metrics(log_probs, np.array(targets))


def test_classification_report__faulty_arguments() -> None:
    log_probs, targets = make_outputs(4, 3)
    with pytest.raises(ValueError, match="2 class names for 3 columns"):
        classification_report(log_probs, targets, split="v", classes=["a", "b"])
    with pytest.raises(ValueError, match="resamples must be at least 1, not 0"):
        classification_report(log_probs, targets, split="v", classes=names(3), resamples=0)


def test_classification_report__many_images_are_quick() -> None:
    log_probs, targets = make_outputs(20_000, 100)
    start = time.process_time()
    classification_report(log_probs, targets, split="v", classes=names(100))
    # About 1 s; work on the (N, C) array in each resample takes minutes.
    assert time.process_time() - start < 20


def test_paired_difference__by_hand() -> None:
    first = np.array([True, True, True, False, True, False, True, False])
    second = np.array([True, False, False, False, True, True, False, False])

    value, (low, high) = paired_difference(first, second, seed=0)

    assert value == (5 - 3) / 8
    assert -1 <= low < value < high <= 1
    swapped, (below, above) = paired_difference(second, first, seed=0)
    assert swapped == -value
    assert (below, above) == pytest.approx((-high, -low), abs=0.13)


@pytest.mark.parametrize(("num_images", "seed"), [(200, 0), (1000, 1), (4000, 2)])
def test_paired_difference__interval_is_scipys_bootstrap(num_images: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hard = rng.random(num_images)
    first, second = hard < 0.8, (hard < 0.7) ^ (rng.random(num_images) < 0.1)

    value, interval = paired_difference(first, second, seed=seed, resamples=4000)

    oracle = stats.bootstrap(
        (first.astype(float), second.astype(float)),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=rng,
        batch=100,
    ).confidence_interval
    assert value == pytest.approx(first.mean() - second.mean(), abs=1e-12)
    # the ends of 4000 resamples vary by about a twentieth of the interval
    slack = 0.08 * (oracle.high - oracle.low) + 1 / num_images
    assert interval == pytest.approx((oracle.low, oracle.high), abs=slack)


def test_paired_difference__is_narrower_than_that_of_two_accuracies() -> None:
    hard = np.random.default_rng(0).random(2000)
    first, second = hard < 0.80, hard < 0.78  # right on nearly the same images

    value, (low, high) = paired_difference(first, second, seed=0)

    gains = first.astype(float) - second.astype(float)
    error = stats.sem(gains)
    assert (low, high) == pytest.approx((value - 1.96 * error, value + 1.96 * error), abs=1e-3)
    unpaired = np.sqrt(first.var() + second.var()) / np.sqrt(2000)
    assert high - low < 0.6 * 2 * 1.96 * unpaired


def test_paired_difference__equal_classifiers_do_not_differ() -> None:
    right = np.array([True, False, True])
    assert paired_difference(right, right.copy(), seed=5) == (0.0, (0.0, 0.0))


def test_paired_difference__comes_from_the_seed() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(300) < 0.5, rng.random(300) < 0.5

    assert paired_difference(first, second, seed=1) == paired_difference(first, second, seed=1)
    others = {paired_difference(first, second, seed=seed)[1] for seed in range(10)}
    assert len(others) > 1
