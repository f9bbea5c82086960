"""Weight formats, one file each, imported when a file of that format is opened."""
