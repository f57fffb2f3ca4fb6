// Paper cannot be clicked: before a page is printed, what is folded opens, and a dark page becomes a light one. Afterwards
// all is as it was.
let before = null;
addEventListener("beforeprint", () => {
  if (before !== null) return; // printed once more before the first has ended: what was is known
  const folded = [...document.querySelectorAll(".bd-article details:not([open])")];
  before = { folded, look: document.documentElement.dataset.theme };
  for (const one of folded) one.open = true;
  document.documentElement.dataset.theme = "light";
});
addEventListener("afterprint", () => {
  if (before === null) return;
  for (const one of before.folded) one.open = false;
  if (before.look === undefined) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = before.look;
  before = null;
});
