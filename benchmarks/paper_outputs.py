"""The results as JSON, CSV, Markdown and pictures."""

from __future__ import annotations

import csv
import json
from io import BytesIO, StringIO
from math import exp, log
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_maskcal.read.atomic import write_atomically
from paper_methods import DEFAULT
from paper_rows import KEYS, PERCENTILES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from paper_rows import Row, Shown

AIMS = {"quantile": 0.90, "residual": 0.70, "residual_smooth": 0.90}
SMALLEST = 1e-3  # a share below counts as this in geometric means
LARGEST_PICTURE = 150_000


def write_all(rows: Sequence[Row], run: dict[str, Any], folder: Path) -> None:
    """Write paper.json, paper_run.json, paper.csv and paper.md."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(rows, folder / "paper.json")
    write_atomically(folder / "paper_run.json", (json.dumps(run, indent=1) + "\n").encode())
    write_atomically(folder / "paper.csv", as_csv(rows).encode())
    write_atomically(folder / "paper.md", as_markdown(rows, run, folder).encode())


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as a list, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(_rounded(row)) for row in rows)
    write_atomically(path, f"[\n{lines}\n]\n".encode())


def _rounded(row: Row) -> Row:
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}


def as_csv(rows: Sequence[Row]) -> str:
    """Return the rows with a line of names."""
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=list(KEYS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rounded(row) for row in rows)
    return text.getvalue()


def as_markdown(rows: Sequence[Row], run: dict[str, Any], folder: Path) -> str:
    """Return a table for each task and distance with the task's picture, and how the default compares over all."""
    parts = [_head(rows, run), "\n".join(summary(rows)), ""]
    for task in _values(rows, "task"):
        own = [row for row in rows if row["task"] == task]
        parts.append(_about(task, run.get("tasks", {}).get(task), folder))
        parts += [_table([row for row in own if row["distance"] == d], d) for d in _values(own, "distance")]
    return "\n".join(parts)


def _head(rows: Sequence[Row], run: dict[str, Any]) -> str:
    confidence = ", ".join(f"{value:g}" for value in _values(rows, "confidence"))
    return (
        "# Masks at the same promise\n\n"
        f"`{run['command']}`, seed {run['seed']}, {run['date']}, {run['machine']}. Confidence {confidence}, binary "
        "masks; mean masked share of the test groups, and in brackets the share of test groups that kept the promise, "
        "both over random splits of the held-out groups. Tolerances are the "
        f"{', '.join(str(p) for p in PERCENTILES)}th percentiles of the distances of the whole restored fields. "
        "*Untouched* is the share of fields without any mask and *correlation* that of masked share and true distance, "
        "both at the middle tolerance.\n"
    )


def _values(rows: Sequence[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _about(task: str, facts: dict[str, Any] | None, folder: Path) -> str:
    """Return the task's heading, what it is made from, and its picture."""
    lines = [f"## {task}\n"]
    if facts is not None:
        groups, fields = facts["groups"], facts["fields"]
        trained = f", of {facts['restorer_groups']} groups" if facts["restorer_groups"] else ""
        lines.append(
            f"Restorer: {facts['restorer']}{trained}. Mask networks: {fields['training']} fields of "
            f"{groups['training']} groups, {fields['validation']} of {groups['validation']} to choose by. "
            f"Held out: {fields['held_out']} fields of {groups['held_out']} groups.\n"
        )
    if (folder / f"{task}.png").is_file():
        lines.append(f"![A field of {task}: degraded, restored, truth, error, masks]({task}.png)\n")
    return "\n".join(lines)


def _table(rows: Sequence[Row], distance: str) -> str:
    any_row = next((row for row in rows if row["method"] != "opt"), rows[0])
    low, high = any_row["coverage_low"], any_row["coverage_high"]
    lines = [
        f"### {distance}\n",
        f"{any_row['n_calibration']} groups calibrate, {any_row['n_test']} test; under the promise one split's "
        f"coverage lies in {low:.2f} to {high:.2f} in 95 of 100.\n",
        "| method | " + " | ".join(f"{p} %" for p in PERCENTILES) + " | to Opt | untouched | correlation | train s |",
        "|---|" + "---|" * (len(PERCENTILES) + 4),
    ]
    lines += [_line([row for row in rows if row["method"] == name]) for name in _values(rows, "method")]
    return "\n".join([*lines, ""])


def _line(rows: Sequence[Row]) -> str:
    middle = rows[len(rows) // 2]
    name = f"**{middle['method']}**" if middle["default"] else middle["method"]
    shares = " | ".join(f"{row['masked_share']:.3f} ({row['coverage']:.2f})" for row in rows)
    rest = (middle["ratio_to_opt"], middle["untouched_share"], middle["correlation"])
    numbers = " | ".join("" if value is None else f"{value:.2f}" for value in rest)
    return f"| {name} | {shares} | {numbers} | {middle['train_s']:.0f} |"


def summary(rows: Sequence[Row]) -> list[str]:
    """Return a line for each other method: the default's masked share over its, as a geometric mean."""
    others = [name for name in _values(rows, "method") if name != DEFAULT]
    lines = []
    for name in others:
        ratios = mean_ratio(rows, DEFAULT, name)
        if ratios is not None:
            aim = f" (aim: at most {AIMS[name]:.2f})" if name in AIMS else ""
            lines.append(f"- `{name}`: {ratios:.3f}{aim}")
    head = f"Masked share of `{DEFAULT}` over that of others, geometric mean over tasks, distances and tolerances:\n"
    return [head, *lines] if lines else []


def mean_ratio(rows: Sequence[Row], first: str, second: str) -> float | None:
    """Return the geometric mean of the ratio of masked shares, wherever both were measured; None if nowhere."""
    shares = {(*_place(row), row["method"]): row["masked_share"] for row in rows}
    pairs = [(shares[(*place, first)], shares[(*place, second)]) for place in dict.fromkeys(map(_place, rows))
             if (*place, first) in shares and (*place, second) in shares]  # fmt: skip
    if not pairs:
        return None
    return exp(sum(log(max(a, SMALLEST) / max(b, SMALLEST)) for a, b in pairs) / len(pairs))


def _place(row: Row) -> tuple[str, str, int]:
    return row["task"], row["distance"], row["tolerance_percentile"]


def draw(shown: Shown, path: Path) -> None:
    """Write the field, its error and its masks side by side."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    panels = _panels(shown)
    figure = Figure(figsize=(1.7 * len(panels), 1.95), dpi=100, layout="constrained")
    for axis, (title, image, options) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axis.imshow(image, interpolation="nearest", **options)
        axis.set_title(title, fontsize=7)
        axis.set_axis_off()
    content = BytesIO()
    figure.savefig(content, format="png", pil_kwargs={"optimize": True})
    if len(content.getvalue()) > LARGEST_PICTURE:
        content = _fewer_colours(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def _panels(shown: Shown) -> list[tuple[str, NDArray[Any], dict[str, Any]]]:
    field = shown.field
    error = np.sqrt(np.square(field.restored - field.truth).sum(axis=0))
    low, high = np.percentile(field.truth, (0.5, 99.5))
    view: Callable[[NDArray[Any]], NDArray[Any]] = lambda image: _seen(image, float(low), float(high))  # noqa: E731
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1}
    images = [(name, view(getattr(field, name)), grey) for name in ("degraded", "restored", "truth")]
    errors = [("error", error, {"cmap": "magma", "vmin": 0, "vmax": max(float(np.percentile(error, 99.5)), 1e-6)})]
    restored = view(field.restored)
    masked = [
        (f"{name}: {mask.mean():.0%}", _marked(restored, mask), {}) for name, mask in shown.masks.items()
    ]  # fmt: skip
    return [*images, *errors, *masked]


def _seen(image: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """Return (Y, X) or (Y, X, 3) from 0 to 1."""
    scaled = ((image - low) / max(high - low, 1e-6)).clip(0, 1)
    return scaled.transpose(1, 2, 0) if len(image) == 3 else scaled[0]


def _marked(image: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the image in colours, with what is masked tinted."""
    colours = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image.copy()
    colours[mask] = 0.5 * colours[mask] + 0.5 * np.array([1.0, 0.25, 0.1])
    return colours


def _fewer_colours(content: BytesIO) -> BytesIO:
    from PIL import Image

    smaller = BytesIO()
    Image.open(content).convert("RGB").quantize(128).save(smaller, format="png", optimize=True)
    return smaller
