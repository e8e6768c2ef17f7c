"""Prompt sets with labels, one file each; a set's function bears the file's name."""
