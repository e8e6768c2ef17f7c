"""One file each: a new file is a new variant."""
