"""Digits: pixels and labels are the package's, the parts do not meet, and moving an image does what it says."""

import base64
import hashlib
import lzma
import re
import struct
import zlib

import numpy as np
import pytest
import torch

from workbench import testbeds
from workbench.testbeds.worlds import digits as d

PACKAGE = [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]  # digits in the package's ten files


@pytest.fixture(scope="module")
def records():
    """The pack read byte by byte: (label, pixels) of each digit."""
    data = lzma.decompress(d.PACK.read_bytes())
    return [(data[i], data[i + 1 : i + 785]) for i in range(0, len(data), 785)]


def test_labels_and_pixels_agree_with_the_file_on_10000_samples(records):
    drawn = d.digits("all").sample(10_000, 5)
    grey = (drawn.image.flatten(1) * 255).round().to(torch.uint8)
    for image, label, index in zip(grey.numpy(), drawn.label.tolist(), drawn.index.tolist(), strict=True):
        assert (label, image.tobytes()) == records[index]
    assert drawn.image.shape == (10_000, 1, 28, 28)
    assert drawn.image.min() == 0 and drawn.image.max() == 1


def test_the_pack_is_the_packages_digits_in_its_order(records):
    labels = [label for label, _ in records]
    assert labels == [k for k, n in enumerate(PACKAGE) for _ in range(n)]
    assert len({pixels for _, pixels in records}) == 10_000, "no digit twice"
    assert d.digits().truth.tolist() == labels
    first = records[sum(PACKAGE[:3])][1]
    inked = [round(1000 * p / 255) for p in first[28 * 5 + 11 : 28 * 5 + 22]]
    assert inked == [149, 169, 412, 1000, 992, 992, 992, 992, 992, 682, 24], "as src/digits/3.json begins, in 1/1000"
    assert not any(first[: 28 * 5 + 11])


def test_a_label_belongs_to_its_image():
    held, train = d.digits().all(), d.digits("train").all()
    a, b = (torch.nn.functional.normalize(x.image.flatten(1)) for x in (held, train))
    nearest = train.label[(a @ b.T).argmax(1)]
    assert float((nearest == held.label).float().mean()) > 0.93


def test_parts_do_not_meet():
    held, train = (set(d.digits(p).places.tolist()) for p in ("held out", "train"))
    assert held == {i for i in range(10_000) if i % 5 == 4}
    assert train == set(range(10_000)) - held
    for part, places in (("held out", held), ("train", train)):
        assert set(d.digits(part).sample(3000).index.tolist()) <= places
        assert d.digits(part).all().index.tolist() == sorted(places)


def test_training_shows_no_held_out_digit(monkeypatch):
    monkeypatch.setattr(d, "moved", lambda images, rng: images)
    held = {bytes(row) for row in d.pack()[0][d.digits().places].numpy()}
    for step in range(20):
        images, _ = d._batch(0, step, 256, 0.0)
        assert not held & {bytes(row) for row in (images.flatten(1) * 255).round().to(torch.uint8).numpy()}


def test_the_score_is_of_the_held_out_digits():
    held = d.digits().all()
    known = {row.tobytes(): k for row, k in zip(held.image.flatten(1).numpy(), held.label.tolist(), strict=True)}

    class Memory(d.ReluDigits):
        def forward(self, pixels):
            said = torch.tensor([known.get(row.tobytes(), 0) for row in pixels.numpy()])
            return torch.nn.functional.one_hot((said + self.shift) % 10, 10).float()

    for shift, value in ((0, 1.0), (1, 0.0)):
        model = Memory()
        model.shift = shift
        (score,) = d.TASKS["digits_relu"].quality(model, 0)
        assert score.value == value and score.n == 2000
        assert score.chance == pytest.approx(sum(k == 1 for k in known.values()) / 2000), "ones are the most"


def test_noise_is_normal_and_of_the_size_asked():
    clean, noisy = (d._batch(0, 3, 256, noise) for noise in (0.0, 0.3))
    assert torch.equal(clean[1], noisy[1])
    added = noisy[0] - clean[0]
    assert abs(float(added.mean())) < 4 * 0.3 / added.numel() ** 0.5
    assert float(added.std()) == pytest.approx(0.3, rel=0.01)
    assert not torch.equal(added[0], added[1])


def test_digits_are_drawn_uniformly():
    n = 100_000
    index = torch.cat([d.digits().sample(10_000, 1, s).index for s in range(0, n, 10_000)])
    counts = torch.bincount(index, minlength=10_000)[4::5].double()
    p = 1 / 2000
    chi = float(((counts - n * p) ** 2 / (n * p)).sum())
    assert abs(chi - 1999) < 4 * (2 * 1999) ** 0.5, "chi-square with 1999 degrees of freedom, 4 sigma"
    by_kind = torch.bincount(d.digits().truth[index], minlength=10) / n
    for kind, share in enumerate(by_kind.tolist()):
        q = len([i for i in range(4, 10_000, 5) if sum(PACKAGE[:kind]) <= i < sum(PACKAGE[: kind + 1])]) / 2000
        assert abs(share - q) < 4 * (q * (1 - q) / n) ** 0.5


class Fixed(np.random.Generator):
    """A generator whose uniform numbers are given: turn, scale, right, down."""

    def __init__(self, *rows):
        super().__init__(np.random.PCG64(0))
        self.rows = np.array(rows, dtype=float)

    def uniform(self, low, high, shape):  # type: ignore[override]
        assert (low, high) == (-1, 1) and shape == (4, self.rows.shape[1])
        return self.rows


def test_moving_by_hand():
    image = d.digits().sample(3).image
    still = Fixed([0] * 3, [0] * 3, [0] * 3, [0] * 3)
    torch.testing.assert_close(d.moved(image, still), image, rtol=0, atol=1e-5)
    left = d.moved(image, Fixed([0] * 3, [0] * 3, [1] * 3, [0] * 3), by=2.0)
    torch.testing.assert_close(left[..., :-2], image[..., 2:], rtol=0, atol=1e-5)
    up = d.moved(image, Fixed([0] * 3, [0] * 3, [0] * 3, [0.5] * 3), by=2.0)
    torch.testing.assert_close(up[:, :, :-1], image[:, :, 1:], rtol=0, atol=1e-5)
    turned = d.moved(image, Fixed([1] * 3, [0] * 3, [0] * 3, [0] * 3), turn=90.0)
    torch.testing.assert_close(turned, image.rot90(1, (2, 3)), rtol=0, atol=1e-5)
    dot = torch.zeros(1, 1, 28, 28)
    dot[0, 0, 8:20, 8:20] = 1
    bigger = d.moved(dot, Fixed([0], [1], [0], [0]), scale=0.5)
    assert float(bigger.sum() / dot.sum()) == pytest.approx(1.5**2, rel=0.05)


def test_limits_of_moving_are_kept():
    dot = torch.zeros(512, 1, 28, 28)
    dot[:, 0, 13:15, 13:15] = 1
    out = d.moved(dot, np.random.default_rng(0), turn=0.0, scale=0.0, by=2.0)
    where = torch.arange(28.0)
    x = (out.sum(2)[:, 0] * where).sum(-1) / out.sum((1, 2, 3)) - 13.5
    assert 1.9 < float(x.abs().max()) <= 2.001
    assert abs(float(x.mean())) < 4 * (4 / 12**0.5) / 512**0.5


def test_the_bilinear_model_is_a_quadratic_form():
    subject = testbeds.subject("digits_bilinear")
    model = subject.model.double()
    assert isinstance(model, d.BilinearDigits)
    left, right = model.bilinear.left.weight, model.bilinear.right.weight
    forms = torch.einsum("oh,hi,hj->oij", model.head.weight, left, right)
    forms = torch.einsum("oij,ix,jy->oxy", forms, model.embed.weight, model.embed.weight)
    x = d.digits().sample(16).image.flatten(1).double()
    torch.testing.assert_close(torch.einsum("nx,oxy,ny->no", x, forms, x), model(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model(-x), model(x))
    assert not [name for name, _ in model.named_parameters() if "bias" in name]


def test_relu_sites_stand_behind_their_relu():
    subject = testbeds.subject("digits_relu")
    x = d.digits().sample(16).image.flatten(1)
    h = subject.read(x, ["first:out", "second:out"])
    for site, wide in zip(h, (256, 128), strict=True):
        assert h[site].shape == (16, 1, wide)
        assert float(h[site].min()) == 0 < float(h[site].max())


def test_the_strip_is_a_png_of_the_first_ten_digits():
    html = d.digits()._repr_html_()
    found = re.search(r"base64,([^\"]+)", html)
    assert found
    data = base64.b64decode(found[1])
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    parts, at = {}, 8
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        parts[kind] = data[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + parts[kind]) == struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0]
        at += 12 + size
    assert struct.unpack(">II", parts[b"IHDR"][:8]) == (280, 28)
    grey = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(28, 281)[:, 1:]
    shown = torch.from_numpy(255 - grey).view(28, 10, 28).permute(1, 0, 2)
    drawn = d.digits().sample(10)
    assert torch.equal(shown, (drawn.image[:, 0] * 255).round().to(torch.uint8))
    assert " ".join(map(str, drawn.label.tolist())) in html


def test_bad_arguments_and_damage_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="one of held out, train, all, got 'test'"):
        d.digits("test")
    raw = lzma.decompress(d.PACK.read_bytes())
    assert hashlib.sha256(raw).hexdigest() == d.SHA256
    for name, data in {"short": d.PACK.read_bytes()[:-9], "changed": lzma.compress(b"\1" + raw[1:], preset=0)}.items():
        (tmp_path / name).write_bytes(data)
        monkeypatch.setattr(d, "PACK", tmp_path / name)
        d.pack.cache_clear()
        with pytest.raises(ValueError, match="damaged"):
            d.pack()
    d.pack.cache_clear()
