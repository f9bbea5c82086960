"""The docks: the only files that import napari, qtpy, magicgui or superqt."""
