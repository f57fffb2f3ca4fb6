"""Make `docs/pad.gif`, the moving picture of the drawing pad, by screenshots of the real widget.

    python docs/make_pad_gif.py

It opens the widget's own JavaScript in a headless Chromium and answers with the meta-trained network in
`data/checkpoints/pad`, as a notebook would. The mouse draws; a drawn arrow shows where it is. Then the picture is
attached to notebook 00. Needs the packages of `pip install -e .[test]` and Chromium.
"""

import base64
import io
import json
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import mlcourse
from mlcourse import files, places
from mlcourse.teaching import pad, tidy

TARGET = Path(__file__).with_name("pad.gif")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, COLOURS, LARGEST = 780, 48, 250_000
FRAME_MS, REST_MS, END_MS = 60, 900, 2500

PAGE = """<html><head><style>{css}
body {{ background: #fff; margin: 8px 14px; width: {width}px; }}
#arrow {{ left: -40px; pointer-events: none; position: fixed; top: 0; z-index: 9; }}
</style></head><body><div id="pad"></div>
<svg id="arrow" width="20" height="24"><path d="M2 1 L2 18 L6.5 14 L10 22 L13 20.5 L9.6 13 L16 12.6 Z"
 fill="#111" stroke="#fff" stroke-width="1.5"/></svg>
<script type="module">
{script}
const state = {state}, handlers = {{}};
const model = {{
  get: (name) => state[name],
  set: (name, value) => {{ state[name] = value; (handlers['change:' + name] ?? []).forEach((act) => act()); }},
  on: (event, act) => {{ (handlers[event] ??= []).push(act); }},
  off: () => {{}},
  save_changes: async () => {{
    const {{ support, query, number }} = state;
    model.set('answer', await window.ask({{ support, query, number }}));
  }},
}};
render({{ model, el: document.getElementById('pad') }});
addEventListener('pointermove', ({{ clientX, clientY }}) => {{
  document.getElementById('arrow').style.transform = `translate(${{clientX + 40}}px, ${{clientY}}px)`;
}}, true);
</script></body></html>"""


class Film:
    """Frames of the page, with how long each is shown."""

    def __init__(self, page) -> None:
        self.page, self.frames, self.times = page, [], []

    def shoot(self, milliseconds: int = FRAME_MS) -> None:
        shot = self.page.screenshot()
        self.frames.append(Image.open(io.BytesIO(shot)).convert("RGB"))
        self.times.append(milliseconds)

    def draw(self, drawing, label: str, every: int) -> None:
        """Draw with the mouse, a frame for each `every` points."""
        box = self.page.locator(f"canvas[aria-label^='{label}']").bounding_box()
        for stroke in drawing:
            points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
            self.page.mouse.move(*points[0])
            self.page.mouse.down()
            for number, point in enumerate(points[1:], start=1):
                self.page.mouse.move(*point)
                if number % every == 0:
                    self.page.wait_for_timeout(80)  # the live answer comes
                    self.shoot()
            self.page.mouse.up()
        self.page.wait_for_timeout(250)
        self.shoot(4 * FRAME_MS)

    def save(self, path: Path) -> None:
        """Write the frames as a GIF with one palette, so that what does not move costs nothing."""
        palette = self.frames[-1].quantize(COLOURS)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames]
        with files.replacing(path) as temporary:
            frames[0].save(
                temporary, "GIF", save_all=True, append_images=frames[1:], duration=self.times, loop=0, optimize=True
            )


def play(film: Film, widget: pad.DrawingPad) -> None:
    """Teach five characters, then ask about two of them in another hand."""
    signs = widget.samples[0]
    film.shoot(REST_MS)
    for letter, drawing in zip("ABCDE", signs["support"], strict=True):
        film.draw(drawing, f"Drawing of character {letter}", every=6)
    for wanted in (2, 4):
        query = next(query for query in signs["queries"] if query["is"] == wanted)
        film.draw(query["drawing"], "Drawing to classify", every=2)
        film.shoot(END_MS)
        if wanted == 2:
            film.page.get_by_role("button", name="Clear the drawing to classify").click()
            film.page.wait_for_timeout(250)
            film.shoot(REST_MS // 2)


def attach(picture: Path, notebook: Path) -> None:
    """Put the picture into the notebook's first cell: a learner's copy lies elsewhere, and a path would be broken."""
    content = files.read_json(notebook)
    code = base64.b64encode(picture.read_bytes()).decode()
    content["cells"][0]["attachments"] = {picture.name: {"image/gif": code}}
    files.write_json(notebook, content)
    tidy.tidy_file(notebook)


def main() -> None:
    widget = pad.DrawingPad(mlcourse.load(places.data() / "checkpoints" / "pad"))

    def ask(drawings: dict) -> dict:
        widget.set_state(drawings)
        return widget.answer

    folder = Path(pad.__file__).parent
    script = pad.SCRIPT.replace("export default { render };", "")
    names = ("support", "query", "number", "chosen", "names", "samples", "answer")
    state = json.dumps({name: getattr(widget, name) for name in names})
    css = (folder / "pad.css").read_text(encoding="utf-8")
    program = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH + 28, "height": 604})
        page.expose_function("ask", ask)
        page.set_content(PAGE.format(css=css, width=WIDTH, script=script, state=state))
        page.locator(".mlpad").wait_for()
        film = Film(page)
        play(film, widget)
        browser.close()
    film.save(TARGET)
    attach(TARGET, places.notebooks() / "00_start_here.ipynb")
    size = TARGET.stat().st_size
    print(f"{TARGET}: {len(film.frames)} frames, {size / 1000:.0f} kB")
    if size > LARGEST:
        raise SystemExit(f"{size} bytes are more than {LARGEST}: use fewer colours or frames")


if __name__ == "__main__":
    main()
