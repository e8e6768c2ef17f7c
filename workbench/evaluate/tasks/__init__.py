"""What evals need beside rows, made of the project's own worlds, prompt sets and subjects: one file each.

A function takes a subject and a site and gives what `Case(..., given={...})` wants. All data ship with the project, so
numbers are not comparable with those published on the original benchmarks.
"""
