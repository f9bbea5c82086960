"""TorchScript: a program in a zip, with its weights."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from napari_maskcal.restore.loaders.archives import entries, names_below_top
from napari_maskcal.restore.loaders.base import Said

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


class TorchScript:
    """See `napari_maskcal.restore.loaders.base.Loader`."""

    name, kind, extra, runs_code = "TorchScript", "torchscript", "", True

    def refusal(self, path: Path) -> str:
        """Return why `path` is no TorchScript, or empty."""
        if not path.is_file() or (names := entries(path)) is None:
            return "no zip"
        below = names_below_top(names)
        if "constants.pkl" in below and any(name.startswith("code/") for name in below):
            return ""
        return "no program in it"

    def said(self, path: Path) -> Said:
        """Return nothing: a TorchScript file says nothing of its network."""
        return Said()

    def load(self, path: Path) -> nn.Module:
        """Return the program, on the processor."""
        import torch

        try:
            load: Any = torch.jit.load
            with warnings.catch_warnings():  # torch would rather have torch.export; files that exist stay as they are
                warnings.simplefilter("ignore", DeprecationWarning)
                module = load(str(path), map_location="cpu")
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"{path} cannot be read as TorchScript: {first_line(error)}") from None
        from napari_maskcal.restore.loaders.adapted import Frozen

        return Frozen(module.float().eval())


def first_line(error: Exception) -> str:
    """Return a library's complaint in one line, with what it quotes of the file, and not all of a long one."""
    return "".join(sign for sign in " ".join(str(error)[:10_000].split()) if sign.isprintable())[:300]


LOADER = TorchScript()
