"""A toy of three attributes as planted vectors with a linear read-out."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import plain_codecs
import torch

from workbench.evaluate import Case
from workbench.evaluate.tasks import ioi

BY = 37.5


@cache
def cases() -> SimpleNamespace:
    made = ioi.toy()
    vectors = torch.cat([made.atoms, made.mean[None]])
    dual, train = torch.linalg.pinv(vectors), made.rows[made.attributes.fold == 0]

    def read(x: torch.Tensor) -> torch.Tensor:
        z = x @ dual
        return torch.where(z > 0.5, z, 0.0)  # the rest is noise

    codecs = {
        "true": plain_codecs.PlainCodec(vectors, read, torch.zeros(32), site=ioi.SITE, target=ioi.SITE),
        "random": plain_codecs.random(len(vectors), made.rows.shape[1], site=ioi.SITE),
        "identity": plain_codecs.identity(made.rows.shape[1], ioi.SITE),
        "mean": plain_codecs.mean(train.mean(0), ioi.SITE),
    }
    rows = plain_codecs.MemoryRows(made.rows)
    subject, given = made.subject, {"attributes": made.attributes}
    found = {n: Case(c, subject, rows, name=n, resamples=300, given=given) for n, c in codecs.items()}
    toy: Any = ioi.Toy(BY * subject.embed, lambda h: subject.head(h / BY))
    codec = plain_codecs.rescaled(codecs["random"], BY)
    larger = Case(codec, toy, plain_codecs.MemoryRows(BY * made.rows), resamples=300, given=given)
    return SimpleNamespace(**found, larger=larger)
