"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const tip = document.getElementById("tip");

  const put = (parent, name, text) => {
    const one = document.createElement(name);
    if (text !== undefined) one.textContent = text; // never as markup: names come from outside
    parent.appendChild(one);
    return one;
  };
  const number = (value) => {
    const size = Math.abs(value);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(size >= 100 ? 5 : 4)));
  };
  const show = (plot, x, y, box) => {
    tip.hidden = false;
    const left = box.left + window.scrollX + x, top = box.top + window.scrollY + y;
    const most = document.documentElement.clientWidth + window.scrollX - tip.offsetWidth - 8;
    const beside = left + 16 > most ? left - tip.offsetWidth - 16 : left + 16;
    tip.style.left = `${Math.max(window.scrollX + 8, Math.min(beside, most))}px`;
    tip.style.top = `${Math.max(window.scrollY + 8, top - tip.offsetHeight - 12)}px`;
  };

  for (const plot of document.querySelectorAll(".plot[data-hover]")) {
    const chart = JSON.parse(plot.dataset.hover);
    const svg = plot.querySelector("svg");
    let marks = [], at = -1;
    const mark = (name, kind, attributes) => {
      const one = document.createElementNS(SVG, name);
      one.setAttribute("class", `mark ${kind}`);
      for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
      svg.appendChild(one);
      marks.push(one);
    };
    const clear = () => {
      marks.forEach((one) => one.remove());
      marks = [];
      at = -1;
      tip.hidden = true;
    };
    const scaleOf = (box) => box.width / svg.viewBox.baseVal.width;

    const curves = chart.kind === "curves" ? chart.series.filter((one) => one.x) : [];
    const steps = [...new Set(curves.flatMap((one) => one.x))].sort((a, b) => a - b);
    const toX = (value) => chart.box[0] + (value - chart.xlim[0]) / (chart.xlim[1] - chart.xlim[0]) * (chart.box[2] - chart.box[0]);
    const toY = (value) => {
      const scaled = chart.ylog ? Math.log : (one) => one;
      const [low, high] = chart.ylim.map(scaled);
      return chart.box[3] - (scaled(value) - low) / (high - low) * (chart.box[3] - chart.box[1]);
    };
    const showStep = (index) => {
      clear();
      at = index;
      const x = toX(steps[index]);
      mark("line", "", { x1: x, x2: x, y1: chart.box[1], y2: chart.box[3], "stroke-opacity": 0.35 });
      tip.replaceChildren();
      put(tip, "b", `${chart.x} ${number(steps[index])}`);
      for (const one of chart.series) {
        const place = one.x ? one.x.indexOf(steps[index]) : 0;
        if (place < 0) continue;
        const line = put(tip, "div");
        put(line, "span", one.name).style.setProperty("--colour", `var(${one.colour})`);
        const band = one.low ? ` (${number(one.low[place])} – ${number(one.high[place])})` : "";
        put(line, "span", number(one.y[place]) + band).style.setProperty("--colour", "transparent");
        if (one.x) mark("circle", "is-dot", { cx: x, cy: toY(one.y[place]), r: 3.5 });
      }
      const box = svg.getBoundingClientRect();
      show(plot, x * scaleOf(box), (chart.box[1] + 10) * scaleOf(box), box);
    };
    const showPath = (index) => {
      clear();
      at = index;
      const one = chart.paths[index], [x, y] = one.at[one.at.length - 1];
      if (one.at.length > 1) mark("polyline", "is-path", { points: one.at.map((point) => point.join(",")).join(" ") });
      else mark("circle", "", { cx: x, cy: y, r: 7, "stroke-width": 1.6 });
      tip.replaceChildren();
      put(tip, "b", one.name);
      one.details.forEach((text) => put(tip, "div", text));
      const box = svg.getBoundingClientRect();
      show(plot, x * scaleOf(box), y * scaleOf(box), box);
    };
    const distance = (path, x, y) => {
      let least = Infinity;
      for (let i = 0; i < path.length; i += 1) {
        const [ax, ay] = path[Math.max(i - 1, 0)], [bx, by] = path[i];
        const length = (bx - ax) ** 2 + (by - ay) ** 2;
        const part = length ? Math.max(0, Math.min(1, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length)) : 0;
        least = Math.min(least, (ax + part * (bx - ax) - x) ** 2 + (ay + part * (by - ay) - y) ** 2);
      }
      return least;
    };
    const nearest = (values) => values.reduce((best, value, index) => (value < values[best] ? index : best), 0);
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / scaleOf(box), y = (event.clientY - box.top) / scaleOf(box);
      if (chart.kind === "curves") {
        if (steps.length) showStep(nearest(steps.map((step) => Math.abs(toX(step) - x))));
      } else if (chart.paths.length) {
        const away = chart.paths.map((one) => distance(one.at, x, y)), index = nearest(away);
        if (away[index] < 900) showPath(index);
        else clear();
      }
    };
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("pointerleave", clear);
    plot.addEventListener("blur", clear);
    plot.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const [count, reveal] = chart.kind === "curves" ? [steps.length, showStep] : [chart.paths.length, showPath];
      if (event.key === "Escape") clear();
      if (!move || !count) return;
      event.preventDefault();
      reveal(Math.max(0, Math.min(count - 1, at < 0 ? (move > 0 ? 0 : count - 1) : at + move)));
    });
  }

  for (const strip of document.querySelectorAll(".strip")) {
    const sheets = [...strip.querySelectorAll("figure")];
    if (sheets.length < 2) continue;
    const bar = document.createElement("div");
    bar.className = "slider";
    const range = put(bar, "input"), output = put(bar, "output");
    Object.assign(range, { type: "range", min: 0, max: sheets.length - 1, value: sheets.length - 1 });
    range.setAttribute("aria-label", "step of the samples");
    const choose = () => {
      sheets.forEach((sheet, index) => sheet.classList.toggle("is-shown", index === Number(range.value)));
      output.textContent = sheets[Number(range.value)].dataset.name;
    };
    range.addEventListener("input", choose);
    strip.before(bar);
    strip.classList.add("has-slider");
    sheets.forEach((sheet) => sheet.querySelector("figcaption").remove());
    choose();
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const name = head.textContent;
      head.textContent = "";
      const button = put(head, "button", name);
      button.type = "button";
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        [...table.tHead.rows[0].cells].forEach((one) => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === "" || y === "") return (x === "") - (y === ""); // what was not measured stays below
          const order = Number.isNaN(Number(x) + Number(y)) ? x.localeCompare(y, "en", { numeric: true }) : x - y;
          return up ? order : -order;
        });
        body.append(...rows);
      });
    });
  }
})();
