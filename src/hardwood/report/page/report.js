"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);

  /** An element with a text, which is never parsed. */
  const make = (tag, text, kind) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  /** What a row of queries or targets is called: its text, or its id where there is none. */
  const nameOf = (row) => (row.length > 1 ? row[1] : row[0]);
  const shortened = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);
  const similarity = (value) => (value === null ? "–" : value.toFixed(3).replace("-", "−"));
  /** A number that may be far from 1, by its logarithm. */
  const ofLog = (value) => {
    if (value === null) return "–";
    const number = Math.exp(value);
    if (number >= 1000) return Math.round(number).toLocaleString("en");
    return number >= 0.001 ? number.toPrecision(3) : number.toExponential(1).replace("-", "−");
  };
  const percent = (value) => (value === null ? "–" : (100 * value).toFixed(value < 0.1 ? 2 : 1) + " %");

  function negatives() {
    const viewer = byId("viewer");
    if (!viewer || !data.snapshots || !data.snapshots.length) return;
    const select = byId("query"), steps = byId("steps"), rows = byId("rows");
    let step = data.snapshots.length - 1;
    data.watched.forEach((one, place) => {
      const option = make("option", shortened(nameOf(data.queries[one.query]), 90));
      option.value = String(place);
      select.append(option);
    });
    steps.append(make("span", "step", "quiet"));
    const buttons = data.snapshots.map((snapshot, place) => {
      const button = make("button", String(snapshot.step));
      button.type = "button";
      button.addEventListener("click", () => { step = place; show(); });
      steps.append(button);
      return button;
    });
    function show() {
      const place = Number(select.value), watched = data.watched[place];
      const found = data.snapshots[step].queries[place];
      buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(at === step)));
      byId("positive").textContent = "positive: " + nameOf(data.targets[watched.positive]) + " — similarity " +
        similarity(found.positive) + ", " + percent(found.mass) + " of the softmax";
      rows.replaceChildren();
      for (const [target, logQ, logWeight, stale, fresh, share] of found.negatives) {
        const row = make("tr", undefined, fresh !== null && fresh > found.positive ? "above" : "");
        row.append(make("td", nameOf(data.targets[target])));
        for (const text of [ofLog(logQ), ofLog(logWeight), similarity(stale), similarity(fresh), percent(share)]) {
          row.append(make("td", text, "n"));
        }
        rows.append(row);
      }
      if (!found.negatives.length) {
        const cell = make("td", "none was drawn", "quiet"), row = make("tr");
        cell.colSpan = 6;
        row.append(cell);
        rows.append(row);
      }
    }
    const move = (by) => {
      select.value = String((Number(select.value) + by + data.watched.length) % data.watched.length);
      show();
    };
    select.addEventListener("change", show);
    byId("query-back").addEventListener("click", () => move(-1));
    byId("query-on").addEventListener("click", () => move(1));
    viewer.hidden = false;
    show();
  }

  /** Which words of two texts are not in their longest common subsequence: two arrays of [word, changed]. */
  function differences(one, other) {
    const words = (text) => text.split(/(\s+|[^\p{L}\p{N}]+)/u).filter((word) => word !== "").slice(0, 900);
    const a = words(one), b = words(other);
    const [left, right] = [a, b].map((all) => all.map((word) => [word, /[\p{L}\p{N}]/u.test(word)]));
    const same = (i, j) => a[i].toLowerCase() === b[j].toLowerCase();
    const lengths = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        lengths[i][j] = same(i, j) ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
      }
    }
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (same(i, j)) { left[i++][1] = false; right[j++][1] = false; }
      else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
      else j++;
    }
    return [left, right];
  }

  function write(element, words) {
    element.replaceChildren(...words.map(([word, changed]) => (changed ? make("mark", word) : document.createTextNode(word))));
  }

  function suspects() {
    const panel = byId("judge"), all = data.suspects || [];
    if (!panel || !all.length) return;
    const keyOf = (one) => JSON.stringify([one.query_id, one.target_id]);
    const store = "hardwood decisions " + data.data + " " + data.split;
    const decided = new Map();
    try { // a browser may keep nothing for files
      for (const [key, [decision, check]] of Object.entries(JSON.parse(localStorage.getItem(store) || "{}"))) {
        if (all.some((one) => keyOf(one) === key && one.check === check)) decided.set(key, decision);
      }
    } catch { /* then they last as long as the page */ }
    let place = 0;

    function keep() {
      try {
        const kept = all.filter((one) => decided.has(keyOf(one))).map((one) => [keyOf(one), [decided.get(keyOf(one)), one.check]]);
        localStorage.setItem(store, JSON.stringify(Object.fromEntries(kept)));
      } catch { /* as above */ }
    }
    function show() {
      const one = all[place], decision = decided.get(keyOf(one));
      byId("where").textContent = (place + 1) + " of " + all.length;
      byId("suspect-query").textContent = "query: " + (one.query === undefined ? one.query_id : one.query);
      byId("suspect-id").textContent = one.target_id;
      const positives = one.positives || [];
      byId("other-count").textContent = positives.length > 1 ? "the nearest of " + positives.length : "";
      if (one.target === undefined) {
        byId("suspect-text").textContent = one.target_id;
        byId("suspect-positive").textContent = "(no texts on this page)";
      } else {
        const pairs = positives.slice(0, 20).map((positive) => differences(one.target, positive));
        const counted = (words) => words.filter(([word]) => /[\p{L}\p{N}]/u.test(word)).length;
        const changed = (words) => words.filter(([, is]) => is).length;
        const common = ([left, right]) => (counted(left) - changed(left)) / Math.max(1, counted(left), counted(right));
        const best = pairs.reduce((a, b) => (a && common(a) >= common(b) ? a : b), null);
        // Where most differs, marks would say nothing.
        const marked = best && common(best) >= 0.25 ? best : best && best.map((words) => words.map(([word]) => [word, false]));
        write(byId("suspect-text"), marked ? marked[0] : [[one.target, false]]);
        write(byId("suspect-positive"), marked ? marked[1] : [["(none in the corpus)", false]]);
      }
      const rest = Object.entries(one).filter(([name, value]) =>
        typeof value !== "string" && typeof value !== "object" && name !== "times_above_positive" && name !== "mean_score_lead");
      const lead = typeof one.mean_score_lead === "number" ? ", by " + one.mean_score_lead.toFixed(2) + " in the exponent on average" : "";
      byId("suspect-facts").textContent = "above the positive in " + one.times_above_positive + " steps" + lead +
        rest.map(([name, value]) => "; " + name + " " + value).join("");
      byId("yes").setAttribute("aria-pressed", String(decision === "positive"));
      byId("no").setAttribute("aria-pressed", String(decision === "negative"));
      byId("before").disabled = place === 0;
      byId("after").disabled = place === all.length - 1;
      const counts = [...decided.values()];
      const accepted = counts.filter((value) => value === "positive").length;
      byId("tally").textContent = counts.length + " decided: " + accepted + " answer their query, " +
        (counts.length - accepted) + " do not; " + (all.length - counts.length) + " open";
      byId("export").disabled = counts.length === 0;
    }
    const go = (by) => { place = Math.min(Math.max(place + by, 0), all.length - 1); show(); };
    function decide(decision) {
      decided.set(keyOf(all[place]), decision);
      keep();
      if (place < all.length - 1) place += 1;
      show();
    }
    const undo = () => { decided.delete(keyOf(all[place])); keep(); show(); };
    function download() {
      const lines = all.filter((one) => decided.has(keyOf(one))).map((one) => JSON.stringify({
        query_id: one.query_id, target_id: one.target_id, decision: decided.get(keyOf(one)), split: data.split, check: one.check,
      }));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "application/jsonl" }));
      link.download = "decisions.jsonl";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    }
    const keys = { j: () => go(1), k: () => go(-1), y: () => decide("positive"), n: () => decide("negative"), u: undo };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /^(input|select|textarea)$/i.test(event.target.tagName)) return;
      // Keys act where the panel is in sight: a "y" meant for something else must decide nothing.
      const box = panel.getBoundingClientRect();
      if (!keys[event.key] || box.bottom < 0 || box.top > window.innerHeight) return;
      event.preventDefault();
      keys[event.key]();
    });
    byId("before").addEventListener("click", () => go(-1));
    byId("after").addEventListener("click", () => go(1));
    byId("yes").addEventListener("click", () => decide("positive"));
    byId("no").addEventListener("click", () => decide("negative"));
    byId("undo").addEventListener("click", undo);
    byId("export").addEventListener("click", download);
    panel.hidden = false;
    show();
  }

  function tree() {
    const map = byId("map");
    if (!map || !data.tree) return;
    const show = (place) => {
      const [, , size, mass, examples] = data.tree.leaves[place];
      byId("leaf-name").textContent = size.toLocaleString("en") + " targets, " + percent(mass) + " of the softmax; nearest to its mean:";
      byId("leaf-texts").replaceChildren(...examples.map((at) => make("li", shortened(nameOf(data.targets[at]), 240))));
      map.querySelectorAll(".chosen").forEach((leaf) => leaf.classList.remove("chosen"));
      map.querySelectorAll("[data-leaf]").forEach((leaf) => { if (leaf.dataset.leaf === String(place)) leaf.classList.add("chosen"); });
    };
    const chosen = (event) => {
      const leaf = event.target.closest("[data-leaf]");
      if (leaf) show(Number(leaf.dataset.leaf));
    };
    map.addEventListener("click", chosen);
    byId("heaviest").addEventListener("click", chosen);
  }

  for (const part of [negatives, suspects, tree]) {
    try { part(); } catch (error) { console.error(error); } // one part must not take the others with it
  }
})();
