"use strict";
// Search: the index is loaded when the reader first turns to the search field.
(() => {
  const root = document.documentElement.dataset.root;
  const input = document.getElementById("dm-search");
  const box = input.closest(".search");
  const panel = document.getElementById("dm-found");
  const list = document.getElementById("dm-results");
  const count = document.getElementById("dm-count");

  const SHOWN = 50;
  const KINDS = { M: "module", c: "class", f: "function", m: "method", p: "property", a: "attribute", d: "page" };
  const ORDER = { M: 0, d: 1, c: 2, f: 3, m: 4, p: 5, a: 6 };
  const NARROWED = {
    module: "M", mod: "M", package: "M", class: "c", function: "f", func: "f", def: "fm", fn: "fm",
    method: "m", meth: "m", property: "p", prop: "p", attribute: "a", attr: "a", page: "d", doc: "d",
  };
  const TEST = /(^|\.)(tests?|conftest|test_[^.]*|[^.]*_test)(\.|$)/;

  // --- the index, flat: one entry a module, symbol or page

  let entries = null;
  let names, bareNames, summaries;

  // One long string is searched much faster than thousands of short ones.
  const corpus = (field) => {
    const texts = entries.map((entry) => entry[field]);
    const starts = new Uint32Array(texts.length + 1);
    for (let n = 0; n < texts.length; n += 1) starts[n + 1] = starts[n] + texts[n].length + 1;
    const all = texts.join("\n");
    return {
      each(term, visit) {
        let n = 0;
        for (let at = all.indexOf(term); at >= 0; at = n < texts.length ? all.indexOf(term, starts[n]) : -1) {
          while (starts[n + 1] <= at) n += 1;
          visit(entries[n]);
          n += 1;
        }
      },
    };
  };
  const flatten = () => {
    const found = [];
    const add = (kind, path, name, module, page, anchor, summary, origin, test, offered = false) => {
      const low = path.toLowerCase();
      const last = low.length - lastOf(name).length;
      found.push({
        kind, path, low, name, module, page, anchor, summary, origin, test, offered, last,
        length: low.length - last,
        depth: low.split(".").length,
        bare: low.slice(last).replaceAll("_", ""),
        words: summary.toLowerCase(),
      });
    };
    const lastOf = (name) => name.slice(Math.max(name.lastIndexOf("."), name.lastIndexOf("/")) + 1);
    for (const [module, page, symbols, offered, summary = "", origin = ""] of window.docmillSearch) {
      const test = TEST.test(module);
      add("M", module, module, "", page, "", summary, origin, test);
      for (const [name, kind, text = "", by = ""] of symbols) {
        add(kind, `${module}.${name.replace(/#\d+$/, "")}`, name, module, page, name, text, by, test);
      }
      for (const [name, kind, href] of offered) {
        const [at, anchor] = href.split("#");
        add(kind, `${module}.${name}`, name, module, at, decodeURIComponent(anchor), "", "", test, true);
      }
    }
    for (const [title, page] of window.docmillSite?.pages || []) {
      add("d", title.replaceAll("/", "."), title, "", page, "", "", "", false);
    }
    entries = found;
    names = corpus("low");
    bareNames = corpus("bare");
    summaries = corpus("words");
  };

  let loading = null;
  const load = () => {
    loading ||= new Promise((done) => {
      const script = document.createElement("script");
      script.src = `${root}assets/search.js`;
      script.onload = () => {
        flatten();
        delete window.docmillSearch;
        done();
      };
      script.onerror = () => {
        loading = null;
        count.textContent = "The search index could not be loaded.";
      };
      document.head.append(script);
    });
    return loading;
  };

  // --- matching: exact > start > start of a word > inside; then the path; then the summary

  // After a sign, or a capital after what is none.
  const beginsWord = ({ path, low }, at) =>
    "_./-".includes(path[at - 1]) || (path[at] !== low[at] && path[at - 1] === low[at - 1]);

  const grade = (entry, term) => {
    const { low, last } = entry;
    if (low.startsWith(term, last)) return low.length - last === term.length ? 0 : 1;
    for (let at = low.indexOf(term, last); at >= 0; at = low.indexOf(term, at + 1)) if (beginsWord(entry, at)) return 2;
    if (low.indexOf(term, last) >= 0) return 3;
    const at = low.lastIndexOf(term);
    if (at < 0) return -1;
    const whole = at === 0 || beginsWord(entry, at);
    if (at + term.length <= last) return whole ? 5 : 6;
    if (!whole) return 4;
    return at + term.length === low.length ? 0 : 1;
  };

  const parse = (text) => {
    const narrowed = /^\s*([a-z]+):(?!:)/i.exec(text);
    const kinds = narrowed && NARROWED[narrowed[1].toLowerCase()];
    if (kinds) text = text.slice(narrowed[0].length);
    const terms = text.trim().toLowerCase().replace(/\(\)?$/, "").split(/\s+/).filter(Boolean);
    return { kinds: kinds || "", terms: terms.map((term) => (/[/:]/.test(term) ? term.replace(/\.py$/, "").replace(/::|\//g, ".") : term)) };
  };

  const search = (text) => {
    const { kinds, terms } = parse(text);
    if (!terms.length && !kinds) return { found: [], total: 0, terms };
    const buckets = new Map();
    let total = 0;
    const put = (entry, rank, length) => {
      const key = (entry.test ? 100000 : 0) + rank * 1000 + Math.min(length, 999);
      const bucket = buckets.get(key);
      if (bucket) bucket.push(entry);
      else buckets.set(key, [entry]);
      total += 1;
    };
    // What a module offers of others is found by its path there, lest everything be found twice.
    const dotted = terms.some((term) => term.includes("."));
    const fits = (entry) => (!kinds || kinds.includes(entry.kind)) && (dotted || !entry.offered);
    if (!terms.length) {
      for (const entry of entries) if (fits(entry)) put(entry, 0, entry.length);
    } else {
      const seen = new Set();
      // One or two letters stand in nearly every path: they are looked for in names alone.
      (/^[^_.]{1,2}$/.test(terms[0]) ? bareNames : names).each(terms[0], (entry) => {
        if (!fits(entry)) return;
        let best = 9;
        for (const term of terms) {
          const rank = grade(entry, term);
          if (rank < 0) return;
          best = Math.min(best, rank);
        }
        seen.add(entry);
        put(entry, best, best === 0 ? entry.depth : best > 3 ? entry.low.length : entry.length);
      });
      // Little found: without underscores, then in the summaries.
      if (total < 10 && terms.join("").length > 2) {
        const bare = terms.map((term) => term.replaceAll("_", ""));
        bareNames.each(bare[0], (entry) => {
          if (!fits(entry) || seen.has(entry) || !bare.every((term) => entry.bare.includes(term))) return;
          seen.add(entry);
          put(entry, 7, entry.length);
        });
        const longest = terms.reduce((a, b) => (a.length >= b.length ? a : b));
        summaries.each(longest, (entry) => {
          if (!fits(entry) || seen.has(entry)) return;
          if (terms.every((term) => entry.words.includes(term) || entry.low.includes(term))) put(entry, 8, entry.low.length);
        });
      }
    }
    // Within a rank and length: as the capitals were typed, then by kind, then the shorter path.
    const typed = /[A-Z]/.test(text) ? text.trim() : "";
    const order = (a, b) =>
      (typed && b.path.endsWith(typed) - a.path.endsWith(typed)) ||
      ORDER[a.kind] - ORDER[b.kind] || a.path.length - b.path.length || (a.path < b.path ? -1 : 1);
    const found = [];
    for (const key of [...buckets.keys()].sort((a, b) => a - b)) {
      found.push(...buckets.get(key).sort(order));
      if (found.length >= SHOWN) break;
    }
    return { found: found.slice(0, SHOWN), total, terms };
  };

  // --- showing

  let shown = [];
  let chosen = -1;

  const span = (name, ...content) => {
    const element = document.createElement("span");
    element.className = name;
    element.append(...content);
    return element;
  };
  const marked = (name, terms) => {
    const low = name.toLowerCase();
    const term = terms.map((t) => (low.includes(t) ? t : t.slice(t.lastIndexOf(".") + 1))).find((t) => t && low.includes(t));
    if (!term) return [name];
    const lastPart = low.lastIndexOf(".") + 1;
    const at = low.indexOf(term, lastPart) >= 0 ? low.indexOf(term, lastPart) : low.lastIndexOf(term);
    const mark = document.createElement("mark");
    mark.textContent = name.slice(at, at + term.length);
    return [name.slice(0, at), mark, name.slice(at + term.length)];
  };
  const option = (entry, number, terms) => {
    const element = document.createElement("a");
    element.id = `dm-option-${number}`;
    element.className = "result";
    element.tabIndex = -1;
    element.setAttribute("role", "option");
    element.setAttribute("aria-selected", "false");
    element.href = root + entry.page + (entry.anchor ? `#${encodeURIComponent(entry.anchor)}` : "");
    const where = span("where");
    if (entry.module) {
      const code = document.createElement("code");
      code.textContent = entry.module;
      where.append(code);
    }
    if (entry.origin) where.append(span(`mark ${entry.origin}`, entry.origin)); // a long text's end is cut off
    if (entry.summary) where.append(entry.summary);
    element.append(span(`kind k-${KINDS[entry.kind]}`, KINDS[entry.kind]), span("what", ...marked(entry.name.replace(/#\d+$/, ""), terms)), where);
    return element;
  };

  const choose = (number) => {
    list.children[chosen]?.setAttribute("aria-selected", "false");
    chosen = number;
    const element = list.children[chosen];
    if (!element) {
      input.removeAttribute("aria-activedescendant");
      return;
    }
    element.setAttribute("aria-selected", "true");
    input.setAttribute("aria-activedescendant", element.id);
    const top = element.offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top - 4;
    else if (top + element.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top + element.offsetHeight - list.clientHeight + 4;
  };

  const open = (wanted) => {
    panel.hidden = !wanted;
    input.setAttribute("aria-expanded", String(wanted && shown.length > 0));
    if (!wanted) choose(-1);
  };

  const update = () => {
    const text = input.value;
    if (!text.trim()) {
      shown = [];
      list.replaceChildren();
      open(false);
      return;
    }
    if (!entries) {
      count.textContent = "Loading …";
      open(true);
      load().then(update);
      return;
    }
    const { found, total, terms } = search(text);
    shown = found;
    chosen = -1;
    list.replaceChildren(...found.map((entry, number) => option(entry, number, terms)));
    list.scrollTop = 0;
    const number = total.toLocaleString("en");
    count.textContent = !total ? "Nothing found" : total > found.length ? `${found.length} of ${number} results` : `${number} ${total === 1 ? "result" : "results"}`;
    open(true);
    choose(found.length ? 0 : -1);
  };

  input.addEventListener("focus", load);
  input.addEventListener("input", update);
  input.addEventListener("focus", () => input.value.trim() && update());
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
    if (step && shown.length && !panel.hidden) {
      event.preventDefault();
      const next = chosen + step;
      choose(Math.abs(step) === 1 ? (next + shown.length) % shown.length : Math.max(0, Math.min(shown.length - 1, next)));
    } else if (event.key === "Enter" && list.children[chosen] && !event.isComposing) {
      event.preventDefault();
      go(list.children[chosen], event.ctrlKey || event.metaKey);
    } else if (event.key === "Escape") {
      event.preventDefault();
      if (panel.hidden) input.blur();
      else if (input.value) {
        input.value = "";
        update();
      }
    }
  });
  const leave = () => {
    open(false);
    input.blur();
  };
  const go = (link, elsewhere) => {
    if (elsewhere) {
      window.open(link.href, "_blank", "noopener");
      return;
    }
    const target = link.href;
    leave();
    if (target === location.href) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
    location.href = target;
  };
  list.addEventListener("pointerdown", (event) => event.preventDefault());
  list.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(link, false);
  });
  box.addEventListener("focusout", (event) => box.contains(event.relatedTarget) || open(false));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.key !== "/" && event.key.toLowerCase() !== "s") return;
    if (event.target.closest?.("input, textarea, select, [contenteditable]") || box.closest("[inert]")) return;
    event.preventDefault();
    input.focus();
    input.select();
  });
})();
