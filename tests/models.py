"""Tiny randomly initialised models of every family that the resolver is proved on. Made in milliseconds, seeded."""

from collections.abc import Callable

import torch
from torch import nn

VOCAB = 96
WORDS = ["<pad>", "<bos>", "<eos>", *(f"w{i}" for i in range(VOCAB - 3))]


def tiny_tokenizer(bos: bool = False):
    """Words `w0 w1 ...` split at spaces; pad, bos and eos are special; a chat template that names the roles."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        inner.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="w0",
        chat_template="{% for m in messages %}w1 {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}w2{% endif %}",
    )


def _build(config, kind: str, seed: int, scale: float = 8.0) -> nn.Module:
    """Weights larger than the library's initialisation, norms' gains off 1, so that every part shows in the output."""
    import transformers

    torch.manual_seed(seed)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(scale)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def tiny_gpt2(seed: int = 0) -> nn.Module:
    from transformers import GPT2Config

    config = GPT2Config(
        vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    return _build(config, "GPT2LMHeadModel", seed)


def tiny_llama(seed: int = 0) -> nn.Module:
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _build(config, "LlamaForCausalLM", seed)


def tiny_neox(seed: int = 0) -> nn.Module:
    from transformers import GPTNeoXConfig

    config = GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    return _build(config, "GPTNeoXForCausalLM", seed)


def tiny_gemma3(seed: int = 0) -> nn.Module:
    from transformers import Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=64,
        sliding_window=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    )
    return _build(config, "Gemma3ForCausalLM", seed)


def tiny_qwen3(seed: int = 0) -> nn.Module:
    from transformers import Qwen3Config

    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=64,
    )
    return _build(config, "Qwen3ForCausalLM", seed)


def tiny_bert(seed: int = 0) -> nn.Module:
    from transformers import BertConfig

    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    return _build(config, "BertModel", seed)


def tiny_vit(seed: int = 0) -> nn.Module:
    from transformers import ViTConfig

    config = ViTConfig(
        image_size=16,
        patch_size=4,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
    )
    return _build(config, "ViTModel", seed)


def tiny_mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5)).eval()


def tiny_cnn(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(588, 4),
    ).eval()


DECODERS: dict[str, Callable[..., nn.Module]] = {
    "gpt2": tiny_gpt2,
    "llama": tiny_llama,
    "neox": tiny_neox,
    "gemma3": tiny_gemma3,
    "qwen3": tiny_qwen3,
}
