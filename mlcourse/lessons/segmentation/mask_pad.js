// The browser's half of the mask pad: it paints the mask of a support drawing, and shows what Python answers.
// No network, no other module.

const LIVE_MS = 60; // while the pen moves, the mask is sent at most this often, and only if the last answer has come
const MASK = [0, 158, 115]; // of the mask on the drawing: the green of the course's figures
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function element(tag, className, text, attributes = {}) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function button(text, label, onClick) {
  const node = element("button", "mlmask-button", text, { type: "button", "aria-label": label, title: label });
  node.addEventListener("click", onClick);
  return node;
}

function render({ model, el }) {
  const side = model.get("side");
  const scale = Math.max(1, Math.floor(288 / side)); // pixels of the canvas for one of the drawing
  let mask = [...model.get("mask")].map(Number);
  let erases = false;
  let pointer = null; // the one pointer that paints; a second finger or a resting palm is ignored
  let last = null; // where it was
  let cursor = null; // where the keys are
  let undo = [];
  let asked = 0; // number of the last question, and when it was sent
  let sentAt = 0;
  let answered = 0;
  let asking = false;
  let waiting = false; // a mask is to be sent as soon as the last answer has come

  // Shortcuts of JupyterLab must not act on keys that are pressed inside the pad.
  const root = element("div", "mlmask", "", { "data-lm-suppress-shortcuts": "true", role: "group" });
  root.setAttribute("aria-label", "Mask pad: paint the mask of a drawing, and see the answer in the scene");

  const canvas = element("canvas", "mlmask-canvas", "", { role: "img", tabindex: "0" });
  canvas.width = canvas.height = side * scale;
  const shown = element("img", "mlmask-scene");
  const message = element("div", "mlmask-message", "", { "aria-live": "polite" });

  function draw() {
    const bytes = atob(model.get("drawings")[model.get("task")]);
    const pen = canvas.getContext("2d");
    for (let at = 0; at < mask.length; at += 1) {
      const colour = [0, 1, 2].map((c) => {
        const plain = 0.8 * bytes.charCodeAt(3 * at + c);
        return Math.round(mask[at] ? 0.45 * plain + 0.55 * MASK[c] : plain);
      });
      pen.fillStyle = `rgb(${colour.join(" ")})`;
      pen.fillRect((at % side) * scale, Math.floor(at / side) * scale, scale, scale);
    }
    if (cursor) {
      pen.strokeStyle = "#fff";
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc((cursor[0] + 0.5) * scale, (cursor[1] + 0.5) * scale, (width() / 2) * scale, 0, 2 * Math.PI);
      pen.stroke();
    }
    const many = mask.reduce((sum, one) => sum + one, 0);
    canvas.setAttribute("aria-label", `The drawing of task ${model.get("task")} and its mask: ${many} pixels. ` +
      "Arrow keys move the brush, space uses it.");
  }

  const width = () => Number(brush.value);

  /** Paint or erase a disc around a place, in pixels of the drawing. */
  function dab([x, y]) {
    const reach = width() / 2;
    for (let row = Math.max(0, Math.floor(y - reach)); row <= Math.min(side - 1, Math.ceil(y + reach)); row += 1)
      for (let column = Math.max(0, Math.floor(x - reach)); column <= Math.min(side - 1, Math.ceil(x + reach)); column += 1)
        if (Math.hypot(column - x, row - y) <= reach) mask[row * side + column] = erases ? 0 : 1;
  }

  function line(from, to) {
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let i = 1; i <= steps; i += 1) dab([0, 1].map((axis) => from[axis] + (i / steps) * (to[axis] - from[axis])));
  }

  /** The page may be zoomed or scaled: the rectangle on the screen says where the pen is, whatever the CSS size. */
  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * side - 0.5, ((event.clientY - box.top) / box.height) * side - 0.5];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || (event.pointerType === "mouse" && event.button !== 0)) return;
    event.preventDefault();
    event.stopPropagation();
    canvas.focus({ preventScroll: true });
    pointer = event.pointerId;
    try { canvas.setPointerCapture(pointer); } catch { /* a synthetic pointer cannot be captured */ }
    remember();
    cursor = null;
    last = place(event);
    dab(last);
    changed(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const one of events.length ? events : [event]) {
      const now = place(one);
      line(last, now);
      last = now;
    }
    changed(false);
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"])
    canvas.addEventListener(name, (event) => {
      if (event.pointerId !== pointer) return;
      pointer = null;
      changed(true);
    });
  // The notebook must neither scroll, nor select the cell, nor start to drag it while a person paints.
  for (const name of ["touchstart", "touchmove"])
    canvas.addEventListener(name, (event) => event.preventDefault(), { passive: false });
  for (const name of ["mousedown", "dragstart", "contextmenu"])
    canvas.addEventListener(name, (event) => { event.preventDefault(); event.stopPropagation(); });
  canvas.addEventListener("keydown", (event) => {
    const step = KEYS[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    cursor ??= [side >> 1, side >> 1];
    if (step) {
      cursor = cursor.map((value, axis) => Math.min(side - 1, Math.max(0, value + step[axis])));
      draw();
    } else {
      remember();
      dab(cursor);
      changed(true);
    }
  });
  canvas.addEventListener("blur", () => { cursor = null; draw(); });

  function remember() {
    undo = [...undo.slice(-49), [...mask]];
  }

  function changed(finished) {
    draw();
    const now = performance.now();
    const late = answered < asked && now - sentAt < 2000; // an answer is still on its way
    if (!finished && (late || now - sentAt < LIVE_MS)) {
      waiting = true;
      return;
    }
    waiting = false;
    asked = Math.max(asked, model.get("number")) + 1;
    sentAt = now;
    asking = true; // what is set here is already on the canvas
    model.set("mask", mask.join(""));
    model.set("number", asked);
    asking = false;
    model.save_changes();
    kernel.asked();
  }

  function put(signs) {
    remember();
    mask = [...signs].map(Number);
    changed(true);
  }

  const modes = [false, true].map((erase) =>
    button(erase ? "Erase" : "Paint", erase ? "The brush erases" : "The brush paints", () => choose(erase)));
  function choose(erase) {
    erases = erase;
    modes.forEach((node, index) => node.setAttribute("aria-pressed", String(Boolean(index) === erase)));
  }
  choose(false);
  const brush = element("input", "", "", { type: "range", min: "1", max: "12", value: "3", "aria-label": "Width of the brush" });
  const task = element("select", "mlmask-select", "", { "aria-label": "Which task" });
  model.get("inks").forEach((_, index) => task.append(element("option", "", `task ${index}`, { value: String(index) })));
  task.value = String(model.get("task"));
  task.addEventListener("change", () => {
    model.set("task", Number(task.value));
    undo = [];
    mask = [...model.get("inks")[model.get("task")]].map(Number);
    changed(true);
  });
  const tools = element("div", "mlmask-tools");
  tools.append(task, ...modes, brush,
    button("The drawing's ink", "Let the mask be the ink of the drawing", () => put(model.get("inks")[model.get("task")])),
    button("↶ Undo", "Undo the last stroke", () => {
      if (!undo.length) return;
      mask = undo.pop();
      changed(true);
    }),
    button("✕ Clear", "Clear the mask", () => put("0".repeat(side * side))));

  const board = element("div", "mlmask-board");
  const figure = (node, text) => {
    const one = element("figure", "mlmask-figure");
    one.append(node, element("figcaption", "", text));
    return one;
  };
  board.append(figure(canvas, "support drawing: paint its mask"), figure(shown, "scene, answer: white is found, orange a false alarm, light blue missed"));
  const status = element("div", "mlmask-kernel mlcourse-kernel");
  root.append(tools, board, message, status);
  el.append(root);
  const kernel = watchKernel(model, status, (living) => {
    for (const part of [tools, board]) part.inert = !living;
    el.classList.toggle("mlmask-saved", !living);
  });

  function showAnswer() {
    const answer = model.get("answer");
    kernel.heard();
    shown.hidden = !answer.picture;
    if (answer.picture) shown.src = `data:image/png;base64,${answer.picture}`;
    shown.alt = answer.alt ?? "";
    message.textContent = answer.message ?? "";
    root.classList.toggle("mlmask-error", answer.kind === "error");
    answered = answer.number ?? 0;
    root.dataset.number = String(answered);
    root.dataset.milliseconds = String(performance.now() - sentAt);
    if (waiting) changed(true);
  }

  const follow = () => {
    if (asking || pointer !== null) return;
    mask = [...model.get("mask")].map(Number);
    task.value = String(model.get("task"));
    draw();
  };
  model.on("change:answer", showAnswer);
  model.on("change:mask", follow);
  model.on("change:task", follow);
  draw();
  showAnswer();
  return () => {
    kernel.stop();
    model.off("change:answer", showAnswer);
    model.off("change:mask", follow);
    model.off("change:task", follow);
  };
}

export default { render };
