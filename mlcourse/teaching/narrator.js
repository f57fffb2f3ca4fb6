// Beside the controls of a widget. For people who do not see the picture: sliders get a name (ipywidgets gives them none),
// and the picture's text is spoken once the controls rest. For everybody: one line that says when the kernel is busy, or
// that it is gone; then the controls, which would move nothing, are taken out of use.
const HIDDEN = "position:absolute; width:1px; height:1px; overflow:hidden; clip-path:inset(50%); white-space:nowrap;";
const REST = 700; // milliseconds without a change before the text is spoken
const LINE = "border-left: 4px solid #e69f00; padding: 2px 8px; margin: 4px 2px;";
const CHANGES = "change:value change:index"; // what ipywidgets' controls call the thing that a person changes
const CONTROLS = "input, select, textarea, button, .noUi-handle";

function nameSliders(box) {
  for (const slider of box.querySelectorAll(".widget-slider")) {
    const label = slider.querySelector(".widget-label")?.textContent;
    const handle = slider.querySelector(".noUi-handle");
    if (label && handle) handle.setAttribute("aria-label", label);
  }
}

function takeOutOfUse(box, gone) {
  box.classList.toggle("mlcourse-saved", gone);
  for (const one of box.children) {
    if (!one.matches(CONTROLS) && !one.querySelector(CONTROLS)) continue;
    one.inert = gone;
    one.style.opacity = gone ? "0.5" : "";
  }
}

function render({ model, el }) {
  const spoken = document.createElement("div");
  const line = document.createElement("div");
  spoken.style.cssText = HIDDEN;
  spoken.setAttribute("aria-live", "polite");
  line.style.cssText = LINE;
  line.className = "mlcourse-kernel";
  const style = document.createElement("style"); // the line says it in words: no broken chain at each part of the widget
  style.textContent = `.mlcourse-saved.jupyter-widgets-disconnected::before,
    .mlcourse-saved .jupyter-widgets-disconnected::before { display: none; }`;
  el.append(style, line, spoken);

  let box = null;
  let gone = false;
  const kernel = watchKernel(model, line, (living) => {
    gone = !living;
    if (box) takeOutOfUse(box, gone);
  });

  let waiting;
  const speak = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { spoken.textContent = model.get("said"); }, REST);
  };
  model.on("change:said", speak);
  model.on("change:heard", kernel.heard);
  const watched = model.get("watched").map((name) => model.widget_manager.get_model(name));
  for (const one of watched) one.then((control) => control.on(CHANGES, kernel.asked)).catch(() => {});

  const pressed = (event) => {
    if (event.target.closest("button")) kernel.asked();
  };
  // the widget is rendered before it stands in the page, beside its controls
  let tries = 50;
  const look = setInterval(() => {
    box = el.closest(".widget-vbox");
    if (box) {
      nameSliders(box);
      takeOutOfUse(box, gone);
      box.addEventListener("click", pressed);
    }
    if (box?.querySelector(".noUi-handle[aria-label]") || --tries === 0) clearInterval(look);
  }, 100);
  return () => {
    clearInterval(look);
    clearTimeout(waiting);
    kernel.stop();
    box?.removeEventListener("click", pressed);
    model.off("change:said", speak);
    model.off("change:heard", kernel.heard);
    for (const one of watched) one.then((control) => control.off(CHANGES, kernel.asked)).catch(() => {});
  };
}

export default { render };
