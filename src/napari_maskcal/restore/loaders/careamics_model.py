"""Checkpoints of CAREamics, ``.ckpt``: the U-Nets of Noise2Void, CARE and Noise2Noise, with their statistics."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from napari_maskcal.restore.loaders.base import Said, needed
from napari_maskcal.restore.loaders.checkpoint import checked, mentions, read_checkpoint
from napari_maskcal.restore.loaders.torchscript import first_line

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

_ALGORITHMS = {"n2v": "Noise2Void", "care": "CARE", "n2n": "Noise2Noise"}
_PREFIX = "model."
DEEPEST = 10
_REMEDY = "save it again with CAREamics 0.3 or newer, or wrap what CAREamics predicts as a Python function"
# The names of (offset, other end or width), and what CAREamics adds to the width.
_STATISTICS = {
    "mean_std": ("means", "stds", 1e-6),
    "quantile": ("lower_quantile_values", "upper_quantile_values", 1e-8),
    "min_max": ("mins", "maxes", 1e-8),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What is in a checkpoint.

    Attributes
    ----------
    arguments
        Of the U-Net.
    state
        Its weights.
    input_range, target_range
        Offset and span that the degraded image and the answer were normalised with.
    """

    name: str
    arguments: dict[str, Any]
    state: dict[str, Any]
    input_range: tuple[float, float]
    target_range: tuple[float, float]

    @property
    def dimensions(self) -> int:
        """Of its images: 2 for planes, 3 for volumes."""
        return int(self.arguments["conv_dims"])

    @property
    def stride_px(self) -> int:
        """What image sizes have to be multiples of."""
        depth = self.arguments.get("depth")
        return int(2**depth) if isinstance(depth, int) and 0 <= depth <= DEEPEST else 1


class CAREamics:
    """See `napari_maskcal.restore.loaders.base.Loader`."""

    name, kind, extra, runs_code = "CAREamics", "careamics", "careamics", False

    def refusal(self, path: Path) -> str:
        """Return why `path` is no checkpoint of CAREamics, or empty."""
        return "" if is_careamics(path) else "no checkpoint with an algorithm_config"

    def said(self, path: Path) -> Said:
        """Return what the checkpoint says, without CAREamics.

        Raises
        ------
        ValueError
            If it is damaged, or no network for planes or volumes of one channel.
        """
        from napari_maskcal.restore.card import Normalisation

        content = _content(path)
        offset, span = content.input_range
        return Said(
            name=content.name,
            axes="YX" if content.dimensions == 2 else "ZYX",
            channels=1,
            scale_factor=1,
            stride_px=content.stride_px,
            min_size_px=content.stride_px,
            stride_z=content.stride_px,
            min_size_z=content.stride_px,
            normalisation=Normalisation(kind="fixed", offset=offset, span=span),
        )

    def load(self, path: Path) -> nn.Module:
        """Return the network, as CAREamics builds it; its answer is normalised as its input is."""
        from torch import nn

        content = _content(path)
        network = _unet(content, path)
        (offset, span), (target_offset, target_span) = content.input_range, content.target_range
        if content.target_range == content.input_range:
            return network
        rescale = (nn.Conv2d if content.dimensions == 2 else nn.Conv3d)(1, 1, kernel_size=1)
        rescale.requires_grad_(False)
        rescale.weight.fill_(target_span / span)
        rescale.bias.fill_((target_offset - offset) / span)  # type: ignore[union-attr]
        return nn.Sequential(network, rescale)


def from_careamics(module: str, name: str, *, where: Path) -> Any:
    """Return what `name` is in one of CAREamics' modules; `where` is the file that needs it.

    Raises
    ------
    ImportError
        If CAREamics is not installed.
    ValueError
        If it is, but cannot be imported, or is too old or too new to have it.
    """
    from napari_maskcal.restore.torchvision_import import import_torchvision

    if find_spec("careamics") is None:
        raise needed("careamics", extra="careamics", file_format="CAREamics")
    try:
        import_torchvision()  # first, for CAREamics imports it too
        return getattr(import_module(module), name)
    except Exception as error:  # noqa: BLE001 - importing runs the library's code
        raise ValueError(
            f"{where} needs {name} of {module}, which cannot be imported: {first_line(error)}; "
            "pip install 'napari-maskcal[careamics]'"
        ) from None


def is_careamics(path: Path) -> bool:
    """Whether a file is a checkpoint of CAREamics, by the words in it."""
    return mentions(path, "hyper_parameters", "algorithm_config")


def _content(path: Path) -> Content:
    checkpoint = read_checkpoint(path)
    try:
        hyper = checkpoint["hyper_parameters"]
        algorithm = hyper["algorithm_config"]
        data = (checkpoint.get("datamodule_hyper_parameters") or hyper)["data_config"]
        kind, model, state = algorithm["algorithm"], algorithm["model"], checkpoint["state_dict"]
        state = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
        arguments = dict(model)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} lacks a part of a CAREamics checkpoint: {first_line(error)}; {_REMEDY}") from None
    _check_usable(kind, arguments, path)
    name = (checkpoint.get("careamics_info") or {}).get("experiment_name") or hyper.get("experiment_name") or path.stem
    return Content(
        name=f"{name} ({_ALGORITHMS[kind]})",
        arguments=arguments,
        state=checked(state, path),
        input_range=trained_range(data, "input", path),
        target_range=trained_range(data, "target", path),
    )


def _check_usable(kind: Any, model: dict[str, Any], path: Path) -> None:
    if not isinstance(kind, str) or kind not in _ALGORITHMS:
        raise ValueError(f"{path} is of the algorithm {kind}; only {', '.join(_ALGORITHMS)} give one restored image")
    if model.get("architecture", "UNet") != "UNet":
        raise ValueError(f"{path} is a {model.get('architecture')}, not a UNet; only a UNet gives one restored image")
    if (dimensions := model.get("conv_dims")) not in (2, 3):
        raise ValueError(
            f"{path} is a network for {dimensions} dimensions; only those for planes or volumes can be used"
        )
    taken, made = model.get("in_channels", 1), model.get("num_classes", 1)
    if (taken, made) != (1, 1):
        raise ValueError(f"{path} makes {made} channels of {taken}; only networks of one channel can be used")


def trained_range(data: Any, side: str, path: Path) -> tuple[float, float]:
    """Return the (offset, span) that one side, "input" or "target", was normalised with, of a `data_config`.

    The answer is in the target's range; one that was trained without a target is in that of the input.

    Raises
    ------
    ValueError
        If it does not say them for one channel, or the span is none.
    """
    try:
        said = data.get("normalization")
        if said is None:  # before version 0.2
            said = {"name": "mean_std", "input_means": data["image_means"], "input_stds": data["image_stds"]}
            said |= {"target_means": data.get("target_means"), "target_stds": data.get("target_stds")}
        if said["name"] == "none" or (side == "target" and said.get("skip_target")):
            return 0.0, 1.0
        first, second, added = _STATISTICS[said["name"]]
        if side == "target" and not said.get(f"target_{first}"):
            side = "input"
        low, high = (_single(said[f"{side}_{which}"]) for which in (first, second))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ValueError(
            f"{path} does not say how intensities were normalised for one channel when it was trained; {_REMEDY}"
        ) from None
    span = (high if said["name"] == "mean_std" else high - low) + added
    if not 0 < span < float("inf") or abs(low) == float("inf"):
        raise ValueError(f"{path} says that intensities were divided by {span:g} when it was trained")
    return low, span


def _single(values: Any) -> float:
    number = values if isinstance(values, int | float) else values[0] if len(values) == 1 else None
    if number is None:
        raise ValueError
    return float(number)


def _unet(content: Content, path: Path) -> nn.Module:
    """Return the U-Net with its weights."""
    import torch

    make = _make_unet(path)
    try:
        with torch.device("meta"):  # no memory is taken for sizes that a file only claims
            outline = make(content.arguments).state_dict()
        _check_fits(outline, content.state)
        network: nn.Module = make(content.arguments)
        network.load_state_dict(content.state)
    except Exception as error:  # noqa: BLE001 - the library's checks have errors of their own
        raise ValueError(f"{path}: its weights do not fit its configuration: {first_line(error)}; {_REMEDY}") from None
    return network.requires_grad_(False).float().eval()


def _check_fits(outline: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    for name in outline.keys() | state.keys():
        expected, found = (tuple(part[name].shape) if name in part else None for part in (outline, state))
        if expected != found:
            raise ValueError(f"{name} is {found or 'missing'}, but should be {expected or 'missing'}")


def _make_unet(path: Path) -> Any:
    """Return what makes a U-Net of its arguments; they are checked by the library."""
    checks = from_careamics("careamics.config.architectures", "UNetConfig", where=path)
    network = from_careamics("careamics.models.unet", "UNet", where=path)

    def make(arguments: dict[str, Any]) -> Any:
        return network(**checks(**({"architecture": "UNet"} | arguments)).model_dump())

    return make


LOADER = CAREamics()
