"""The gallery: a picture of every world, and a page that says what docstrings, signatures and cards say now."""

import base64
import importlib.util
import shutil
from pathlib import Path

import plotly.graph_objects as go
import pytest

from workbench import catalogue, lineage, testbeds

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("build_gallery", ROOT / "tools" / "build_gallery.py")
assert spec and spec.loader
gallery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gallery)

WORLDS = catalogue.names("worlds")
DRAW_AGAIN = "run `python tools/build_gallery.py`, delete pictures of worlds that are gone, commit docs/worlds*"
READ = """async link => {
  const image = new Image();
  image.src = link;
  await image.decode();
  const canvas = Object.assign(document.createElement('canvas'), {width: image.width, height: image.height});
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const {data} = context.getImageData(0, 0, image.width, image.height), counts = {};
  for (let i = 0; i < data.length; i += 4) {
    const colour = `${data[i] >> 4},${data[i + 1] >> 4},${data[i + 2] >> 4}`;
    counts[colour] = (counts[colour] || 0) + 1;
  }
  const commonest = Math.max(...Object.values(counts)) / (image.width * image.height);
  return [image.width, image.height, Object.keys(counts).length, commonest];
}"""


def seen(pictures: list[bytes]) -> list[tuple[int, int, int, float]]:
    """Of each picture: width, height, number of colours (16 levels a channel), share of the commonest."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=gallery.FLAGS)
        page = browser.new_context(offline=True).new_page()
        links = ["data:image/webp;base64," + base64.b64encode(picture).decode() for picture in pictures]
        found = [tuple(page.evaluate(READ, link)) for link in links]
        browser.close()
    return found


def test_every_world_has_a_picture_and_no_picture_is_left_over():
    assert sorted(p.name for p in gallery.FOLDER.iterdir()) == [f"{name}.webp" for name in WORLDS], DRAW_AGAIN


@pytest.mark.parametrize("name", WORLDS)
def test_a_picture_is_a_whole_webp_of_sane_size(name):
    picture = (gallery.FOLDER / f"{name}.webp").read_bytes()
    wide, high = gallery.size(picture)
    assert 500 <= wide <= 1000 and 500 <= high <= 900
    assert 2_000 < len(picture) < 60_000


def test_all_pictures_together_are_small():
    assert sum(p.stat().st_size for p in gallery.FOLDER.iterdir()) < 700_000


def test_the_page_is_what_the_script_writes_now():
    assert gallery.PAGE.read_text() == gallery.page(), DRAW_AGAIN


def test_sizes_are_read_from_whole_webp_files_only():
    picture = (gallery.FOLDER / f"{WORLDS[0]}.webp").read_bytes()
    plain = b"RIFF\x16\0\0\0WEBPVP8 \n\0\0\0\x30\1\0\x9d\1\x2a\x58\2\x0c\xc2"  # 600 wide, 524 high with a scale bit
    assert gallery.size(plain) == (600, 524)
    for broken in (b"", picture[:-1], b"\x89PNG" + picture[4:], picture[:12] + b"ALPH" + picture[16:]):
        with pytest.raises(ValueError, match="WebP"):
            gallery.size(broken)


def test_a_new_card_changes_the_page(tmp_path, monkeypatch):
    for path in gallery.subjects.FOLDER.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(gallery.subjects, "FOLDER", tmp_path)
    before = gallery.page()
    card = lineage.read_json(tmp_path / "othello.json") | {"seed": 7}
    lineage.write_json(tmp_path / "othello.seed7.missed.json", card)
    assert gallery.page() == before
    lineage.write_json(tmp_path / "othello.seed7.json", card)
    assert len(set(gallery.page().splitlines()) - set(before.splitlines())) == 2


@pytest.mark.browser
def test_every_committed_picture_decodes_and_is_not_blank():
    pictures = [(gallery.FOLDER / f"{name}.webp").read_bytes() for name in WORLDS]
    for name, picture, (wide, high, colours, commonest) in zip(WORLDS, pictures, seen(pictures), strict=True):
        assert (wide, high) == gallery.size(picture), name
        assert colours > 10 and commonest < 0.98, name


@pytest.mark.browser
def test_a_figure_is_drawn_again_offline():
    blank = go.Figure(layout={"template": "plotly_white", "width": 500, "height": 400})
    blank.update_xaxes(visible=False).update_yaxes(visible=False)
    drawn = gallery.pictures({"othello": testbeds.world("othello").figure(), "blank": blank})
    committed = (gallery.FOLDER / "othello.webp").read_bytes()
    othello, empty, before = seen([drawn["othello"], drawn["blank"], committed])
    assert empty == (625, 500, 1, 1), "what is called blank below is blank"
    assert othello[:2] == before[:2] and othello[3] == pytest.approx(before[3], abs=0.05), DRAW_AGAIN
    assert othello[2] > 10 and othello[3] < 0.9


@pytest.mark.browser
def test_a_figure_that_asks_for_the_network_is_refused():
    figure = go.Figure(layout_images=[{"source": "http://example.invalid/x.png", "xref": "paper", "yref": "paper"}])
    with pytest.raises(RuntimeError, match=r"example\.invalid"):
        gallery.pictures({"nosy": figure})
