// Says in words whether the kernel is there to answer: shared by the narrator and the pad, which this text is put before.
const PATIENCE = 600; // milliseconds that a question may wait for the kernel before the widget says that it waits
const WAITS = "Waiting: the kernel is busy, as it is while a cell runs. The answer follows.";
const SAVED = "This is as it was saved. To use it, run the cells above (Run → Run All Above Selected Cell), then this cell.";

/**
 * Watch over the kernel of `model`, whose trait `own` holds its model's id, and write what is to be said into `line`.
 * Returns { asked, heard, stop }: call `asked` when a person has changed something, `heard` when the kernel reacts;
 * `alive(yes)` is called when the kernel comes or goes.
 */
function watchKernel(model, line, alive) {
  let timer = null;
  let living = true;
  line.setAttribute("role", "status");
  const say = (text) => {
    line.textContent = text;
    line.hidden = !text;
  };
  const heard = () => {
    clearTimeout(timer);
    timer = null;
    if (living) say("");
  };
  const asked = () => {
    if (living && timer === null) timer = setTimeout(() => say(WAITS), PATIENCE);
  };
  const look = async () => {
    // a front end that knows nothing of living models (`undefined`) is taken at its word: alive
    const own = await model.widget_manager?.get_model(model.get("own")).catch(() => null);
    const now = own?.comm_live !== false;
    if (now === living) return;
    living = now;
    clearTimeout(timer);
    timer = null;
    say(living ? "" : SAVED);
    alive(living);
  };
  say("");
  model.on("comm_live_update", look);
  look();
  const stop = () => {
    clearTimeout(timer);
    model.off("comm_live_update", look);
  };
  return { asked, heard, stop };
}
