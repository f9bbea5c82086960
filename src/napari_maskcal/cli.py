"""The command line: ``maskcal demo``, ``maskcal run``, ``maskcal info``.

Exit codes: 0 done, 1 failed with one readable line, 2 wrong use.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from napari_maskcal import __version__
from napari_maskcal.settings import (
    AXES,
    CHANNEL,
    CONFIDENCE,
    DEVICE,
    MASK_MODEL,
    RESTORER,
    TOLERANCE,
    Parameter,
    check_confidence,
    check_tolerance,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_maskcal.pipeline import Review
    from napari_maskcal.restore.events import Event
    from napari_maskcal.review.request import Request


def main() -> None:
    """Run the command line; errors that a user can mend become one line and exit code 1."""
    try:
        commands(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as wrong_use:
        wrong_use.show()
        sys.exit(wrong_use.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped; nothing was written")
    except Exception as error:  # noqa: BLE001 - whatever it is, a traceback helps no microscopist
        known = isinstance(error, ValueError | OSError | MemoryError | ImportError)
        _fail(("" if known else f"{type(error).__name__}: ") + " ".join(str(error).split()))


def _fail(message: str) -> None:
    click.echo(f"maskcal: {message}", err=True)
    sys.exit(1)


def _option(parameter: Parameter) -> Callable[[Any], Any]:
    """Return the command-line option of a parameter."""
    return click.option(parameter.flag, type=parameter.kind, default=parameter.default, help=parameter.help)


def _options(*parameters: Parameter) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for parameter in reversed(parameters):
            command = _option(parameter)(command)
        return command

    return decorate


_JSON = click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON instead of sentences.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def commands() -> None:
    """Show which parts of a restored microscopy image can be believed."""


@commands.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the results into this new folder and close.")
@_options(TOLERANCE, CONFIDENCE, DEVICE)
@_JSON
def demo(out: Path | None, tolerance: float | None, confidence: float | None, device: str, as_json: bool) -> None:
    """Open napari with the bundled stack, restored, and its uncertain regions drawn over it."""
    _check_promise(tolerance, confidence)
    headless = sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if headless:
        _start_again_on_a_virtual_screen(out)
    from napari_maskcal._widgets.demo import show_demo, write_demo

    if out is None and not os.environ.get(_ON_VIRTUAL_SCREEN):
        show_demo(tolerance=tolerance, confidence=confidence, device=device)
        return
    out = out or _free_name(Path("maskcal-demo"))
    _tell(write_demo(out, tolerance=tolerance, confidence=confidence, device=device), out, as_json=as_json)


@commands.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder for the results.")
@_options(AXES, CHANNEL, RESTORER, MASK_MODEL, TOLERANCE, CONFIDENCE, DEVICE)
@_JSON
def run(
    image: Path,
    out: Path,
    axes: str | None,
    channel: int | None,
    restorer: str,
    mask_model: str,
    tolerance: float | None,
    confidence: float | None,
    device: str,
    as_json: bool,
) -> None:
    """Restore IMAGE (TIFF or OME-Zarr) and mark what cannot be believed."""
    from napari_maskcal.read.atomic import new_folder
    from napari_maskcal.read.files import read_image
    from napari_maskcal.review.report import write_review

    stack = read_image(image, axes=axes)
    request = _resolve(stack, channel, restorer, mask_model, tolerance, confidence)
    with new_folder(out) as folder:
        from napari_maskcal.models import load_mask_model, load_restorer
        from napari_maskcal.pipeline import run as run_pipeline
        from napari_maskcal.restore.allocator import keep_freed_memory

        keep_freed_memory()
        with _Progress() as progress:
            review = run_pipeline(
                stack,
                load_restorer(request.restorer),
                load_mask_model(request.mask_model),
                request.certificate,
                channel=channel,
                device=device,
                on_event=progress,
            )
        write_review(review, folder)
    _tell(review, out, as_json=as_json)


@commands.command()
@click.argument("mask_model", default=MASK_MODEL.default)
@_JSON
def info(mask_model: str, as_json: bool) -> None:
    """Say what a .maskcal bundle promises and what it was made from."""
    from napari_maskcal.review.request import describe_bundle

    bundle = describe_bundle(mask_model)
    certificate = bundle.certificate
    if as_json:
        click.echo(bundle.model_dump_json(indent=2))
        return
    click.echo(f"{bundle.card.name}\n{certificate.sentence}\n{certificate.limits}")
    click.echo(f"Calibrated on {certificate.n_fields} fields of {len(certificate.groups)} specimens: "
               + ", ".join(f"{name} ({count})" for name, count in certificate.groups.items()))  # fmt: skip
    if certificate.leave_one_out is not None:
        out = certificate.leave_one_out
        click.echo(f"Leave-one-out: kept for {out.kept} of {out.of} specimens (95 % interval of the share "
                   f"{out.low:.2f} to {out.high:.2f})")  # fmt: skip
    click.echo(f"{certificate.note}\nTrained on: {', '.join(bundle.card.trained_on) or 'not said'}")


class _Progress:
    """A bar on the terminal, where there is one, fed by the events of a run."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> _Progress:
        return self

    def __call__(self, event: Event) -> None:
        from napari_maskcal.restore.events import Started, TileDone, Warned

        if isinstance(event, Started) and sys.stderr.isatty():
            self._bar = click.progressbar(length=event.tiles, label=f"on {event.device}", file=sys.stderr)
            self._bar.__enter__()
        elif isinstance(event, TileDone) and self._bar is not None:
            self._bar.length = event.total
            self._bar.update(event.done - self._bar.pos)
        elif isinstance(event, Warned):
            click.echo(f"maskcal: {event.message}", err=True)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()


def _resolve(
    stack: Any,
    channel: int | None,
    restorer: str,
    mask_model: str,
    tolerance: float | None,
    confidence: float | None,
) -> Request:
    """Return what to run; ValueError with the first reason why not."""
    from napari_maskcal.review.request import Choices, Source, describe_bundle, resolve

    pinned = describe_bundle(mask_model).certificate
    found = resolve(
        Choices(
            source=Source(
                key="", name=stack.name, kind="image", rgb=False, shape=stack.shape, dtype=str(stack.data.dtype)
            ),
            axes=stack.axes,
            channel=channel,
            region="all planes",
            restorer=restorer,
            mask_model=mask_model,
            tolerance=pinned.tolerance if tolerance is None else tolerance,
            confidence=pinned.confidence if confidence is None else confidence,
        )
    )
    if isinstance(found, list):
        raise ValueError(found[0].message)
    return found


def _check_promise(tolerance: float | None, confidence: float | None) -> None:
    if tolerance is not None:
        check_tolerance(tolerance)
    if confidence is not None:
        check_confidence(confidence)


def _tell(review: Review, out: Path, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(review.summary(), indent=2, ensure_ascii=False))
        return
    click.echo(review.certificate.sentence)
    click.echo(f"Marked uncertain: {100 * review.masked_share:.1f} % of {review.planes} planes. Written to {out}")


_ON_VIRTUAL_SCREEN = "MASKCAL_ON_VIRTUAL_SCREEN"


def _start_again_on_a_virtual_screen(out: Path | None) -> None:
    """Replace this process by itself under xvfb-run; never returns."""
    if out is not None and out.exists():
        raise ValueError(f"output folder {out} exists; nothing was changed: choose another name or move it away")
    xvfb = shutil.which("xvfb-run")
    if xvfb is None:
        raise ValueError("there is no display; run this on a desktop, or install a virtual one: apt-get install xvfb")
    environment = os.environ | {_ON_VIRTUAL_SCREEN: "1", "QT_QPA_PLATFORM": "xcb"}
    command = [xvfb, "-a", "-s", "-screen 0 1600x1000x24", sys.executable, "-m", "napari_maskcal", *sys.argv[1:]]
    os.execve(xvfb, command, environment)  # noqa: S606 - the program and its arguments are ours


def _free_name(path: Path) -> Path:
    """Return `path`, or the first of path-2, path-3, ... that does not exist."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
