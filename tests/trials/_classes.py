"""Classes with a direction of their own among many in superposition, and dictionaries that know it or do not."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import plain_codecs

from workbench.evaluate import Case
from workbench.evaluate.tasks.texts import planted

BY = 37.5


@cache
def cases() -> SimpleNamespace:
    texts, world = planted(200, 5, rows=2, n=64, d=32, share=0.8)
    x = texts.examples.x
    n, d = world.truth.shape
    random = plain_codecs.random(n, d)
    bigger = replace(texts, examples=replace(texts.examples, x=BY * x, y=BY * x))

    def case(codec, texts=texts):
        given = {"labelled": texts.examples, "labelled_texts": texts}
        return Case(codec, None, plain_codecs.MemoryRows(texts.examples.x), resamples=300, given=given)

    return SimpleNamespace(
        true=case(world.oracle()),
        random=case(random),
        identity=case(plain_codecs.identity(d)),
        mean=case(plain_codecs.mean(x.mean(0))),
        larger=case(plain_codecs.rescaled(random, BY), bigger),
    )
