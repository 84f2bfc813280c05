"""What the training commands print: the plan before, the results after."""

import shlex
from collections.abc import Mapping
from typing import Any

from tlcli.cli import output as out
from tlcli.results.counted import counted, size_text


def show_plan(plan: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what `--dry-run` found out, stage by stage."""
    if as_json:
        out.document(plan)
        return
    out.table(
        f"{plan['model']}, weights {plan['weights']}, "
        f"{counted(plan['classes'], 'class', 'classes')}",
        columns=["stage", "parameters ", "peak lr ", "weight decay ", "trained", "BatchNorm"],
        rows=[
            [
                row["label"],
                f"{row['parameters']:,}",
                "-" if row["lr"] is None else f"{row['lr']:.3g}",
                "-" if row["weight_decay"] is None else f"{row['weight_decay']:.3g}",
                _since(row["trained_from"]),
                row["batch_norm"],
            ]
            for row in plan["stages"]
        ],
    )


def _since(start: int | None) -> str:
    if start is None:
        return "frozen"
    return "from the start" if start == 0 else f"after {counted(start, 'epoch')}"


def show_training(summary: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what came out of a training."""
    if as_json:
        out.document(summary)
        return
    best, frozen = summary["best"], summary["frozen"]
    out.results(summary["results"], chosen_by=f"{best['metric']} (epoch {best['epoch']})")
    out.line(
        f"Frozen: {counted(frozen['tensors'], 'parameter')} and "
        f"{counted(frozen['buffers'], 'buffer')}, "
        f"{frozen['changed']} changed. Time: {summary['seconds']['total']:.0f} s."
    )
    trunk = summary["trunk_cache"]
    if trunk["hits"]:
        asked = trunk["hits"] + trunk["misses"]
        seconds = trunk["seconds"]["saved"]
        saved = f"; to compute them takes about {seconds:.0f} s" if seconds else ""
        views = counted(asked, "view was", "views were")
        is_part_kept = any(phase["kept"] != "off" for phase in trunk["phases"])
        what = "Frozen part" if is_part_kept else "Images"
        out.line(f"{what}: {trunk['hits']:,} of {views} there already{saved}.")
    if pictures := summary.get("image_cache"):
        asked = pictures["hits"] + pictures["misses"]
        out.line(
            f"Pictures: {pictures['hits']:,} of {counted(asked, 'train picture')} there already, "
            f"{pictures['misses']:,} decoded to {size_text(pictures['bytes'])} in "
            f"{pictures['seconds']['total']:.1f} s."
        )
    out.line(f"Run folder: {summary['run']}")
    out.line(f"Next: tlcli evaluate {shlex.quote(summary['run'])} --data OTHER_IMAGES")
