"""Streams are found by probing: the right modules, proved by what adds up."""

import models
import pytest
import torch
from torch import nn

import workbench as wb
from workbench.site import STREAMS, Site

EVERY = {**models.DECODERS, "bert": models.tiny_bert, "vit": models.tiny_vit}
MODULES = {  # stream -> module in block 1 (its side is `in` for *_in and heads)
    "gpt2": ("transformer.h.1", "attn", "attn.c_proj", "attn", "mlp", "mlp"),
    "llama": ("model.layers.1", "self_attn", "self_attn.o_proj", "self_attn", "mlp", "mlp"),
    "neox": ("gpt_neox.layers.1", "attention", "attention.dense", "attention", "mlp", "mlp"),
    "gemma3": ("model.layers.1", "self_attn", "self_attn.o_proj", "post_attention_layernorm", "mlp",
               "post_feedforward_layernorm"),
    "qwen3": ("model.layers.1", "self_attn", "self_attn.o_proj", "self_attn", "mlp", "mlp"),
    "bert": ("encoder.layer.1", "attention", "attention.output.dense", "attention.output.dense", "intermediate",
             "output.dense"),
    "vit": ("layers.1", "attention", "attention.o_proj", "attention", "mlp", "mlp"),
}  # fmt: skip


def inputs(name):
    torch.manual_seed(1)
    return torch.randn(2, 3, 16, 16) if name == "vit" else torch.randint(3, models.VOCAB, (2, 9))


def raw(model, paths, value):
    """Inputs and outputs of modules, by plain hooks."""
    found, handles = {}, []

    def first(x):
        return x if isinstance(x, torch.Tensor) else next(t for t in x if isinstance(t, torch.Tensor))

    def hook(path):
        def keep(module, args, kwargs, output):
            given = [*args, *kwargs.values()]
            found[f"{path}:in"] = first([t for t in given if isinstance(t, torch.Tensor)]).detach().clone()
            found[f"{path}:out"] = first(output).detach().clone()

        return keep

    for path in paths:
        handles.append(model.get_submodule(path).register_forward_hook(hook(path), with_kwargs=True))
    with torch.no_grad():
        model(value)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", EVERY)
def test_the_right_modules_are_found(name):
    plan = wb.Subject(EVERY[name]()).plan
    block, attn, out_proj, attn_out, mlp, mlp_out = MODULES[name]
    found = {stream: str(plan.streams[stream][1]) for stream in STREAMS}
    assert found == {
        "resid": f"{block}:out",
        "attn_in": f"{block}.{attn}:in",
        "heads": f"{block}.{out_proj}:in",
        "attn_out": f"{block}.{attn_out}:out",
        "mlp_in": f"{block}.{mlp}:in",
        "mlp_out": f"{block}.{mlp_out}:out",
    }
    assert len(plan.blocks) == 3


@pytest.mark.parametrize("name", EVERY)
def test_every_stream_equals_a_raw_hook(name):
    model = EVERY[name]()
    subject = wb.Subject(model)
    value = inputs(name)
    sites = [Site(layer, stream) for layer in range(3) for stream in STREAMS] + [Site(None, "embed")]
    ports = {site: subject.plan.port(site) for site in sites}
    expected = raw(model, {port.path for port in ports.values()}, value)
    for site, h in subject.read(value, sites).items():
        assert (h - expected[str(ports[site])]).abs().max() <= 1e-6, site
        assert subject.width(site) == h.shape[-1]


@pytest.mark.parametrize("name", [n for n in EVERY if n != "bert"])
def test_what_is_added_to_the_residual_adds_up(name):
    subject = wb.Subject(EVERY[name]())
    h = subject.read(inputs(name), [f"{i}.{s}" for i in range(3) for s in ("resid", "attn_out", "mlp_out")])
    for layer in (1, 2):
        total = h[Site(layer - 1, "resid")] + h[Site(layer, "attn_out")] + h[Site(layer, "mlp_out")]
        torch.testing.assert_close(total, h[Site(layer, "resid")], rtol=1e-5, atol=1e-5)


def test_a_block_that_normalises_after_the_sum_adds_up_inside_its_norms():
    model = models.tiny_bert()
    h = wb.Subject(model).read(inputs("bert"), ["0.resid", "1.attn_out", "1.mlp_in", "1.mlp_out", "1.resid"])
    layer = model.encoder.layer[1]
    middle = layer.attention.output.LayerNorm(h[Site(0, "resid")] + h[Site(1, "attn_out")])
    torch.testing.assert_close(middle, h[Site(1, "mlp_in")])
    torch.testing.assert_close(layer.output.LayerNorm(middle + h[Site(1, "mlp_out")]), h[Site(1, "resid")])


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_heads_and_inputs_are_what_the_table_says(name):
    model = EVERY[name]()
    h = wb.Subject(model).read(inputs(name), ["1.heads", "1.attn_out", "1.attn_in", "1.mlp_in", "0.resid", "1.mlp_out"])
    block = model.model.layers[1]
    out = block.self_attn.o_proj(h[Site(1, "heads")])
    post = block.post_attention_layernorm(out) if name == "gemma3" else out
    torch.testing.assert_close(post, h[Site(1, "attn_out")])
    torch.testing.assert_close(block.input_layernorm(h[Site(0, "resid")]), h[Site(1, "attn_in")])
    middle = h[Site(0, "resid")] + h[Site(1, "attn_out")]
    norm = block.pre_feedforward_layernorm if name == "gemma3" else block.post_attention_layernorm
    torch.testing.assert_close(norm(middle), h[Site(1, "mlp_in")])
    mlp = block.mlp(h[Site(1, "mlp_in")])
    torch.testing.assert_close(
        block.post_feedforward_layernorm(mlp) if name == "gemma3" else mlp, h[Site(1, "mlp_out")]
    )


class Mix(nn.Module):
    def __init__(self, d=16):
        super().__init__()
        self.over, self.out = nn.Linear(9, 9), nn.Linear(d, d)

    def forward(self, x):
        return self.out(self.over(x.transpose(1, 2)).transpose(1, 2))


class OddBlock(nn.Module):
    def __init__(self, d=16):
        super().__init__()
        self.a, self.z, self.mix = nn.LayerNorm(d), nn.LayerNorm(d), Mix(d)
        self.feed = nn.Sequential(nn.Linear(d, 24), nn.ReLU(), nn.Linear(24, d))

    def forward(self, x):
        x = x + self.mix(self.a(x))
        return (x + self.feed(self.z(x)), "a second thing")


class OddModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = nn.ModuleList(OddBlock() for _ in range(4))

    def forward(self, x):
        for floor in self.tower:
            x = floor(x)[0]
        return x


def test_a_model_nobody_knows_is_resolved_and_run():
    torch.manual_seed(0)
    model, value = OddModel().eval(), torch.randn(2, 9, 16)
    subject = wb.Subject(model, probe=value)
    assert subject.layers == 4
    assert {s: str(p[2]) for s, p in subject.plan.streams.items()} == {
        "resid": "tower.2:out", "attn_in": "tower.2.mix:in", "heads": "tower.2.mix.out:in",
        "attn_out": "tower.2.mix:out", "mlp_in": "tower.2.feed:in", "mlp_out": "tower.2.feed:out",
    }  # fmt: skip
    h = subject.read(value, ["1.resid"])[Site(1, "resid")]
    changed = subject.run(value, {"1.resid": wb.edit.add(torch.ones(16)).everywhere()}).logits
    expected = h + 1
    for floor in model.tower[2:]:
        expected = floor(expected)[0]
    torch.testing.assert_close(changed, expected)


def test_a_plain_mlp_and_a_cnn_are_read_and_edited_by_path():
    mlp, x = models.tiny_mlp(), torch.randn(4, 10)
    subject = wb.Subject(mlp)
    h = subject.read(x, ["1:out", "2:in"])
    torch.testing.assert_close(h[Site(None, "1:out")][:, 0], mlp[1](mlp[0](x)))
    out = subject.run(x, {"1:out": wb.edit.zero()}).logits
    torch.testing.assert_close(out, mlp[2:](torch.zeros(4, 16)))
    cnn, image = models.tiny_cnn(), torch.randn(2, 3, 16, 16)
    subject = wb.Subject(cnn, probe=image)
    places = subject.read(image, ["1:out"])[Site(None, "1:out")]
    assert places.shape == (2, 256, 8), "places are positions, channels the vector"
    torch.testing.assert_close(places[0, 17], cnn[:2](image)[0, :, 1, 1])
    assert subject.width("1:out") == 8
    out = subject.run(image, {"1:out": wb.edit.add(torch.ones(8))}).logits
    torch.testing.assert_close(out, cnn[2:](cnn[:2](image) + 1))


def test_what_cannot_be_found_prints_the_tree_and_the_mapping_to_fill_in():
    with pytest.raises(ValueError, match=r"'mlp_out' was not found") as caught:
        wb.Subject(models.tiny_mlp()).read(torch.randn(2, 10), ["0.mlp_out"])
    assert "sites={" in str(caught.value)
    assert "2 (Linear) (16,) -> (16,)" in str(caught.value)


def test_a_mapping_stands_in_for_the_resolver():
    model, value = models.tiny_llama(), inputs("llama")
    found = wb.Subject(model).read(value, ["2.mlp_out", "1.attn_in"])
    mapped = wb.Subject(model, sites={"mlp_out": "model.layers.{layer}.mlp.down_proj:out"})
    assert str(mapped.plan.streams["mlp_out"][2]) == "model.layers.2.mlp.down_proj:out"
    for site, h in mapped.read(value, ["2.mlp_out", "1.attn_in"]).items():
        assert torch.equal(h, found[site])
    blocks = wb.Subject(model, sites={"blocks": "model.layers"})
    assert blocks.plan.streams == wb.Subject(model).plan.streams


@pytest.mark.parametrize("name", models.DECODERS)
def test_half_precision_is_resolved_alike(name):
    half = wb.Subject(models.DECODERS[name]().to(torch.bfloat16))
    assert half.plan.streams == wb.Subject(models.DECODERS[name]()).plan.streams


def test_a_wrong_sum_is_refused():
    from workbench.subject import resolve

    found = wb.Subject(models.tiny_llama()).plan
    model = models.tiny_llama()
    calls, _ = resolve.watch(model, lambda: model(inputs("llama")))
    streams = dict(found.streams) | {"attn_out": found.streams["mlp_out"]}
    with pytest.raises(ValueError, match="does not add up"):
        resolve.verify(resolve.replace(found, streams=streams), calls, set())


def test_the_streams_page_says_what_the_resolver_finds():
    from pathlib import Path

    page = (Path(__file__).parent.parent / "docs" / "streams.md").read_text()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `12.")]
    told = {row[0].strip("`").split(".")[1]: row[2:4] for row in rows}
    assert set(told) == set(STREAMS)
    for column, name in enumerate(("llama", "gemma3")):
        plan = wb.Subject(EVERY[name]()).plan
        for stream, cells in told.items():
            port = plan.streams[stream][1]
            local = port.path.replace("model.layers.1", "").lstrip(".")
            assert cells[column] == f"{'input' if port.side == 'in' else 'output'} of `{local or 'block'}`", (
                stream,
                name,
            )


SMALL = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
BEYOND = {  # families that the resolver was not written with: kind, configuration, what is special
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", SMALL | {"pad_token_id": 0}),  # norms after, none before
    "phi": ("PhiForCausalLM", "PhiConfig", SMALL),  # parallel, one norm
    "bloom": ("BloomForCausalLM", "BloomConfig", {"vocab_size": 96, "hidden_size": 32, "n_layer": 3, "n_head": 4}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", SMALL | {"num_key_value_heads": 2, "num_local_experts": 4}),
    "cohere": ("CohereForCausalLM", "CohereConfig", SMALL | {"num_key_value_heads": 2}),  # parallel, scaled logits
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        SMALL | {"num_key_value_heads": 2, "head_dim": 12, "final_logit_softcapping": 3.0},
    ),
}


def beyond(kind, config, settings):
    import transformers

    return models._build(getattr(transformers, config)(**settings), kind, 0)


@pytest.mark.parametrize("name", BEYOND)
def test_families_it_was_not_written_with_add_up_and_keep_their_head(name):
    subject = wb.Subject(beyond(*BEYOND[name]))
    tokens = inputs("llama")
    assert set(subject.plan.streams) == set(STREAMS)
    h = subject.read(tokens, ["0.resid", "1.attn_out", "1.mlp_out", "1.resid"])
    total = h[Site(0, "resid")] + h[Site(1, "attn_out")] + h[Site(1, "mlp_out")]
    torch.testing.assert_close(total, h[Site(1, "resid")], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(subject.lens(tokens)[-1], subject.run(tokens).logits, rtol=1e-5, atol=1e-5)
    assert subject.plan.plain == (name not in ("cohere", "gemma2")), "capped or scaled logits are noticed"


def test_attention_inside_a_module_that_norms_and_adds_is_still_found():
    settings = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
    plan = wb.Subject(beyond("T5EncoderModel", "T5Config", settings)).plan
    assert str(plan.streams["attn_in"][1]) == "encoder.block.1.layer.0.SelfAttention:in", "after the norm"
    assert str(plan.streams["mlp_in"][1]) == "encoder.block.1.layer.1.DenseReluDense:in"


class OneBranch(nn.Module):
    """Only one write; its norm gives next to nothing, so that adding it once more would pass for a sum."""

    def __init__(self, d=16):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(d), Mix(d)
        nn.init.constant_(self.norm.weight, 1e-7)
        nn.init.zeros_(self.norm.bias)

    def forward(self, x):
        return x + self.mix(self.norm(x) * 1e7)


def test_a_block_with_one_branch_is_given_no_second():
    torch.manual_seed(0)
    model, value = nn.Sequential(*(OneBranch() for _ in range(3))).eval(), torch.randn(2, 9, 16)
    plan = wb.Subject(nn.ModuleDict({"t": model})["t"], probe=value).plan
    assert plan.streams["attn_out"][1].path == "1.mix"
    assert "mlp_out" not in plan.streams
