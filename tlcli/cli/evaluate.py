"""`tlcli evaluate`."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from tlcli.cli import box_options as b
from tlcli.cli import data_options as d
from tlcli.cli import options as o
from tlcli.cli import output as out
from tlcli.cli.option_files import chosen_options
from tlcli.cli.progress import TerminalTalk
from tlcli.config import EvaluateConfig, RuntimeConfig
from tlcli.results.counted import counted
from tlcli.results.records import EvalReport

_WORST_SHOWN = 10
_COLUMNS = {
    "classification": (("precision", "recall", "f1"), "images "),
    "multi-label": (("precision", "recall", "f1", "ap"), "images "),
    "detection": (("ap50", "ar", "ap"), "boxes "),
}
"""Metrics of each class, the one that they are sorted by last, and what `support` counts."""

RunArg = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Run folder to evaluate; or use --model.")
]


def evaluate(
    ctx: typer.Context,
    run: RunArg = EvaluateConfig.run,
    data: o.EvaluationDataOpt = EvaluateConfig.data,
    split: o.SplitOpt = EvaluateConfig.split,
    limit: o.EvaluationLimitOpt = EvaluateConfig.limit,
    on_bad_image: o.OnBadImageOpt = EvaluateConfig.on_bad_image,
    on_bad_box: b.OnBadBoxOpt = EvaluateConfig.on_bad_box,
    classes: d.ClassesOpt = EvaluateConfig.classes,
    path_column: d.PathColumnOpt = EvaluateConfig.path_column,
    label_column: d.LabelColumnOpt = EvaluateConfig.label_column,
    label_separator: d.GivenLabelSeparatorOpt = EvaluateConfig.label_separator,
    split_column: d.SplitColumnOpt = EvaluateConfig.split_column,
    model: o.PretrainedModelOpt = EvaluateConfig.model,
    weights: o.GivenWeightsOpt = EvaluateConfig.weights,
    offline: o.OfflineOpt = EvaluateConfig.offline,
    mean: o.MeanOpt = EvaluateConfig.mean,
    std: o.StdOpt = EvaluateConfig.std,
    input_size: o.InputSizeOpt = EvaluateConfig.input_size,
    in_channels: o.GivenInChannelsOpt = EvaluateConfig.in_channels,
    batch_size: o.EvaluationBatchOpt = EvaluateConfig.batch_size,
    seed: o.EvaluationSeedOpt = EvaluateConfig.seed,
    device: o.DeviceOpt = RuntimeConfig.device,
    num_workers: o.NumWorkersOpt = RuntimeConfig.num_workers,
    amp: o.AmpOpt = RuntimeConfig.amp,
    amp_dtype: o.AmpDtypeOpt = RuntimeConfig.amp_dtype,
    channels_last: o.ChannelsLastOpt = RuntimeConfig.channels_last,
    output: o.OutputOpt = EvaluateConfig.output,
    overwrite: o.OverwriteOpt = EvaluateConfig.overwrite,
    config: o.ConfigOpt = None,
    json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    verbose: o.VerboseOpt = False,
) -> None:
    """Measure a run, or a pretrained model as it is, with 95 % intervals.

    Example: tlcli evaluate runs/finetune-resnet18-photos --split test
    """
    chosen = EvaluateConfig.from_options(chosen_options(ctx))
    talk = TerminalTalk(quiet=quiet)
    if verbose:
        out.let_libraries_speak()
    from tlcli.recipes import evaluate as recipe  # torch is loaded only now

    evaluation = recipe.run(chosen, talk=talk)
    for remark in evaluation.report.remarks:
        talk.warn(remark)
    if json:
        out.document(evaluation.report.to_json())
        return
    _show(evaluation.report, titles=evaluation.titles)
    out.line(f"Files: {evaluation.folder}")


def _show(report: EvalReport, *, titles: Mapping[str, str]) -> None:
    intervals: dict[str, Any] = {name: list(pair) for name, pair in report.intervals.items()}
    out.metrics(
        f"{report.split}: {counted(report.num_images, 'image')}",
        values=report.metrics,
        intervals=intervals,
        num_classes=len(report.per_class),
    )
    rows = [row for row in report.per_class if row["support"]]
    columns, support = _COLUMNS[report.kind]
    rows.sort(key=lambda row: float(row[columns[-1]] or 0))
    title = "per class" if len(rows) <= _WORST_SHOWN else f"the {_WORST_SHOWN} worst classes"
    out.table(
        title,
        columns=["class", *(f"{name} " for name in columns), support],
        rows=[
            [
                " ".join([str(row["class"]), titles.get(str(row["class"]), "")]).strip(),
                *(out.metric(name, _number(row[name])) for name in columns),
                str(row["support"]),
            ]
            for row in rows[:_WORST_SHOWN]
        ],
    )


def _number(value: str | float | None) -> float | None:
    return None if value is None else float(value)
