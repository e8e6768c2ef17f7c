"""Latents or gradients: what does forgetting cost elsewhere?"""

import sys
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
import torch
from ravel_facts import on, trained
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workbench import testbeds
from workbench.batch import Tokens
from workbench.evaluate.evals.unlearning import Forgetting, unlearning
from workbench.evaluate.examples import TEST, VALIDATION
from workbench.evaluate.tasks import facts
from workbench.testbeds.models import next_token_loss
from workbench.testbeds.worlds.facts import ATTRIBUTES

CLAIM = "Gradient ascent costs more loss on other text than clamped latents that forget as much, 99 % of the rest kept"
SOURCE = "Farrell, Lau, Conmy 2024, arXiv:2410.19278"
SETTING = (
    "the facts subject, 1.resid; BatchTopK, 384 latents, k = 8, 400 steps of 512 rows; one attribute is to be "
    "forgotten, another for each seed; the gradient baseline trains all weights (Adam, 1e-4) up on the loss of its "
    "values to 3 nats, down on that of 128 retained sentences, and stops when as much is forgotten on half "
    "of the people; both judged on the others, on facts that the subject knew"
)
ARMS = ("rise of the loss in nats per token of other text, gradients", "the same, clamped")
MARGIN = 0.0
SEEDS = 8
NOTE = (
    "The claim was the other way round, as in the source, until a look at seed 100 where clamping was the cheaper. It "
    "depends on the attribute: clamping costs 0.001 to 0.12 nats and once 0.95 (the year), gradients 0.03 to "
    "0.14. Of the other facts of the test half clamping keeps 0.98 to 1, gradients 0.95 to 0.98: they were held to the "
    "sentences of half of the people only, and wear off the rest. Also changed after looks at seed 100: one "
    "attribute a seed, the loss on what is to be forgotten capped at 3 nats, eight seeds for five"
)
TRIES = {"densities": (0.01, 0.05), "latents": (5, 20, 40), "multipliers": (1.0, 5.0, 20.0)}
MOST, CAP = 100, 3.0  # steps, nats


class Judged(NamedTuple):
    forgotten: float
    retained: float


@torch.no_grad()
def right(model: nn.Module, given: Forgetting, which: Tensor) -> Tensor:
    ids, last = given.questions.ids[which], given.questions.mask[which].sum(1) - 1
    return model(input_ids=ids).logits[torch.arange(len(ids)), last].argmax(-1) == given.answer[which]


def judged(model: nn.Module, given: Forgetting, which: Tensor) -> Judged:
    said, gone = right(model, given, which).float(), given.forget[which]
    return Judged(1 - float(said[gone].mean()), float(said[~gone].mean()))


def value_loss(model: nn.Module, text: Tokens) -> Tensor:
    """Loss of the value, the last word before the full stop; a sentence that has lost it (CAP nats) counts no more."""
    at = text.mask.sum(1) - 2
    row = torch.arange(len(at))
    logits = model(input_ids=text.ids).logits[row, at - 1]
    return cross_entropy(logits, text.ids[row, at], reduction="none").clamp_max(CAP).mean()


def ascent(model: nn.Module, given: Forgetting, goal: float, seed: int) -> nn.Module:
    """The first model of a run that forgets as much as the goal, 99 % of the rest kept, on the validation half.

    Where none does, the one that forgets most while it keeps so much.
    """
    drawn, known = torch.Generator().manual_seed(seed), right(model, given, given.fold > 0)
    validation = (known & (given.fold == VALIDATION)).nonzero()[:, 0]
    tuned = deepcopy(model).requires_grad_()
    optimiser, best, kept = torch.optim.Adam(tuned.parameters(), lr=1e-4), -1.0, deepcopy(tuned)
    for step in range(MOST):
        some, rest = (
            text.rows(torch.randint(len(text.ids), (n,), generator=drawn))
            for text, n in ((given.forget_text, 64), (given.retain_text, 128))
        )
        with torch.enable_grad():
            loss = next_token_loss(tuned, rest.ids.masked_fill(~rest.mask, -100)) - value_loss(tuned, some)
            grads = torch.autograd.grad(loss, list(tuned.parameters()))
        for p, g in zip(tuned.parameters(), grads, strict=True):
            p.grad = g
        nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
        optimiser.step()
        if step % 2:
            now = judged(tuned, given, validation)
            if now.retained >= 0.99 and now.forgotten > best:
                best, kept = now.forgotten, deepcopy(tuned)
            if best >= goal:
                break
    return kept


@torch.no_grad()
def loss(model: nn.Module, text: Tokens) -> float:
    return float(next_token_loss(model, text.ids.masked_fill(~text.mask, -100)))


def arms(seed: int) -> tuple[Judged, float, Judged, float]:
    """What clamping does and costs, what gradients do and cost."""
    subject = testbeds.subject("facts")
    codec = trained(subject, "batch_topk", seed, latents=384, k=8, steps=400)
    given = facts.forgetting(subject, what=ATTRIBUTES[seed % len(ATTRIBUTES)], seed=seed)
    here = unlearning(on(codec, subject, seed, forgetting=given), **TRIES)
    tuned = ascent(subject.model, given, here["forgotten"].value, seed)
    rise = loss(tuned, given.other_text) - loss(subject.model, given.other_text)
    clamped = Judged(here["forgotten"].value, here["retained"].value)
    test = (right(subject.model, given, given.fold > 0) & (given.fold == TEST)).nonzero()[:, 0]
    return clamped, here["side_effect"].value, judged(tuned, given, test), rise


def measure(seed: int) -> tuple[float, float]:
    _, clamped, _, tuned = arms(seed)
    return tuned, clamped
