"""More latents: which part of the error do they take away?"""

import torch
from plain_codecs import MemoryRows
from rows import Rows

from workbench.batch import Tokens
from workbench.dictionary import recipe, train
from workbench.evaluate import Case
from workbench.evaluate.evals.dark_matter import dark_matter
from workbench.testbeds import subject, world

CLAIM = "Wider dictionaries lose the linear part of their error rather than the nonlinear part"
SOURCE = "Engels et al. 2024, arXiv:2410.14670"
SETTING = (
    "tiny_text_gelu, three seeds of it, 1.resid, texts of 128 tokens; TopK with AuxK, k = 16, 256 and 2,048 latents, "
    "400 steps of 512 rows of 500 texts; map fitted on 100 other texts, measured on 100 more"
)
ARMS = ("share of the linear part that eight times the latents take away", "share of the nonlinear part")
MARGIN = 0.1
SEEDS = 3
NOTE = (
    "On subject 0, texts of seed 100, the linear part goes from 1.2 % of the variance to 0.8 %, the nonlinear part "
    "from 3.4 % to 3.2 %"
)
SITE, WIDTHS = "1.resid", (256, 2048)


def measure(seed: int) -> tuple[float, float]:
    model = subject("tiny_text_gelu", seed=seed % 3)
    ids = world("tiny_text").sample(700, 30_000 + seed).ids
    x = model.read(Tokens(ids, ids >= 0), [SITE]).popitem()[1][:, 1:]
    text, pos = torch.arange(200).repeat_interleave(127), torch.arange(1, 128).repeat(200)
    held = MemoryRows(x[500:].flatten(0, 1), text=text, pos=pos)
    made = [recipe("topk_auxk", d=model.d, latents=n, k=16, seed=seed) for n in WIDTHS]
    stream = Rows(x[:500].flatten(0, 1), 512, 400, seed)
    found = [dark_matter(Case(d, model, held, resamples=2), pursuit_rows=0)
             for d in train(made, stream, site=SITE, seed=seed, progress=False)]  # fmt: skip
    few, many = ({m: f[m].value for m in ("linear_fvu", "nonlinear_fvu")} for f in found)
    return 1 - many["linear_fvu"] / few["linear_fvu"], 1 - many["nonlinear_fvu"] / few["nonlinear_fvu"]
