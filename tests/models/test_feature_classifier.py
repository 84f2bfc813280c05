from collections.abc import Iterator

import pytest
import torch
from torch import nn

from tests.models.networks import Sample, sample
from tlcli.errors import ConfigError
from tlcli.models.feature_classifier import FeatureClassifier
from tlcli.models.features import FeatureExtractor
from tlcli.models.head import HeadSpec
from tlcli.models.knn_head import KnnHead

KNN = HeadSpec(neighbours=3, bank=12)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def classifier_of(
    model: Sample, *, spec: HeadSpec, layers: tuple[str, ...] = (), pool: str | None = None
) -> FeatureClassifier:
    return FeatureClassifier(
        model.network,
        head_names=model.head_names,
        stages=model.stages,
        input_size=model.input_size,
        layers=layers,
        pool=pool,
        spec=spec,
        num_classes=4,
    )


def features_of(model: Sample, **options: object) -> dict[str, torch.Tensor]:
    extractor = FeatureExtractor(
        model.network,
        head_names=model.head_names,
        stages=model.stages,
        input_size=model.input_size,
        **options,  # type: ignore[arg-type]
    )
    found: dict[str, torch.Tensor] = extractor(model.images())
    return found


@pytest.mark.parametrize("pool", ["avg", "none"])
def test_forward__linear_head_on_stages_side_by_side(pool: str) -> None:
    model = sample("timm/test_resnet", 64)
    features = features_of(model, layers=("layer3", "layer4"), pool=pool)
    classifier = classifier_of(model, spec=HeadSpec(), layers=("layer4", "layer3"), pool=pool)
    flat = torch.cat([features["layer3"].flatten(1), features["layer4"].flatten(1)], dim=1)
    assert classifier(model.images()).tolist() == [[0.0] * 4] * 2
    nn.init.normal_(classifier.head.weight)
    nn.init.normal_(classifier.head.bias)
    assert torch.equal(classifier(model.images()), classifier.head(flat))
    assert classifier.head.in_features == classifier.extractor.feature_dim == flat.shape[1]


@pytest.mark.parametrize(
    "name", ["timm/test_resnet", "torchvision/squeezenet1_1", "timm/levit_128s"]
)
def test_forward__knn_head_on_the_embedding(name: str) -> None:
    model = sample(name, None if "levit" in name else 64)
    embedding = features_of(model)["embedding"]
    classifier = classifier_of(model, spec=KNN)
    bank, targets = torch.randn(12, embedding.shape[1]), torch.arange(12) % 4
    head = KnnHead(bank=bank, targets=targets, num_classes=4, neighbours=3)
    classifier.head.load_state_dict(head.state_dict())
    assert torch.equal(classifier(model.images()), head(embedding))


def test_init__the_heads_of_the_network_are_left_without_weights() -> None:
    model = sample("timm/test_resnet", 64)
    classifier = classifier_of(model, spec=KNN)
    assert tuple(classifier.extractor.network.fc.weight.shape) == (1, 96)
    assert not any(p.any() for p in classifier.extractor.network.fc.parameters())


def test_train__the_network_stays_in_eval_mode() -> None:
    classifier = classifier_of(
        sample("timm/test_resnet", 64), spec=HeadSpec(), layers=("layer4",)
    ).train()
    assert classifier.head.training
    assert not any(module.training for module in classifier.extractor.modules())


def test_init__pool_without_layers() -> None:
    with pytest.raises(ConfigError, match="--pool max works on --layer"):
        classifier_of(sample("timm/test_resnet", 64), spec=HeadSpec(), pool="max")


def test_init__mlp_head() -> None:
    with pytest.raises(TypeError, match="a head of kind mlp cannot be put on stored features"):
        classifier_of(sample("timm/test_resnet", 64), spec=HeadSpec(hidden=(5,)))
