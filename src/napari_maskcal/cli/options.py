"""Command-line options, made from the parameters in `settings`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from napari_maskcal.settings import check_confidence, check_tolerance

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_maskcal.settings import Parameter

JSON = click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON instead of sentences.")


def options(*parameters: Parameter) -> Callable[[Any], Any]:
    """Return a decorator that gives a command the options of `parameters`, in their order."""

    def decorate(command: Any) -> Any:
        for parameter in reversed(parameters):
            command = option(parameter)(command)
        return command

    return decorate


def option(parameter: Parameter) -> Callable[[Any], Any]:
    """Return the command-line option of a parameter."""
    if parameter.kind is bool:
        return click.option(parameter.flag, is_flag=True, help=parameter.help)
    kind = click.Choice(parameter.choices) if parameter.choices else parameter.kind
    shown = parameter.default not in (None, "")
    return click.option(
        parameter.flag, type=kind, default=parameter.default, show_default=shown, help=parameter.help
    )  # fmt: skip


def is_default(name: str) -> bool:
    """Whether the user said nothing of an option of the command that runs."""
    return click.get_current_context().get_parameter_source(name) == ParameterSource.DEFAULT


def restorer_for(restorer: str, mask_model: str) -> str:
    """Return the restorer chosen; where none was, the one that the mask model's bundle brings."""
    from napari_maskcal.review.request import brings_restorer

    return mask_model if is_default("restorer") and brings_restorer(mask_model) else restorer


def check_promise(tolerance: float | None, confidence: float | None) -> None:
    """Raise ValueError if one is given and out of range."""
    if tolerance is not None:
        check_tolerance(tolerance)
    if confidence is not None:
        check_confidence(confidence)
