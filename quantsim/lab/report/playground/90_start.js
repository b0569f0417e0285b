// Puts the views into the page as soon as it has been read.
(() => {
  "use strict";
  const { readJson } = window.quantsim.text;

  function start() {
    const root = document.getElementById("playground");
    if (!root) return;
    const facts = readJson("playground-data");
    const words = readJson("strings");
    const { playground } = window.quantsim;
    playground.matrix = new window.quantsim.matrix.MatrixView(root.querySelector("#matrix"), facts, words.matrix);
    playground.theory = new window.quantsim.theoryView.TheoryView(
      root.querySelector("#theory"), facts.theory, words.theory,
    );
  }

  window.quantsim.playground = {};
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
