// The drawing pad in the browser. It collects strokes and shows answers; all thinking is done in Python (pad.py).
// Points are [x, y] in units of the pad's width, y down. No network, no other module.

const LIVE_MS = 60; // while the pen moves, the query is sent at most this often, and only if the last answer has come
const STEP = 0.006; // points closer than this are one point
const PEN = 0.034; // width of the drawn line
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

function element(tag, className, text, attributes = {}) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function button(text, label, onClick, className = "mlpad-button") {
  const node = element("button", className, text, { type: "button", "aria-label": label, title: label });
  node.addEventListener("click", onClick);
  return node;
}

const copyOf = (drawing) => drawing.map((stroke) => stroke.map((point) => [...point]));

/** One canvas with its strokes. `changed(finished)` is called while drawing (false) and after it (true). */
class Canvas {
  constructor(label, changed) {
    this.label = label;
    this.changed = changed;
    this.strokes = [];
    this.pointer = null; // the one pointer that draws; a second finger or a resting palm is ignored
    this.node = element("canvas", "mlpad-canvas", "", { role: "img" });
    this.node.addEventListener("pointerdown", (event) => this.down(event));
    this.node.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"])
      this.node.addEventListener(name, (event) => this.up(event));
    // The notebook must neither scroll, nor select the cell, nor start to drag it while a person draws.
    for (const name of ["touchstart", "touchmove"])
      this.node.addEventListener(name, (event) => event.preventDefault(), { passive: false });
    for (const name of ["mousedown", "dragstart", "contextmenu"])
      this.node.addEventListener(name, (event) => { event.preventDefault(); event.stopPropagation(); });
    this.observer = new ResizeObserver(() => this.paint());
    this.observer.observe(this.node);
    this.paint();
  }

  /** The page may be zoomed or scaled: the rectangle on the screen says where the pen is, whatever the CSS size. */
  place(event) {
    const box = this.node.getBoundingClientRect();
    const inside = (value, size) => Math.round(10000 * Math.min(1, Math.max(0, value / size))) / 10000;
    return [inside(event.clientX - box.left, box.width), inside(event.clientY - box.top, box.height)];
  }

  down(event) {
    if (this.pointer !== null || (event.pointerType === "mouse" && event.button !== 0)) return;
    event.preventDefault();
    event.stopPropagation();
    this.pointer = event.pointerId;
    try { this.node.setPointerCapture(event.pointerId); } catch { /* a synthetic pointer cannot be captured */ }
    this.strokes.push([this.place(event)]);
    this.paint();
    this.changed(false);
  }

  move(event) {
    if (event.pointerId !== this.pointer) return;
    const stroke = this.strokes.at(-1);
    const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const one of events.length ? events : [event]) {
      const point = this.place(one);
      const last = stroke.at(-1);
      if (Math.hypot(point[0] - last[0], point[1] - last[1]) >= STEP) stroke.push(point);
    }
    this.paint();
    this.changed(false);
  }

  up(event) {
    if (event.pointerId !== this.pointer) return;
    this.pointer = null;
    this.changed(true);
  }

  set(strokes) {
    this.strokes = copyOf(strokes);
    this.pointer = null;
    this.paint();
  }

  undo() {
    this.set(this.strokes.slice(0, -1));
    this.changed(true);
  }

  clear() {
    this.set([]);
    this.changed(true);
  }

  paint() {
    const box = this.node.getBoundingClientRect();
    const sharp = window.devicePixelRatio || 1;
    const size = Math.max(1, Math.round((box.width || 120) * sharp));
    if (this.node.width !== size) this.node.width = this.node.height = size;
    const pen = this.node.getContext("2d");
    pen.clearRect(0, 0, size, size);
    pen.lineWidth = Math.max(2, PEN * size);
    pen.lineCap = pen.lineJoin = "round";
    pen.strokeStyle = pen.fillStyle = "#16202b";
    for (const stroke of this.strokes) paintStroke(pen, stroke, size);
    if (!this.strokes.length) paintHint(pen, size, sharp);
    const many = this.strokes.length;
    this.node.setAttribute("aria-label", `${this.label}: ${many === 1 ? "1 stroke" : `${many} strokes`}`);
  }
}

function paintHint(pen, size, sharp) {
  pen.fillStyle = "#76818c";
  pen.font = `${13 * sharp}px system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.fillText("draw here", size / 2, size / 2);
}

/** A line through the points; it runs through the middles between them, so that it looks smooth. */
function paintStroke(pen, stroke, size) {
  const [x, y] = stroke[0].map((value) => value * size);
  pen.beginPath();
  if (stroke.length === 1) {
    pen.arc(x, y, pen.lineWidth / 2, 0, 2 * Math.PI);
    pen.fill();
    return;
  }
  pen.moveTo(x, y);
  for (let i = 1; i < stroke.length - 1; i += 1) {
    const [ax, ay] = stroke[i];
    const [bx, by] = stroke[i + 1];
    pen.quadraticCurveTo(ax * size, ay * size, ((ax + bx) / 2) * size, ((ay + by) / 2) * size);
  }
  const [ex, ey] = stroke.at(-1);
  pen.lineTo(ex * size, ey * size);
  pen.stroke();
}

/** Show the picture that Python sent (base64, one byte per pixel, ink = 255), pixel by pixel. */
function paintSeen(node, code) {
  const bytes = code ? atob(code) : "";
  const size = Math.max(1, Math.round(Math.sqrt(bytes.length)));
  node.width = node.height = size;
  node.classList.toggle("mlpad-empty", !code);
  const pen = node.getContext("2d");
  const picture = pen.createImageData(size, size);
  for (let i = 0; i < bytes.length; i += 1) {
    const grey = 255 - bytes.charCodeAt(i);
    picture.data.set([grey, grey, grey, 255], 4 * i);
  }
  pen.putImageData(picture, 0, 0);
}

function tools(canvas, name, words = ["↶", "✕"]) {
  const row = element("div", "mlpad-tools");
  row.append(
    button(words[0], `Undo the last stroke of ${name}`, () => canvas.undo()),
    button(words[1], `Clear ${name}`, () => canvas.clear()),
  );
  return row;
}

/** A small box for one character: letter, canvas, what the learner sees, probability. */
function supportCard(letter, changed) {
  const card = element("div", "mlpad-card", "", { role: "group", "aria-label": `Character ${letter}` });
  const canvas = new Canvas(`Drawing of character ${letter}`, changed);
  const seen = element("canvas", "mlpad-seen mlpad-seen-small", "", { role: "img" });
  seen.setAttribute("aria-label", `${letter} as the learner sees it`);
  seen.title = "what the learner sees: 28 × 28 pixels";
  const head = element("div", "mlpad-head");
  const badge = element("span", "mlpad-badge", "");
  head.append(element("span", "mlpad-letter", letter), badge);
  const foot = element("div", "mlpad-foot");
  foot.append(seen, tools(canvas, `character ${letter}`));
  const bar = element("div", "mlpad-bar", "", { role: "meter", "aria-valuemin": "0", "aria-valuemax": "100" });
  bar.setAttribute("aria-label", `Probability of ${letter}`);
  const fill = element("div", "mlpad-fill");
  bar.append(fill);
  const percent = element("div", "mlpad-percent", "–");
  card.append(head, canvas.node, foot, bar, percent);
  const show = (probability, best) => {
    const known = probability !== null && probability !== undefined;
    const value = known ? Math.round(100 * probability) : 0;
    fill.style.width = `${known ? 100 * probability : 0}%`;
    percent.textContent = known ? `${value} %` : "–";
    bar.setAttribute("aria-valuenow", String(value));
    bar.setAttribute("aria-valuetext", known ? `${value} percent` : "no answer yet");
    badge.textContent = best ? "most alike" : "";
    card.classList.toggle("mlpad-best", best);
  };
  return { card, canvas, seen, show };
}

function render({ model, el }) {
  const ways = model.get("support").length;
  const letters = [...LETTERS].slice(0, ways);
  const samples = model.get("samples");
  let drawn = null; // {set, index}: the sample that lies on the query pad
  let asked = 0; // number of the last question, and when it was sent
  let askedAt = 0;
  let sentAt = 0;
  let answered = 0;
  let asking = false;
  let waiting = null; // a question to be sent as soon as the last answer has come

  // Shortcuts of JupyterLab must not act on keys that are pressed inside the pad.
  const root = element("div", "mlpad", "", { "data-lm-suppress-shortcuts": "true", role: "group" });
  root.setAttribute("aria-label", "Drawing pad: teach five characters, then ask about one");

  const cards = letters.map((letter) => supportCard(letter, (finished) => ask("support", finished)));
  const query = new Canvas("Drawing to classify", (finished) => { drawn = null; ask("query", finished); });
  const querySeen = element("canvas", "mlpad-seen", "", { role: "img", "aria-label": "the drawing as the learner sees it" });
  const bestSeen = element("canvas", "mlpad-seen", "", { role: "img", "aria-label": "the most alike character" });
  const verdict = element("div", "mlpad-verdict", "", { "aria-live": "polite" });
  const note = element("div", "mlpad-note");
  const truth = element("div", "mlpad-truth");

  function ask(what, finished) {
    const now = performance.now();
    const late = answered < asked && now - sentAt < 2000; // an answer is still on its way
    if (!finished && (late || now - sentAt < LIVE_MS)) {
      waiting = what;
      return;
    }
    waiting = null;
    asked = Math.max(asked, model.get("number")) + 1;
    askedAt = sentAt = now;
    const drawings = { support: cards.map(({ canvas }) => copyOf(canvas.strokes)), query: copyOf(query.strokes) };
    asking = true; // what is set here is already on the canvases
    for (const [name, value] of Object.entries({ ...drawings, number: asked })) model.set(name, value);
    asking = false;
    model.save_changes();
    kernel.asked();
  }

  function useSample(set, index) {
    const sample = samples[set];
    if (!sample) return;
    const one = sample.queries[index % sample.queries.length];
    if (drawn === null || drawn.set !== set) sample.support.forEach((strokes, i) => cards[i]?.canvas.set(strokes));
    query.set(one.drawing);
    drawn = { set, index, is: one.is };
    another.disabled = false;
    ask("query", true);
  }

  // The first line: what to do, and the samples.
  const first = element("div", "mlpad-line");
  first.append(element("span", "mlpad-step", "1"), element("span", "mlpad-text", "Teach: draw one character in each box."));
  const fills = element("span", "mlpad-samples", "");
  fills.append(element("span", "mlpad-or", samples.length ? "Or let the pad draw:" : ""));
  samples.forEach(({ name }, set) =>
    fills.append(button(name, `Fill the boxes with the sample drawings "${name}"`, () => { drawn = null; useSample(set, 0); })));
  fills.append(button("Clear all", "Clear all boxes", () => {
    drawn = null;
    another.disabled = true;
    for (const { canvas } of cards) canvas.set([]);
    query.set([]);
    ask("support", true);
  }));
  first.append(fills);

  const row = element("div", "mlpad-row");
  row.append(...cards.map(({ card }) => card));

  const second = element("div", "mlpad-line");
  second.append(element("span", "mlpad-step", "2"), element("span", "mlpad-text", "Ask: draw one of them again, in your own hand."));
  const another = button("Another sample", "Draw another sample to classify", () => {
    const { set, index } = drawn ?? { set: 0, index: -1 };
    useSample(set, index + 1);
  });
  another.disabled = true;
  const askTools = element("span", "mlpad-samples");
  if (samples.length) askTools.append(another);
  second.append(askTools);

  const board = element("div", "mlpad-board");
  const left = element("div", "mlpad-query");
  left.append(query.node, tools(query, "the drawing to classify", ["↶ Undo", "✕ Clear"]));
  const right = element("div", "mlpad-answer");
  const pair = element("div", "mlpad-pair");
  const figure = (canvas, text) => {
    const node = element("figure", "mlpad-figure");
    node.append(canvas, element("figcaption", "", text));
    return node;
  };
  pair.append(figure(querySeen, "what the learner sees"), element("span", "mlpad-like", "≈"), figure(bestSeen, "most alike"));
  right.append(verdict, truth, pair, note);

  const names = model.get("names");
  if (names.length > 1) {
    const choose = element("label", "mlpad-choose", "Who answers? ");
    const select = element("select", "mlpad-select", "", { "aria-label": "Who answers?" });
    for (const name of names) select.append(element("option", "", name, { value: name }));
    select.value = model.get("chosen");
    select.addEventListener("change", () => {
      model.set("chosen", select.value);
      ask("query", true);
    });
    model.on("change:chosen", () => { select.value = model.get("chosen"); });
    choose.append(select);
    right.prepend(choose);
  }
  board.append(left, right);
  const line = element("div", "mlpad-kernel mlcourse-kernel");
  right.prepend(line); // here it moves no box under a person's pen
  root.append(first, row, second, board);
  el.append(root);
  const kernel = watchKernel(model, line, (living) => {
    // nobody would answer; the line itself stays readable for screen readers
    for (const part of [first, row, second, left, ...right.querySelectorAll("label")]) part.inert = !living;
    for (const part of [root, el]) part.classList.toggle("mlpad-saved", !living);
  });

  function showAnswer() {
    const answer = model.get("answer");
    kernel.heard();
    const best = answer.best ?? null;
    cards.forEach(({ show, seen }, i) => {
      show(answer.probabilities?.[i], i === best);
      paintSeen(seen, answer.seen_support?.[i]);
    });
    paintSeen(querySeen, answer.seen_query);
    paintSeen(bestSeen, best === null ? "" : answer.seen_support[best]);
    pair.classList.toggle("mlpad-hidden", best === null);
    root.dataset.state = answer.kind ?? "hint";
    verdict.textContent = answer.message ?? "";
    truth.textContent = "";
    if (best !== null && drawn !== null)
      truth.textContent = best === drawn.is ? `Right: the pad drew ${letters[drawn.is]}.` : `Wrong: the pad drew ${letters[drawn.is]}.`;
    if (answer.number >= asked && asked > answered && askedAt) {
      answered = answer.number;
      const waited = Math.round(performance.now() - askedAt);
      root.dataset.milliseconds = String(waited);
      root.dataset.number = String(answered);
      note.textContent = best === null ? "" : `answer after ${waited} ms, of which the learner took ${answer.milliseconds} ms`;
    }
    if (waiting !== null) ask(waiting, true);
  }

  /** Strokes that were set in Python or in another view of the same pad. */
  function takeOver() {
    if (asking || cards.some(({ canvas }) => canvas.pointer !== null) || query.pointer !== null) return;
    model.get("support").forEach((strokes, i) => cards[i]?.canvas.set(strokes));
    query.set(model.get("query"));
  }

  const views = { "change:answer": showAnswer, "change:support": takeOver, "change:query": takeOver };
  for (const [name, act] of Object.entries(views)) model.on(name, act);
  takeOver();
  showAnswer();
  return () => {
    kernel.stop();
    for (const [name, act] of Object.entries(views)) model.off(name, act);
    for (const { observer } of [query, ...cards.map(({ canvas }) => canvas)]) observer.disconnect();
  };
}

export default { render };
