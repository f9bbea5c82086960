"""Third stage: mask networks, which say how uncertain each pixel of a restored image is."""
