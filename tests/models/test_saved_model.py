import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models as zoo

from tlcli.backbones.pretrained import create_backbone
from tlcli.backbones.protocol import head_width
from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import DataError, MachineError, ModelError, WeightsError
from tlcli.models.feature_classifier import FeatureClassifier
from tlcli.models.head import HeadSpec, replace_heads, set_linear_head
from tlcli.models.saved_model import (
    ModelDescription,
    build_network,
    linear_head_of,
    load_network,
    read_description,
    read_weights,
    save_weights,
    write_description,
)
from tlcli.models.staged import StagedModel

CLASSES = ("zebra", "ant", "10", "2", "Ant", "été")
"""In no order that a sort would give."""
FAMILIES = {
    "torchvision/mobilenet_v2": 64,
    "torchvision/squeezenet1_1": 64,
    "torchvision/shufflenet_v2_x0_5": 64,
    "timm/test_vit": 160,
    "timm/test_efficientnet": 64,
    "timm/test_convnext": 64,
    "timm/deit_tiny_distilled_patch16_224": 224,
}


def trained(name: str, *, head: HeadSpec) -> tuple[nn.Module, ModelDescription]:
    """A network whose every parameter and statistic is random, with its description."""
    torch.manual_seed(0)
    backbone = create_backbone(name, weights="none")
    network = backbone.network
    replace_heads(network, head_names=backbone.head_names, num_classes=len(CLASSES), spec=head)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.1)
            else:
                tensor.add_(7)
    return network.eval(), ModelDescription(
        model=backbone.name,
        weights="none",
        weights_sha256=None,
        shape_tag=backbone.shape_tag,
        head=head,
        classes=CLASSES,
        class_titles={"ant": "Ameise"},
        preprocessing=backbone.preprocessing,
        feature_dim=backbone.feature_dim,
    )


def save(folder: Path, network: nn.Module, description: ModelDescription) -> None:
    save_weights(network, folder / "model.safetensors")
    write_description(description, folder / "model.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save(folder, *trained("timm/test_efficientnet", head=HeadSpec()))
    return folder


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """A copy of a saved model, to be damaged."""
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *((name, HeadSpec()) for name in FAMILIES if "deit" not in name),
        pytest.param("timm/deit_tiny_distilled_patch16_224", HeadSpec(), marks=pytest.mark.slow),
        ("timm/test_efficientnet", HeadSpec(hidden=(16, 8), dropout=0.3)),
        ("torchvision/squeezenet1_1", HeadSpec(hidden=(16,))),
    ],
    ids=str,
)
def test_load_network__same_logits(name: str, head: HeadSpec, tmp_path: Path) -> None:
    network, description = trained(name, head=head)
    save(tmp_path, network, description)
    torch.manual_seed(1)
    loaded, found = load_network(tmp_path)
    assert found == description
    images = torch.randn(2, 3, FAMILIES[name], FAMILIES[name])
    with torch.no_grad():
        logits = network(images)
        assert torch.equal(loaded.eval()(images), logits)
    assert logits.shape == (2, len(CLASSES))
    assert logits.std() > 0


def test_load_network__mnasnet(tmp_path: Path) -> None:
    network, description = trained("torchvision/mnasnet0_5", head=HeadSpec())
    save(tmp_path, network, description)
    loaded, _ = load_network(tmp_path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images), network(images))


@pytest.mark.parametrize(
    "name", ["torchvision/mobilenet_v2", "timm/test_vit", "timm/test_efficientnet"]
)
def test_save_weights__plain_libraries_load_them_strictly(name: str, tmp_path: Path) -> None:
    backbone = create_backbone(name, weights="none")
    replace_heads(backbone.network, head_names=backbone.head_names, num_classes=3, spec=HeadSpec())
    model = StagedModel(backbone.network, stages=backbone.stages)
    save_weights(model.network, tmp_path / "model.safetensors")
    source, _, architecture = name.partition("/")
    plain: nn.Module = (
        timm.create_model(architecture, num_classes=3)
        if source == "timm"
        else zoo.get_model(architecture, num_classes=3)
    )
    plain.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    expected = model.network.state_dict()
    assert all(torch.equal(plain.state_dict()[k], tensor) for k, tensor in expected.items())


def test_save_weights__layout_and_sharing_do_not_matter(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 4))
    network.to(memory_format=torch.channels_last)
    network[2].weight = network[1].weight
    save_weights(network, tmp_path / "model.safetensors")
    found = read_weights(tmp_path / "model.safetensors")
    assert set(found) == set(network.state_dict())
    assert all(torch.equal(found[key], t) for key, t in network.state_dict().items())


def test_save_weights__replaces_in_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def fail(file: Path, content: bytes) -> None:
        with file.open("wb") as stream:
            stream.write(content[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises((OSError, MachineError), match="No space left"):
            save_weights(nn.Linear(2, 2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_write_description__keeps_the_order_of_the_classes(run: Path) -> None:
    written = json.loads((run / "model.json").read_text(encoding="utf-8"))
    assert written["classes"] == list(CLASSES)
    assert written["schema_version"] == 1
    assert written["model"] == "timm/test_efficientnet"
    assert read_description(run / "model.json").classes == CLASSES


@pytest.mark.parametrize(
    ("head", "layers", "pool"),
    [
        (HeadSpec(hidden=(512, 256), dropout=0.3), (), None),
        (HeadSpec(), ("layer3", "layer4"), "max"),
        (HeadSpec(neighbours=20, bank=3068), (), None),
    ],
    ids=["mlp", "layers", "knn"],
)
def test_description__round_trip_of_every_field(
    head: HeadSpec, layers: tuple[str, ...], pool: str | None
) -> None:
    description = ModelDescription(
        model="timm/resnet18",
        weights="a1_in1k",
        weights_sha256="0" * 64,
        shape_tag="a1_in1k",
        head=head,
        layers=layers,
        pool=pool,
        classes=CLASSES,
        class_titles={"ant": "Ameise"},
        preprocessing=Preprocessing(
            input_size=(224, 200),
            resize_size=(235, 210),
            crop_mode="squash",
            interpolation="bicubic",
            mean=(0.1, 0.2, 0.3),
            std=(0.4, 0.5, 0.6),
        ),
        feature_dim=512,
    )
    text = json.dumps(description.to_json())
    assert ModelDescription.from_json(json.loads(text)) == description


def test_description__written_before_there_were_layers_and_banks(run: Path) -> None:
    path = run / "model.json"
    values = json.loads(path.read_text("utf-8"))
    expected = read_description(path)
    del values["layers"], values["pool"], values["head"]["neighbours"], values["head"]["bank"]
    path.write_text(json.dumps(values), "utf-8")
    assert read_description(path) == expected
    assert load_network(run)[1] == expected


def on_features(
    name: str, *, head: HeadSpec, layers: tuple[str, ...], pool: str | None
) -> tuple[FeatureClassifier, ModelDescription]:
    """A classifier on features with a random network and a random head, and its description."""
    torch.manual_seed(0)
    backbone = create_backbone(name, weights="none")
    classifier = FeatureClassifier(
        backbone.network,
        head_names=backbone.head_names,
        stages=backbone.stages,
        input_size=backbone.preprocessing.input_size,
        layers=layers,
        pool=pool,
        spec=head,
        num_classes=len(CLASSES),
    ).eval()
    with torch.no_grad():
        for key, tensor in classifier.state_dict().items():
            if key == "head.targets":
                tensor.copy_(torch.arange(len(tensor)) % len(CLASSES))
            elif tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) - (0.5 if "head" in key else 0), alpha=0.1)
    return classifier, ModelDescription(
        model=backbone.name,
        weights="none",
        weights_sha256=None,
        shape_tag=backbone.shape_tag,
        head=head,
        layers=classifier.extractor.names if layers else (),
        pool=pool,
        classes=CLASSES,
        preprocessing=backbone.preprocessing,
        feature_dim=classifier.extractor.feature_dim,
    )


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "torchvision/squeezenet1_1"])
@pytest.mark.parametrize(
    ("head", "layers", "pool"),
    [
        (HeadSpec(), ("last:1",), None),
        (HeadSpec(), ("last:2",), "max"),
        (HeadSpec(), ("last:1",), "none"),
        (HeadSpec(neighbours=5, bank=40), (), None),
        (HeadSpec(neighbours=5, bank=40), ("last:2",), "avg"),
    ],
    ids=["layer", "two layers, max", "whole map", "knn", "knn on two layers"],
)
def test_load_network__on_features(
    name: str, head: HeadSpec, layers: tuple[str, ...], pool: str | None, tmp_path: Path
) -> None:
    classifier, description = on_features(name, head=head, layers=layers, pool=pool)
    save(tmp_path, classifier, description)
    torch.manual_seed(1)
    loaded, found = load_network(tmp_path)
    assert found == description
    height, width = description.preprocessing.input_size
    images = torch.randn(2, 3, height, width)
    with torch.no_grad():
        logits = classifier(images)
        assert torch.equal(loaded.eval()(images), logits)
    assert logits.shape == (2, len(CLASSES))
    assert logits.std() > 0


def test_save_weights__keys_on_features(tmp_path: Path) -> None:
    classifier, description = on_features(
        "timm/test_resnet", head=HeadSpec(), layers=("layer4",), pool=None
    )
    save(tmp_path, classifier, description)
    plain = timm.create_model("test_resnet", num_classes=1).state_dict()
    expected = {f"extractor.network.{key}" for key in plain} | {"head.weight", "head.bias"}
    assert set(load_file(tmp_path / "model.safetensors")) == expected
    assert build_network(description)[1][-2].name == "layer4"


def test_load_network__on_features_with_another_bank(tmp_path: Path) -> None:
    spec = HeadSpec(neighbours=5, bank=40)
    classifier, description = on_features("timm/test_resnet", head=spec, layers=(), pool=None)
    save(tmp_path, classifier, replace(description, head=HeadSpec(neighbours=5, bank=41)))
    with pytest.raises(WeightsError, match=r"head\.bank  \(40, 96\) / \(41, 96\)"):
        load_network(tmp_path)


@pytest.mark.parametrize("name", ["timm/test_vit", "torchvision/squeezenet1_1", "timm/levit_128s"])
def test_linear_head_of__is_what_was_set(name: str, tmp_path: Path) -> None:
    network, description = trained(name, head=HeadSpec())
    heads = create_backbone(name, weights="none").head_names
    dim = sum(head_width(network.get_submodule(head)) for head in heads)
    weight, bias = torch.randn(len(CLASSES), dim), torch.randn(len(CLASSES))
    set_linear_head(network, head_names=heads, weight=weight, bias=bias)
    save(tmp_path, network, description)
    torch.testing.assert_close(linear_head_of(tmp_path), (weight, bias))


def test_linear_head_of__mlp(tmp_path: Path) -> None:
    save(tmp_path, *trained("timm/test_vit", head=HeadSpec(hidden=(5,))))
    with pytest.raises(ModelError) as caught:
        linear_head_of(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has a head of kind 'mlp' on embeddings. Only a linear head on the embedding "
        "can be taken over; make one with extract-features --head linear."
    )


@pytest.mark.parametrize(
    ("head", "layers", "message"),
    [
        (HeadSpec(), ("layer3", "layer4"), "kind 'linear' on outputs of layer3, layer4"),
        (HeadSpec(neighbours=5, bank=40), (), "kind 'knn' on embeddings"),
    ],
    ids=["layers", "knn"],
)
def test_linear_head_of__on_features(
    head: HeadSpec, layers: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    save(tmp_path, *on_features("timm/test_resnet", head=head, layers=layers, pool=None))
    with pytest.raises(ModelError, match=message):
        linear_head_of(tmp_path)


def test_build_network__with_its_stages_and_new_head(run: Path) -> None:
    description = read_description(run / "model.json")
    network, stages = build_network(replace(description, head=HeadSpec(hidden=(5,))))
    assert network.classifier[0].out_features == 5
    assert network.classifier[-1].out_features == len(CLASSES)
    assert [stage.name for stage in stages][-2:] == ["conv_head", "head"]
    assert {stages[-1].owns(n) for n, _ in network.classifier.named_parameters("classifier")} == {
        True
    }


@pytest.mark.parametrize("model", ["timm/no_such_net_of_the_future", "keras/resnet50"])
def test_load_network__architecture_that_is_not_installed(model: str, run: Path) -> None:
    description = replace(read_description(run / "model.json"), model=model)
    write_description(description, run / "model.json")
    with pytest.raises(ModelError, match=f"No model is called '{model}'"):
        load_network(run)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b'{"schema_version": 1, "model": "timm/x"}'],
)
def test_read_description__damaged(content: bytes, run: Path) -> None:
    path = run / "model.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_network(run)
    assert str(caught.value).startswith(f"{path} is missing or damaged (")
    assert str(caught.value).endswith("): is this a finished run?")


@pytest.mark.parametrize(
    "changes",
    [
        {"head": None},
        {"head": {"hidden": 3}},
        {"classes": None},
        {"preprocessing": []},
        {"preprocessing": {"input_size": [1, 1]}},
        {"colour": "red"},
    ],
    ids=str,
)
def test_read_description__wrong_fields(changes: dict[str, object], run: Path) -> None:
    path = run / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
    with pytest.raises(DataError, match=r"model\.json is missing or damaged \("):
        read_description(path)


def test_read_description__missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model\.json is missing or damaged .*No such file"):
        load_network(tmp_path)


def test_read_weights__missing(run: Path) -> None:
    (run / "model.safetensors").unlink()
    with pytest.raises(DataError) as caught:
        load_network(run)
    message = str(caught.value)
    assert message.startswith(f"The weights {run / 'model.safetensors'} cannot be read (")
    assert message.endswith("); train again, or finish the run with --resume.")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_read_weights__cut_off(keep: int, run: Path) -> None:
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"model\.safetensors cannot be read \("):
        load_network(run)


def test_load_network__weights_with_another_number_of_classes(run: Path) -> None:
    description = read_description(run / "model.json")
    write_description(replace(description, classes=("a", "b")), run / "model.json")
    with pytest.raises(WeightsError) as caught:
        load_network(run)
    assert "wrong shape (file / model): 2" in str(caught.value)
    assert "classifier.bias  (6,) / (2,)" in str(caught.value)


def test_load_network__weights_without_one_tensor(run: Path) -> None:
    path = run / "model.safetensors"
    tensors = load_file(path)
    del tensors["bn1.running_mean"]
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"bn1\.running_mean"):
        load_network(run)


def test_load_network__values_that_are_no_numbers(tmp_path: Path) -> None:
    network, description = trained("timm/test_efficientnet", head=HeadSpec())
    network.state_dict()["conv_stem.weight"].flatten()[:3] = float("nan")
    save(tmp_path, network, description)
    with pytest.raises(
        WeightsError, match=r"safetensors cannot be used.*'conv_stem\.weight' \(3 of [\d,]+ val"
    ):
        load_network(tmp_path)
