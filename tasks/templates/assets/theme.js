// Before the first paint: the reader's own choice of theme, if there is one.
try {
  const chosen = localStorage.getItem("docmill-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch { /* storage may be off; then the system's theme holds */ }
