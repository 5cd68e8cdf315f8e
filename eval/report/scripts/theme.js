// The reader's choice of light or dark, taken up before anything is drawn. Without one the system decides.
try {
  const chosen = localStorage.getItem("report-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* storage may be closed to a local file */ }
