"""What the scaling of features costs when images are few.

    python benchmarks/few_shot_scale.py FEATURES [--shots 1,2,5,10,20,50] [--repeats 5]

FEATURES is a folder that `tlcli extract-features` made. For every number of images per class prints
the mean best validation accuracy over the draws, with every feature divided by its own deviation in
the few images, and with all divided by one number (what `--shots` does).
"""

import argparse

import numpy as np

from tlcli.recipes.feature_folder import open_features
from tlcli.recipes.few_shot import draw_per_class, parse_shots
from tlcli.recipes.probing import parts_of
from tlcli.recipes.solved_heads import DEFAULT_PENALTIES, judge_heads, solve_heads


def main() -> None:
    """Print one line per number of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features")
    parser.add_argument("--shots", default="1,2,5,10,20,50")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    folder = open_features(args.features)
    parts = parts_of(folder)
    train, val = parts.few_shot_train, parts.judged["val"]
    print("images per class   each its own   one for all")
    for count in parse_shots(args.shots):
        means = []
        for one_scale in (False, True):
            best = []
            for repeat in range(args.repeats):
                chosen = draw_per_class(train.targets, count=count, seed=0, repeat=repeat)
                heads = solve_heads(
                    "linear",
                    train.subset(chosen),
                    num_classes=len(folder.classes),
                    penalties=DEFAULT_PENALTIES["linear"],
                    memory_limit=1 << 30,
                    one_scale=one_scale,
                )
                best.append(max(head.metrics["top1"] for head in judge_heads(heads, val)))
            means.append(float(np.mean(best)))
        print(f"{count:16}   {means[0]:12.3f}   {means[1]:11.3f}", flush=True)


if __name__ == "__main__":
    main()
