"""What tracers are tried on: a linear model whose circuit is known, and untrained dictionaries with every part set."""

from functools import cache

import torch
from torch import nn

from workbench.dictionary import Dictionary, decoders, encoders, sparsifiers
from workbench.subject import Subject
from workbench.testbeds import world


def unsettled(d, s):
    """A dictionary with biases, skip and scales that are not 0 or 1, in the model's dtype."""
    for name, p in d.named_parameters():
        if "bias" in name or "skip" in name:
            nn.init.normal_(p, std=0.05)
    d.set_scale_(1.3, 0.8)
    return d.to(s.dtype).freeze()


@cache
def two_hop():
    """The world as a GPT-2 whose attention writes nothing and whose MLPs are the two maps; its transcoders are true."""
    from transformers import GPT2Config, GPT2LMHeadModel

    toy = world("two_hop")
    truth, rows = toy.truth, toy.sample(40, 0)
    config = GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, n_positions=8, tie_word_embeddings=False)
    m = GPT2LMHeadModel(config)
    m.transformer.wte.weight.data = rows.x.clone()
    m.transformer.wpe.weight.data.zero_()
    m.transformer.ln_f = nn.Identity()
    for block, linear in zip(m.transformer.h, [toy.model.first, toy.model.second], strict=True):
        block.ln_1, block.ln_2, block.mlp = nn.Identity(), nn.Identity(), linear
        for p in block.attn.c_proj.parameters():
            p.data.zero_()
    m.lm_head.weight.data.zero_()
    m.lm_head.weight.data[:5] = truth.targets
    s = Subject(m.double(), name="two_hop", dtype=torch.float64, sites={
        "blocks": "transformer.h", "mlp_in": "transformer.h.{layer}.mlp:in", "mlp_out": "transformer.h.{layer}.mlp:out",
        "unembed": "lm_head"})  # fmt: skip

    def given(reads, writes):
        n = len(reads)
        d = Dictionary(
            encoders.Linear((32,), n, center=False), sparsifiers.Given(signed=True), decoders.Linear(n, (32,))
        )
        d.encoder.weight.data, d.decoder.weight.data = reads.T.clone(), writes.clone()
        return d.double().freeze()

    into = truth.second @ truth.middles + truth.direct @ truth.sources
    t = {0: given(truth.first @ truth.sources, truth.middles), 1: given(into, truth.targets)}
    return s, t, truth, rows.code.double()
