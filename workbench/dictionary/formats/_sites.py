"""The field's names of places in a model, as our sites."""

import re
from typing import Any

from ...site import Site
from ._source import shown

HOOKS = {  # TransformerLens, after `blocks.<layer>.`
    "hook_resid_post": "resid",
    "ln1.hook_normalized": "attn_in",
    "attn.hook_z": "heads",
    "hook_attn_out": "attn_out",
    "ln2.hook_normalized": "mlp_in",
    "hook_mlp_out": "mlp_out",
}
MODULES = {  # Hugging Face, after the layer: what comes out of a module, and what goes in
    "": {"out": "resid"},
    "mlp": {"out": "mlp_out", "in": "mlp_in"},
    "self_attn": {"out": "attn_out", "in": "attn_in"},
    "attn": {"out": "attn_out", "in": "attn_in"},
    "attention": {"out": "attn_out", "in": "attn_in"},
    "self_attn.o_proj": {"in": "heads"},
    "attn.c_proj": {"in": "heads"},
    "attention.dense": {"in": "heads"},
    "attn.out_proj": {"in": "heads"},
    "pre_feedforward_layernorm": {"out": "mlp_in"},
    "post_feedforward_layernorm": {"out": "mlp_out"},
}
_HOOK = re.compile(r"blocks\.(\d{1,4})\.([\w.]+)")
_MODULE = re.compile(r"(?:model\.|transformer\.|gpt_neox\.|language_model\.)*(?:layers|h|blocks)\.(\d{1,4})\.?([\w.]*)")
_EMBED = re.compile(r"(?:model\.|transformer\.|gpt_neox\.)*(?:embed_tokens|wte|embed_in)|hook_embed")


def site_of(name: str) -> Site:
    """Our site of a TransformerLens hook, or of a module's path, `:in` where what goes into it is meant.

    Raises ValueError for a place that has no stream of ours: a residual between attention and MLP, a head alone.
    """
    if hook := _HOOK.fullmatch(name):
        layer, stream = int(hook[1]), hook[2]
        if stream in HOOKS:
            return Site(layer, HOOKS[stream])
        if stream == "hook_resid_pre":  # what the block before it gave
            return Site(layer - 1, "resid") if layer else Site(None, "embed")
    path, _, side = name.partition(":")
    if _EMBED.fullmatch(path) and side in ("", "out"):
        return Site(None, "embed")
    module = _MODULE.fullmatch(path)
    if module and not module[2] and side == "in":  # what the block before it gave
        return Site(int(module[1]) - 1, "resid") if int(module[1]) else Site(None, "embed")
    if module and (stream := MODULES.get(module[2], {}).get(side or "out")):
        return Site(int(module[1]), stream)
    raise ValueError(
        f"this dictionary lives at {shown(name)}, which is no stream of ours: give site= (and target=) yourself"
    )


def placed(name: str, subject: Any) -> Site:
    """Our site of a name in this model. Where the model adds something else than the module gives, the module itself.

    In a model with a norm after the MLP, what comes out of the module `mlp` is not our mlp_out. What stands before the
    block in a path does not count. Raises ValueError when the model has no such module.
    """
    site, (path, _, side) = site_of(name), name.partition(":")
    module = _MODULE.fullmatch(path)
    if module is None or not module[2] or "hook_" in path:
        return site
    own, side, port = f"{subject.plan.blocks[int(module[1])]}.{module[2]}", side or "out", subject.plan.port(site)
    if (port.path, port.side) == (own, side):
        return site
    if own not in dict(subject.model.named_modules()):
        raise ValueError(f"{subject.name} has no module {shown(own)}: give site= (and target=) yourself")
    return Site(None, f"{own}:{side}")


def hook_of(site: Site) -> str:
    """What TransformerLens calls a site. Raises ValueError for a module path, which it does not know."""
    if site.layer is None:
        if site.stream == "embed":
            return "blocks.0.hook_resid_pre"
        raise ValueError(f"TransformerLens has no name for {site}")
    return f"blocks.{site.layer}." + next(hook for hook, stream in HOOKS.items() if stream == site.stream)


def before_gain(name: str | None) -> bool:
    """Whether TransformerLens takes these rows before the gain of an RMS norm."""
    return name is not None and re.fullmatch(r"blocks\.\d+\.ln[12]\.hook_normalized", name) is not None
