"""A frozen part that is computed once gives the same training as one computed every time."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy import CollectedTalk, make_split_folders

from recipes.runs import (
    evaluate,
    finetune,
    finetune_config,
    metrics_of,
    record_of,
    results_of,
)
from tlcli.errors import BadImageError, ConfigError, DataError, MachineError
from tlcli.models.boundary import NoBoundaryError
from tlcli.recipes import finetune as recipe
from tlcli.recipes.cache import clear_cache, list_cache, show_store
from tlcli.recipes.trunk_places import begin_use, list_trunks, trunks_root

EXACT: dict[str, Any] = {"fold_norm": False}
LOSSLESS: dict[str, Any] = {**EXACT, "cache_dtype": "float32"}
"""Of a run that keeps values: it has all digits of one that keeps none and is `EXACT`."""
FROZEN: dict[str, Any] = {"unfreeze": "layer4", "epochs": 4}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TLCLI_CACHE_DIR", str(tmp_path / "cache"))


def trunk_of(run: Path) -> dict[str, Any]:
    kept: dict[str, Any] = record_of(run)["trunk_cache"]
    return kept


def comparable(run: Path) -> tuple[object, ...]:
    """Return all results, the record of options and of the cache left out."""
    return results_of(run)


@pytest.mark.parametrize(
    ("tier", "options"),
    [
        pytest.param("disk", {}, id="disk"),
        pytest.param("ram", {"mixup": 0.4, "ema": 0.9}, id="memory, mixup and average"),
        pytest.param("disk", {"augment": "none", "cutmix": 1.0}, id="no random views, cutmix"),
        pytest.param("disk", {"augment": "strong"}, id="strong views", marks=pytest.mark.slow),
        pytest.param(
            "disk", {"grad_accum_steps": 2}, id="two batches a step", marks=pytest.mark.slow
        ),
        pytest.param("ram", {"sampler": "balanced"}, id="balanced", marks=pytest.mark.slow),
        pytest.param(
            "disk",
            {"freeze_norm": True, "head_dropout": 0.5},
            id="dropout",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_run__kept_values_change_nothing(
    tmp_path: Path, photos: Path, resnet_file: Path, tier: str, options: dict[str, Any]
) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, **options}
    if options.get("augment") != "none":
        common["views"] = 2
    finetune(tmp_path / "off", trunk_cache="off", **common, **EXACT)
    finetune(tmp_path / "kept", trunk_cache=tier, **common, **LOSSLESS)

    assert comparable(tmp_path / "kept") == comparable(tmp_path / "off")
    assert trunk_of(tmp_path / "off")["hits"] == 0
    assert trunk_of(tmp_path / "kept")["hits"] > 0


def test_run__off_is_the_whole_network_on_the_same_views(
    tmp_path: Path, photos: Path, resnet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, **EXACT}
    finetune(tmp_path / "apart", trunk_cache="off", **common)

    def refuse(*_: object, **__: object) -> None:
        raise NoBoundaryError("not in this test")

    monkeypatch.setattr("tlcli.recipes.trunk_phase.split_network", refuse)
    finetune(tmp_path / "whole", trunk_cache="off", **common)

    apart, whole = metrics_of(tmp_path / "apart"), metrics_of(tmp_path / "whole")
    for one, other in zip(apart, whole, strict=True):  # batches of other sizes, other last digits
        values = {key: float(value) for key, value in one.items()}
        assert values == pytest.approx({k: float(v) for k, v in other.items()}, rel=1e-5)


def test_run__second_run_computes_nothing_and_is_the_same(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, "trunk_cache": "disk", "views": 2}
    finetune(tmp_path / "first", **common)
    finetune(tmp_path / "second", **common)

    # 12 train images in 2 views, 9 val and 6 test images; asked for 4 times, 4 times and once more
    first, second = trunk_of(tmp_path / "first"), trunk_of(tmp_path / "second")
    assert first["misses"] == 12 * 2 + 9 + 6
    asked = 4 * 12 + 4 * 9 + 9 + 6
    assert first["hits"] == asked - first["misses"]
    assert (second["misses"], second["hits"], second["bytes"]) == (0, asked, 0)
    assert min(first["seconds"][name] for name in ("decode", "trunk", "tail", "evaluation")) > 0
    assert (second["seconds"]["decode"], second["seconds"]["trunk"]) == (0, 0)
    spent = record_of(tmp_path / "second")["seconds"]
    assert 0 < second["seconds"]["tail"] < spent["train"]
    assert 0 < second["seconds"]["evaluation"] < spent["eval"] + spent["final_eval"]
    assert comparable(tmp_path / "first") == comparable(tmp_path / "second")


def test_run__another_head_seed_and_data_share_the_store(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    common = {"weights": resnet_file, **FROZEN, "trunk_cache": "disk", "augment": "none"}
    finetune(tmp_path / "first", data=photos, **common)
    photos_and_one = tmp_path / "more"
    shutil.copytree(photos, photos_and_one)
    more = make_split_folders(tmp_path / "other", counts={"train": 5, "val": 3, "test": 2})
    new = sorted((more / "train" / "ant").iterdir())[-1]
    shutil.copy(new, photos_and_one / "train" / "ant" / "new.png")

    finetune(tmp_path / "second", data=photos_and_one, seed=3, head="mlp:8", lr=1e-2, **common)

    assert trunk_of(tmp_path / "second")["misses"] == 1
    assert len(list_trunks()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"unfreeze": "layer3,layer4"},
        {"cache_dtype": "bfloat16"},
        {"fold_norm": False},
        {"mean": "0.4", "std": "0.3"},
        {"channels_last": False},
    ],
)
def test_run__what_changes_values_has_a_store_of_its_own(
    tmp_path: Path, photos: Path, resnet_file: Path, change: dict[str, Any]
) -> None:
    common = {
        "data": photos,
        "weights": resnet_file,
        **FROZEN,
        "trunk_cache": "disk",
        "augment": "none",
    }
    finetune(tmp_path / "first", **common)
    finetune(tmp_path / "second", **{**common, **change})

    assert trunk_of(tmp_path / "second")["misses"] == 12 + 9 + 6
    assert len(list_trunks()) == 2


def test_run__another_strength_of_views_is_computed_anew(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, "trunk_cache": "disk", "views": 1}
    finetune(tmp_path / "first", augment="light", **common)
    finetune(tmp_path / "second", augment="light", crop_scale=0.7, **common)

    assert trunk_of(tmp_path / "second")["misses"] == 12, "val and test are shared"


def test_run__every_phase_has_its_boundary(tmp_path: Path, photos: Path, resnet_file: Path) -> None:
    common = {
        "data": photos,
        "weights": resnet_file,
        "schedule": "0:head,2:layer4,4:layer3,6:all",
        "epochs": 8,
        "views": 2,
    }
    finetune(tmp_path / "off", trunk_cache="off", **common, **EXACT)
    finetune(tmp_path / "kept", trunk_cache="disk", **common, **LOSSLESS)

    phases = trunk_of(tmp_path / "kept")["phases"]
    assert [phase.get("shapes") for phase in phases[:3]] != [None] * 3
    assert len({json.dumps(phase.get("boundary")) for phase in phases[:3]}) == 3
    assert phases[3]["why"] == "nothing is frozen before the first layer that is trained"
    assert comparable(tmp_path / "kept") == comparable(tmp_path / "off")


def test_run__fp16_is_near(tmp_path: Path, photos: Path, resnet_file: Path) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, "views": 2}
    finetune(tmp_path / "off", trunk_cache="off", **common)
    finetune(tmp_path / "kept", trunk_cache="disk", **common)

    for one, other in zip(metrics_of(tmp_path / "off"), metrics_of(tmp_path / "kept"), strict=True):
        assert float(other["train/loss"]) == pytest.approx(float(one["train/loss"]), rel=1e-2)


def test_run__resumed_in_the_middle_is_the_same(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, **LOSSLESS, "trunk_cache": "disk"}
    finetune(tmp_path / "whole", **common)
    finetune(tmp_path / "parts", **common, max_time="0.001s")
    finetune(tmp_path / "parts", **common, resume=True, max_time="1h")

    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")


def test_run__damaged_store_is_computed_again(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, "trunk_cache": "disk", "views": 1}
    finetune(tmp_path / "first", **common)
    (store,) = trunks_root().iterdir()
    victim = sorted((store / "shards").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:100])

    _, talk = finetune(tmp_path / "second", **common)

    assert any("Missing or damaged" in warning for warning in talk.warnings)
    assert trunk_of(tmp_path / "second")["misses"] > 0
    assert comparable(tmp_path / "first") == comparable(tmp_path / "second")


def test_run__auto_says_what_and_why(tmp_path: Path, photos: Path, resnet_file: Path) -> None:
    common = {"data": photos, "weights": resnet_file, "unfreeze": "layer4"}
    _, short = finetune(tmp_path / "short", epochs=2, **common)
    finetune(tmp_path / "long", epochs=12, **common)

    assert any(
        "not kept (nothing to gain from 1.2 uses of each of 39 views" in note
        for note in short.notes
    )
    assert trunk_of(tmp_path / "long")["phases"][0]["kept"] == "disk"
    assert trunk_of(tmp_path / "long")["phases"][0]["views"] == 4


def test_run__limit(tmp_path: Path, photos: Path, resnet_file: Path) -> None:
    common = {"data": photos, "weights": resnet_file, "unfreeze": "layer4", "epochs": 12}
    _, talk = finetune(tmp_path / "auto", cache_limit="1KB", **common)
    assert any("do not fit --cache-limit 1KB" in note for note in talk.notes)
    assert list_trunks() == []

    with pytest.raises(ConfigError, match="do not fit --cache-limit"):
        finetune(tmp_path / "disk", cache_limit="1KB", trunk_cache="disk", **common)
    talk = CollectedTalk()
    ram = finetune_config(tmp_path / "ram", cache_limit="1KB", trunk_cache="ram", **common)
    with pytest.raises(MachineError, match="holds more than --cache-limit allows"):
        recipe.run(ram, talk=talk)
    assert not any("kept in memory" in note for note in talk.notes)

    finetune(tmp_path / "kept", trunk_cache="disk", **common)
    with pytest.raises(
        ConfigError, match=r"disk: \S+ [KM]B, 0 bytes of them new, do not .* \(1 KB\)"
    ):
        finetune(tmp_path / "again", cache_limit="1KB", trunk_cache="disk", **common)


@pytest.mark.parametrize("damage", ["{", "[]", "version"])
def test_run__damaged_store_is_begun_anew(
    tmp_path: Path, photos: Path, resnet_file: Path, damage: str
) -> None:
    common = {"data": photos, "weights": resnet_file, "trunk_cache": "disk", **FROZEN}
    finetune(tmp_path / "first", **common)
    (store,) = list_trunks()
    manifest = store.path / "manifest.json"
    if damage == "version":
        damage = manifest.read_text().replace('"schema_version": 1', '"schema_version": 99')
        assert "99" in damage
    manifest.write_text(damage)

    end_use = begin_use(store.path)
    with pytest.raises(DataError, match=r"damaged, and another run uses it: wait for its end, or"):
        finetune(tmp_path / "second", **common)
    end_use()
    limit = str(store.bytes * 3 // 2)  # there is no room for two of them
    _, talk = finetune(tmp_path / "third", cache_limit=limit, **common)

    assert any(" and is begun anew." in text for text in talk.warnings)
    assert trunk_of(tmp_path / "third")["misses"] == trunk_of(tmp_path / "first")["misses"] > 0
    assert results_of(tmp_path / "third") == results_of(tmp_path / "first")


def test_run__auto_tells_what_is_in_the_cache(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    common = {"data": photos, "weights": resnet_file, "unfreeze": "layer4", "epochs": 1}
    finetune(tmp_path / "disk", trunk_cache="disk", **common)

    _, talk = finetune(tmp_path / "auto", **common)

    assert any("--trunk-cache disk takes them from the cache" in note for note in talk.notes)
    finetune(tmp_path / "again", trunk_cache="disk", **common)
    assert trunk_of(tmp_path / "auto")["seconds"]["saved"] == 0
    assert trunk_of(tmp_path / "again")["misses"] == 0


def test_run__says_what_a_run_before_it_saved(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    common = {"data": photos, "weights": resnet_file, "unfreeze": "layer4", "epochs": 1}
    options = {**common, "trunk_cache": "disk"}
    finetune(tmp_path / "first", **options)
    (store,) = list_trunks()
    cost = json.loads((store.path / "cost.json").read_text())

    finetune(tmp_path / "second", **options)

    first, second = trunk_of(tmp_path / "first"), trunk_of(tmp_path / "second")
    assert cost["rows"] == first["misses"] > 0
    assert second["hits"] == first["hits"] + first["misses"]
    expected = second["hits"] * cost["seconds"] / cost["rows"]
    assert second["seconds"]["saved"] == pytest.approx(expected) != 0
    (store.path / "cost.json").write_text("{")
    finetune(tmp_path / "third", **options)
    assert trunk_of(tmp_path / "third")["seconds"]["saved"] is None
    finetune(tmp_path / "fourth", view_seed=1, **options)
    assert trunk_of(tmp_path / "fourth")["seconds"]["saved"] > 0


def test_run__oldest_store_makes_room(tmp_path: Path, photos: Path, resnet_file: Path) -> None:
    common = {"data": photos, "weights": resnet_file, "epochs": 4, "trunk_cache": "disk"}
    common |= {"augment": "none"}
    finetune(tmp_path / "a", unfreeze="layer4", **common)
    (old,) = list_trunks()
    limit = old.bytes + old.bytes // 2

    _, talk = finetune(tmp_path / "b", unfreeze="layer3,layer4", cache_limit=str(limit), **common)

    assert [store.path for store in list_trunks()] != [old.path]
    assert len(list_trunks()) == 1
    assert any("not used for longest" in note for note in talk.notes)


def test_cache__lists_and_clears_stores(tmp_path: Path, photos: Path, resnet_file: Path) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, "trunk_cache": "disk", "views": 2}
    finetune(tmp_path / "run", **common)
    (folder,) = list_trunks()

    (entry,) = list_cache()
    assert (entry.kind, entry.state, entry.rows) == ("trunk", "kept", 2 * 12 + 9 + 6)
    assert entry.holds == "layer3 of 160 x 160 float16"
    shown = show_store(entry.name)
    assert (shown["path"], shown["rows"], shown["bytes"]) == (entry.path, entry.rows, entry.bytes)
    assert shown["key"]["model"] == "timm/test_resnet"
    assert entry.model == "timm/test_resnet"
    end_use = begin_use(folder.path)
    with pytest.raises(DataError, match="is in use by a run"):
        clear_cache([entry.name], everything=False)
    end_use()
    assert [one.name for one in clear_cache([entry.name], everything=False)] == [entry.name]
    assert list_cache() == []


@pytest.mark.parametrize("tier", ["off", "disk"])
def test_run__bad_image_is_told_with_its_remedy(
    tmp_path: Path, photos: Path, resnet_file: Path, tier: str
) -> None:
    data = shutil.copytree(photos, tmp_path / "photos")
    (data / "train" / "bee" / "1.png").write_bytes(b"no picture")

    with pytest.raises(BadImageError, match=r"bee/1\.png: .* --on-bad-image skip"):
        finetune(tmp_path / "run", data=data, weights=resnet_file, **FROZEN, trunk_cache=tier)


def test_run__mixing_behind_the_frozen_part_is_told(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    _, talk = finetune(tmp_path / "run", data=photos, weights=resnet_file, **FROZEN, mixup=0.2)

    assert any("mix what the frozen part makes" in note for note in talk.notes)


def test_run__overflow_names_the_option(
    tmp_path: Path, photos: Path, resnet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, "trunk_cache": "disk"}
    with pytest.raises(DataError, match="--cache-dtype"):
        finetune(tmp_path / "run", std="1e-9", cache_dtype="float16", **common)


def test_run__evaluate_agrees(tmp_path: Path, photos: Path, resnet_file: Path) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, **LOSSLESS, "trunk_cache": "disk"}
    summary, _ = finetune(tmp_path / "run", **common)

    again, _ = evaluate(run=tmp_path / "run")

    assert again.report.metrics == pytest.approx(summary["results"]["test"]["metrics"], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0, "trunk_cache": "disk"}, "--views 0 shows every image anew"),
        (
            {"views": 0, "image_cache": "ram"},
            r"--views 0 shows .* --image-cache ram",
        ),
        ({"views": 2, "augment": "none"}, "--views 2 has no effect with --augment none"),
        ({"view_seed": 2, "augment": "none"}, "--view-seed 2 has no effect with --augment none"),
        ({"view_seed": -1}, "--view-seed must be 0 or more, not -1"),
        ({"view_seed": 2**64}, "--view-seed must be 18446744073709551615 .64 bits. at most"),
        (
            {"trunk_cache": "off", "cache_dtype": "float32"},
            "--cache-dtype float32 has no effect with --trunk-cache off",
        ),
        (
            {"trunk_cache": "off", "cache_limit": "1GB"},
            "--cache-limit 1GB has no effect with --trunk-cache off",
        ),
        ({"views": -1}, "--views must be 0 or more, not -1"),
        ({"cache_limit": "much"}, "--cache-limit 'much' is no size"),
        ({"cache_limit": "0GB"}, "--cache-limit '0GB' is no size"),
    ],
)
def test_config__refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        finetune_config(None, **options)


@pytest.mark.parametrize("tier", [pytest.param("ram", marks=pytest.mark.slow), "disk"])
def test_image_cache__changes_nothing(
    tmp_path: Path, photos: Path, resnet_file: Path, tier: str
) -> None:
    common = {"data": photos, "weights": resnet_file, "unfreeze": "all", "epochs": 4, "views": 2}
    finetune(tmp_path / "off", **common)
    _, talk = finetune(tmp_path / "kept", image_cache=tier, **common)
    finetune(tmp_path / "again", image_cache=tier, **common)

    assert comparable(tmp_path / "kept") == comparable(tmp_path / "off")
    assert comparable(tmp_path / "again") == comparable(tmp_path / "off")
    assert any(note.startswith("Images: kept ") for note in talk.notes)
    rows = 2 * 12 + 9 + 6
    assert trunk_of(tmp_path / "kept")["misses"] == rows
    assert trunk_of(tmp_path / "again")["misses"] == (0 if tier == "disk" else rows)


def test_image_cache__another_model_of_the_same_pictures_shares_it(
    tmp_path: Path, photos: Path
) -> None:
    common = {"data": photos, "weights": "none", "unfreeze": "all", "epochs": 2, "views": 1}
    common |= {"image_cache": "disk", "input_size": 32, "mean": "0.5"}
    finetune(tmp_path / "one", model="timm/test_efficientnet", std="0.2", **common)
    finetune(tmp_path / "two", model="timm/test_byobnet", std="0.5", **common)

    assert trunk_of(tmp_path / "two")["misses"] == 0
    (entry,) = list_cache()
    assert (entry.kind, entry.model, entry.rows) == ("images", None, 12 + 9 + 6)


def test_image_cache__phases_with_a_frozen_part_keep_that(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    common = {"data": photos, "weights": resnet_file, "schedule": "0:layer4,4:all", "epochs": 6}
    common["views"] = 2
    finetune(tmp_path / "off", trunk_cache="off", **common, **EXACT)
    options = {"trunk_cache": "disk", "image_cache": "disk", **LOSSLESS}
    _, talk = finetune(tmp_path / "kept", **common, **options)

    assert sum("--image-cache has no effect in this phase" in note for note in talk.notes) == 1
    first, second = trunk_of(tmp_path / "kept")["phases"]
    assert (first["kept"], first["images_kept"], first["dtype"]) == ("disk", "off", "float32")
    assert (second["kept"], second["images_kept"]) == ("off", "disk")
    assert second["boundary"] == ["pixels"]
    assert comparable(tmp_path / "kept") == comparable(tmp_path / "off")


def test_image_cache__no_room_is_told(tmp_path: Path, photos: Path, resnet_file: Path) -> None:
    common = {"data": photos, "weights": resnet_file, "unfreeze": "all", "cache_limit": "1KB"}
    with pytest.raises(ConfigError, match=r"--image-cache disk: .* do not fit --cache-limit"):
        finetune(tmp_path / "disk", image_cache="disk", **common)
    with pytest.raises(MachineError, match="--image-cache ram holds more than --cache-limit"):
        finetune(tmp_path / "ram", image_cache="ram", **common)


def test_run__another_seed_finds_the_views_another_view_seed_does_not(
    tmp_path: Path, photos: Path, resnet_file: Path
) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, "trunk_cache": "disk", "views": 2}
    finetune(tmp_path / "first", **common)
    finetune(tmp_path / "seed", seed=1, **common)
    finetune(tmp_path / "views", view_seed=1, **common)

    assert trunk_of(tmp_path / "seed")["misses"] == 0
    assert trunk_of(tmp_path / "views")["misses"] == 2 * 12, "val and test have no random views"
    losses = [metrics_of(tmp_path / name)[0]["train/loss"] for name in ("first", "seed", "views")]
    assert len(set(losses)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["ram", "disk"])
def test_image_cache__serves_a_frozen_part_that_is_not_kept(
    tmp_path: Path, photos: Path, resnet_file: Path, tier: str
) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, "trunk_cache": "off", "views": 2}
    for layout in (True, False):
        options = {**common, "channels_last": layout}
        finetune(tmp_path / f"off {layout}", **options)
        _, talk = finetune(tmp_path / f"kept {layout}", image_cache=tier, **options)

        assert comparable(tmp_path / f"kept {layout}") == comparable(tmp_path / f"off {layout}")
        kept = trunk_of(tmp_path / f"kept {layout}")
        assert any(note.startswith("Images: kept ") for note in talk.notes)
        (phase,) = kept["phases"]
        assert (phase["kept"], phase["images_kept"], phase["dtype"]) == ("off", tier, None)
        assert kept["misses"] == (0 if tier == "disk" and not layout else 2 * 12 + 9 + 6)
    with pytest.raises((ConfigError, MachineError), match="--image-cache"):
        finetune(tmp_path / "full", image_cache=tier, cache_limit="1KB", **common)


def test_run__dtype_is_told(tmp_path: Path, photos: Path, resnet_file: Path) -> None:
    common = {"data": photos, "weights": resnet_file, **FROZEN, "trunk_cache": "ram"}
    _, talk = finetune(tmp_path / "run", **common)
    _, wide = finetune(tmp_path / "wide", std="1e-5", **common)

    assert any("kept in memory in float16" in note for note in talk.notes)
    assert trunk_of(tmp_path / "run")["phases"][0]["dtype"] == "float16"
    assert any("kept in memory in float32" in note for note in wide.notes)
