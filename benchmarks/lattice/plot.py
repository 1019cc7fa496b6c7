"""The experiment as one picture: every arm's curves, mean and range over the seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PANELS = (
    ("accuracy", "held-out accuracy"),
    ("chosen", "chosen, nats a token"),
    ("rejected", "rejected, nats a token"),
)


def draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    colours = plt.get_cmap("tab10")
    for place, (arm, seeds) in enumerate(found["curves"].items()):
        curves = list(seeds.values())
        steps = [point["step"] for point in curves[0]]
        dashed = "--" if "sft" in arm else "-"
        for axis, (key, title) in zip(axes, PANELS, strict=True):
            values = [[curve[i][key] for curve in curves] for i in range(len(steps))]
            middle = [sum(v) / len(v) for v in values]
            axis.plot(steps, middle, dashed, color=colours(place % 10), label=arm, linewidth=1.6)
            axis.fill_between(
                steps,
                [min(v) for v in values],
                [max(v) for v in values],
                color=colours(place % 10),
                alpha=0.04 if key == "accuracy" else 0.12,
            )
            axis.set_title(title)
            axis.set_xlabel("step")
    axes[0].axhline(0.5, color="grey", linewidth=0.8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
