"""`tlcli models list` and `tlcli models show`."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from tlcli.cli import options as o
from tlcli.cli import output
from tlcli.errors import ConfigError
from tlcli.recipes import model_catalogue
from tlcli.recipes.model_catalogue import ModelEntry, ModelFilter, Task
from tlcli.results.counted import counted
from tlcli.results.records import SCHEMA_VERSION

models_app = typer.Typer(no_args_is_help=True, help="See which models there are.")

PatternArg = Annotated[
    str, typer.Argument(metavar="[PATTERN]", help="Part of a name, or a glob such as 'vit_*'.")
]
NameArg = Annotated[str, typer.Argument(metavar="NAME", help="For example timm/resnet18.")]
SourceOpt = Annotated[
    Literal["torchvision", "timm"] | None, typer.Option("--source", help="Only this library.")
]
TaskOpt = Annotated[
    Literal["classification", "detection"],
    typer.Option("--task", help="Backbones with a classifier, or torchvision's detectors."),
]
PretrainedOpt = Annotated[
    bool,
    typer.Option("--pretrained/--all", help="Only models with published weights, or all."),
]
AvailableOpt = Annotated[
    bool, typer.Option("--available", help="Only models whose weights are on this machine.")
]
MaxParamsOpt = Annotated[
    str | None, typer.Option("--max-params", help="At most so many parameters: 30M, 900k, 1.2B.")
]
MaxGmacsOpt = Annotated[
    float | None,
    typer.Option("--max-gmacs", help="At most so many billion multiply-adds per image."),
]
MinTop1Opt = Annotated[
    float | None,
    typer.Option(
        "--min-top1",
        help="At least this ImageNet top-1 (0..1) of the default weights; COCO AP of detectors.",
    ),
]
InputSizeOpt = Annotated[
    int | None, typer.Option("--input-size", help="Side of the images of the default weights.")
]
LicenseOpt = Annotated[
    str | None, typer.Option("--license", help="Part of the licence's name, or a glob.")
]
SortOpt = Annotated[
    Literal["name", "params", "gmacs", "top1"],
    typer.Option("--sort", help="Order; top1 puts the best first, unknown figures come last."),
]
LimitOpt = Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0 is all.")]
CsvOpt = Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")]
NamesOpt = Annotated[bool, typer.Option("--names", help="Print names only, one per line.")]


@models_app.command("list")
def list_models(
    pattern: PatternArg = "",
    source: SourceOpt = None,
    task: TaskOpt = "classification",
    pretrained: PretrainedOpt = True,
    available: AvailableOpt = False,
    max_params: MaxParamsOpt = None,
    max_gmacs: MaxGmacsOpt = None,
    min_top1: MinTop1Opt = None,
    input_size: InputSizeOpt = None,
    license_name: LicenseOpt = None,
    sort: SortOpt = "name",
    limit: LimitOpt = 0,
    json: o.JsonOpt = False,
    csv: CsvOpt = False,
    names: NamesOpt = False,
) -> None:
    """List models of both sources with what is published of them.

    Example: tlcli models list 'convnext*' --max-params 30M --sort top1
    """
    if json + csv + names > 1:
        raise ConfigError("--json, --csv and --names exclude each other.")
    if min_top1 is not None and not 0 <= min_top1 <= 1:
        raise ConfigError(f"--min-top1 must be a fraction in 0..1, not {min_top1:g}.")
    if max_gmacs is not None and not max_gmacs > 0:
        raise ConfigError(f"--max-gmacs must be above 0, not {max_gmacs:g}.")
    if input_size is not None and input_size < 1:
        raise ConfigError(f"--input-size must be 1 pixel or more, not {input_size}.")
    wanted = ModelFilter(
        pattern=pattern,
        source=source,
        task=task,
        pretrained_only=pretrained,
        max_parameters=None if max_params is None else _count(max_params),
        max_gmacs=max_gmacs,
        min_score=min_top1,
        input_size=input_size,
        license=license_name,
    )
    rows = model_catalogue.list_models(
        wanted,
        sort="score" if sort == "top1" else sort,
        limit=limit,
        is_available=_has_weights_here if available else lambda entry: True,
    )
    if not rows:
        _explain_empty(wanted)
    if json:
        models = [row.to_json() for row in rows]
        output.document({"schema_version": SCHEMA_VERSION, "models": models})
    elif names:
        output.lines(row.name for row in rows)
    elif csv:
        output.comma_separated(_CSV_COLUMNS, map(_csv_cells, rows))
    else:
        _show_table(rows, task=task)


def _explain_empty(wanted: ModelFilter) -> None:
    """Say why no model was found: what else the name could mean, or that filters left none."""
    pattern, task = wanted.pattern, wanted.task
    other: Task = "detection" if task == "classification" else "classification"
    if pattern and (there := model_catalogue.list_models(ModelFilter(pattern=pattern, task=other))):
        output.note(f"{len(there)} of the models for {other} are called like that: --task {other}.")
    every = ModelFilter(pattern=pattern, task=task, pretrained_only=False)
    if called_so := model_catalogue.list_models(every):
        models = counted(len(called_so), "model")
        output.note(f"Of {models}{' called like that' if pattern else ''} the filters leave none.")
    elif near := model_catalogue.nearest_names(pattern, task=task):
        hint = " or ".join(f"'{name}'" for name in near)
        output.note(f"No model for {task} is called like '{pattern}'. Did you mean {hint}?")


_CSV_COLUMNS = (
    *("name", "task", "weights", "parameters", "gmacs", "input_size", "score", "pretraining"),
    "license",
)


def _csv_cells(entry: ModelEntry) -> list[str]:
    values = {**entry.to_json(), "weights": " ".join(entry.weights)}
    return ["" if values[name] is None else str(values[name]) for name in _CSV_COLUMNS]


def _show_table(rows: Sequence[ModelEntry], *, task: str) -> None:
    score = "AP " if task == "detection" else "top-1 "
    output.table(
        counted(len(rows), "model"),
        columns=["name", "weights", "params ", "GMACs ", "input ", score, "pretraining", "licence"],
        rows=[
            [
                row.name,
                _first(row.weights),
                "-" if row.parameters is None else f"{row.parameters / 1e6:.1f}M",
                "-" if row.gmacs is None else f"{row.gmacs:.2f}",
                "-" if row.input_size is None else str(row.input_size),
                output.metric("top1", row.score),
                row.pretraining or "-",
                row.license or "-",
            ]
            for row in rows
        ],
    )


def _first(weights: Sequence[str]) -> str:
    if not weights:
        return "-"
    return weights[0] if len(weights) == 1 else f"{weights[0]} (+{len(weights) - 1})"


def _has_weights_here(entry: ModelEntry) -> bool:
    return bool(model_catalogue.weights_here(entry))


def _count(text: str) -> int:
    """Read 30M, 900k, 1.2B or a plain number."""
    factors = {"k": 1e3, "m": 1e6, "b": 1e9}
    factor = factors.get(text[-1:].lower(), 1.0)
    try:
        number = float(text[:-1] if factor > 1 else text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise ConfigError(f"--max-params '{text}' is no number above 0: write 30M, 900k or 1.2B.")
    return round(number * factor)


@models_app.command("show")
def show_model(name: NameArg, json: o.JsonOpt = False) -> None:
    """Show stages, preprocessing and weights of one model.

    Example: tlcli models show timm/resnet18
    """
    from tlcli.recipes import models as recipe  # torch is loaded only now

    card = recipe.show_model(name)
    if json:
        output.document(card.to_json())
        return
    cost = "" if card.gmacs is None else f", {card.gmacs:.2f} GMACs"
    output.line(f"{card.name}: {card.parameters:,} parameters{cost}, {card.feature_dim} features")
    output.line(_preprocessing(card.preprocessing))
    output.table(
        "stages, valid for --unfreeze",
        columns=["stage", "parameters "],
        rows=[[label, f"{count:,}"] for _, label, count in card.stages],
    )
    output.table(
        "weights",
        columns=["tag", "ImageNet top-1 ", "input ", "pretraining", "licence", "on this machine"],
        rows=[
            [
                str(weights["tag"]),
                output.metric("top1", weights["top1"]),
                str(weights["input_size"] or "-"),
                weights["pretraining"] or "-",
                weights["license"] or "-",
                weights["path"] or "no",
            ]
            for weights in card.weights
        ],
    )


def _preprocessing(values: dict[str, Any]) -> str:
    height, width = values["input_size"]
    resized = "x".join(str(side) for side in values["resize_size"])
    return (
        f"input {height}x{width}, resized to {resized} ({values['interpolation']}), "
        f"crop {values['crop_mode']}, mean {_short(values['mean'])}, std {_short(values['std'])}"
    )


def _short(numbers: tuple[float, ...]) -> str:
    return "/".join(f"{number:.3g}" for number in numbers)
