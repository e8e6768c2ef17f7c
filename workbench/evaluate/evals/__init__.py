"""One eval per file: `name(case, **options) -> Scores` in `name.py`. A file here is an eval, in the menu and the suite.

What a file may declare for the suite (tests/test_evals.py) and for `run`:
`SPLICES = True`: it uses the shared forward passes (`splices.of(case)`), which `run` then makes for all cases together.
`NEEDS = ("labelled",)`: what it looks up by `case.need(name, type)`; `run` names what a case lacks.
`IDENTITY`, `MEAN`: {metric: value} that a lossless dictionary and one that knows only the mean must get.
`SCALE_INVARIANT`: the metrics that do not move when the activations and the dictionary are rescaled together.
The first metric is the headline; its `direction` is the one in which the true dictionary must beat a random one.
"""
