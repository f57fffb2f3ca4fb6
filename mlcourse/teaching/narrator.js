// For people who do not see the picture: sliders get a name (ipywidgets gives them none), and the picture's text is
// spoken once the controls rest. It shows nothing.
const HIDDEN = "position:absolute; width:1px; height:1px; overflow:hidden; clip-path:inset(50%); white-space:nowrap;";
const REST = 700; // milliseconds without a change before the text is spoken

function nameSliders(box) {
  for (const slider of box.querySelectorAll(".widget-slider")) {
    const label = slider.querySelector(".widget-label")?.textContent;
    const handle = slider.querySelector(".noUi-handle");
    if (label && handle) handle.setAttribute("aria-label", label);
  }
}

function render({ model, el }) {
  el.style.cssText = HIDDEN;
  el.setAttribute("aria-live", "polite");
  let waiting;
  model.on("change:said", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { el.textContent = model.get("said"); }, REST);
  });
  // the widget is rendered before it stands in the page, beside its controls
  let tries = 50;
  const look = setInterval(() => {
    const box = el.closest(".widget-vbox");
    if (box) nameSliders(box);
    if (box?.querySelector(".noUi-handle[aria-label]") || --tries === 0) clearInterval(look);
  }, 100);
  return () => { clearInterval(look); clearTimeout(waiting); };
}

export default { render };
