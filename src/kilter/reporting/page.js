// Comfort only: without it the page shows everything, in the theme of the reader's system.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const kept = (() => { try { return localStorage.getItem("kilter-theme"); } catch { return null; } })();
  const asked = new URLSearchParams(location.search).get("theme") || kept;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  if (asked === "dark" || asked === "light") root.dataset.theme = asked;
  button.hidden = false;
  name();
  system.addEventListener("change", name);
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("kilter-theme", root.dataset.theme); } catch { /* a page from a file may have no storage */ }
    name();
  });

  const filter = document.querySelector(".filter");
  if (filter) {
    filter.hidden = false;
    filter.addEventListener("click", (event) => {
      const pressed = event.target.closest("button");
      if (!pressed) return;
      for (const other of filter.children) other.setAttribute("aria-pressed", String(other === pressed));
      for (const sample of document.querySelectorAll(".sample")) {
        sample.hidden = pressed.dataset.filter !== "" && sample.dataset.kind !== pressed.dataset.filter;
        if (pressed.dataset.filter !== "") sample.open = true;
      }
    });
  }

  const closed = [];  // on paper nothing can be opened, so everything is
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details:not([open])")) { fold.open = true; closed.push(fold); }
  });
  addEventListener("afterprint", () => { while (closed.length) closed.pop().open = false; });
})();
