"""What all examples share: a restorer's file and pairs are written, and the rest is done by the command `maskcal`.

The commands are printed as they are run, inside the folder of the example: they can be typed again there, with
another name after ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from napari_maskcal import load_restorer
from napari_maskcal.read.atomic import new_folder
from napari_maskcal.review.certificate_words import percent
from overlay_picture import Field, draw_overlay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Plane = NDArray[np.float32]
    Pair = tuple[Plane, Plane]

LEARNING, HELD_OUT, REPORT, REVIEW = "pairs", "held_out", "evaluation", "review"
SPECIMEN = r"(.+)\.tif"  # each file is a specimen of its own
HELD_OUT_SHARE = 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A restorer of others, what it is to restore, and the promise that is asked for.

    Attributes
    ----------
    name
        Of the bundle and, by default, of the folder: ``maskcal-example-NAME``.
    about
        What ``--help`` says.
    write_restorer
        Gets the folder and the cache; writes the network as a file, and returns that.
    read_pairs
        Gets the cache and a random generator; returns (degraded, truth) of each specimen, all of one size.
    takes
        How intensities were prepared when the network was trained, which no trial run can find out; None: as the
        description has it.
    tolerance, confidence
        Fixed before the held-out images were looked at.
    held_out
        How many specimens neither training nor calibration gets; None: a third.
    steps
        Of the training.
    """

    name: str
    about: str
    write_restorer: Callable[[Path, Path], Path]
    read_pairs: Callable[[Path, np.random.Generator], Mapping[str, Pair]]
    takes: Mapping[str, Any] | None
    tolerance: float
    confidence: float = 0.9
    held_out: int | None = None
    steps: int = 500


def main(example: Example, arguments: Sequence[str] | None = None) -> None:
    """Run an example; an error that a user can mend becomes one line."""
    options = _parser(example).parse_args(arguments)
    out = options.out or Path(f"maskcal-example-{example.name}")
    try:
        _check_display(wanted=options.show)
        with new_folder(out) as folder:
            work_through(example, folder, options.cache.expanduser().resolve(), seed=options.seed)
    except subprocess.CalledProcessError as error:
        _fail(example, f"this failed, for the reason above: {_shown(error.cmd)}")
    except KeyboardInterrupt:
        _fail(example, "stopped; nothing was written")
    except (ValueError, OSError, ImportError) as error:
        _fail(example, " ".join(str(error).split()))
    print(f"Written to {out}")
    if options.show:
        show(example, out)


def work_through(example: Example, folder: Path, cache: Path, *, seed: int = 0) -> None:
    """Train, calibrate, test and show: all that an example does, into an existing folder."""
    network, bundle = example.write_restorer(folder, cache), f"{example.name}.maskcal"
    if example.takes is not None:
        describe(network, example.takes)
    _maskcal(folder, "info", network.name)
    write_pairs(example, folder, cache, seed=seed)
    _maskcal(
        folder, "train", *_pairs_in(LEARNING), "--restorer", network.name, "--tolerance", example.tolerance,
        "--confidence", example.confidence, "--steps", example.steps, "--seed", seed, "--out", bundle,
    )  # fmt: skip
    _maskcal(folder, "evaluate", bundle, *_pairs_in(HELD_OUT), "--restorer", network.name, "--out", REPORT)
    found = read_evaluation(folder)
    image = shown_image(found)
    _maskcal(
        folder, "run", f"{HELD_OUT}/degraded/{image}", "--restorer", network.name, "--mask-model", bundle,
        "--out", REVIEW,
    )  # fmt: skip
    draw_overlay(_field(folder, image), folder / "overlay.png", words=about_image(found, image))
    text = "\n".join(summary(found))
    (folder / "summary.txt").write_text(f"{text}\n", encoding="utf-8")
    print(f"\n{text}")


def describe(network: Path, takes: Mapping[str, Any]) -> None:
    """Say how intensities are prepared, in the description that a trial run has left beside the network's file.

    Who chooses the file in a dock is asked for it there.
    """
    load_restorer(network)
    description = network.with_name(f"{network.name}.maskcal.json")
    content = json.loads(description.read_text(encoding="utf-8"))
    content["card"]["takes"] = dict(takes)
    description.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_pairs(example: Example, folder: Path, cache: Path, *, seed: int) -> None:
    """Write the pairs of all specimens: those to train and calibrate with, and, drawn at random, those held out."""
    rng = np.random.default_rng(seed)
    pairs = example.read_pairs(cache, rng)
    names = [sorted(pairs)[i] for i in rng.permutation(len(pairs))]
    count = round(HELD_OUT_SHARE * len(names)) if example.held_out is None else example.held_out
    for part, chosen in ((HELD_OUT, names[:count]), (LEARNING, names[count:])):
        for role, images in (("degraded", 0), ("truth", 1)):
            place = folder / part / role
            place.mkdir(parents=True)
            for name in chosen:
                tifffile.imwrite(place / f"{name}.tif", pairs[name][images], photometric="minisblack")


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Return what became of the promise on the held-out images."""
    content: dict[str, Any] = json.loads((folder / REPORT / "evaluation.json").read_text(encoding="utf-8"))
    return content


def shown_image(found: Mapping[str, Any]) -> str:
    """Return the name of the file of the held-out image that is shown."""
    return f"{typical_field(found)['group']}.tif"


def typical_field(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is known of the held-out image whose masked share is in the middle."""
    fields: list[Mapping[str, Any]] = sorted(found["fields"], key=lambda field: field["masked_share"])
    return fields[len(fields) // 2]


def about_image(found: Mapping[str, Any], image: str) -> list[str]:
    """Return what the picture of a held-out image shows, in sentences."""
    (field,) = (one for one in found["fields"] if f"{one['group']}.tif" == image)
    return [
        f"{image}, which neither training nor calibration has seen.",
        f"Mean error: {percent(field['distance'])} of the intensity range. Outside the marks, whose pixels count as 0: "
        f"{percent(field['distance_outside_marks'])}. Accepted: {percent(found['certificate']['tolerance'])}.",
        found["promise"],
    ]


def summary(found: Mapping[str, Any]) -> list[str]:
    """Return the promise and what became of it on all held-out images, in sentences."""
    kept, masked = found["coverage"], found["masked"]
    return [
        f"Promise: {found['promise']}",
        f"Held out: {found['conclusion']}",
        f"Kept by {kept['kept']} of {kept['of']} held-out specimens ({percent(kept['kept'] / kept['of'])}); marked is "
        f"{percent(masked['mean'])} of them on average, {percent(typical_field(found)['masked_share'])} of the one in "
        "the middle, which overlay.png shows.",
    ]


def show(example: Example, folder: Path) -> None:
    """Open the reviewed image in napari, with the Review dock as a user would have set it."""
    import napari

    image = shown_image(read_evaluation(folder))
    viewer = napari.Viewer(title=f"napari-maskcal: {example.name}")
    viewer.open(folder / HELD_OUT / "truth" / image, name="truth", visible=False)
    viewer.open(folder / HELD_OUT / "degraded" / image, name="degraded")
    _, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")
    dock.restorer.setValue(_network_in(folder))
    dock.mask_model.setValue(folder / f"{example.name}.maskcal")
    dock.run()
    napari.run()


def _parser(example: Example) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=example.about, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help=f"new folder for the results; default: maskcal-example-{example.name}")
    parser.add_argument(
        "--cache", type=Path, default=Path("~/.cache/napari-maskcal-examples"),
        help="folder for downloaded packages; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of noise, split and training; default: %(default)s")
    parser.add_argument("--show", action="store_true", help="open the result in napari")
    return parser


def _check_display(*, wanted: bool) -> None:
    has_none = sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if wanted and has_none:
        raise ValueError("there is no display for --show; run this on a desktop, or leave it out")


def _pairs_in(part: str) -> list[str]:
    return ["--degraded", f"{part}/degraded", "--truth", f"{part}/truth", "--group", SPECIMEN]


def _maskcal(folder: Path, *words: object) -> None:
    """Run one command in the folder, and show it."""
    command = ["maskcal", *map(str, words)]
    print(f"\n$ {shlex.join(command)}", flush=True)
    subprocess.run(  # noqa: S603 - arguments of ours
        [sys.executable, "-m", "napari_maskcal", *command[1:]], cwd=folder, check=True
    )


def _shown(command: Sequence[object]) -> str:
    """Return a command that failed as a user would type it."""
    words = shlex.join(str(word) for word in command)
    return words.replace(f"{shlex.quote(sys.executable)} -m napari_maskcal", "maskcal")


def _network_in(folder: Path) -> Path:
    (description,) = folder.glob("*.maskcal.json")
    return description.with_name(description.name.removesuffix(".maskcal.json"))


def _field(folder: Path, image: str) -> Field:
    images = {
        "degraded": folder / HELD_OUT / "degraded" / image,
        "truth": folder / HELD_OUT / "truth" / image,
        "restored": folder / REVIEW / "restored.tif",
        "uncertain": folder / REVIEW / "uncertain.tif",
    }
    return Field(**{part: tifffile.imread(path) for part, path in images.items()})


def _fail(example: Example, message: str) -> None:
    print(f"{example.name}: {message}", file=sys.stderr)
    sys.exit(1)
