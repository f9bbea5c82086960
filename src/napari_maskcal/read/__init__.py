"""First stage: images with named axes, pixel size and units."""
