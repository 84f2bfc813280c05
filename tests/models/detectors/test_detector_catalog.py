"""Detectors on any backbone, frozen as `finetune` freezes, and started from other detectors."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from pictures_with_boxes import pictures, seeded, staged, total_loss

from tlcli.errors import ConfigError, DataError, ModelError, WeightsError
from tlcli.models.detectors.architectures import ARCHITECTURES
from tlcli.models.detectors.detector import Detector
from tlcli.models.detectors.detector_catalog import create_detector, parse_detector_name
from tlcli.models.detectors.saved_detector import describe_detector, write_detector_description
from tlcli.models.detectors.torchvision_detectors import NAMED
from tlcli.models.frozen_proof import digests_of
from tlcli.models.saved_model import save_weights

CLASSES = ("ant", "bee")
MANY = tuple(f"class {i}" for i in range(80))


def untrained(architecture: str = "fasterrcnn", body: str = "timm/test_resnet") -> Detector:
    return create_detector(
        architecture,
        backbone=body,
        weights="none",
        class_names=CLASSES,
        image_size=64,
        fpn_channels=32,
    )


def save_run(detector: Detector, folder: Path, classes: tuple[str, ...]) -> Path:
    folder.mkdir()
    ids = tuple(range(len(classes)))
    description = describe_detector(detector, classes=classes, category_ids=ids)
    write_detector_description(description, folder / "model.json")
    save_weights(detector.network, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def body_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the classification network `timm/test_resnet`."""
    path = tmp_path_factory.mktemp("body") / "test_resnet.safetensors"
    with seeded(5):
        save_weights(timm.create_model("test_resnet"), path)
    return path


@pytest.fixture(scope="module")
def run_of_80(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Detector]:
    with seeded(3):
        detector = create_detector(
            "fasterrcnn",
            backbone="timm/test_resnet",
            weights="none",
            class_names=MANY,
            image_size=64,
            fpn_channels=32,
        )
    return save_run(detector, tmp_path_factory.mktemp("runs") / "run", MANY), detector


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "body",
    [
        "timm/test_resnet",
        "timm/test_efficientnet",
        "torchvision/mobilenet_v3_small",
        "torchvision/shufflenet_v2_x0_5",
        "torchvision/squeezenet1_1",
        pytest.param("torchvision/swin_t", marks=pytest.mark.slow),
    ],
)
def test_create__trains_and_detects_on_any_backbone(architecture: str, body: str) -> None:
    with seeded():
        detector = untrained(architecture, body)
        model = staged(detector).train()
        loss = total_loss(model)
        loss.backward()
    assert loss.isfinite()
    assert [key for key, p in detector.network.named_parameters() if p.grad is None] == []
    state = detector.network.state_dict()
    assert all(sum(stage.owns(key) for stage in detector.stages) == 1 for key in state)
    with torch.inference_mode():
        found = model.eval()(pictures())
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2


def test_create__defaults_of_a_light_body() -> None:
    build = create_detector(
        "fasterrcnn", backbone="test_resnet", weights="none", class_names=CLASSES
    ).build
    assert (build.image_size, build.max_size) == (320, 533)
    assert (build.fpn_channels, build.sampled_boxes, build.anchor_size) == (128, 128, 32.0)
    assert build.strides == (8, 16, 32)
    assert build.backbone == "timm/test_resnet"


def test_create__sizes_reach_the_network() -> None:
    network = create_detector(
        "fasterrcnn",
        backbone="timm/test_resnet",
        weights="none",
        class_names=CLASSES,
        image_size=100,
        strides=(4, 16),
        fpn_channels=32,
        sampled_boxes=20,
        anchor_size=24,
    ).network
    assert network.rpn.anchor_generator.sizes == ((24.0,), (96.0,), (192.0,))
    assert network.roi_heads.fg_bg_sampler.batch_size_per_image == 20
    assert network.rpn._post_nms_top_n == {"training": 80, "testing": 40}
    assert (network.transform.min_size, network.transform.max_size) == ((100,), 167)
    assert network.backbone.out_channels == 32


def test_create__mean_and_std_are_the_backbones() -> None:
    detector = untrained(body="timm/tf_efficientnet_lite0")
    assert tuple(detector.network.transform.image_mean) == (0.5, 0.5, 0.5)
    assert tuple(detector.network.transform.image_std) == (0.5, 0.5, 0.5)


def test_create__anchors_of_the_architectures() -> None:
    retinanet = untrained("retinanet").network
    assert [len(sizes) for sizes in retinanet.anchor_generator.sizes] == [3] * 5
    assert retinanet.anchor_generator.sizes[0][0] == 32
    assert retinanet.anchor_generator.sizes[-1][0] == 512
    fcos = untrained("fcos").network
    assert fcos.anchor_generator.sizes == ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,))


def test_stages__a_frozen_pretrained_body_does_not_move(body_file: Path) -> None:
    detector = create_detector(
        "fasterrcnn",
        backbone="timm/test_resnet",
        weights=str(body_file),
        class_names=CLASSES,
        image_size=64,
        fpn_channels=32,
    )
    model = staged(detector)
    model.open_stages(["layer4", "head"])
    model.train()
    network = detector.network
    assert network.training
    assert network.rpn.training
    assert network.roi_heads.training
    assert network.backbone.fpn.training
    assert network.get_submodule("backbone.body.layer4").training
    assert not network.get_submodule("backbone.body.layer3").training
    before = digests_of(network.state_dict().items())
    frozen = {name for name, _ in model.frozen_tensors()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, weight_decay=0.1)
    with seeded():
        for _ in range(3):
            optimizer.zero_grad()
            total_loss(model).backward()
            optimizer.step()
    after = digests_of(network.state_dict().items())
    moved = {name for name in before if before[name] != after[name]}
    assert not moved & frozen
    statistics = {n for n in before if ".body." in n and "running" in n}
    assert statistics <= frozen
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {n for n in moved if n.startswith("backbone.body.")} == {
        n for n in trained if n.startswith("backbone.body.layer4.")
    }
    assert moved == trained


def test_stages__statistics_of_a_random_body_move() -> None:
    detector = untrained()
    assert detector.norms_to_freeze == frozenset()
    model = staged(detector).train()
    before = {k: v.clone() for k, v in detector.network.state_dict().items() if "running" in k}
    total_loss(model)
    after = detector.network.state_dict()
    assert before
    assert not any(torch.equal(value, after[key]) for key, value in before.items())


def test_weights__a_classification_file_fills_the_body(body_file: Path) -> None:
    detector = create_detector(
        "retinanet",
        backbone="timm/test_resnet",
        weights=str(body_file),
        class_names=CLASSES,
        image_size=64,
    )
    file = safetensors.torch.load_file(body_file)
    state = detector.network.state_dict()
    body = [key for key in state if key.startswith("backbone.body.")]
    assert all(torch.equal(state[k], file[k.removeprefix("backbone.body.")]) for k in body)
    assert detector.weights.tag == "file"
    assert detector.norms_to_freeze
    assert [stage.name for stage in detector.stages][-2:] == ["layer4", "head"]


@pytest.mark.parametrize("as_file", [False, True])
def test_weights__another_class_head_and_all_else_kept(
    run_of_80: tuple[Path, Detector], as_file: bool
) -> None:
    folder, former = run_of_80
    weights = folder / "model.safetensors" if as_file else folder
    detector = create_detector(
        "fasterrcnn",
        backbone="timm/test_resnet",
        weights=str(weights),
        class_names=("x", "y", "z"),
    )
    before, after = former.network.state_dict(), detector.network.state_dict()
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    head = {
        f"roi_heads.box_predictor.{layer}.{kind}"
        for layer in ("cls_score", "bbox_pred")
        for kind in ("weight", "bias")
    }
    assert changed == head
    assert after["roi_heads.box_predictor.cls_score.weight"].shape == (4, 1024)
    assert detector.key_table is not None
    lines = detector.key_table.splitlines()
    assert "replaced (class head, new): 4" in lines
    assert {line.strip() for line in lines if "box_predictor" in line} == head
    assert lines[0].startswith(f"kept: {len(after) - 4} (body ")
    assert detector.class_names == ()
    assert any("80 classes replaced by a new one for 3" in r for r in detector.weights.remarks)
    assert [stage.name for stage in detector.stages][-2:] == ["fpn", "head"]
    assert detector.build == former.build


def test_weights__equal_classes_keep_the_head(run_of_80: tuple[Path, Detector]) -> None:
    folder, former = run_of_80
    for classes in (None, MANY):
        detector = create_detector(
            "fasterrcnn", backbone="timm/test_resnet", weights=str(folder), class_names=classes
        )
        before, after = former.network.state_dict(), detector.network.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert detector.class_names == MANY
        assert detector.num_classes == 80


def test_weights__other_order_is_another_head(run_of_80: tuple[Path, Detector]) -> None:
    detector = create_detector(
        "fasterrcnn",
        backbone="timm/test_resnet",
        weights=str(run_of_80[0]),
        class_names=MANY[::-1],
    )
    assert detector.class_names == ()


def test_weights__a_plain_file_of_a_detector(
    run_of_80: tuple[Path, Detector], tmp_path: Path
) -> None:
    path = tmp_path / "other_name.pth"
    torch.save({"model": run_of_80[1].network.state_dict()}, path)
    detector = create_detector(
        "fasterrcnn",
        backbone="timm/test_resnet",
        weights=str(path),
        class_names=("x", "y", "z"),
        fpn_channels=32,
    )
    key = "backbone.fpn.inner_blocks.0.0.weight"
    assert torch.equal(detector.network.state_dict()[key], run_of_80[1].network.state_dict()[key])
    with pytest.raises(WeightsError, match="cannot be loaded"):
        create_detector(
            "fasterrcnn",
            backbone="timm/test_resnet",
            weights=str(path),
            class_names=CLASSES,
            fpn_channels=64,
        )


def test_weights__a_run_of_another_detector(run_of_80: tuple[Path, Detector]) -> None:
    with pytest.raises(WeightsError, match="holds fasterrcnn on timm/test_resnet, not retinanet"):
        create_detector(
            "retinanet",
            backbone="timm/test_resnet",
            weights=str(run_of_80[0]),
            class_names=CLASSES,
        )


def test_weights__options_that_a_run_was_not_built_with(run_of_80: tuple[Path, Detector]) -> None:
    with pytest.raises(ConfigError, match=r"--strides 4,8 is not what .* with \(8,16,32\)\."):
        create_detector(
            "fasterrcnn",
            backbone="timm/test_resnet",
            weights=str(run_of_80[0]),
            class_names=CLASSES,
            strides=(4, 8),
        )
    build = create_detector(
        "fasterrcnn",
        backbone="timm/test_resnet",
        weights=str(run_of_80[0]),
        image_size=96,
        sampled_boxes=32,
    ).build
    assert (build.image_size, build.max_size, build.sampled_boxes) == (96, 160, 32)


def test_weights__no_classes_without_a_trained_head() -> None:
    with pytest.raises(ModelError, match="no trained class head"):
        create_detector("fasterrcnn", backbone="timm/test_resnet", weights="none")


def test_weights__missing_file_and_empty_folder(tmp_path: Path) -> None:
    for weights, words in (
        (tmp_path, "is a folder without a model.json"),
        (tmp_path / "no.pth", "is no file here"),
    ):
        with pytest.raises(WeightsError, match=words):
            create_detector("ssd300_vgg16", weights=str(weights), class_names=CLASSES)


def test_weights__a_classifier_for_a_named_detector(body_file: Path) -> None:
    with pytest.raises(WeightsError, match="holds no detector"):
        create_detector("ssd300_vgg16", weights=str(body_file), class_names=CLASSES)


def test_weights__a_broken_description(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(DataError, match="is missing or damaged"):
        create_detector("ssd300_vgg16", weights=str(tmp_path), class_names=CLASSES)


@pytest.mark.parametrize("text", ["ssd300_vgg16", "torchvision/ssd300_vgg16"])
def test_parse__with_and_without_the_source(text: str) -> None:
    assert parse_detector_name(text) == "torchvision/ssd300_vgg16"


def test_parse__an_unknown_name_is_answered_with_the_nearest_and_the_list() -> None:
    with pytest.raises(ModelError, match=r"Did you mean 'retinanet'.* There are: fasterrcnn_resn"):
        parse_detector_name("retinnet")
    for name in NAMED:
        assert parse_detector_name(name) == parse_detector_name(f"torchvision/{name}")


@pytest.mark.parametrize(
    ("model", "backbone", "options", "message"),
    [
        ("fasterrcnn", None, {}, "fasterrcnn needs a --backbone"),
        ("ssd300_vgg16", "timm/test_resnet", {}, "--backbone has no effect on torchvision/ssd300"),
        ("fcos", "timm/test_resnet", {"fpn_channels": 40}, "multiple of 32"),
        ("fcos", "timm/test_resnet", {"anchor_size": 16}, "--anchor-size has no effect on fcos"),
        ("retinanet", "timm/test_resnet", {"sampled_boxes": 9}, "has no effect on retinanet"),
    ],
)
def test_create__options_that_do_not_go_together(
    model: str, backbone: str | None, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        create_detector(model, backbone=backbone, weights="none", class_names=CLASSES, **options)
