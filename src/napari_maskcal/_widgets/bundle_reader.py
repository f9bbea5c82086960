"""What napari does with a ``.maskcal`` file: the Review dock chooses it, and no layer is added."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Reader = Callable[..., list[tuple[None]]]

_NO_LAYER: list[tuple[None]] = [(None,)]  # what napari takes as: opened, and there is no layer to add


def get_reader(path: str | Sequence[str]) -> Reader | None:
    """Return what opens ``.maskcal`` files; None for others.

    Nothing is looked at but the name: what is wrong with a file is said in the dock, beside the field that it is for.
    """
    return _choose_in_review if all(name.lower().endswith(".maskcal") for name in _names(path)) else None


def _choose_in_review(path: str | Sequence[str], **_: Any) -> list[tuple[None]]:
    """Choose one file after the other in the Review dock of the current window: the last stays, all are in its list.

    Raises
    ------
    ValueError
        If there is no window.
    """
    import napari  # here, since napari asks for a reader before it is needed

    viewer = napari.current_viewer()
    if viewer is None:
        raise ValueError(
            f"{path} is opened in napari's Review dock, and there is no window; open it in a napari.Viewer"
        )
    docked, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")  # or the one that is open
    docked.show()
    docked.raise_()
    for name in _names(path):
        dock.mask_model.choose(str(Path(name).absolute()))
    return _NO_LAYER


def _names(path: str | Sequence[str]) -> Sequence[str]:
    return [path] if isinstance(path, str) else path
