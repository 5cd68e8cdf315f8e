// Light and dark by a button, folds opened by links and for printing.
{
  const toggle = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const label = () => { toggle.textContent = isDark() ? "Light" : "Dark"; };
  toggle.setAttribute("aria-label", "Switch between light and dark");
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("report-theme", theme); } catch { /* the choice lasts for this visit */ }
    label();
  });
  system.addEventListener("change", label);
  label();

  const openTarget = () => {
    const fold = location.hash.length > 1 && document.getElementById(location.hash.slice(1))?.querySelector(":scope > details");
    if (fold) fold.open = true;
  };
  addEventListener("hashchange", openTarget);
  openTarget();

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("main details:not([open], .data)")];
    opened.forEach((fold) => { fold.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((fold) => { fold.open = false; }));
}
