"""The manifest, and what napari's start-up costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from npe2 import PluginManifest

import napari_maskcal

MANIFEST = Path(napari_maskcal.__file__).parent / "napari.yaml"


def test_every_command_of_the_manifest_exists_and_has_the_plugins_prefix():
    manifest = PluginManifest.from_file(MANIFEST)
    assert manifest.name == "napari-maskcal"
    assert len(manifest.contributions.commands) == 5
    for command in manifest.contributions.commands:
        assert command.id.startswith("napari-maskcal.")
        assert callable(command.python_name and _resolve(command.python_name))


def test_the_manifest_at_the_top_is_the_one_that_ships():
    top = Path(__file__).parents[2] / "napari.yaml"
    assert top.resolve() == MANIFEST.resolve()


def _resolve(python_name: str) -> object:
    module, _, name = python_name.partition(":")
    return getattr(__import__(module, fromlist=[name]), name)


def test_neither_napari_nor_the_open_docks_import_torch_or_matplotlib(tmp_path):
    """A process of its own: here torch was imported long ago."""
    program = """
import sys, napari
viewer = napari.Viewer(show=False)
assert "torch" not in sys.modules, "at start-up"
viewer.open_sample("napari-maskcal", "noisy_stack")
assert "torch" not in sys.modules, "with the sample"
_, dock = viewer.window.add_plugin_dock_widget("napari-maskcal", "Review")
assert dock.problems == [], dock.problems
assert "torch" not in sys.modules, "with the dock"
assert "matplotlib" not in sys.modules, "before there is anything to plot"
from napari_maskcal.models import model_path
viewer.open(str(model_path("demo", role="mask")), plugin="napari-maskcal")
assert "torch" not in sys.modules, "with an opened bundle"
viewer.window.add_plugin_dock_widget("napari-maskcal", "Calibrate")
assert "torch" not in sys.modules, "with the dock that calibrates"
assert "matplotlib" not in sys.modules, "with the dock that calibrates"
viewer.window.add_plugin_dock_widget("napari-maskcal", "Train a mask model")
assert "torch" not in sys.modules, "with the dock that trains"
assert "matplotlib" not in sys.modules, "with the dock that trains"
import torch
assert "torch" in sys.modules
viewer.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr[-2000:]
