// Before the first paint: scripts run here, and the reader's own choice of theme, if there is one.
document.documentElement.classList.add("js");
try {
  const chosen = localStorage.getItem("docmill-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* storage may be off; then the system's theme holds */ }
