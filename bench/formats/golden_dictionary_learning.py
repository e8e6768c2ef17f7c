"""Checkpoints by dictionary_learning 0.1.0: `trainSAE` writes them, `load_dictionary` says what they compute.

    python bench/formats/parity.py dictionary_learning

Weights are drawn anew when a trainer makes its dictionary, and no step is trained. No trainer of 0.1.0 says that it
wrote an `AutoEncoderNew`, and runs cut short are what its development branch leaves: those are saved here as there.
"""

import json
from pathlib import Path

import torch
from dictionary_learning import trainers
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE, MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.trainers.trainer import set_decoder_norm_to_unit_norm
from dictionary_learning.training import trainSAE
from dictionary_learning.utils import load_dictionary
from golden_feed import FOLDER, keep, rows, scatter_

D, F, AT = 10, 28, 0.75  # one entry, of the first row and latent, lies at a threshold exactly
NAME, FACTOR = "resid_post_layer_3", 2.5


class Rows:
    """What a buffer is to `trainSAE`: batches, and a configuration."""

    def __init__(self, batches=(), **config):
        self.batches, self.config = batches, {"d_submodule": D, "io": "out"} | config

    def __iter__(self):
        return iter(self.batches)


def inputs() -> torch.Tensor:
    x = rows(D)
    x[0, 0] = AT
    return x


def drawn(cls):
    """A class whose instances have drawn weights."""

    @torch.no_grad()
    def make(*args, **more):
        ae = cls(*args, **more)
        scatter_(ae)
        if hasattr(ae, "threshold"):
            weight, bias = (ae.W_enc.T, ae.b_enc) if hasattr(ae, "W_enc") else (ae.encoder.weight, ae.encoder.bias)
            weight[0], weight[0, 0], bias[0], ae.b_dec[0] = 0, 1, 0, 0
            if ae.threshold.ndim:
                ae.threshold[0] = AT
            else:
                ae.threshold.fill_(AT)
        return ae

    return make


def of(trainer, cls, **more) -> dict:
    said = {
        "trainer": trainer,
        "dict_class": drawn(cls),
        "steps": 20_000,
        "activation_dim": D,
        "dict_size": F,
        "layer": 3,
    }
    said |= {"lm_name": "EleutherAI/pythia-70m-deduped", "device": "cpu", "submodule_name": NAME}
    if trainer is trainers.GatedAnnealTrainer:
        del said["submodule_name"]
    return said | more


@torch.no_grad()
def case(name: str, ae, write, **load) -> None:
    x = inputs()
    code = ae.encode(x)
    y = ae.decode(code)
    assert torch.equal(y, ae(x))
    keep("dictionary_learning", name, write, x, code, y, **load)


def trained(name: str, how: dict, buffer: dict | None = None, **more) -> None:
    """A run of one trainer without a step, moved out of its folder."""
    folder = FOLDER / "dictionary_learning" / "_made"
    trainSAE(
        Rows(more.pop("batches", ()), **(buffer or {})), [how], steps=0, save_dir=str(folder), device="cpu", **more
    )
    ae, _ = load_dictionary(f"{folder}/trainer_0", "cpu")
    case(name, ae, lambda to: (folder / "trainer_0").rename(to / "trainer_0"))
    folder.rmdir()


def unit(*args, **more):
    """Drawn, with atoms of norm 1, as StandardTrainer keeps them."""
    ae = drawn(AutoEncoder)(*args, **more)
    ae.decoder.weight.data = set_decoder_norm_to_unit_norm(ae.decoder.weight, D, F)
    return ae


trained("standard", of(trainers.StandardTrainer, AutoEncoder) | {"dict_class": unit})
trained("standard_april", of(StandardTrainerAprilUpdate, AutoEncoder))
trained("p_anneal", of(trainers.PAnnealTrainer, AutoEncoder), normalize_activations=True, batches=[5 * rows(D)])
trained("gated", of(trainers.GatedSAETrainer, GatedAutoEncoder))
trained("gated_anneal", of(trainers.GatedAnnealTrainer, GatedAutoEncoder))
trained("jumprelu", of(trainers.JumpReluTrainer, JumpReluAutoEncoder))
trained("topk", of(trainers.TopKTrainer, AutoEncoderTopK, k=16))
trained("batch_topk", of(trainers.BatchTopKTrainer, trainers.BatchTopKSAE, k=4), {"io": "out"})
trained("matryoshka", of(MatryoshkaBatchTopKTrainer, MatryoshkaBatchTopKSAE, k=4, group_fractions=[0.25, 0.25, 0.5]))


def by_hand(folder: Path, kind: str, state: dict) -> None:
    said = {"dict_class": kind, "activation_dim": D, "dict_size": F, "lm_name": "EleutherAI/pythia-70m-deduped"}
    (folder / "config.json").write_text(json.dumps({"trainer": said, "buffer": {"io": "out"}}, indent=4))
    torch.save(state, folder / "ae.pt")


new = drawn(AutoEncoderNew)(D, F)
case("new", new, lambda to: by_hand(to, "AutoEncoderNew", new.state_dict()))


def cut(name: str, how: dict) -> None:
    """A run that was cut short: rows were over FACTOR, the weights as they were in training."""
    trainer = how.pop("trainer")(**how)
    adam = torch.optim.Adam(trainer.ae.parameters())
    sum(p.sum() for p in trainer.ae.parameters()).backward()
    adam.step()
    state = {k: v.clone() for k, v in trainer.ae.state_dict().items()}
    saved = {"step": 5, "ae": state, "optimizer": adam.state_dict(), "config": trainer.config, "norm_factor": FACTOR}

    def write(to: Path) -> None:
        (to / "config.json").write_text(json.dumps({"trainer": trainer.config}))
        torch.save(saved, to / "ae.pt")

    trainer.ae.scale_biases(FACTOR)  # as at the end of training
    if hasattr(trainer.ae, "normalize_decoder"):
        trainer.ae.normalize_decoder()  # as when it is loaded
    case(name, trainer.ae.requires_grad_(False), write)


cut("cut_autoencoder", of(StandardTrainerAprilUpdate, AutoEncoder))
cut("cut_gated", of(trainers.GatedSAETrainer, GatedAutoEncoder))
cut("cut_jumprelu", of(trainers.JumpReluTrainer, JumpReluAutoEncoder))
cut("cut_batch_topk", of(trainers.BatchTopKTrainer, trainers.BatchTopKSAE, k=4))
cut("cut_matryoshka", of(MatryoshkaBatchTopKTrainer, MatryoshkaBatchTopKSAE, k=4, group_fractions=[0.5, 0.5]))

# a run with two trainers and checkpoints, one step trained; the checkpoint of trainer 1 is a case of its own
run = FOLDER / "dictionary_learning" / "checkpoint" / "checkpoint"
how = [of(trainers.TopKTrainer, AutoEncoderTopK, k=5), of(trainers.BatchTopKTrainer, trainers.BatchTopKSAE, k=5)]
x = inputs()
ae = drawn(trainers.BatchTopKSAE)(D, F, 5)
keep("dictionary_learning", "checkpoint", lambda to: None, x, ae.encode(x), ae(x), part="trainer_1/checkpoints/ae_0")
trainSAE(Rows([x, x, x]), how, steps=2, save_steps=[0, 1], save_dir=str(run), device="cpu")
