"""Small transformers of the field's usual kinds, made of transformers' own classes, and tokenizers of whole words."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Nothing(nn.Module):
    """An MLP that adds nothing: what is left is attention only."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def gpt(
    vocab: int,
    *,
    length: int,
    d: int = 128,
    layers: int = 2,
    heads: int = 4,
    hidden: int | None = None,
    mlp: bool = True,
    tied: bool = True,
) -> nn.Module:
    """GPT-2: learned positions, LayerNorm, GELU; `hidden` MLP neurons (4 d); `mlp=False` leaves attention only."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab, n_positions=length, n_embd=d, n_layer=layers, n_head=heads, n_inner=hidden,
        tie_word_embeddings=tied, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    if not mlp:
        for block in model.transformer.h:
            block.mlp = Nothing()
            block.ln_2 = nn.Identity()
    return model


def bilinear(vocab: int, *, length: int, d: int = 128, layers: int = 2, heads: int = 4, hidden: int = 341) -> nn.Module:
    """Llama with its gate left linear: each MLP is D((G x) * (U x)) without biases (Pearce, Dooms 2024)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab, max_position_embeddings=length, hidden_size=d, num_hidden_layers=layers, hidden_act="linear",
        num_attention_heads=heads, num_key_value_heads=heads, intermediate_size=hidden, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def mixtral(
    vocab: int, *, length: int, d: int = 64, layers: int = 2, heads: int = 4, hidden: int = 64, experts: int = 8,
    top: int = 2, balance: float = 0.01,
) -> nn.Module:  # fmt: skip
    """Llama whose MLPs are mixtures of experts: a router picks `top` of them for each token (Mixtral, 2401.04088).

    `balance` weighs the router's load-balancing loss, which the model gives as `aux_loss`. With `top=1` the router's
    weight is always 1, so that only this loss would train it: raises ValueError.
    """
    from transformers import MixtralConfig, MixtralForCausalLM

    if not 2 <= top <= experts:
        raise ValueError(f"top must be 2 to experts={experts}, or the router learns nothing; got {top}")
    config = MixtralConfig(
        vocab_size=vocab, max_position_embeddings=length, hidden_size=d, num_hidden_layers=layers, sliding_window=None,
        num_attention_heads=heads, num_key_value_heads=heads, intermediate_size=hidden, num_local_experts=experts,
        num_experts_per_tok=top, router_aux_loss_coef=balance, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return MixtralForCausalLM(config)


def word_tokenizer(words: Sequence[str], *, unknown: str | None = None) -> Any:
    """Tokens are whole words split at spaces; token i is `words[i]`. Words in <angle brackets> are special."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if len(set(words)) < len(words):
        raise ValueError("every word must be there once")
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=unknown or words[0]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.WordPiece(prefix="\0", cleanup=False)  # words joined by spaces
    special = [w for w in words if w.startswith("<")]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token=unknown, pad_token=special[0] if special else None,
        extra_special_tokens=special[1:], clean_up_tokenization_spaces=False,
    )  # fmt: skip


def next_token_loss(model: nn.Module, ids: Int[Tensor, "text pos"], ignore: int = -100) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats of each token given those before it; targets equal to `ignore` are left out."""
    logits = model(input_ids=ids.clamp_min(0)).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), ignore_index=ignore)
