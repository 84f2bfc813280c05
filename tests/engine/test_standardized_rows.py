import numpy as np
import pytest
import torch
from feature_sets import FEATURE_SETS, blobs
from sklearn.preprocessing import StandardScaler

from tlcli.engine import standardized_rows
from tlcli.engine.labelled_features import InMemoryFeatures
from tlcli.engine.standardized_rows import StandardizedRows, prepare_rows

LAYOUTS = {
    "streamed": {"memory_limit": 0},
    "resident": {"memory_limit": 1 << 30, "rotated_rows": 0},
    "in coordinates": {"memory_limit": 1 << 30, "rotated_rows": 10**6},
}


def prepare(
    name: str, layout: str, monkeypatch: pytest.MonkeyPatch, *, dtype: torch.dtype = torch.float64
) -> tuple[StandardizedRows, torch.Tensor, torch.Tensor]:
    """Rows of a feature set, its features standardised by scikit-learn, and its targets."""
    options = LAYOUTS[layout]
    monkeypatch.setattr(
        standardized_rows, "_ROTATED_ROWS_PER_CLASS", options.get("rotated_rows", 0)
    )
    features, targets = FEATURE_SETS[name]()
    data = InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets), block_rows=1000)
    rows = prepare_rows(
        data, num_classes=int(targets.max()) + 1, memory_limit=options["memory_limit"], dtype=dtype
    )
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    return rows, torch.from_numpy(scaled), torch.from_numpy(targets)


def all_rows(rows: StandardizedRows, *, max_rows: int = 7) -> torch.Tensor:
    return torch.cat([block for block, _ in rows.blocks(max_rows=max_rows)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FEATURE_SETS)
def test_prepare_rows__products_are_those_of_standardised_features(
    name: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, scaled, targets = prepare(name, layout, monkeypatch)
    assert rows.basis is not None
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, len(rows.variances), dtype=torch.float64, generator=generator)
    products = all_rows(rows) @ rows.weight_on_rows(weight).T
    torch.testing.assert_close(products, scaled @ rows.basis @ weight.T, rtol=0, atol=1e-5)
    residuals = torch.randn(len(rows), 4, dtype=torch.float64, generator=generator)
    gradient = rows.gradient_in_coordinates(residuals.T @ all_rows(rows))
    torch.testing.assert_close(
        gradient, residuals.T @ scaled @ rows.basis, rtol=0, atol=1e-5 * len(rows) ** 0.5
    )
    own = torch.cat([part for _, part in rows.blocks(max_rows=7)])
    assert torch.equal(own, targets)
    assert all(len(block) <= 7 for block, _ in rows.blocks(max_rows=7))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FEATURE_SETS)
def test_prepare_rows__directions_are_principal(
    name: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, scaled, _ = prepare(name, layout, monkeypatch)
    assert rows.basis is not None
    whole = scaled @ rows.basis
    covariance = whole.T @ whole / len(whole)
    torch.testing.assert_close(covariance, rows.variances.diag(), rtol=0, atol=1e-5)
    kept = rows.variances > 1e-9 * rows.largest_variance
    gram = rows.basis[:, kept].T @ rows.basis[:, kept]
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype), rtol=0, atol=1e-6)
    assert rows.largest_variance == pytest.approx(
        float(torch.linalg.eigvalsh(scaled.T @ scaled / len(scaled))[-1]), rel=1e-6
    )


def test_prepare_rows__fewer_rows_than_features_need_few_coordinates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, _, _ = prepare("wide", "resident", monkeypatch)
    assert rows.in_coordinates
    assert len(rows.variances) <= 59
    assert all_rows(rows).shape == (60, len(rows.variances))


@pytest.mark.parametrize("memory_limit", [0, 1 << 30])
def test_prepare_rows__large_ones_have_no_basis(
    memory_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standardized_rows, "MAX_EIGENPROBLEM", 10)
    features, targets = FEATURE_SETS["awkward"]()
    data = InMemoryFeatures(torch.from_numpy(features), torch.from_numpy(targets))
    rows = prepare_rows(data, num_classes=4, memory_limit=memory_limit, dtype=torch.float64)
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    assert rows.basis is None
    np.testing.assert_allclose(all_rows(rows), scaled, atol=1e-5)
    assert rows.variances.tolist() == [1.0] * 8 + [0.0] + [1.0] * 3 + [0.0] + [1.0]
    assert rows.largest_variance >= np.linalg.eigvalsh(scaled.T @ scaled / len(scaled))[-1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FEATURE_SETS)
def test_fold__acts_on_raw_features_as_weights_on_standardised_ones(
    name: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, scaled, _ = prepare(name, layout, monkeypatch)
    assert rows.basis is not None
    generator = torch.Generator().manual_seed(0)
    num_classes = rows.num_classes
    weight = torch.randn(num_classes, len(rows.variances), dtype=torch.float64, generator=generator)
    intercept = torch.randn(num_classes, dtype=torch.float64, generator=generator)
    raw_weight, raw_bias = rows.fold(weight, intercept, absent_bias=-20.0)
    features = torch.from_numpy(FEATURE_SETS[name]()[0])
    assert raw_weight.dtype == raw_bias.dtype == torch.float32
    outputs = features.double() @ raw_weight.double().T + raw_bias.double()
    expected = scaled @ rows.basis @ weight.T + intercept
    torch.testing.assert_close(outputs, expected, rtol=0, atol=2e-3)


def test_fold__classes_without_rows_get_the_bias_asked_for() -> None:
    features, targets = blobs(classes=2)
    data = InMemoryFeatures(torch.from_numpy(features), 3 * torch.from_numpy(targets))
    rows = prepare_rows(data, num_classes=5, memory_limit=0)
    assert rows.num_classes == 2
    assert set(torch.cat([own for _, own in rows.blocks(max_rows=99)]).tolist()) == {0, 1}
    weight, bias = rows.fold(
        torch.ones(2, 12, dtype=torch.float64), torch.zeros(2).double(), absent_bias=-7.0
    )
    assert bias[[1, 2, 4]].tolist() == [-7.0, -7.0, -7.0]
    assert (weight[[1, 2, 4]] == 0).all()
    assert (weight[[0, 3]] != 0).any()
