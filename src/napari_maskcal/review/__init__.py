"""Last stage: what is drawn over the image, and what is written down about it."""
