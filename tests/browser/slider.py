"""A slider of `explore` in the page: press keys, wait for the picture, measure."""

import statistics

from expecting import PATIENCE

WATCH = """(box) => {
    const times = window.widgetTimes = { key: 0, pictures: [], source: box.querySelector('img')?.src };
    box.addEventListener('keydown', () => { times.key = performance.now() }, true);
    new MutationObserver(() => {
        const image = box.querySelector('img');
        if (!image || image.src === times.source) return;
        times.source = image.src;
        const key = times.key;
        // shown means: decoded, and the next frame is due
        image.decode().then(() => requestAnimationFrame(() => times.pictures.push(performance.now() - key)));
    }).observe(box, { subtree: true, childList: true, attributes: true });
}"""


class Slider:
    """The slider number `index` of the page, and the picture below it."""

    def __init__(self, page, index: int = 0):
        self.page = page
        self.handle = page.locator(".noUi-handle").nth(index)
        self.handle.wait_for(timeout=PATIENCE)
        # the nearest box around it: a page may hold several widgets
        self.box = self.handle.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')][1]")
        self.box.evaluate(WATCH)

    @property
    def picture(self):
        """The image of this widget."""
        return self.box.locator("img")

    @property
    def shown(self) -> int:
        """How many new pictures were shown since the slider was found."""
        return self.page.evaluate("window.widgetTimes.pictures.length")

    def press(self, key: str, seconds: float = 180) -> float:
        """Press a key on the slider and wait for a new picture. Returns milliseconds from key to picture."""
        before = self.shown
        self.handle.focus()
        self.handle.press(key)
        self.page.wait_for_function(f"window.widgetTimes.pictures.length > {before}", timeout=1000 * seconds)
        return self.page.evaluate("window.widgetTimes.pictures.at(-1)")

    def median(self, key: str, times: int = 20) -> float:
        """The median of `times` presses, in milliseconds from key to picture."""
        return statistics.median(self.press(key) for _ in range(times))
