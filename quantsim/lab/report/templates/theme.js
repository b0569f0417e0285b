(() => {
  "use strict";
  // Light or dark: what the system asks for until the button is used, then what was chosen, also after a reload.
  const root = document.documentElement;
  const words = JSON.parse(document.getElementById("strings").textContent).report;
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  root.classList.add("scripted");

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  }

  function label() {
    button.textContent = isDark() ? words.theme_light : words.theme_dark;
  }

  function remembered() {
    try {
      return window.localStorage.getItem("quantsim-theme");
    } catch {
      return null; // a browser may keep nothing for files on disk
    }
  }

  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
    try {
      window.localStorage.setItem("quantsim-theme", root.dataset.theme);
    } catch {
      return;
    }
  });
  system.addEventListener("change", label);
  const before = remembered();
  if (before === "light" || before === "dark") {
    root.dataset.theme = before;
  }
  label();
})();
