"""What a visitor of a page does: looks, moves handles, uploads; and what must not happen meanwhile."""
import os
import re
import time
from pathlib import Path

PATIENCE = 120_000  # milliseconds until something that should happen has not happened: a busy machine is slow, not wrong
STEADY = """image => {
  const seen = window.seen = {frames: 0, blank: [], moved: []}, top = image.getBoundingClientRect().top;
  const look = () => {
    const box = image.getBoundingClientRect();
    seen.frames += 1;
    if (!image.isConnected || box.height < 20) seen.blank.push([seen.frames, image.isConnected, image.complete, box.height]);
    if (Math.abs(box.top - top) > 1) seen.moved.push([seen.frames, box.top - top]);
    if (window.seen === seen) requestAnimationFrame(look);
  };
  look();
}"""  # notes, at each frame that the browser paints, whether the picture is gone or elsewhere


def ours(error) -> bool:
    "Whether a script's error is ours: Voila 0.4 asks for another MathJax than it brings, and so fails at any HTML widget."
    return not ("reading 'Queue'" in error.message and "voila.js" in error.stack)


class Visit:
    "One page, and what goes wrong on it: `faults` are errors of its scripts, its console and its requests."

    def __init__(self, browser, address: str, width: int = 1200):
        self.page, self.faults = browser.new_page(viewport={"width": width, "height": 900}), []
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)) if ours(error) else None)
        self.page.on("console", lambda said: self.faults.append(f"{said.text} {said.location}") if said.type == "error" else None)
        self.page.route(lambda url: "//127.0.0.1:" not in url, lambda route: route.fulfill(status=200, body=""))  # Voila's fonts from afar
        self.page.goto(address)
        self.page.locator(".jupyter-widgets").first.wait_for()

    def close(self) -> None:
        "Leave the page, so that its kernel ends, too."
        self.page.goto("about:blank")
        self.page.close()

    def look(self, which: int = 0) -> "Visit":
        "Take the picture of this number for the one that changes."
        self.image = self.page.locator("img.widget-image:visible").nth(which)
        self.image.wait_for()
        return self

    def source(self) -> str:
        return self.image.get_attribute("src")

    def text(self) -> str:
        return self.page.inner_text("body")

    def until(self, true, what: str) -> None:
        end = time.time() + PATIENCE / 1000
        while not true():
            assert time.time() < end, f"did not happen: {what}; {self.alerts()} {self.faults}"
            self.page.wait_for_timeout(30)

    def another(self, read, act, what: str) -> None:
        "`act()`, wait until `read()` gives something else, and see that all is well."
        before = read()
        act()
        self.until(lambda: read() != before, what)
        self.is_well()

    def changes(self, act, what: str) -> None:
        "`act()`, and wait for another picture."
        self.another(self.source, act, f"another picture: {what}")

    def tells(self, act, what: str) -> None:
        "`act()`, and wait for another text."
        self.another(self.text, act, f"another text: {what}")

    def is_well(self) -> None:
        wrong = [*self.alerts(), *self.faults, *re.findall(r"(?:Traceback|\w+Error:).*", self.text())]
        assert not wrong, "\n".join(wrong)

    def alerts(self) -> list[str]:
        return self.page.locator("[role=alert]:visible").all_inner_texts()

    def control(self, label: str):
        return self.page.locator(".jupyter-widgets:visible").filter(has=self.page.locator(f'.widget-label:text-is("{label}")')).last

    def handle(self, label: str):
        return self.control(label).locator(".noUi-handle, .ui-slider-handle").first

    def slide(self, label: str, key: str = "ArrowRight") -> None:
        self.handle(label).press(key)

    def options(self, label: str) -> list[str]:
        return self.control(label).locator("option").all_inner_texts()

    def choose(self, label: str, option: str) -> None:
        self.control(label).locator("select").select_option(label=option)

    def click(self, text: str) -> None:
        self.page.locator(f'button:visible:has-text("{text}")').first.click()

    def tab(self, title: str) -> None:
        self.page.locator(f'.lm-TabBar-tabLabel:text-is("{title}"), .p-TabBar-tabLabel:text-is("{title}")').first.click()

    def upload(self, path: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.click("own file")
        chooser.value.set_files(path)

    def steady(self, act) -> dict:
        "`act()`, and how the picture stood meanwhile, frame by frame."
        self.image.evaluate(STEADY)
        act()
        self.page.wait_for_timeout(100)
        return self.page.evaluate("() => { const seen = window.seen; window.seen = null; return seen; }")

    def drag(self, label: str, by: int, during=lambda: None) -> None:
        "Take a slider's handle, move it `by` pixels in small steps, do something, let go."
        box = self.handle(label).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + by, y, steps=10)
        try:
            during()
        finally:
            self.page.mouse.up()

    def fits(self) -> None:
        "Nothing is wider than the window, and no label is cut."
        wide = self.page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        cut = self.page.evaluate("""() => [...document.querySelectorAll('.widget-label, .widget-button, option, td, th')]
            .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflow !== 'visible')
            .map(e => e.textContent)""")
        assert wide <= 0 and cut == []

    def content(self) -> bytes:
        "The bytes of the picture."
        read = "async src => Array.from(new Uint8Array(await (await fetch(src)).arrayBuffer()))"
        return bytes(self.page.evaluate(read, self.source()))

    def digest(self) -> list[int]:
        "The SHA-256 of these bytes."
        read = "async src => Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', await (await fetch(src)).arrayBuffer())))"
        return self.page.evaluate(read, self.source())

    def shot(self, name: str) -> None:
        self.keep(re.sub(r"[^\w.]+", "-", name).lower() + ".png", self.page.screenshot(full_page=True))

    def keep(self, name: str, content: bytes) -> None:
        "Keep a picture for whoever looks at the run."
        folder = Path(os.environ.get("MULTIMIX_SCREENSHOTS", Path(__file__).parent / "screenshots/here"))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
