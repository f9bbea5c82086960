"""How far the trusted part of a restored image is from the same part of the truth."""
