"""The Review dock with what another tool made: a restored image, an uncertainty map, or both."""

from __future__ import annotations

import numpy as np
import pytest

from given_models import given_bundle
from napari_maskcal.models import GIVEN_RESTORER
from napari_maskcal.restore.events import Done, Failed
from small_models import noisy_planes

SHAPE = (2, 64, 72)


@pytest.fixture
def given(desk, tmp_path):
    """The dock with a stack, models that make nothing themselves, and two layers of another tool."""
    desk.dock.restorer.setValue("given")
    desk.dock.mask_model.setValue(str(given_bundle(tmp_path, GIVEN_RESTORER)))
    planes = noisy_planes(*SHAPE)
    desk.open(planes + 0.25, name="theirs", scale=(3, 2, 2))
    desk.open(np.random.default_rng(0).gamma(2, 5, SHAPE), name="map")
    desk.open(planes, scale=(1, 0.5, 0.5), units=("um",) * 3)
    return desk


def choose(desk, **layers: str) -> None:
    """Choose in the boxes, as a person would."""
    for field, name in layers.items():
        chooser = getattr(desk.dock, field)
        chooser.setCurrentText(name)
        chooser.activated.emit(chooser.currentIndex())


def offered(desk) -> list[str]:
    return [desk.dock.uncertainty.itemText(i) for i in range(desk.dock.uncertainty.count())]


def shown(desk) -> list[str]:
    return [name for name in ("restored", "uncertainty") if not desk.dock.fields[name].content.isHidden()]


def test_layers_are_asked_for_only_where_no_network_makes_the_image(desk, trained, tmp_path):
    assert shown(desk) == []
    desk.open(noisy_planes(*SHAPE))
    desk.dock.restorer.setValue("given")
    assert shown(desk) == ["restored"]
    desk.dock.mask_model.setValue(str(given_bundle(tmp_path, GIVEN_RESTORER)))
    assert shown(desk) == ["restored", "uncertainty"]
    assert set(desk.faults) == {"restored", "uncertainty"}
    assert "the uncertainty map comes from another tool here; choose" in desk.faults["uncertainty"]
    assert not desk.dock.run_button.isEnabled()
    desk.dock.restorer.setValue(str(trained.restorer_path))
    desk.dock.mask_model.setValue(str(trained.mask_path))
    assert shown(desk) == []
    assert desk.faults == {}


def test_what_another_tool_made_is_drawn_where_the_input_lies_and_no_network_runs(given, passes):
    choose(given, restored="theirs", uncertainty="map")
    assert given.faults == {}
    assert isinstance(given.run(), Done)
    assert passes == []
    layers = given.viewer.layers
    np.testing.assert_array_equal(given.restored.data, layers["theirs"].data)
    threshold = given.dock.results.review.certificate.threshold
    np.testing.assert_array_equal(given.uncertain.data, layers["map"].data > threshold)
    assert 0 < given.uncertain.data.mean() < 1
    for result in given.dock.results.layers:
        np.testing.assert_array_equal(result.scale, (1, 0.5, 0.5))
        assert result.units == layers["cells"].units
    choose(given, restored="cells")
    assert given.faults == {"restored": "cells is the input itself; choose its restored image"}


def test_the_layers_offered_are_those_of_the_viewer_without_results(given):
    assert offered(given) == ["choose a layer…", "theirs", "map", "cells"]
    choose(given, restored="theirs", uncertainty="map")
    given.run()
    assert offered(given) == ["choose a layer…", "theirs", "map", "cells"]
    given.viewer.add_labels(np.zeros(SHAPE, np.uint8), name="labels")
    given.viewer.layers.selection.active = given.viewer.layers["cells"]
    given.viewer.layers["map"].name = "posterior"
    assert offered(given) == ["choose a layer…", "theirs", "posterior", "cells"]
    assert given.dock.value().uncertainty.name == "posterior"
    assert given.faults == {}
    given.viewer.layers.remove("posterior")
    assert offered(given) == ["choose a layer…", "theirs", "cells"]
    assert set(given.faults) == {"uncertainty"}
    assert given.dock.value().restored.name == "theirs"


@pytest.mark.parametrize("field", ["restored", "uncertainty"])
def test_results_are_outdated_when_a_layer_they_come_from_changes(given, field):
    choose(given, restored="theirs", uncertainty="map")
    given.run()
    assert not given.dock.results.outdated
    layer = getattr(given.dock, field).value()
    layer.data = layer.data + 1
    assert given.dock.results.outdated
    assert given.names[-1] == "uncertain (outdated)"
    given.run()
    assert not given.dock.results.outdated
    other = given.open(layer.data + 1, name="other")
    given.viewer.layers.selection.active = given.viewer.layers["cells"]
    assert not given.dock.results.outdated
    getattr(given.dock, field).setValue(other)
    assert given.dock.results.outdated
    given.run()  # pixels are read anew, not taken from what was drawn
    position = {"restored": 0, "uncertainty": 1}[field]
    np.testing.assert_allclose(given.dock.results.layers[position].data, other.data, rtol=1e-6)


def test_a_map_that_is_none_is_told_by_name(given):
    given.viewer.layers["map"].data = np.zeros(SHAPE)
    given.open(np.ones((3, 64, 72)), name="longer")
    given.viewer.layers.selection.active = given.viewer.layers["cells"]
    choose(given, restored="theirs", uncertainty="longer")
    assert "longer has shape (3, 64, 72), not (2, 64, 72)" in given.faults["uncertainty"]
    choose(given, uncertainty="map")
    assert given.faults == {}
    failed = given.run()
    assert isinstance(failed, Failed)
    assert "map, plane Z=0: the uncertainty has 4608 values that are 0 or less" in given.dock.message.text()
    given.assert_nothing_goes_on()


def test_a_closed_dock_no_longer_follows_the_layers(given):
    chooser = given.dock.uncertainty
    given.viewer.window.remove_dock_widget("all")
    given.viewer.layers.remove("map")
    assert "map" in [chooser.itemText(i) for i in range(chooser.count())]
