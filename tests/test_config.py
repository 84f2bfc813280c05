import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcli.config import (
    BoxDataConfig,
    BoxTrainConfig,
    DataConfig,
    DetectFinetuneConfig,
    DetectorConfig,
    EvaluateConfig,
    ExtractConfig,
    FeaturesConfig,
    FinetuneConfig,
    FreezingConfig,
    LabelledDataConfig,
    ModelConfig,
    OutputConfig,
    ProbeConfig,
    ProbeHeadConfig,
    RuntimeConfig,
    TrainConfig,
    UnfreezeConfig,
    options_of,
)
from tlcli.errors import ConfigError


@pytest.mark.parametrize(
    ("cls", "field", "bad", "good"),
    [
        (DataConfig, "val_split", [-0.1, 0.91, 2.0], [0.0, 0.9]),
        (DataConfig, "test_split", [-0.1, 0.91], [0.0, 0.5]),
        (DataConfig, "limit", [-1], [0, 1]),
        (TrainConfig, "epochs", [0, -1], [1]),
        (TrainConfig, "batch_size", [0], [1]),
        (TrainConfig, "lr", [0.0, -1.0], [1e-9, None, "auto"]),
        (TrainConfig, "backbone_lr", [0.0, -1.0], [1e-9, None]),
        (TrainConfig, "layer_decay", [0.0, 1.1], [0.01, 1.0]),
        (TrainConfig, "weight_decay", [-0.1], [0.0, None]),
        (TrainConfig, "label_smoothing", [-0.1, 1.0], [0.0, 0.99]),
        (TrainConfig, "crop_scale", [0.0, 1.1, -0.5], [0.01, 1.0, None]),
        (TrainConfig, "color_jitter", [-0.1, 1.1], [0.0, 1.0, None]),
        (TrainConfig, "random_erasing", [-0.1, 1.1], [0.0, 1.0, None]),
        (TrainConfig, "mixup", [-0.1], [0.0, 0.2, 3.0]),
        (TrainConfig, "cutmix", [-0.1], [0.0, 1.0]),
        (TrainConfig, "drop_path", [-0.1, 1.0], [0.0, 0.9, None]),
        (TrainConfig, "head_dropout", [-0.1, 1.0], [0.0, 0.9, None]),
        (TrainConfig, "ema", [-0.1, 1.0], [0.0, 0.9999]),
        (TrainConfig, "clip_grad", [-1.0], [0.0]),
        (TrainConfig, "grad_accum_steps", [0], [1]),
        (TrainConfig, "patience", [-1], [0]),
        (TrainConfig, "seed", [-1, 2**64], [0, 2**64 - 1]),
        (ModelConfig, "input_size", [15, 0, -1, 4097, 100_000], [16, 4096, None]),
        (RuntimeConfig, "num_workers", [-1], [0, None]),
        (EvaluateConfig, "seed", [-1, 2**64], [0, None, 2**64 - 1]),
        (EvaluateConfig, "batch_size", [0], [1]),
        (FeaturesConfig, "views", [-1], [0, 3]),
        (FeaturesConfig, "batch_size", [0, -1], [1, None]),
        (FeaturesConfig, "verify", [-0.1, 1.1], [0.0, 1.0]),
        (ProbeHeadConfig, "repeats", [0, -1], [1]),
        (ExtractConfig, "seed", [-1, 2**64], [0, 2**64 - 1]),
        (ProbeConfig, "seed", [-1, 2**64], [0]),
        (BoxTrainConfig, "epochs", [0, -1], [1]),
        (BoxTrainConfig, "batch_size", [0], [1]),
        (BoxTrainConfig, "clip_grad", [-1.0], [0.0]),
        (DetectorConfig, "image_size", [31, 0, -1], [32, None]),
        (DetectorConfig, "fpn_channels", [0, -1], [1, None]),
        (DetectorConfig, "anchor_size", [0.0, -1.0], [1.0, 64.0, None]),
        (DetectorConfig, "sampled_boxes", [0, -1], [1, None]),
        (BoxDataConfig, "val_split", [-0.1, 0.91], [0.0, 0.9]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_ranges__are_checked_in_the_users_words(
    cls: type[Any], field: str, bad: list[Any], good: list[Any]
) -> None:
    needed: dict[type[Any], dict[str, Any]] = {
        TrainConfig: {"warmup_epochs": 0.0},
        BoxTrainConfig: {"warmup_epochs": 0.0},
        EvaluateConfig: {"model": "m"},
        ProbeHeadConfig: {"shots": "1"},
        ProbeConfig: {"store": "s"},
    }
    others = needed.get(cls, {})
    for value in good:
        assert getattr(cls(**{**others, field: value}), field) == value
    for value in bad:
        option = f"--{field.replace('_', '-')}"
        with pytest.raises(ConfigError, match=rf"^{option} must be .*, not {value}\.$") as caught:
            cls(**{**others, field: value})
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("field", ["lr", "weight_decay", "clip_grad", "warmup_epochs", "ema"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_ranges__nan_and_infinity_are_refused(field: str, value: float) -> None:
    option = f"--{field.replace('_', '-')}"
    with pytest.raises(ConfigError, match=f"^{option} must be a finite number, not {value}"):
        TrainConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("warmup", "epochs"), [(1.0, 1), (5.0, 3), (-0.5, 3)])
def test_warmup__must_be_shorter_than_the_run(warmup: float, epochs: int) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"^--warmup-epochs \({warmup:g}\) must be at least 0 and less than --epochs "
        rf"\({epochs}\)\.$",
    ):
        TrainConfig(warmup_epochs=warmup, epochs=epochs)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1h1m1s", 3661),
        ("0.5s", 0.5),
        ("1.5h", 5400),
        (None, None),
    ],
)
@pytest.mark.parametrize("config", [TrainConfig, BoxTrainConfig])
def test_max_time__is_read(config: Any, text: str | None, seconds: float | None) -> None:
    assert config(max_time=text).max_seconds == seconds


@pytest.mark.parametrize("text", ["", "0s", "90", "1d", "m", "-5m", "5m2h", "1e3s", "10 m", "nan"])
@pytest.mark.parametrize("config", [TrainConfig, BoxTrainConfig])
def test_max_time__that_is_no_duration(config: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--max-time '{text}' is no duration: write 90s, 30m"):
        config(max_time=text)


@pytest.mark.parametrize(
    ("options", "head", "last"),
    [
        ({}, 1e-3, 1e-4),
        ({"opt": "sgd"}, 1e-2, 1e-3),
        ({"lr": 0.5}, 0.5, 0.05),
        ({"lr": "auto"}, 1e-3, 1e-4),
        ({"lr": 0.5, "backbone_lr": 0.25}, 0.5, 0.25),
        ({"backbone_lr": 0.25}, 1e-3, 0.25),
    ],
)
def test_learning_rates__where_none_is_given(
    options: dict[str, Any], head: float, last: float
) -> None:
    config = TrainConfig(**options)

    assert (config.head_lr, config.last_stage_lr) == (head, pytest.approx(last))


@pytest.mark.parametrize(
    ("options", "head", "last"),
    [
        ({}, 5e-4, 1e-4),
        ({"opt": "sgd"}, 5e-3, 1e-3),
        ({"lr": 0.5}, 0.5, 0.1),
        ({"lr": 0.5, "backbone_lr": 0.25}, 0.5, 0.25),
    ],
)
def test_learning_rates__of_detectors_where_none_is_given(
    options: dict[str, Any], head: float, last: float
) -> None:
    config = BoxTrainConfig(**options)

    assert (config.head_lr, config.last_stage_lr) == (head, pytest.approx(last))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (None, None),
        ("0.5", (0.5, 0.5, 0.5)),
        ("0.485,0.456, 0.406", (0.485, 0.456, 0.406)),
        ("0.1,1,0.25", (0.1, 1.0, 0.25)),
    ],
)
@pytest.mark.parametrize("config", [ModelConfig, DetectorConfig])
def test_mean_and_std__are_one_number_or_three(
    config: Any, text: str | None, values: tuple[float, ...] | None
) -> None:
    assert config(mean=text).means == values
    assert config(std=text).stds == values
    assert config(mean=text).stds is None


@pytest.mark.parametrize(
    ("channels", "text", "values"),
    [
        (1, "0.5", (0.5,)),
        (4, "0.5", (0.5, 0.5, 0.5, 0.5)),
        (4, "0.1,0.2,0.3,0.4", (0.1, 0.2, 0.3, 0.4)),
    ],
)
def test_mean__has_as_many_numbers_as_the_pictures_channels(
    channels: int, text: str, values: tuple[float, ...]
) -> None:
    assert ModelConfig(mean=text, in_channels=channels).means == values


@pytest.mark.parametrize(
    ("channels", "text", "wanted"),
    [
        (1, "0.1,0.2,0.3", r"write one number in 0\.\.1, such as 0\.485\.$"),
        (4, "0.1,0.2,0.3", r"in 0\.\.1 or four with commas, such as 0\.5 or 0\.485,0\.456,0\.406,"),
    ],
)
def test_mean__of_other_channels(channels: int, text: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        _ = ModelConfig(mean=text, in_channels=channels).means


@pytest.mark.parametrize("text", ["", "0.5,0.5", "0.5,0.5,0.5,0.5", "123", "-0.1", "a", "nan"])
@pytest.mark.parametrize("option", ["mean", "std"])
def test_mean_and_std__that_are_not_understood(option: str, text: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^--{option} '{text}' is not understood: write one"
    ) as e:
        _ = getattr(ModelConfig(**{option: text}), f"{option}s")  # type: ignore[arg-type]
    assert e.value.exit_code == 2


@pytest.mark.parametrize("text", ["0", "0.2,0,0.2"])
def test_std__of_zero_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--std {text} would divide by 0"):
        DetectorConfig(std=text)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 0.05), ({"opt": "sgd"}, 1e-4), ({"opt": "sgd", "weight_decay": 0.0}, 0.0)],
)
def test_weight_decay__where_none_is_given(options: dict[str, Any], expected: float) -> None:
    assert TrainConfig(**options).matrix_decay == expected


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: FreezingConfig(unfreeze="head", schedule="0:all"),
            "--unfreeze 'head' and --schedule",
        ),
        (
            lambda: RuntimeConfig(amp=False, amp_dtype="bfloat16"),
            "--amp-dtype bfloat16 has no effect",
        ),
        (lambda: OutputConfig(output="x", overwrite=True, resume=True), "exclude each other"),
        (lambda: OutputConfig(resume=True), "--resume needs --output RUN"),
        (lambda: EvaluateConfig(), "needs either a run folder or --model NAME"),
        (lambda: EvaluateConfig(run="r", model="m"), "needs either a run folder or --model NAME"),
        (
            lambda: FreezingConfig(init_head="run", head="mlp:8"),
            "--init-head brings a linear head, --head mlp:8 asks for another",
        ),
        (
            lambda: TrainConfig(class_weights="balanced", sampler="balanced"),
            "--class-weights balanced and --sampler balanced would both make up",
        ),
        (lambda: TrainConfig(focal_gamma=1.0), "--focal-gamma 1 has no effect without --loss"),
        (
            lambda: TrainConfig(loss="focal", label_smoothing=0.1),
            "--label-smoothing 0.1 and --loss focal exclude each other",
        ),
        (lambda: TrainConfig(mixup=0.2, batch_size=1), "--mixup mixes images of a batch"),
        (lambda: TrainConfig(cutmix=1.0, batch_size=1), "--cutmix mixes images of a batch"),
        (lambda: FeaturesConfig(pool="avg"), "--pool avg works on --layer"),
        (lambda: FeaturesConfig(views=2, augment="none"), "--views needs --augment flip, light"),
        (lambda: FeaturesConfig(augment="flip"), "--augment flip has no effect without --views"),
        (lambda: FeaturesConfig(augment="none"), "--augment none has no effect without --views"),
        (lambda: ProbeHeadConfig(repeats=3), "--repeats 3 has no effect without --shots"),
        (
            lambda: ExtractConfig(features=FeaturesConfig(layer="layer4", pool="none")),
            "--pool none keeps whole maps, a head needs vectors: add --no-head",
        ),
        (
            lambda: ExtractConfig(features=FeaturesConfig(shard="1/2"), overwrite=True),
            "--overwrite with --shard would delete what other jobs computed",
        ),
        (
            lambda: ExtractConfig(no_head=True, probe=ProbeHeadConfig(head="knn")),
            "have no effect with --no-head",
        ),
        (
            lambda: ExtractConfig(no_head=True, probe=ProbeHeadConfig(shots="1")),
            "--head, --penalties, --shots and --monitor have no effect with --no-head",
        ),
    ],
)
def test_combinations__that_cannot_be_honoured(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    ("options", "has_effect_with_data"),
    [
        ({"weights": "w"}, False),
        ({"output": "o"}, False),
        ({"offline": True}, False),
        ({"classes": "c.txt"}, True),
        ({"label_column": "c"}, True),
        ({"overwrite": True}, False),
        ({"mean": "0.5"}, False),
        ({"std": "0.5"}, False),
        ({"limit": 3}, True),
        ({"on_bad_image": "skip"}, True),
    ],
    ids=str,
)
def test_evaluate__refuses_what_a_run_would_ignore(
    options: dict[str, Any], has_effect_with_data: bool
) -> None:
    (name,) = options
    words = f"^--{name.replace('_', '-')} has no effect on a run folder and its data: leave it"
    with pytest.raises(ConfigError, match=words):
        EvaluateConfig(run="r", **options)
    if has_effect_with_data:
        assert getattr(EvaluateConfig(run="r", data="d", **options), name) == options[name]
    else:
        with pytest.raises(ConfigError, match=words):
            EvaluateConfig(run="r", data="d", **options)


@pytest.mark.parametrize(
    "text", ["", "1", "0/3", "4/3", "1/1", "1/0", "a/b", "-1/3", "1/3/5", "½/2"]
)
def test_data_config__fold_is_not_understood(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--fold '.*' is not understood: write 1/5, 2/5 up to"):
        DataConfig(fold=text)


def test_data_config__fold() -> None:
    assert DataConfig(fold="3/10").fold_of == (3, 10)
    assert DataConfig().fold_of is None
    with pytest.raises(ConfigError, match=r"--val-split 0\.1 has no effect with --fold 1/5"):
        DataConfig(fold="1/5", val_split=0.1)


@pytest.mark.parametrize("data", ["torchvision:CIFAR10", "hf:org/name"])
def test_evaluate__offline_is_of_use_where_data_may_be_fetched(data: str) -> None:
    assert EvaluateConfig(run="r", data=data, offline=True).offline


def test_configs__are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3  # type: ignore[misc]


def test_from_options__sorts_options_into_their_parts() -> None:
    config = FinetuneConfig.from_options(
        {"data": "photos", "epochs": 3, "unfreeze": "layer4", "device": "cpu", "output": "run"}
    )

    assert config == FinetuneConfig(
        data=LabelledDataConfig(data="photos"),
        freezing=FreezingConfig(unfreeze="layer4"),
        train=TrainConfig(epochs=3),
        runtime=RuntimeConfig(device="cpu"),
        output=OutputConfig(output="run"),
    )


def test_from_options__of_a_detector() -> None:
    options = {"data": "boxes", "on_bad_box": "drop", "backbone": "timm/resnet18", "lr": 0.1}

    config = DetectFinetuneConfig.from_options({**options, "schedule": "0:head", "mean": "0.5"})

    assert config == DetectFinetuneConfig(
        data=BoxDataConfig(data="boxes", on_bad_box="drop"),
        model=DetectorConfig(backbone="timm/resnet18", mean="0.5"),
        freezing=UnfreezeConfig(schedule="0:head"),
        train=BoxTrainConfig(lr=0.1),
    )
    assert DetectFinetuneConfig.from_options(options_of(config)) == config
    for name, value in {"label_smoothing": 0.1, "mixup": 0.2, "crop_scale": 0.5}.items():
        with pytest.raises(TypeError, match=f"no option of DetectFinetuneConfig: {name}"):
            DetectFinetuneConfig.from_options({name: value})


def test_from_options__of_an_extraction() -> None:
    options = {"model": "a,b", "layer": "layer4", "pool": "max", "penalties": "1,2", "seed": 4}

    config = ExtractConfig.from_options(options)

    assert config == ExtractConfig(
        model=ModelConfig(model="a,b"),
        features=FeaturesConfig(layer="layer4", pool="max"),
        probe=ProbeHeadConfig(penalties="1,2"),
        seed=4,
    )
    assert ExtractConfig.from_options(options_of(config)) == config


def test_from_options__of_a_probe() -> None:
    config = ProbeConfig.from_options({"store": "s", "head": "knn", "shots": "1,5", "repeats": 2})

    assert config == ProbeConfig(
        store="s", probe=ProbeHeadConfig(head="knn", shots="1,5", repeats=2)
    )
    assert ProbeConfig.from_options(options_of(config)) == config
    with pytest.raises(TypeError, match="no option of ProbeConfig: model"):
        ProbeConfig.from_options({"store": "s", "model": "resnet18"})


def test_from_options__nothing_is_dropped_in_silence() -> None:
    with pytest.raises(TypeError, match="no option of FinetuneConfig: epoch, zzz"):
        FinetuneConfig.from_options({"epoch": 3, "zzz": 1, "lr": 0.1})


@given(
    epochs=st.integers(1, 100),
    lr=st.none() | st.floats(1e-9, 10),
    opt=st.sampled_from(["adamw", "sgd"]),
    limit=st.integers(0, 9),
    amp=st.none() | st.just(True),
)
def test_options_of__is_the_inverse_of_from_options(epochs: int, **others: Any) -> None:
    config = FinetuneConfig.from_options({"epochs": epochs, "warmup_epochs": 0.0, **others})

    assert FinetuneConfig.from_options(options_of(config)) == config


def test_options_of__has_every_option_once() -> None:
    flat = options_of(EvaluateConfig(model="m"))

    assert flat["model"] == "m"
    assert flat["device"] == "auto"
    assert "runtime" not in flat
    assert EvaluateConfig.from_options(flat) == EvaluateConfig(model="m")


def test_extract_config__no_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match="--num-workers 0 would read and embed nothing"):
        ExtractConfig.from_options({"num_workers": 0})


@pytest.mark.parametrize(
    ("text", "values"),
    [(None, None), ("8", (8,)), ("4,8,16,32", (4, 8, 16, 32)), ("8, 32", (8, 32))],
)
def test_strides__are_read(text: str | None, values: tuple[int, ...] | None) -> None:
    assert DetectorConfig(strides=text).stride_values == values


@pytest.mark.parametrize("text", ["", "8,", "16,8", "8,8", "3", "8;16", "eight", "-8", "64"])
def test_strides__that_make_no_pyramid(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--strides '{text}' is not understood: write some of 2"):
        DetectorConfig(strides=text)


@pytest.mark.parametrize(
    ("options", "loss", "monitor"),
    [
        ({}, "cross-entropy", "top1"),
        ({"loss": "focal", "monitor": "top5"}, "focal", "top5"),
        ({"multi_label": True}, "bce", "map"),
        ({"multi_label": True, "loss": "focal", "monitor": "micro_f1"}, "focal", "micro_f1"),
        ({"multi_label": True, "loss": "bce", "monitor": "loss"}, "bce", "loss"),
        ({"multi_label": True, "class_weights": "balanced"}, "bce", "map"),
    ],
)
def test_finetune_config__loss_and_monitor_where_none_is_given(
    options: dict[str, Any], loss: str, monitor: str
) -> None:
    config = FinetuneConfig.from_options(options)
    assert (config.loss, config.monitor) == (loss, monitor)


def test_data_config__separator_of_labels() -> None:
    assert DataConfig().separator is None
    assert LabelledDataConfig().separator is None
    assert LabelledDataConfig(multi_label=True).separator == "|"
    assert LabelledDataConfig(multi_label=True, label_separator=" ").separator == " "
    assert "multi_label" not in options_of(ExtractConfig())
