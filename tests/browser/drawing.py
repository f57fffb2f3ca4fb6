"""A drawing pad in the page: draw with mouse, finger or pen, press buttons, read the answer."""

import statistics

from expecting import PATIENCE

CLEAR_QUERY = "Clear the drawing to classify"


class Pad:
    """The drawing pad number `index` of the page."""

    def __init__(self, page, index: int = 0):
        self.page = page
        self.root = page.locator(".mlpad").nth(index)
        self.root.wait_for(timeout=PATIENCE)
        self.touch = None

    def box(self, letter: str = ""):
        """The canvas of the character `letter`, or of the query."""
        name = f"Drawing of character {letter}:" if letter else "Drawing to classify:"
        return self.root.locator(f"canvas[aria-label^='{name}']")

    def button(self, name: str):
        return self.root.get_by_role("button", name=name)

    @property
    def number(self) -> int:
        """The number of the last question that was answered."""
        return int(self.root.get_attribute("data-number") or 0)

    @property
    def percentages(self) -> list[str]:
        return self.root.locator(".mlpad-percent").all_inner_texts()

    @property
    def verdict(self) -> str:
        return self.root.locator(".mlpad-verdict").inner_text()

    def press(self, name: str) -> None:
        """Press a button and wait for the answer."""
        self._answered(lambda: self.button(name).click())

    def mouse(self, drawing, letter: str = "", *, steps: int = 1) -> float:
        """Draw with the mouse (points in units of the box's width). Returns milliseconds from the end to the answer."""
        return self._answered(lambda: [self._mouse_stroke(stroke, letter, steps) for stroke in drawing])

    def finger(self, drawing, letter: str = "") -> float:
        """Draw with a finger: touch events of the browser itself, which it turns into pointer events."""
        return self._answered(lambda: [self._touch_stroke(stroke, letter) for stroke in drawing])

    def pen(self, drawing, letter: str = "") -> float:
        """Draw with a pen: pointer events of the type "pen" on the canvas."""
        return self._answered(lambda: [self._pen_stroke(stroke, letter) for stroke in drawing])

    def median(self, drawing, times: int = 20) -> float:
        """The median over `times` drawings of the query, in milliseconds from the end of the last stroke."""
        waited = []
        for _ in range(times):
            self.press(CLEAR_QUERY)
            waited.append(self.mouse(drawing))
        return statistics.median(waited)

    def _answered(self, act, seconds: float = 180) -> float:
        """Do something and wait until the page has shown the answer to it."""
        before = self.number
        act()
        # An answer counts when it is newer than before and no question is on its way: the number stands still.
        root = self.root.element_handle()
        script = """([root, before]) => {
            const now = Number(root.dataset.number ?? 0);
            const last = root.seenNumber;
            if (last?.number !== now) { root.seenNumber = { number: now, since: performance.now() }; return false; }
            return now > before && performance.now() - last.since > 150;
        }"""
        self.page.wait_for_function(script, arg=[root, before], timeout=1000 * seconds, polling=30)
        return float(self.root.get_attribute("data-milliseconds"))

    def _points(self, stroke, letter):
        canvas = self.box(letter)
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]

    def _mouse_stroke(self, stroke, letter, steps):
        points = self._points(stroke, letter)
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point, steps=steps)
        self.page.mouse.up()

    def _touch_stroke(self, stroke, letter):
        if self.touch is None:
            self.touch = self.page.context.new_cdp_session(self.page)
            self.touch.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
        points = self._points(stroke, letter)
        kinds = ["touchStart", *["touchMove"] * (len(points) - 1)]
        for kind, (x, y) in zip(kinds, points, strict=True):
            self.touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        self.touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def _pen_stroke(self, stroke, letter):
        script = """(canvas, points) => points.forEach(([x, y], i) => {
            const names = [i === 0 ? 'pointerdown' : 'pointermove'];
            if (i === points.length - 1) names.push('pointerup');
            for (const name of names) canvas.dispatchEvent(new PointerEvent(name, {
                pointerId: 5, pointerType: 'pen', isPrimary: true, clientX: x, clientY: y, button: 0, bubbles: true,
                cancelable: true, pressure: 0.4,
            }));
        })"""
        points = self._points(stroke, letter)
        self.box(letter).evaluate(script, points)
