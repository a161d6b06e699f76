"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") node.className = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // One image of a sprite at a given width in pixels; or filling its box if width is null.
  const tile = (sprite, index, width) => {
    const node = make("span", { class: "tile" });
    place(node, sprite, index, width);
    return node;
  };
  const place = (node, sprite, index, width) => {
    const column = index % sprite.columns, row = Math.floor(index / sprite.columns);
    const rows = Math.ceil(sprite.count / sprite.columns);
    const part = (at, count) => (count > 1 ? (100 * at) / (count - 1) : 0) + "%";
    node.style.backgroundImage = `url(${sprite.uri})`;
    node.style.backgroundSize = `${100 * sprite.columns}% ${100 * rows}%`;
    node.style.backgroundPosition = `${part(column, sprite.columns)} ${part(row, rows)}`;
    node.style.aspectRatio = `${sprite.width} / ${sprite.height}`;
    if (width) node.style.width = width + "px";
  };

  // ---- theme
  const root = document.documentElement, redraw = [];
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    redraw.forEach((draw) => draw());
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw.forEach((draw) => draw()));

  // ---- grids of samples: the nearest training image on hover and focus
  for (const host of document.querySelectorAll("[data-gallery]")) {
    const { name, samples, nearest, known } = data.galleries[Number(host.dataset.gallery)];
    const columns = 8, size = Math.max(28, Math.min(56, Math.floor((Math.min(host.clientWidth, 520) - 16) / columns)));
    const grid = make("div", { class: "grid-of", role: "group", "aria-label": `samples of ${name}; arrow keys move` });
    grid.style.gridTemplateColumns = `repeat(${columns}, ${size}px)`;
    const big = make("span", { class: "tile" }), next = make("span", { class: "tile" });
    const caption = make("figcaption");
    const pair = make("div", { class: "pair", "aria-live": "polite" },
      make("figure", {}, big, caption),
      make("figure", {}, next, make("figcaption", {}, known)));
    const buttons = [];
    const show = (index) => {
      buttons.forEach((b, k) => { b.tabIndex = k === index ? 0 : -1; b.setAttribute("aria-current", k === index); });
      place(big, samples, index, 112);
      place(next, nearest, index, 112);
      caption.textContent = `sample ${index + 1}`;
    };
    for (let k = 0; k < samples.count; k++) {
      const button = make("button", { type: "button", "aria-label": `sample ${k + 1}` }, tile(samples, k, size));
      button.addEventListener("pointerenter", () => show(k));
      button.addEventListener("focus", () => show(k));
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
        if (!step || !buttons[k + step]) return;
        event.preventDefault();
        buttons[k + step].focus();
      });
      buttons.push(button);
    }
    grid.append(...buttons);
    host.append(grid, pair);
    show(0);
  }

  // ---- latent explorers
  const explore = (host, given) => {
    const { points, near, apart, scores, pairs, strength, anchors, thumbs, frames, steps } = given;
    const canvas = host.querySelector("canvas"), say = host.querySelector("[data-say]");
    const details = host.querySelector("[data-details]"), path = host.querySelector("[data-path]");
    const crossing = host.querySelector("[data-crossing]"), by = host.querySelector("[data-by]");
    const swatches = host.querySelector("[data-swatches]");
    const ends = [...host.querySelectorAll("[data-end]")];
    let selected = 0, route = null, drag = null, focused = false, pinned = null;

    const anyJump = given.jumps.some((row) => row.length);
    const modeCount = Math.max(...given.modes) + 1;
    const groupOf = (i) => (by.value === "class" && given.labels ? given.labels[i] : given.modes[i]);
    const groupName = (g) => (by.value === "class" && given.labels ? given.classes[g] ?? `class ${g}` : `mode ${g + 1}`);
    const nameOf = (i) => {
      const label = given.labels ? given.classes[given.labels[i]] ?? `class ${given.labels[i]}` : `code ${i + 1}`;
      return modeCount > 1 ? `${label}, mode ${given.modes[i] + 1}` : label;
    };
    const where = (i) => {
      const side = canvas.clientWidth, margin = 14;
      return [margin + points[i][0] * (side - 2 * margin), margin + (1 - points[i][1]) * (side - 2 * margin)];
    };
    const closest = (x, y, among) => {
      let best = 0, least = Infinity;
      for (const i of among ?? points.keys()) {
        const [a, b] = where(i), gap = (a - x) ** 2 + (b - y) ** 2;
        if (gap < least) { least = gap; best = i; }
      }
      return best;
    };

    const draw = () => {
      const side = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
      canvas.width = canvas.height = Math.round(side * ratio);
      const g = canvas.getContext("2d");
      g.scale(ratio, ratio);
      if (crossing.checked) {
        g.strokeStyle = colour("--alarm");
        pairs.forEach(([i, j], k) => {
          g.globalAlpha = 0.05 + 0.3 * strength[k];
          line(g, where(i), where(j));
        });
        g.globalAlpha = 1;
      }
      for (let i = 0; i < points.length; i++) {
        g.fillStyle = colour(`--c${groupOf(i) % 10}`);
        dot(g, where(i), 3.2, true);
      }
      g.strokeStyle = colour("--ink");
      g.lineWidth = 1.5;
      for (const i of anchors) dot(g, where(i), 6.5, false);
      if (route) {
        g.strokeStyle = colour("--accent");
        g.lineWidth = 3;
        line(g, where(anchors[route[0]]), where(anchors[route[1]]));
      }
      if (pinned !== null) { // where a path will start
        const [x, y] = where(pinned);
        g.strokeStyle = g.fillStyle = colour("--alarm");
        g.lineWidth = 2.5;
        g.strokeRect(x - 11, y - 11, 22, 22);
        g.font = "600 13px system-ui, sans-serif";
        g.fillText("start", Math.min(x + 15, side - 36), Math.max(y - 8, 14));
      }
      if (drag && drag.moved) {
        g.strokeStyle = colour("--accent");
        g.setLineDash([6, 4]);
        line(g, where(drag.from), [drag.x, drag.y]);
        g.setLineDash([]);
      }
      g.strokeStyle = colour("--accent");
      g.lineWidth = 3;
      dot(g, where(selected), 9, false);
      if (focused) dot(g, where(selected), 13, false);
    };
    const line = (g, [a, b], [c, d]) => { g.beginPath(); g.moveTo(a, b); g.lineTo(c, d); g.stroke(); };
    const dot = (g, [x, y], r, filled) => { g.beginPath(); g.arc(x, y, r, 0, 7); if (filled) g.fill(); else g.stroke(); };

    const legend = () => {
      const groups = [...new Set([...points.keys()].map(groupOf))].sort((a, b) => a - b);
      const shown = groups.slice(0, 12).map((g) => {
        const key = make("i", { class: "key" });
        key.style.background = `var(--c${g % 10})`;
        return make("span", {}, key, " " + groupName(g));
      });
      if (groups.length > 12) shown.push(make("span", {}, `and ${groups.length - 12} more (colours repeat)`));
      swatches.replaceChildren(...shown);
    };

    const select = (i, announce = true) => {
      selected = i;
      const others = near[i].map((j, k) => make("button", {
        type: "button",
        class: apart[i][k] ? "apart" : "",
        "aria-label": `nearest ${k + 1}: ${nameOf(j)}, score ${scores[i][k].toFixed(2)}${apart[i][k] ? ", across the singular set" : ""}`,
        onclick: () => { select(j); canvas.focus(); },
      }, tile(thumbs, j, 44), make("small", {}, scores[i][k].toFixed(2))));
      details.replaceChildren(
        make("h3", {}, nameOf(i)), tile(thumbs, i, 112),
        make("p", { class: "note" }, "its nearest codes, with the chance that what lies between is off the data" + (pairs.length ? "; a dashed frame lies across the singular set" : "")),
        make("div", { class: "near" }, ...others));
      if (announce) say.textContent = `code ${i + 1}: ${nameOf(i)}`;
      draw();
    };

    const clear = () => {
      pinned = null; route = null;
      path.replaceChildren();
      ends.forEach((end) => { end.selectedIndex = -1; });
      draw();
    };

    const walk = (a, b) => { // numbers of anchors
      if (!frames || a === b) {
        clear();
        say.textContent = "no path: both ends are nearest to the same ringed code; choose them further apart";
        return;
      }
      route = [a, b];
      ends[0].value = a; ends[1].value = b;
      const [low, high] = a < b ? [a, b] : [b, a];
      const row = low * anchors.length - (low * (low + 1)) / 2 + (high - low - 1);
      const order = [...Array(steps).keys()].map((t) => (a < b ? t : steps - 1 - t));
      const jumps = given.jumps[row].map((t) => (a < b ? t + 1 : steps - 1 - t)); // the frame jumped to
      const big = [make("span", { class: "tile" }), make("span", { class: "tile" })];
      const slider = make("input", { type: "range", min: 0, max: steps - 1, value: 0, "aria-label": "place on the path" });
      const strips = [0, 1].map((cut) => {
        const strip = make("div", { class: "frames" });
        strip.style.gridTemplateColumns = `repeat(${steps}, minmax(0, 1fr))`;
        order.forEach((t, k) => strip.append(make("button", {
          type: "button", tabindex: -1, class: cut && jumps.includes(k) ? "jump" : "",
          "aria-label": `${cut ? "cut" : "uncut"} path, frame ${k + 1}`,
          onclick: () => { slider.value = k; at(); },
        }, tile(frames, row * 2 * steps + cut * steps + t, null))));
        return strip;
      });
      const at = () => {
        const k = Number(slider.value);
        big.forEach((node, cut) => place(node, frames, row * 2 * steps + cut * steps + order[k], 112));
        strips.forEach((strip) => [...strip.children].forEach((b, n) => b.setAttribute("aria-current", n === k)));
        slider.setAttribute("aria-valuetext", `frame ${k + 1} of ${steps}${jumps.includes(k) ? ", after a jump" : ""}`);
      };
      slider.addEventListener("input", at);
      const told = jumps.length
        ? `The map's path jumps ${jumps.length === 1 ? "once" : jumps.length + " times"}: frame ${jumps.map((k) => k + 1).sort((x, y) => x - y).join(", ")}.`
        : `The path crosses no singular facet; its largest step leads to frame ${(a < b ? given.largest[row] + 1 : steps - 1 - given.largest[row]) + 1}.`;
      path.replaceChildren(
        make("h3", {}, `${nameOf(anchors[a])} → ${nameOf(anchors[b])}`),
        make("div", { class: "pair" },
          make("figure", {}, big[0], make("figcaption", {}, "uncut")),
          make("figure", {}, big[1], make("figcaption", {}, "cut"))),
        slider,
        make("p", { class: "note" }, "Uncut: the straight line between the two codes, decoded; what lies between modes is a blend."),
        strips[0],
        make("p", { class: "note" }, "Cut: the transport map along the straight line between their cells." + (anyJump
          ? " Red bars mark where it crosses the singular set, from one mode to another at once." : "")),
        strips[1],
        make("p", { class: jumps.length ? "alarm" : "note" }, told));
      say.textContent = `path from ${nameOf(anchors[a])} to ${nameOf(anchors[b])}. ${told}`;
      at(); draw();
    };

    // pointer: click selects, drag makes a path between the prepared codes nearest to its ends
    const spot = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      const [x, y] = spot(event);
      drag = { from: closest(x, y), x, y, startX: x, startY: y, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return;
      [drag.x, drag.y] = spot(event).map((v) => Math.max(0, Math.min(canvas.clientWidth, v)));
      drag.moved ||= Math.hypot(drag.x - drag.startX, drag.y - drag.startY) > 8;
      draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (!drag) return;
      const { from, moved } = drag, at = spot(event), to = closest(...at);
      drag = null;
      if (at.some((v) => v < 0 || v > canvas.clientWidth)) { // let go outside: never mind
        say.textContent = "no path: the drag ended outside the picture"; draw(); return;
      }
      if (moved) { select(to, false); walk(given.snap[from], given.snap[to]); } else select(from);
      draw();
    });
    canvas.addEventListener("pointercancel", () => { drag = null; draw(); });

    // keyboard: arrows move to the next point that way, Enter sets the ends of a path
    canvas.addEventListener("keydown", (event) => {
      const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (way) {
        const [x, y] = where(selected);
        let best = selected, least = Infinity;
        for (const i of points.keys()) {
          const [a, b] = where(i), ahead = (a - x) * way[0] + (b - y) * way[1];
          const aside = Math.abs((a - x) * way[1]) + Math.abs((b - y) * way[0]);
          const gap = ahead + 2 * aside;
          if (ahead > 0.5 && gap < least) { least = gap; best = i; }
        }
        select(best);
      } else if (event.key === "Enter" || event.key === " ") {
        if (pinned === null) {
          pinned = selected;
          say.textContent = `path starts at ${nameOf(selected)}; go to its end and press Enter`; draw();
        } else {
          const from = pinned;
          pinned = null;
          walk(given.snap[from], given.snap[selected]);
        }
      } else if (event.key === "Escape") {
        const had = route ? "path removed" : pinned !== null ? "start of the path removed" : "there is no path to remove";
        clear(); say.textContent = had;
      } else return;
      event.preventDefault();
    });
    canvas.addEventListener("focus", () => { focused = canvas.matches(":focus-visible"); draw(); });
    canvas.addEventListener("blur", () => { focused = false; draw(); });

    crossing.addEventListener("change", draw);
    by.addEventListener("change", () => { legend(); draw(); });
    for (const end of ends) {
      anchors.forEach((i, k) => end.append(make("option", { value: k }, `no. ${k + 1}: ${nameOf(i)}`)));
      end.addEventListener("change", () => walk(Number(ends[0].value), Number(ends[1].value)));
    }
    crossing.closest("label").hidden = !pairs.length;
    if (!given.labels) by.querySelector('[value="class"]').remove();
    redraw.push(draw);
    new ResizeObserver(draw).observe(canvas);
    legend(); select(anchors[0] ?? 0, false);
    if (anchors.length > 1) walk(0, 1);
    say.textContent = "";
  };
  document.querySelectorAll("[data-explorer]").forEach((host) => explore(host, data.explorers[Number(host.dataset.explorer)]));
})();
