"""`tlcli models list` and `tlcli models show`."""

from typing import Annotated, Any, Literal

import typer

from tlcli.cli import options as o
from tlcli.cli import output
from tlcli.errors import ConfigError
from tlcli.results.records import SCHEMA_VERSION

models_app = typer.Typer(no_args_is_help=True, help="See which models there are.")

PatternArg = Annotated[
    str, typer.Argument(metavar="[PATTERN]", help="Part of a name, or a glob such as 'vit_*'.")
]
NameArg = Annotated[str, typer.Argument(metavar="NAME", help="For example timm/resnet18.")]
SourceOpt = Annotated[
    Literal["torchvision", "timm"] | None, typer.Option("--source", help="Only this library.")
]
PretrainedOpt = Annotated[
    bool,
    typer.Option("--pretrained/--all", help="Only models with published weights, or all."),
]
AvailableOpt = Annotated[
    bool, typer.Option("--available", help="Only models whose weights are on this machine.")
]
LimitOpt = Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0 is all.")]
CsvOpt = Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")]
NamesOpt = Annotated[bool, typer.Option("--names", help="Print names only, one per line.")]


@models_app.command("list")
def list_models(
    pattern: PatternArg = "",
    source: SourceOpt = None,
    pretrained: PretrainedOpt = True,
    available: AvailableOpt = False,
    limit: LimitOpt = 0,
    json: o.JsonOpt = False,
    csv: CsvOpt = False,
    names: NamesOpt = False,
) -> None:
    """List classification models of both sources.

    Example: tlcli models list 'convnext*' --source timm
    """
    if json + csv + names > 1:
        raise ConfigError("--json, --csv and --names exclude each other.")
    from tlcli.recipes import models as recipe  # torch is loaded only now

    rows = recipe.list_models(
        pattern,
        source=source,
        pretrained_only=pretrained,
        available_only=available,
        limit=limit,
    )
    if json:
        output.document(
            {"schema_version": SCHEMA_VERSION, "models": [row.to_json() for row in rows]}
        )
    elif names:
        output.lines(row.name for row in rows)
    elif csv:
        output.comma_separated(
            ["name", "weights"], [[row.name, " ".join(row.available or row.tags)] for row in rows]
        )
    else:
        cells = [[row.name, ", ".join(row.available or row.tags) or "-"] for row in rows]
        what = "weights on this machine" if available else "published weights"
        output.table(f"{len(rows)} models", columns=["name", what], rows=cells)


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
    output.line(f"{card.name}: {card.parameters:,} parameters, {card.feature_dim} features")
    output.line(_preprocessing(card.preprocessing))
    output.table(
        "stages, valid for --unfreeze",
        columns=["stage", "parameters "],
        rows=[[label, f"{count:,}"] for _, label, count in card.stages],
    )
    output.table(
        "weights",
        columns=["tag", "licence", "ImageNet top-1 ", "on this machine"],
        rows=[
            [
                str(weights["tag"]),
                weights["license"] or "-",
                output.metric("top1", weights["top1"]),
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
