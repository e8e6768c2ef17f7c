"""Chats, each run alone, or packed end to end into blocks: which rows teach a dictionary the special tokens?"""

import sys
from functools import cache
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu
from rows import Rows, joined

from workbench.batch import Tokens
from workbench.dictionary import recipe, train
from workbench.harvest import corpus
from workbench.regimes import selection, sequential
from workbench.subject import Subject

CLAIM = "Trained on chats that are each run alone, a dictionary has less error on their special tokens than on blocks"
SOURCE = "Li et al. 2025, arXiv:2506.07691"
SETTING = "SmolLM2-135M 2.resid; 64 chats of two turns, or the same in blocks of 256; 1024 latents, k = 16"
ARMS = ("FVU at special tokens of held-out chats, trained on blocks", "on chats run alone")
MARGIN = 0.0
SEEDS = 3


@cache
def model() -> Subject:
    return Subject("smollm2-135m")


def chats(seed: int) -> list[list[dict[str, str]]]:
    """96 chats of two turns whose words are the pack's."""
    pack = corpus("pack").texts
    order = torch.randperm(len(pack), generator=torch.Generator().manual_seed(seed)).tolist()
    words, _ = selection.passages([pack[i][:400] for i in order[:400]], 80)
    return [
        [{"role": ("system", "user", "assistant", "user", "assistant")[i], "content": words[5 * chat + i]}
         for i in range(5)]
        for chat in range(96)
    ]  # fmt: skip


def measure(seed: int) -> tuple[float, float]:
    given, subject = chats(seed), model()

    def rows(tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows but the first of a text, and which of them are special."""
        h = torch.cat([subject.read(tokens.rows(slice(i, i + 8)), ["2.resid"]).popitem()[1]
                       for i in range(0, len(tokens.ids), 8)])  # fmt: skip
        mask = tokens.mask[:, 1:]
        special = torch.isin(tokens.ids, torch.tensor(sorted(subject.special_ids)))[:, 1:]
        return h[:, 1:][mask], special[mask]

    alone = sequential.conversations(subject, given[:64])
    packed = sequential.blocks(subject, given[:64], length=256, seed=seed)
    held, special = rows(sequential.conversations(subject, given[64:]))

    def error(tokens: Tokens) -> float:
        made = recipe("batch_topk", d=576, latents=1024, k=16, seed=seed)
        d = train(made, Rows(rows(tokens)[0], 256, 200, seed), site=None, seed=seed, progress=False)
        return fvu(d, joined(held[special]))

    return error(packed), error(alone)
