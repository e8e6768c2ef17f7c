"""Make tiny_text_tokenizer.json from the training part of the pack: `python tools/build_tokenizer.py`."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from workbench import lineage
from workbench.harvest import corpus
from workbench.testbeds.worlds.tiny_text import END, TOKENIZER, VOCAB, held_out

inner = Tokenizer(models.BPE())
inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
inner.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
texts = [text for text, out in zip(corpus("pack").texts, held_out().tolist(), strict=True) if not out]
trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
inner.train_from_iterator(texts, trainer)
TOKENIZER.parent.mkdir(exist_ok=True)
lineage.write(TOKENIZER, inner.to_str().encode())
