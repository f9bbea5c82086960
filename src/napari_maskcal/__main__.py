"""``python -m napari_maskcal`` is ``maskcal``."""

from napari_maskcal.cli import main

main()
