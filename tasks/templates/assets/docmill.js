"use strict";
// The tree of modules, the contents, the theme, and links to the source. Pages work without it.
(() => {
  const html = document.documentElement;
  const site = window.docmillSite || { nav: [], pages: [] };
  const byId = (id) => document.getElementById(id);
  const store = (area, name, value) => {
    try {
      if (value === undefined) return window[area].getItem(name);
      if (value === null) window[area].removeItem(name);
      else window[area].setItem(name, value);
    } catch { /* storage may be off */ }
    return null;
  };
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  // --- theme: as the system has it, until the reader chooses

  const themes = {
    system: '<circle cx="8" cy="8" r="6"/><path class="solid" d="M8 2a6 6 0 0 1 0 12z"/>',
    light: '<circle cx="8" cy="8" r="3"/><path d="M8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1"/>',
    dark: '<path d="M13.5 9.8A6 6 0 1 1 6.2 2.5a5 5 0 0 0 7.3 7.3z"/>',
  };
  const themeButton = byId("dm-theme");
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
  const nextTheme = () => {
    const opposite = systemIsDark.matches ? "light" : "dark";
    const same = systemIsDark.matches ? "dark" : "light";
    return { system: opposite, [opposite]: same, [same]: "system" }[html.dataset.theme || "system"];
  };
  const showTheme = () => {
    const theme = html.dataset.theme || "system";
    themeButton.firstElementChild.innerHTML = themes[theme];
    themeButton.setAttribute("aria-label", `Theme: ${theme}. Switch to ${nextTheme()}`);
    themeButton.title = `Theme: ${theme}`;
  };
  themeButton.addEventListener("click", () => {
    const theme = nextTheme();
    if (theme === "system") delete html.dataset.theme;
    else html.dataset.theme = theme;
    store("localStorage", "docmill-theme", theme === "system" ? null : theme);
    showTheme();
  });
  systemIsDark.addEventListener("change", showTheme);
  window.addEventListener("storage", (event) => {
    if (event.key !== "docmill-theme") return;
    if (event.newValue) html.dataset.theme = event.newValue;
    else delete html.dataset.theme;
    showTheme();
  });
  showTheme();

  // --- the tree: folders are filled when they are first opened

  const tree = byId("dm-nav");
  const here = decodeURIComponent(new URL(byId("dm-documented")?.href || location.href).pathname).replace(/\/$/, "/index.html");
  const opened = new Set((store("sessionStorage", "docmill-open") || "").split(" ").filter(Boolean));
  const pathOf = (href) => decodeURIComponent(new URL(html.dataset.root + href, location.href).pathname);
  const remember = () => store("sessionStorage", "docmill-open", [...opened].join(" "));

  const branch = (nodes, prefix) => {
    const list = make("ul");
    for (const [name, href, children] of nodes) {
      const full = prefix ? `${prefix}.${name}` : name;
      const row = make("div", children.length ? {} : { class: "leaf" });
      const item = make("li", {}, row);
      if (children.length) {
        const toggle = make("button", { type: "button", "aria-expanded": "false", "aria-label": `Modules in ${name}` });
        const open = (wanted) => {
          if (wanted && !item.lastElementChild.matches("ul")) item.append(branch(children, full));
          if (item.lastElementChild.matches("ul")) item.lastElementChild.hidden = !wanted;
          toggle.setAttribute("aria-expanded", String(wanted));
        };
        toggle.addEventListener("click", () => {
          const wanted = toggle.getAttribute("aria-expanded") === "false";
          open(wanted);
          if (wanted) opened.add(full);
          else opened.delete(full);
          remember();
        });
        row.append(toggle);
        if (opened.has(full) || holdsCurrent([name, href, children])) open(true);
      }
      if (href) {
        const link = make("a", { href: html.dataset.root + href }, name);
        if (pathOf(href) === here) link.setAttribute("aria-current", "page");
        row.append(link);
      } else {
        row.append(make("span", { class: "folder" }, name));
      }
      list.append(item);
    }
    return list;
  };
  const holders = new Set();
  const holdsCurrent = (node) => holders.has(node[2]);
  const findCurrent = (nodes) =>
    nodes.some(([, href, children]) => {
      if (!((href && pathEnd(href)) || findCurrent(children))) return false;
      holders.add(children);
      return true;
    });
  const pathEnd = (href) => here.endsWith(decodeURIComponent(href)) && pathOf(href) === here;

  findCurrent(site.nav);
  if (site.nav.length === 1) opened.add(site.nav[0][0]);
  tree.append(branch(site.nav, ""));
  if (site.pages.length) {
    const pages = make("ul");
    for (const [title, href] of site.pages) {
      const link = make("a", { href: html.dataset.root + href }, title);
      if (pathOf(href) === here) link.setAttribute("aria-current", "page");
      pages.append(make("li", {}, make("div", { class: "leaf" }, link)));
    }
    tree.append(make("hr"), pages);
  }
  const centre = (box, element) => {
    const a = box.getBoundingClientRect();
    const b = element.getBoundingClientRect();
    if (b.top < a.top + 40 || b.bottom > a.bottom - 40) box.scrollTop += b.top - a.top - a.height / 3;
  };
  tree.scrollTop = Number(store("sessionStorage", "docmill-tree")) || 0;
  const currentLink = tree.querySelector("[aria-current]");
  if (currentLink) centre(tree, currentLink);
  window.addEventListener("pagehide", () => store("sessionStorage", "docmill-tree", String(tree.scrollTop)));

  tree.addEventListener("keydown", (event) => {
    const row = event.target.closest("div");
    if (!row || event.altKey || event.ctrlKey || event.metaKey) return;
    const toggle = row.querySelector("button");
    const expanded = toggle?.getAttribute("aria-expanded") === "true";
    const rows = () => [...tree.querySelectorAll("li > div")].filter((r) => r.offsetParent);
    const focus = (r) => r?.querySelector("a, button")?.focus();
    if (event.key === "ArrowRight" && toggle && !expanded) toggle.click();
    else if (event.key === "ArrowRight" && expanded) focus(row.nextElementSibling?.querySelector("div"));
    else if (event.key === "ArrowLeft" && expanded) toggle.click();
    else if (event.key === "ArrowLeft") focus(row.closest("ul").closest("li")?.firstElementChild);
    else if (event.key === "ArrowDown") focus(rows()[rows().indexOf(row) + 1]);
    else if (event.key === "ArrowUp") focus(rows()[rows().indexOf(row) - 1]);
    else return;
    event.preventDefault();
  });

  // --- contents: for the repository's own pages they are made from the headings

  const toc = byId("dm-toc");
  if (toc?.hidden) {
    const headings = [...document.querySelectorAll("main :is(h2, h3)[id]")];
    if (headings.length > 2) {
      const list = make("ul");
      for (const heading of headings) {
        const link = make("a", { href: `#${encodeURIComponent(heading.id)}` }, heading.textContent.replace(/\s*[#¶]$/, ""));
        const item = make("li", {}, link);
        const parent = heading.tagName === "H3" && list.lastElementChild;
        if (parent) (parent.querySelector("ul") || parent.appendChild(make("ul"))).append(item);
        else list.append(item);
      }
      toc.append(make("h2", {}, "On this page"), list);
      toc.hidden = false;
    }
  }
  if (toc && !toc.hidden) {
    byId("dm-contents").hidden = false;
    const links = new Map();
    for (const link of toc.querySelectorAll("a")) links.set(decodeURIComponent(link.hash.slice(1)), link);
    toc.classList.toggle("long", links.size > 60);
    const main = byId("dm-main");
    const marks = [...document.querySelectorAll("main :is(h2, h3)[id]")].filter((mark) => links.has(mark.id));
    let current = null;
    // What stands below the header is found by a look at that point, whatever the page's length.
    const idInView = () => {
      const box = main.getBoundingClientRect();
      const line = 110;
      for (const dy of [0, 30, 60]) {
        const at = document.elementFromPoint(box.left + 40, line + dy);
        const section = at?.closest?.("section.symbol[id]");
        if (section && links.has(section.id)) return section.id;
      }
      let last = null;
      for (const mark of marks) {
        if (mark.getBoundingClientRect().top > line + 60) break;
        last = mark.id;
      }
      return last;
    };
    const spy = () => {
      scheduled = false;
      if (main.inert) return;
      const link = links.get(idInView()) || null;
      if (link === current) return;
      current?.removeAttribute("aria-current");
      for (const item of toc.querySelectorAll(".open")) item.classList.remove("open");
      current = link;
      if (!link) return;
      link.setAttribute("aria-current", "true");
      for (let item = link.closest("li"); item; item = item.parentElement.closest("li")) item.classList.add("open");
      if (!toc.matches(":hover, :focus-within")) centre(toc, link);
    };
    let scheduled = false;
    const later = () => {
      if (!scheduled) requestAnimationFrame(spy);
      scheduled = true;
    };
    window.addEventListener("scroll", later, { passive: true });
    window.addEventListener("resize", later);
    later();
  }

  // Sections out of sight have estimated heights; a jump is repeated until they have settled.
  const settle = () => {
    const target = byId(decodeURIComponent(location.hash.slice(1)));
    if (!target?.matches("section, i")) return;
    let left = 6;
    const stop = () => { left = 0; };
    for (const kind of ["wheel", "touchstart", "keydown", "pointerdown"]) window.addEventListener(kind, stop, { once: true, passive: true });
    const again = () => {
      if (left-- <= 0) return;
      target.scrollIntoView();
      requestAnimationFrame(again);
    };
    requestAnimationFrame(again);
  };
  window.addEventListener("hashchange", settle);
  settle();

  // --- on small screens, both are drawers

  const drawers = [[byId("dm-menu"), tree], [byId("dm-contents"), toc]].filter(([, panel]) => panel);
  const others = [byId("dm-main"), document.querySelector(".top")];
  const shut = (focus) => {
    for (const [button, panel] of drawers) {
      if (!panel.classList.contains("open")) continue;
      panel.classList.remove("open");
      button.setAttribute("aria-expanded", "false");
      for (const other of others) other.inert = false;
      if (focus) button.focus();
    }
  };
  for (const [button, panel] of drawers) {
    button.addEventListener("click", () => {
      panel.classList.add("open");
      button.setAttribute("aria-expanded", "true");
      for (const other of others) other.inert = true;
      const first = panel.querySelector("[aria-current]") || panel.querySelector("a, button");
      centre(panel, first);
      first.focus({ preventScroll: true });
    });
    panel.addEventListener("click", (event) => event.target.closest("a") && shut(false));
  }
  byId("dm-backdrop").addEventListener("click", () => shut(true));
  document.addEventListener("keydown", (event) => event.key === "Escape" && shut(true));
  matchMedia("(min-width: 75rem)").addEventListener("change", () => shut(false));

  // --- the source, and what every build may change

  const path = byId("dm-main").dataset.path;
  if (site.sourceUrl && path) {
    const fill = { revision: site.revision || "HEAD", path: encodeURI(path).replace(/[?#]/g, encodeURIComponent) };
    for (const link of document.querySelectorAll("a.source[data-line]")) {
      const values = { ...fill, line: link.dataset.line };
      link.href = site.sourceUrl.replace(/\{(revision|path|line)\}/g, (_, name) => values[name]);
      link.rel = "noreferrer";
    }
  }
  if (site.revision) byId("dm-revision").textContent = `Revision ${site.revision.slice(0, 12)} · `;
  document.querySelector(".lines")?.addEventListener("click", (event) => {
    if (event.target.matches("i[id]") && getSelection().isCollapsed) location.hash = event.target.id;
  });

  // The members that a class inherits are many: they become links when they are first shown.
  document.addEventListener("toggle", (event) => {
    const list = event.target.querySelector?.("[data-base]");
    if (!list) return;
    const { base } = list.dataset;
    list.removeAttribute("data-base");
    const names = list.lastChild.textContent.trim().split(" ");
    list.lastChild.remove();
    for (const name of names) list.append(" ", make("a", { href: `${base}.${encodeURIComponent(name)}` }, name));
  }, true);

  const marks = { model: "Written by a language model, from the code", derived: "Derived from the code by docmill" };
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest?.(".mark");
    if (mark && !mark.title) mark.title = marks[mark.textContent.trim()] || "";
  });

  // --- in a diagram, a part's own arcs stand out

  for (const figure of document.querySelectorAll(".diagram")) {
    const rows = [...figure.querySelectorAll("ol > li")];
    const light = (event) => {
      const row = rows.indexOf(event.target.closest?.("ol > li"));
      for (const arc of figure.querySelectorAll("path")) {
        const lit = row >= 0 && (Number(arc.dataset.user) === row || Number(arc.dataset.used) === row);
        arc.classList.toggle("lit", lit);
        arc.classList.toggle("dim", row >= 0 && !lit);
      }
    };
    for (const kind of ["pointerover", "focusin"]) figure.addEventListener(kind, light);
    for (const kind of ["pointerleave", "focusout"]) figure.addEventListener(kind, () => light({ target: figure }));
  }
})();
