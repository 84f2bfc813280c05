"""Make the table of published figures that `tlcli` carries for timm's models.

    python benchmarks/make_timm_table.py RESULTS

RESULTS is the folder `results/` of huggingface/pytorch-image-models (Apache-2.0). Parameters and
GMACs of architectures come from its inference benchmarks, top-1 of weights from its ImageNet
results. Written is `tlcli/backbones/timm_published.csv`.
"""

import argparse
import csv
from pathlib import Path

import timm

TABLE = Path(__file__).parents[1] / "tlcli" / "backbones" / "timm_published.csv"
COLUMNS = ("name", "img_size", "params_m", "gmacs", "top1")


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read one of timm's tables."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def architecture_rows(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return size, parameters and GMACs by architecture.

    Where it was timed at several sizes, the one of its default weights is taken.
    """
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for path in sorted(folder.glob("*benchmark-infer-*.csv")):
        for row in rows_of(path):
            size = row["infer_img_size"]
            figures = (size, row["param_count"], row["infer_gmacs"], "")
            found.setdefault(row["model"].partition(".")[0], {}).setdefault(size, figures)
    return {
        name: by_size.get(own_size(name), next(iter(by_size.values())))
        for name, by_size in found.items()
    }


def own_size(name: str) -> str:
    """Return the input size of an architecture's default weights."""
    config = timm.get_pretrained_cfg(name)
    return str(config.input_size[-1]) if config else ""


def weight_rows(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return size, parameters and ImageNet top-1 by `architecture.tag`."""
    (path,) = folder.glob("*results-imagenet.csv")
    return {
        row["model"]: (row["img_size"], row["param_count"], "", f"{float(row['top1']) / 100:.5f}")
        for row in rows_of(path)
    }


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    folder = parser.parse_args().results
    known = set(timm.list_models())
    rows = {**architecture_rows(folder), **weight_rows(folder)}
    kept = {name: row for name, row in rows.items() if name.partition(".")[0] in known}
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([name, *row] for name, row in sorted(kept.items()))
    print(f"{len(kept)} rows in {TABLE}")


if __name__ == "__main__":
    main()
