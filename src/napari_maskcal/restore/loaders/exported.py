"""``torch.export``: a graph of torch's operators in a zip, ``.pt2``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_maskcal.restore.loaders.archives import entries, names_below_top
from napari_maskcal.restore.loaders.base import Said
from napari_maskcal.restore.loaders.torchscript import first_line

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


class Exported:
    """See `napari_maskcal.restore.loaders.base.Loader`."""

    # It may name pickled constants and operators of any library that is imported, so it is not called harmless.
    name, kind, extra, runs_code = "torch.export", "torch-export", "", True

    def refusal(self, path: Path) -> str:
        """Return why `path` is no exported program, or empty."""
        if not path.is_file() or (names := entries(path)) is None:
            return "no zip"
        below = {*names, *names_below_top(names)}
        is_program = "archive_format" in below and any(name.startswith("models/") for name in below)
        return "" if is_program or "serialized_exported_program.json" in below else "no exported program in it"

    def said(self, path: Path) -> Said:
        """Return nothing: the graph says what is computed, not how an image is to be prepared."""
        return Said()

    def load(self, path: Path) -> nn.Module:
        """Return the program, on the processor."""
        import torch

        try:
            with path.open("rb") as file:  # of a path torch complains where it does not end in .pt2
                program = torch.export.load(file)
            module: Any = program.module()
        except Exception as error:  # noqa: BLE001 - torch.export raises whatever its parsers do
            raise ValueError(f"{path} cannot be read as an exported program: {first_line(error)}") from None
        from napari_maskcal.restore.loaders.adapted import Frozen

        return Frozen(module)


LOADER = Exported()
