from typing import Any

import pytest
import torch

from tlcli.recipes.trunk_choice import Demand, choose_tier, storage_dtype, views_of


def demand(**changes: Any) -> Demand:
    values = {"train": 100, "judged": 20, "tested": 0, "epochs": 10, "views": 4, "row_bytes": 1000}
    return Demand(**{**values, "trunk_share": 0.5, **changes})


def test_demand__counts_rows_uses_and_bytes() -> None:
    assert demand().rows == 100 * 4 + 20
    assert demand().uses == pytest.approx(120 * 10 / 420)
    assert demand().bytes == 420_000
    assert demand(tested=30).rows == 450
    assert demand(tested=30).uses == pytest.approx((120 * 10 + 30) / 450)


@pytest.mark.parametrize(
    ("epochs", "views", "is_random", "expected"),
    [
        (10, None, True, 4),
        (3, None, True, 3),
        (10, 2, True, 2),
        (10, 0, True, 10),
        (10, 8, False, 1),
    ],
)
def test_views_of(epochs: int, views: int | None, is_random: bool, expected: int) -> None:
    assert views_of(epochs, views=views, is_random=is_random) == expected


@pytest.mark.parametrize(
    ("changes", "fits", "tier", "why"),
    [
        ({}, True, "disk", "2.9 uses of each of 420 views, 420 KB"),
        ({"epochs": 4}, True, "off", "nothing to gain from 1.1 uses of each of 420 views"),
        ({"trunk_share": 0.09}, True, "off", "the frozen part is 9 % of the arithmetic"),
        ({}, False, "off", "420 KB do not fit --cache-limit 1GB or the disk"),
    ],
)
def test_choose_tier__auto(changes: dict[str, Any], fits: bool, tier: str, why: str) -> None:
    for is_stored in (False, True):  # which other runs decide, and so decides nothing
        choice = choose_tier(
            "auto", demand=demand(**changes), fits=fits, is_stored=is_stored, limit="1GB"
        )
        assert choice.tier == tier
        assert choice.why.startswith(why)


@pytest.mark.parametrize("is_stored", [False, True])
def test_choose_tier__auto_tells_of_what_is_stored_already(is_stored: bool) -> None:
    choice = choose_tier(
        "auto", demand=demand(epochs=1), fits=True, is_stored=is_stored, limit="1GB"
    )

    assert choice.tier == "off"
    assert ("--trunk-cache disk takes them from the cache" in choice.why) is is_stored


def test_choose_tier__what_is_asked_for_is_done() -> None:
    for asked in ("off", "ram", "disk"):
        choice = choose_tier(
            asked, demand=demand(epochs=1), fits=False, is_stored=True, limit="1GB"
        )
        assert choice.tier == asked


@pytest.mark.parametrize(
    ("largest", "computed", "expected"),
    [
        (10.0, None, torch.float16),
        (65504 / 16, None, torch.float16),
        (65504 / 15, None, torch.float32),
        (10.0, torch.bfloat16, torch.bfloat16),
        (1e6, torch.bfloat16, torch.bfloat16),
        (10.0, torch.float16, torch.float16),
    ],
)
def test_storage_dtype__has_the_range(
    largest: float, computed: torch.dtype | None, expected: torch.dtype
) -> None:
    assert storage_dtype(largest, computed=computed) == expected
