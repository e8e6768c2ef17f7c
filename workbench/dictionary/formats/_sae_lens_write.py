"""Our dictionaries as SAELens's version 6 folders."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import lineage
from ...site import Site
from .. import encoders, sparsifiers
from ..core import Decoder, Dictionary
from ..variants.abs_topk import AbsTopK
from ..variants.gated import Gated
from ..variants.gradient_topk import GradientTopK
from ._parts import PerRow, Rest, Skip, Sliced, Threshold
from ._sae_lens_parts import EPS, MatchingPursuit, Normed, Temporal
from ._sites import before_gain, hook_of

VERSION = "6.54.12"  # whose layout this is
THEIRS = {"layer_norm": "layer_norm", "norm": "constant_norm_rescale", None: "none"}
THRESHOLDED = (Threshold, sparsifiers.JumpReLU, sparsifiers.BatchTopK, sparsifiers.FeatureChoice)
INSIDE = {"attn_in": "self_attn:in", "mlp_in": "mlp:in"}  # TransformerLens's name is before the gain of an RMS norm


def write(dictionary: Dictionary, folder: Path) -> None:
    """Configuration last: a folder without one is not read."""
    folder = Path(folder)
    if stale := [path.name for path in sorted(folder.glob("activation_*"))]:
        raise ValueError(f"{folder} holds {stale[0]} of another dictionary, which would be applied: give a new folder")
    cfg, tensors = said(dictionary)
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    lineage.write_tensors(folder / "sae_weights.safetensors", weights)
    text = json.dumps(cfg | {"metadata": _metadata(dictionary)}, indent=1, allow_nan=False)
    lineage.write(folder / "cfg.json", f"{text}\n".encode())


def spelled(site: str) -> str:
    """A site's text form as a name that `site_of` knows."""
    found = Site.of(site)
    return found.stream if found.layer is None else f"layers.{found.layer}.{INSIDE.get(found.stream, found.stream)}"


@torch.no_grad()
def said(dictionary: Dictionary) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """SAELens's configuration and tensors. Raises ValueError that names what it has no word for."""
    encoder, decoder, d = dictionary.encoder, dictionary.decoder, dictionary.d
    linear = isinstance(decoder, Sliced) or (isinstance(decoder, Decoder) and type(decoder).forward is Decoder.forward)
    if len(dictionary.shape) != 1 or len(decoder.shape) != 1:
        raise _no(f"rows of several sites, {dictionary.shape} to {decoder.shape}")
    if not linear:
        raise _no(f"the decoder {type(decoder).__name__}")
    atoms, b_dec = decoder.weight[:] / dictionary.scale_out, decoder.bias / dictionary.scale_out
    cfg = {
        "d_in": d,
        "d_sae": dictionary.latents,
        "dtype": str(atoms.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if _stream(dictionary.site) == "heads" else "none",
    }
    across = decoder.shape != dictionary.shape or (dictionary.target or dictionary.site) != dictionary.site
    if across and type(encoder) not in (encoders.Linear, Normed):
        raise _no(f"the encoder {type(encoder).__name__} with a target elsewhere")
    if type(encoder) is Temporal:
        more, tensors = _temporal(dictionary)
        return cfg | more, tensors
    if type(encoder) in (MatchingPursuit, encoders.Pursuit):
        more, tensors = _pursuit(dictionary, atoms, b_dec)
        return cfg | more, tensors
    if type(encoder) is PerRow:
        if encoder.eps != EPS[encoder.how]:
            raise _no(f"an eps of {encoder.eps:g} in a {encoder.how} of each row, only {EPS[encoder.how]:g}")
        b_dec = _row_by_row(dictionary)
        center = torch.equal(encoder.shift, b_dec)
        if not center and bool(encoder.shift.any()):
            raise _no("a shift of normalised rows other than the decoder's bias")
        weight, bias, sparsifier = encoder.linear.weight, encoder.linear.bias, encoder.sparsifier
        cfg["normalize_activations"] = THEIRS[encoder.how]
    else:
        sparsifier, skip = dictionary.sparsifier, dictionary.skip
        weight, bias, center = _matrix(encoder, decoder)
        if type(encoder) is Normed:
            across, cfg["normalize_activations"] = True, THEIRS[encoder.how]
        else:
            weight = weight * dictionary.scale_in
        if skip is not None and (type(skip) not in (nn.Linear, Skip) or skip.bias is not None):
            raise _no(f"{type(skip).__name__} as skip connection, only a matrix without a bias")
        across = across or skip is not None
        if center and dictionary.scale_in != dictionary.scale_out:
            raise _no("a centred encoder whose input and target have two scales")
    if center and across:
        raise _no("a dictionary that centres its rows and writes elsewhere, or has a skip connection")
    cfg["apply_b_dec_to_input"] = center
    tensors = {"W_enc": weight, "W_dec": atoms, "b_dec": b_dec}
    more, own = _sparsifier(sparsifier, weight.new_zeros(dictionary.latents) if bias is None else bias)
    if across:
        names = {"standard": "transcoder", "jumprelu": "jumprelu_transcoder"}
        if more["architecture"] not in names:
            raise _no(f"a transcoder with {type(sparsifier).__name__}, only with ReLU or a threshold")
        more = {"architecture": names[more["architecture"]], "d_out": decoder.shape[0]}
        cfg["reshape_activations"] = "none"  # its transcoders take rows as they come
        if dictionary.skip is not None:
            more["architecture"] = more["architecture"].replace("transcoder", "skip_transcoder")
            tensors["W_skip"] = dictionary.skip.weight * dictionary.scale_in / dictionary.scale_out
    return cfg | more, tensors | own


def _no(what: str) -> ValueError:
    return ValueError(f"SAELens has no architecture for {what}: save it with wb.save, in our own format")


def _stream(site: Site | None) -> str | None:
    return None if site is None else site.stream


def _matrix(encoder: Any, decoder: Any) -> tuple[Tensor, Tensor | None, bool]:
    """Encoder matrix and bias, and whether rows are centred by the decoder's bias."""
    if type(encoder) is encoders.Linear:
        return encoder.weight, encoder.bias, encoder.center
    if type(encoder) is encoders.Tied:
        return decoder.weight[:].T * encoder.gain, None, encoder.center
    if type(encoder) is Normed:
        return encoder.linear.weight, encoder.linear.bias, False
    raise _no(f"the encoder {type(encoder).__name__}")


def _sparsifier(sparsifier: Any, bias: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What an architecture adds to the configuration and to the tensors; `bias` is the encoder's."""
    kind = type(sparsifier)
    if kind is sparsifiers.ReLU:
        return {"architecture": "standard"}, {"b_enc": bias}
    if kind in (sparsifiers.TopK, GradientTopK, AbsTopK):
        name = "abstopk" if kind is AbsTopK else "topk"
        return {"architecture": name, "k": sparsifier.k, "rescale_acts_by_decoder_norm": False}, {"b_enc": bias}
    if kind is Gated:
        gain = sparsifier.log_gain
        own = {"b_gate": sparsifier.gate + bias, "r_mag": gain, "b_mag": sparsifier.bias + bias * gain.exp()}
        return {"architecture": "gated"}, own
    if kind in THRESHOLDED:
        if kind is sparsifiers.BatchTopK and sparsifier.threshold < 0:
            raise ValueError("BatchTopK has no threshold yet: train for a step before writing it")
        negative = bool((sparsifier.threshold < 0).any())
        if negative and (kind is not Threshold or sparsifier.signed):
            raise _no("a threshold below 0 that lets negative values pass")
        most = torch.finfo(bias.dtype).max  # a latent that is never on; a file of infinities is refused, ours too
        return {"architecture": "jumprelu"}, {
            "b_enc": bias,
            "threshold": sparsifier.threshold.to(bias).clamp(max=most).expand_as(bias),
        }
    raise _no(f"{kind.__name__}")


def _row_by_row(dictionary: Dictionary) -> Tensor:
    """The bias of normalised rows. Raises ValueError where it is not all that is added."""
    skip, how = dictionary.skip, dictionary.encoder.how
    if dictionary.scale_in != 1 or dictionary.scale_out != 1:
        raise _no("a scale besides the normalisation of each row")
    if type(skip) is not Rest or skip.how != how or bool(dictionary.decoder.bias.any()):
        raise _no(f"rows normalised by {how} whose size and mean are not given back")
    return skip.bias


def _pursuit(dictionary: Dictionary, atoms: Tensor, b_dec: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    encoder, how = dictionary.encoder, getattr(dictionary.encoder, "how", None)
    if type(encoder) is encoders.Pursuit:
        if encoder.orthogonal or encoder.signed:
            raise _no(f"a pursuit that is {'orthogonal' if encoder.orthogonal else 'signed'}")
        norms = atoms.norm(dim=-1)
        if not torch.allclose(norms, torch.ones_like(norms), atol=1e-6):
            raise _no(f"a pursuit whose atoms have norms {norms.min():.4g} to {norms.max():.4g}, only 1: values change")
        stops = {"residual_threshold": 0.0, "max_iterations": encoder.k, "stop_on_duplicate_support": False}
    else:
        if dictionary.scale_in != 1 or dictionary.scale_out != 1 or encoder.gain != 1:
            raise _no("a pursuit of scaled rows: values change")
        stops = {
            "residual_threshold": encoder.least,
            "max_iterations": encoder.steps,
            "stop_on_duplicate_support": encoder.steady,
        }
    if how is not None:
        b_dec, shift = _row_by_row(dictionary), dictionary.encoder.shift
        if not torch.equal(shift, b_dec):
            raise _no("a shift of normalised rows other than the decoder's bias")
    if type(dictionary.sparsifier) is not sparsifiers.Given or dictionary.sparsifier.signed:
        raise _no(f"a pursuit followed by {type(dictionary.sparsifier).__name__}")
    stops |= {"architecture": "matching_pursuit", "normalize_activations": THEIRS[how]}
    return stops, {"W_dec": atoms, "b_dec": b_dec}


def _temporal(dictionary: Dictionary) -> tuple[dict[str, Any], dict[str, Tensor]]:
    part, sparsifier, scale = dictionary.encoder.foreseen, dictionary.sparsifier, float(dictionary.scale_in)
    b_dec = dictionary.decoder.bias if part.how is None else dictionary.skip.bias
    center, by_k = torch.equal(part.shift, b_dec), type(sparsifier) is sparsifiers.TopK
    if not by_k and type(sparsifier) is not sparsifiers.ReLU:
        raise _no(f"a temporal autoencoder with {type(sparsifier).__name__}")
    if scale != float(dictionary.scale_out) or (part.how is not None and scale != 1):
        raise _no("a temporal autoencoder of two scales")
    first: Any = part.attn_layers[0] if len(part.attn_layers) else None
    cfg = {
        "architecture": "temporal",
        "apply_b_dec_to_input": center,
        "normalize_activations": THEIRS[part.how] if scale == 1 else "constant_scalar_rescale",
        "activation_normalization_factor": scale,
        "n_heads": 1 if first is None else first.heads,
        "n_attn_layers": len(part.attn_layers),
        "bottleneck_factor": 1 if first is None else dictionary.latents // len(first.k_ctx.bias),
        "sae_diff_type": "topk" if by_k else "relu",
        "kval_topk": sparsifier.k if by_k else None,
        "tied_weights": part.weight is None,
    }
    tensors = {"W_dec": dictionary.decoder.weight, "b_dec": b_dec} | part.attn_layers.state_dict(prefix="attn_layers.")
    return cfg, tensors if part.weight is None else tensors | {"W_enc": part.weight}


def _metadata(dictionary: Dictionary) -> dict[str, Any]:
    """Where it lives, in TransformerLens's words where they are sure, and in ours; and what it is."""
    seen, sites = dictionary.training_summary, {"site": dictionary.site, "target": dictionary.target}
    sites = {name: None if site is None else str(site) for name, site in sites.items()}
    across = dictionary.target is not None and dictionary.target != dictionary.site
    return {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": seen.get("model"),
        "hook_name": _hook(dictionary.site),
        "hook_name_out": _hook(dictionary.target) if across else None,
        "hook_head_index": None,
        "workbench": sites | {"made": dictionary.call, "source": seen.get("source")},
    }


def _hook(site: Site | None) -> str | None:
    """TransformerLens's name; none where it has none, or one that means other rows in models with RMS norms."""
    if site is None:
        return None
    try:
        name = hook_of(site)
    except ValueError:
        return None
    return None if before_gain(name) else name
