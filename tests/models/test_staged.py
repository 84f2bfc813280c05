"""Freezing, on real architectures with random weights and small pictures."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as zoo
from toy import TINY_STAGES, TinyNet

from tlcli.backbones.catalog import SOURCES
from tlcli.backbones.stages import Stage, find_stages
from tlcli.models.head import HeadSpec, replace_heads
from tlcli.models.staged import StagedModel, norms_of
from tlcli.models.unfreezing import parse_schedule

NUM_CLASSES = 3


class MixedNorms(nn.Module):
    """The kinds of BatchNorm that a check for BatchNorm2d alone would miss."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm1 = nn.SyncBatchNorm(8)
        self.hidden = nn.Linear(8, 8)
        self.norm2 = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm1(self.conv(images)).relu().mean((2, 3))
        hidden: Tensor = self.drop(self.norm2(self.hidden(features)).relu())
        return self.fc(hidden)  # type: ignore[no-any-return]


def staged(network: nn.Module, *, heads: tuple[str, ...]) -> StagedModel:
    return StagedModel(network, stages=find_stages(network, head_names=heads))


def of_source(name: str) -> StagedModel:
    source_name, _, architecture = name.partition("/")
    source = SOURCES[source_name]
    network = source.build(architecture, tag=None, num_classes=NUM_CLASSES)
    return staged(network, heads=source.head_names(network))


def googlenet() -> StagedModel:
    """Built without its slow initialisation."""
    network = zoo.googlenet(
        init_weights=False, aux_logits=False, transform_input=True, num_classes=NUM_CLASSES
    )
    return staged(network, heads=("fc",))


def inception() -> StagedModel:
    network = zoo.inception_v3(
        init_weights=False, aux_logits=False, transform_input=True, num_classes=NUM_CLASSES
    )
    return staged(network, heads=("fc",))


def dropping_vit() -> StagedModel:
    network = timm.create_model(
        "test_vit", num_classes=NUM_CLASSES, drop_path_rate=0.5, proj_drop_rate=0.3, drop_rate=0.5
    )
    return staged(network, heads=("head",))


FAMILIES: dict[str, tuple[Callable[[], StagedModel], int]] = {
    "torchvision/resnet18": (lambda: of_source("torchvision/resnet18"), 32),
    "torchvision/mobilenet_v2": (lambda: of_source("torchvision/mobilenet_v2"), 32),
    "torchvision/densenet121": (lambda: of_source("torchvision/densenet121"), 64),
    "torchvision/squeezenet1_1": (lambda: of_source("torchvision/squeezenet1_1"), 64),
    "torchvision/googlenet": (googlenet, 32),
    "torchvision/inception_v3": (inception, 75),
    "timm/test_resnet": (lambda: of_source("timm/test_resnet"), 32),
    "timm/test_vit": (dropping_vit, 160),
    "timm/test_efficientnet": (lambda: of_source("timm/test_efficientnet"), 32),
    "timm/test_convnext": (lambda: of_source("timm/test_convnext"), 64),
    "sync and 1d BatchNorm": (lambda: staged(MixedNorms(), heads=("fc",)), 16),
}
every_family = pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=pytest.mark.slow if "densenet" in family else ())
        for family in FAMILIES
    ],
)
small_families = pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=pytest.mark.slow if family.startswith("torchvision/") else ())
        for family in FAMILIES
    ],
)
"""The others take seconds and are of the same kinds."""


def built(family: str) -> tuple[StagedModel, Tensor]:
    """A model and four pictures whose statistics no running mean expects."""
    torch.manual_seed(0)
    build, side = FAMILIES[family]
    model = build()
    with torch.no_grad():  # no zero that a zero gradient would leave as it is
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return model, torch.randn(4, 3, side, side) * 2 + 1


def values_of(model: StagedModel) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, those that are not saved too."""
    tensors = [*model.network.named_parameters(), *model.network.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in tensors}


def moved(model: StagedModel, before: dict[str, Tensor]) -> set[str]:
    now = values_of(model)
    assert set(now) == set(before)
    return {name for name, tensor in now.items() if not torch.equal(tensor, before[name])}


def train_step(model: StagedModel, images: Tensor, optimizer: torch.optim.Optimizer) -> None:
    targets = torch.arange(len(images)) % NUM_CLASSES
    F.cross_entropy(model(images), targets).backward()
    optimizer.step()


def sgd(model: StagedModel) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)


@every_family
def test_open_stages__frozen_tensors_stay_bit_equal(family: str) -> None:
    model, images = built(family)
    optimizer = sgd(model)
    model.open_stages(["head"])
    for _ in range(2):  # an evaluation between epochs must not wake anything
        model.train().eval()
        model.train()
    before = values_of(model)
    for _ in range(2):
        train_step(model, images, optimizer)
        optimizer.zero_grad(set_to_none=False)
    head = {name for name in before if model.stage_of(name).name == "head"}
    assert moved(model, before) == head
    assert head
    for name, parameter in model.network.named_parameters():
        assert parameter.requires_grad == (name in head)
        assert (parameter.grad is None) == (name not in head)


@small_families
def test_train__frozen_modules_are_in_eval_mode_and_the_head_is_not(family: str) -> None:
    model, _ = built(family)
    model.open_stages(["head"])
    model.train()
    members = {member for stage in model.body_stages for member in stage.members}
    frozen = [
        module
        for name, module in model.network.named_modules()
        if any(name == member or name.startswith(f"{member}.") for member in members)
    ]
    head = [
        module
        for name, module in model.network.named_modules()
        if name and model.stages[-1].owns(name)
    ]
    assert len(frozen) > 2
    assert not any(module.training for module in frozen)
    assert head
    assert all(module.training for module in head)
    assert model.network.training
    model.eval()
    assert not any(module.training for module in model.modules())


@small_families
def test_open_stages__stale_gradients_do_not_shrink_what_is_frozen(family: str) -> None:
    model, images = built(family)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
    train_step(model, images, optimizer)  # all stages have gradients and momentum now
    model.open_stages(["head"])
    before = values_of(model)
    optimizer.step()
    train_step(model, images, optimizer)
    assert {model.stage_of(name).name for name in moved(model, before)} == {"head"}


@small_families
def test_open_stages__opening_later_trains_it_with_the_same_optimizer(family: str) -> None:
    model, images = built(family)
    optimizer = sgd(model)
    model.open_stages(["head"])
    model.train()
    identities = {name: id(p) for name, p in model.network.named_parameters()}
    modules = {name: id(module) for name, module in model.network.named_modules()}
    train_step(model, images, optimizer)

    last = model.stages[-2].name
    model.open_stages(["head", last])
    before = values_of(model)
    train_step(model, images, optimizer)
    assert {name: id(p) for name, p in model.network.named_parameters()} == identities
    assert {name: id(module) for name, module in model.network.named_modules()} == modules
    parameters = {
        name
        for name, _ in model.network.named_parameters()
        if model.stage_of(name).name in {last, "head"}
    }
    statistics = {
        name
        for name in before
        if model.stage_of(name).name == last
        and name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    # A block that drop path skipped for all pictures gets gradients of zero, and decays anyway.
    assert moved(model, before) == parameters | statistics


def test_open_stages__an_opened_batchnorm_counts_its_batches() -> None:
    model, images = built("torchvision/resnet18")
    model.open_stages(["head", "layer4"])
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(images)
    counters = {
        name: int(tensor)
        for name, tensor in model.network.named_buffers()
        if name.endswith("num_batches_tracked")
    }
    assert {name: n for name, n in counters.items() if n} == {
        f"layer4.{name}.num_batches_tracked": 3
        for name in ("0.bn1", "0.bn2", "0.downsample.1", "1.bn1", "1.bn2")
    }


def body_output(model: StagedModel, images: Tensor, *, module: str) -> Tensor:
    seen: list[Tensor] = []
    hook = model.network.get_submodule(module).register_forward_hook(
        lambda _module, _inputs, output: seen.append(output)
    )
    with torch.no_grad():
        model(images)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("family", "module"),
    [
        ("timm/test_vit", "norm"),
        ("torchvision/mobilenet_v2", "features"),
        ("sync and 1d BatchNorm", "norm2"),
    ],
)
def test_train__a_frozen_body_is_deterministic_and_equals_evaluation(
    family: str, module: str
) -> None:
    model, images = built(family)
    model.open_stages(["head"])
    model.train()
    first = body_output(model, images, module=module)
    assert torch.equal(first, body_output(model, images, module=module))
    assert not torch.equal(model(images), model(images))  # the head's dropout is active
    model.eval()
    assert torch.equal(first, body_output(model, images, module=module))
    model.open_stages([stage.name for stage in model.stages])
    model.train()
    assert not torch.equal(first, body_output(model, images, module=module))


def test_train__drop_path_of_frozen_blocks_only_is_off() -> None:
    model, _ = built("timm/test_vit")
    model.open_stages(["head", "blocks.5"])
    model.train()
    blocks = model.network.get_submodule("blocks")
    assert [block.drop_path1.training for block in blocks] == [False] * 5 + [True]
    assert blocks[5].drop_path1.drop_prob == pytest.approx(0.5)
    assert model.network.get_submodule("norm").training
    assert not model.network.get_submodule("pos_drop").training


def test_open_stages__keeps_evaluation_mode() -> None:
    model, _ = built("torchvision/resnet18")
    model.eval()
    model.open_stages(["head", "layer4"])
    assert not any(module.training for module in model.modules())


def test_open_stages__through_the_phases_of_a_schedule() -> None:
    model, images = built("torchvision/resnet18")
    names = [stage.name for stage in model.stages]
    phases = parse_schedule("0:head,1:layer4,2:layer3", stages=names, epochs=3)
    optimizer = sgd(model)
    trained = []
    for phase in phases:
        model.open_stages(phase.trained)
        model.train()
        before = values_of(model)
        train_step(model, images, optimizer)
        optimizer.zero_grad()
        trained.append({model.stage_of(name).name for name in moved(model, before)})
    assert trained == [{"head"}, {"head", "layer4"}, {"head", "layer4", "layer3"}]


def test_init__everything_is_trained() -> None:
    model, _ = built("timm/test_efficientnet")
    assert model.trained == {stage.name for stage in model.stages}
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert list(model.frozen_tensors()) == []


def test_frozen_tensors__all_that_is_saved_of_frozen_stages() -> None:
    model, _ = built("torchvision/resnet18")
    model.open_stages(["head", "layer4", "layer3"])
    found = dict(model.frozen_tensors())
    assert set(found) == {
        name
        for name in model.network.state_dict()
        if not name.startswith(("fc.", "layer4.", "layer3."))
    }
    assert "bn1.running_mean" in found
    assert "bn1.num_batches_tracked" in found


def test_body_stages__all_but_the_head() -> None:
    model, _ = built("torchvision/resnet18")
    assert [stage.name for stage in model.body_stages] == [
        "conv1",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    ]


def test_forward__is_the_networks() -> None:
    model, images = built("timm/test_convnext")
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(images), model.network(images))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["torchvision/inception_v3", "torchvision/googlenet"])
def test_train__no_auxiliary_outputs(family: str) -> None:
    model, images = built(family)
    for opened in (["head"], [stage.name for stage in model.stages]):
        model.open_stages(opened)
        model.train()
        with torch.no_grad():
            logits = model(images[:2])
        assert isinstance(logits, Tensor)
        assert logits.shape == (2, NUM_CLASSES)


def test_train__dropout_of_a_new_head_is_active() -> None:
    network = timm.create_model("test_efficientnet")
    stages = find_stages(network, head_names=["classifier"])
    replace_heads(
        network,
        head_names=["classifier"],
        num_classes=NUM_CLASSES,
        spec=HeadSpec(hidden=(8,), dropout=0.5),
    )
    model = StagedModel(network, stages=stages)
    model.open_stages(["head"])
    model.train()
    assert network.classifier[2].training
    assert isinstance(network.classifier[2], nn.Dropout)
    assert not network.conv_head.training


def test_kept_norms__statistics_stay_while_weights_are_trained() -> None:
    torch.manual_seed(0)
    network = TinyNet(with_batch_norm=True)
    model = StagedModel(network, stages=TINY_STAGES, kept_norms=norms_of(network)).train()
    assert not network.norm.training
    assert network.stem.training
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    model(torch.randn(8, 3, 12, 12)).logsumexp(dim=1).sum().backward()
    optimizer.step()
    after = network.state_dict()
    kept = {name for name in after if torch.equal(before[name], after[name])}
    assert {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"} <= kept
    assert not {"norm.weight", "norm.bias", "stem.weight"} & kept
    assert {name for name, _ in model.frozen_tensors()} == {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }


def test_kept_norms__only_the_named_ones_stand_still() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    stages = (Stage(name="stem", members=("0", "1")), Stage(name="head", members=("2",)))
    model = StagedModel(network, stages=stages, kept_norms={"0"}).train()
    assert [layer.training for layer in network] == [False, True, True]
    assert {name for name, _ in model.frozen_tensors()} == {
        "0.running_mean",
        "0.running_var",
        "0.num_batches_tracked",
    }
    assert norms_of(network) == {"0", "2"}


def test_kept_norms__a_layer_without_statistics_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2))
    stages = (Stage(name="stem", members=("0",)), Stage(name="head", members=("1",)))
    with pytest.raises(ValueError, match=r"no layers with statistics: 0, nothing"):
        StagedModel(network, stages=stages, kept_norms=("nothing", "0"))
