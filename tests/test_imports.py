from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import napari_maskcal

GUI = {"napari", "qtpy", "magicgui", "superqt", "PyQt5", "PyQt6", "PySide2", "PySide6", "vispy"}
HEAVY = {"torch", "dask", "scipy", "skimage", "zarr", "lpips"}
TORCH_NEEDED = ("loaders.adapted", "loaders.bioimage_network", "loaders.onnx_session", "loaders.probe",
                "loaders.spandrel_network", "mask.budget", "mask.checkpoint", "mask.collapse", "mask.composed",
                "mask.learner", "mask.losses", "mask.network", "mask.scores", "mask.train", "mask.weight",
                "restore.arithmetic", "restore.device", "restore.engine", "restore.unet", "restore.volumes",
                "restore.whole")  # fmt: skip
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(napari_maskcal.__path__, "napari_maskcal.")
    if "._widgets" not in name and not name.endswith("__main__")
]
LIGHT = [name for name in MODULES if not name.endswith(TORCH_NEEDED)]
WITH_TORCH = " ".join(name for name in MODULES if name not in LIGHT)

# Each module in a process of its own, forked from one that has imported nothing yet; those with torch in one together.
IMPORT_EACH = """
import importlib, json, os, sys
loaded = {}
for names in sys.argv[1:]:
    read, write = os.pipe()
    if os.fork() == 0:
        for name in names.split():
            importlib.import_module(name)
        os.write(write, json.dumps(sorted({m.partition(".")[0] for m in sys.modules})).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        loaded[names] = json.loads(pipe.read())
    os.wait()
print(json.dumps(loaded))
"""


def loaded_by(*names: str) -> dict[str, set[str]]:
    """The top-level packages that importing each module loads."""
    command = [sys.executable, "-c", IMPORT_EACH, *names]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout  # noqa: S603
    return {name: set(packages) for name, packages in json.loads(text).items()}


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    return loaded_by("napari_maskcal", *LIGHT, WITH_TORCH, "napari_maskcal._widgets.layers")


def test_the_modules_are_found():
    assert len(MODULES) > 25
    assert {"napari_maskcal.pipeline", "napari_maskcal.restore.engine", "napari_maskcal.cli"} <= set(MODULES)


@pytest.mark.parametrize("name", [*LIGHT, WITH_TORCH])
def test_nothing_outside_widgets_loads_a_gui(loaded, name):
    assert "napari_maskcal" in loaded[name]
    assert not loaded[name] & GUI


def test_a_widget_does_so_the_check_can_fail(loaded):
    assert loaded["napari_maskcal._widgets.layers"] & GUI


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_load_neither_torch_nor_anything_else_that_is_slow(loaded, name):
    assert not loaded[name] & HEAVY


def test_the_others_load_torch_so_this_check_can_fail_too(loaded):
    assert "torch" in loaded[WITH_TORCH]


def test_the_package_itself_loads_next_to_nothing(loaded):
    assert not loaded["napari_maskcal"] & {"numpy", "pydantic", "click", "tifffile", "safetensors", *HEAVY}


def test_the_public_names_are_there_and_few():
    assert len(napari_maskcal.__all__) <= 10
    for name in napari_maskcal.__all__:
        assert getattr(napari_maskcal, name) is not None
    assert dir(napari_maskcal) == sorted(napari_maskcal.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = napari_maskcal.nonsense
