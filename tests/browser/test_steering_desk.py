"""SteeringDesk as built, in a bare page."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import bare
import plain_codecs
import torch
from test_widget_steering_desk import Gated, subject

import workbench as wb
from widgets import SteeringDesk, payload, worker

pytestmark = pytest.mark.browser
ARMS = ("none", "steered", "random")
HOSTILE = ["<b>x</b>", "<script>window.hit=1</script>", "\u202eabc", "שלום", "👩‍🚀", "\n\n", "", " ", "\ud800"]


@pytest.fixture(scope="module", autouse=True)
def one_browser():
    with bare.browser():
        yield


def desk(**given: Any) -> SteeringDesk:
    codec = plain_codecs.true(3 * plain_codecs.planted(4, 12, 32, k=2)[1], wb.Site(1, "resid"))
    vectors = {"v": (torch.arange(32.0), "2.resid")}
    common = {"latents": [3], "vectors": vectors, "held_out": ["w4 w9 w11", "w7 w7 w50"], "new": 6, "strength": 1.0}
    made = SteeringDesk(**{"subject": subject(), "codec": codec, "prompt": "w5 w6 w7"} | common | given)
    worker.settle()
    return made


def click(at: bare.At, name: str) -> None:
    at.page.get_by_role("button", name=name, exact=True).click()
    at.settle()


def test_run_sweep_and_control_by_clicks_and_what_came_out_on_hover():
    widget = desk()
    with bare.opened(widget) as at:
        page = at.page
        assert page.locator(".wb-empty").count() == 2 and page.get_by_role("button", name="Stop").is_disabled()
        click(at, "Run")
        assert [c.get_attribute("data-arm") for c in page.locator(".wb-sd-column").all()] == ["clean", "steered"]
        tokens = page.locator("[data-arm=steered] .wb-t")
        assert tokens.all_inner_texts() == widget.run["arms"]["steered"]["tokens"] and tokens.count() == 6
        tokens.nth(2).hover()
        tip = page.locator(".wb-sd-tip")
        assert tip.is_visible() and "new token 3" in tip.inner_text() and tip.locator(".wb-sd-bar").count() == 5
        assert f"{widget.run['arms']['steered']['edited'][2]:.2f}".replace("-", "−") in tip.inner_text()
        page.locator("h3").first.hover()
        assert not tip.is_visible()
        tokens.nth(0).focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert (
            tip.is_visible()
            and page.locator("[data-arm=steered] .wb-picked").inner_text() == tokens.nth(1).inner_text()
        )
        page.keyboard.press("Escape")
        assert not tip.is_visible() and page.locator(".wb-picked").count() == 0
        click(at, "Random control")
        assert page.locator("[data-arm=random] .wb-t").count() == 6
        click(at, "Sweep")
        assert page.locator(".wb-sd-panels svg").count() == 2 and widget.curve["state"] == "done"
        assert page.locator(".wb-sd-panels circle").count() == 2 * 2 * 6 * 2  # panels, arms, strengths, groups
        click(at, "Copy as a code cell")
        assert page.locator(".wb-sd-copy .wb-code").inner_text() == widget.run["code"]
        click(at, "Run")
        assert page.locator(".wb-sd-before details").count() == 1 and widget.run["number"] == 2
        at.close()


def test_controls_reach_python_and_a_run_says_that_settings_have_moved():
    widget = desk(latents=[3, 5])
    with bare.opened(widget) as at:
        page = at.page
        click(at, "Run")
        assert page.locator(".wb-sd-moved").count() == 0
        page.get_by_role("switch", name="on, latent 5").press("Space")
        page.get_by_label("method, latent 3").select_option("clamp")
        number = page.get_by_label("strength as a number, latent 3")
        number.fill("1.75")
        number.press("Tab")
        page.get_by_label("where it acts, v").select_option("generated")
        page.get_by_role("slider", name="strength, v").press("ArrowLeft")
        at.settle()
        lines = widget.settings["lines"]
        assert [line["on"] for line in lines] == [True, False, True]
        assert (lines[0]["method"], lines[0]["strength"]) == ("clamp", 1.75)
        assert (lines[2]["where"], lines[2]["strength"]) == ("generated", 0.95)
        assert page.locator(".wb-sd-out .wb-sd-moved").count() == 1
        number.fill("")
        number.press("Enter")
        assert number.input_value() == "1.75" and widget.settings["lines"][0]["strength"] == 1.75
        page.get_by_label("prompt").fill("w9 w10 w11")
        page.get_by_label("seed").fill("-3")
        page.get_by_label("new tokens").fill("4")
        page.get_by_label("prompt").press("Control+Enter")
        at.settle()
        assert (widget.settings["prompt"], widget.settings["new"], widget.settings["seed"]) == ("w9 w10 w11", 4, 0)
        assert widget.error == "" and widget.run["state"] == "done"
        assert widget.run["settings"] == widget.settings and page.locator(".wb-sd-out .wb-sd-moved").count() == 0
        click(at, "Reset")
        assert widget.settings == widget.first and page.locator(".wb-sd-out .wb-sd-moved").count() == 1
        assert page.get_by_label("prompt").input_value() == "w5 w6 w7"
        page.locator(".wb-sd-before summary").click()
        click(at, "Use these settings")
        widget.settings = widget.settings | {"seed": 12}
        at.settle()
        assert page.get_by_label("seed").input_value() == "12"


def test_lines_are_added_and_removed_by_keyboard_and_the_focus_stays_near():
    widget = desk(latents=[])
    with bare.opened(widget) as at:
        page = at.page
        box = page.get_by_label("latent to add")
        box.fill("99")
        box.press("Enter")
        at.settle()
        assert len(widget.settings["lines"]) == 1  # there are 12
        box.fill("7")
        box.press("Enter")
        at.settle()
        assert widget.settings["lines"][1]["name"] == 7 and "1.resid" in page.locator(".wb-sd-line").nth(1).inner_text()
        assert page.get_by_label("method, latent 7").locator("option").count() == 4
        page.get_by_role("button", name="remove latent 7").press("Enter")
        at.settle()
        assert [line["name"] for line in widget.settings["lines"]] == ["v"]
        assert page.evaluate("document.activeElement.closest('.wb-sd-line') !== null")
        click(at, "Add vector")
        page.get_by_role("button", name="remove v").first.click()
        page.get_by_role("button", name="remove v").first.click()
        at.settle()
        assert widget.settings["lines"] == [] and "Nothing is pushed" in page.locator(".wb-sd-lines").inner_text()


def test_a_text_streams_and_stop_ends_it():
    gated = Gated()
    widget = desk(subject=gated, new=30)
    with bare.opened(widget) as at:
        page = at.page

        def say() -> None:
            for change in page.evaluate("window.out.splice(0)"):
                widget.set_state({k: v for k, v in change.items() if k in widget.keys})

        page.get_by_role("button", name="Run").click()
        say()
        assert gated.reached.wait(20)
        shown = {"run": widget.run, "writing": widget.writing, "busy": widget.busy}
        at._known |= shown
        page.evaluate("c => window.fromPython(c)", bare.packed(shown))
        assert (
            page.locator("[data-arm=clean] .wb-t").count() >= 1
            and "of 30" in page.locator("[data-arm=clean]").inner_text()
        )
        assert "waits" in page.locator("[data-arm=steered]").inner_text()
        page.get_by_role("button", name="Stop").click()
        say()
        gated.go.set()
        at.settle()
        assert widget.run["state"] == "stopped" and page.locator("[data-arm=clean] .wb-t").count() == 3
        assert "3 of 30 tokens, stopped" in page.locator("[data-arm=clean]").inner_text()
        assert page.get_by_role("button", name="Stop").is_disabled()


def test_a_page_without_a_kernel_draws_the_last_run_and_its_chart():
    widget = desk()
    widget.control = True
    widget.start()
    widget.sweep()
    worker.settle()
    widget.live = False
    with bare.opened(widget) as at:
        page = at.page
        assert (
            page.get_by_role("button", name="Run").count() == 0
            and page.get_by_role("button", name="Sweep").count() == 0
        )
        assert "without a kernel" in page.locator(".wb-sd-buttons").inner_text()
        assert page.get_by_label("seed").is_disabled() and page.get_by_label("strength as a number, v").is_disabled()
        assert page.locator(".wb-sd-column").count() == 3 and page.locator(".wb-sd-panels svg").count() == 2
        page.get_by_role("button", name="Random control").click()
        assert page.locator(".wb-sd-column").count() == 2
        page.locator("[data-arm=clean] .wb-t").nth(1).hover()
        assert page.locator(".wb-sd-tip").is_visible()
        at.close()
    empty = desk(held_out=None)
    empty.live = False
    with bare.opened(empty) as at:
        assert "No run was made" in at.page.locator(".wb-sd-out").inner_text()
        assert "held_out" in at.page.locator(".wb-sd-chart").inner_text()


def test_nothing_that_is_named_written_or_generated_is_markup():
    name = "<img src=x onerror='window.hit=1'>\u202e"
    widget = desk(vectors={name: (torch.ones(32), "2.resid")}, labels={3: "<script>window.hit=1</script>"})
    widget.settings = widget.settings | {"prompt": "<b>w5</b> \u202e\ud800 w6"}
    widget.start()
    worker.settle()
    values = [float("nan"), *[-float(i) for i in range(len(HOSTILE) - 1)]]
    arm = payload.desk_arm(
        HOSTILE, state="done", said="".join(HOSTILE), clean=values, edited=values, top=[[(h, -1.0)] for h in HOSTILE]
    )
    widget.put(run=widget.run | {"arms": {"clean": arm, "steered": arm}})
    widget.put(runs=[payload.desk_record(widget.run)])
    rows = [{"arm": a, "share": 1.0, "seed": 0, "kl": float("nan"), "perplexity": float("inf")} for a in ARMS]
    widget.put(curve=payload.desk_curve(widget.settings, rows, "done", 1.0))
    with bare.opened(widget) as at:
        page = at.page
        tokens = page.locator("[data-arm=steered] .wb-t")
        assert page.locator(".wb-sd-panels .wb-empty").count() == 2
        assert tokens.count() == len(HOSTILE) and tokens.nth(0).inner_text() == "<b>x</b>"
        for i in range(len(HOSTILE)):
            tokens.nth(i).hover()
            assert page.locator(".wb-sd-tip").is_visible()
        page.locator(".wb-sd-before summary").click()
        page.get_by_role("button", name="Copy as a code cell").first.click()
        assert page.locator(".wb :is(b, script, img, i) > :is(b, img, script)").count() == 0
        assert page.locator(".wb img, .wb script").count() == 0 and page.evaluate("window.hit") is None
        assert page.evaluate("document.querySelector('.wb').scrollWidth <= document.querySelector('.wb').clientWidth")
