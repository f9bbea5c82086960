"""Second stage: a degraded plane goes in, the restored plane and its uncertainty come out, tile by tile."""
