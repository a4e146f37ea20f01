"use strict";
// Runs before the first paint, so that a page chosen dark never flashes white; hence no module.
(() => {
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const kept = () => {
    try {
      return localStorage.getItem("polyfold-theme");
    } catch {
      return null; // storage may be forbidden: the choice then lasts as long as the page
    }
  };
  const keep = (theme) => {
    try {
      localStorage.setItem("polyfold-theme", theme);
    } catch {
      // see above
    }
  };
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const theme = kept();
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(dark()));
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      keep(root.dataset.theme);
      show();
    });
    system.addEventListener("change", show);
    show();
  });
})();
