// Moves through the stacks of pictures that stand for the course's widgets (mlcourse/teaching/stacks.py). Native
// controls: mouse, finger, keyboard and screen readers work as everywhere.
for (const stack of document.querySelectorAll(".stack")) {
  const panel = stack.querySelector(".stack-controls");
  const controls = [...panel.querySelectorAll("input, select")];
  const frames = [...stack.querySelector(".stack-frames").children];
  const pictureOf = stack.querySelector(".stack-frames").dataset.of.split(" ").map(Number);
  const said = stack.querySelector(".stack-said");
  const size = (control) => control.options ? control.options.length : Number(control.max) + 1;
  const value = (control) => control.options ? control.selectedIndex : Number(control.value);

  const start = (control) => Number(control.dataset.start);
  const put = (control, k) => { if (control.options) control.selectedIndex = k; else control.value = k; };

  const together = controls.filter((one) => !("alone" in one.dataset));
  const alone = controls.filter((one) => "alone" in one.dataset);
  const moves = (some) => some.reduce((sum, one) => sum + size(one) - 1, 1);

  // the place of the present values among all choices: the order is told in stacks.py
  function placeOf() {
    const block = together.reduce((sum, one) => sum * size(one) + value(one), 0) * moves(alone);
    const moved = alone.findIndex((one) => value(one) !== start(one));
    if (moved < 0) return block;
    const k = value(alone[moved]);
    return block + moves(alone.slice(0, moved)) + k - (k > start(alone[moved]));
  }
  function show(speak) {
    const place = pictureOf[placeOf()];
    frames.forEach((frame, k) => { frame.hidden = k !== place; });
    for (const control of controls.filter((one) => one.dataset.words)) {
      const words = control.dataset.words.split("|")[value(control)];
      control.setAttribute("aria-valuetext", words);
      control.nextElementSibling.textContent = words;
    }
    const picture = frames[place].querySelector("img, svg");
    if (speak && picture) said.textContent = picture.alt || picture.getAttribute("aria-label");
  }
  // pictures wait until somebody comes to the controls; then all of them are fetched, so that none is missing on the way
  const fetchAll = () => stack.querySelectorAll("img").forEach((image) => { image.loading = "eager"; });
  panel.addEventListener("pointerenter", fetchAll, { once: true });
  panel.addEventListener("focusin", fetchAll, { once: true });
  panel.addEventListener("input", (event) => {
    if (alone.includes(event.target)) alone.forEach((one) => one !== event.target && put(one, start(one)));
    show(false);
  });
  panel.addEventListener("change", () => show(true));
  panel.querySelector("button").addEventListener("click", () => {
    controls.forEach((control) => put(control, start(control)));
    show(true);
  });
  panel.hidden = controls.length === 0;
  show(false); // a browser may keep what was chosen before the page was loaded again
}
