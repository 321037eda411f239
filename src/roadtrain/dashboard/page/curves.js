// Loss, throughput, bytes and utilisation of one run or two, against time, steps or bytes.
/* global uPlot */

import { element } from "./tables.js";
import { bytes, figure, share, span } from "./words.js";

const AXES = {
  time_s: { label: "time", of: (c) => c.time_s, words: (v) => span(v) },
  step: { label: "step", of: (c) => c.step, words: (v) => figure(v) },
  bytes_sent: { label: "sent by all workers", of: (c) => c.bytes_sent, words: (v) => bytes(v) },
};

const RATE_S = 5;
const RATES = 60;

/** By point, how much `name` grew for each second of the last while: workers speak now and then, and not at the same time. */
function rate(columns, name) {
  const times = columns.time_s;
  const long = Math.max(RATE_S, (times.at(-1) - times[0]) / RATES);
  let since = 0;
  return columns[name].map((value, at) => {
    while (since + 1 < at && times[at] - times[since + 1] >= long) since += 1;
    const passed = times[at] - times[since];
    return passed > 0 ? Math.max(0, value - columns[name][since]) / passed : null;
  });
}

/** Of the time that workers compute or wait, the share in which they compute: however many there are, and have spoken. */
function utilisation(columns) {
  const [computes, ...waits] = ["compute_s", "sync_wait_s", "feed_wait_s"].map((name) => rate(columns, name));
  return computes.map((busy, at) => {
    const all = waits.reduce((sum, wait) => sum + wait[at], busy);
    return all > 0 ? busy / all : null;
  });
}

const KINDS = [
  { title: "Loss", of: (c) => c.loss, words: figure },
  { title: "Validation loss", of: (c) => c.val_loss, words: figure, sparse: true },
  { title: "Samples each second", of: (c) => rate(c, "samples"), words: figure },
  { title: "Bytes each second", of: (c) => rate(c, "bytes_sent"), words: (v) => bytes(v) },
  { title: "Utilisation", of: utilisation, words: share, range: [0, 1] },
];

export class Curves {
  constructor(place) {
    this.place = place;
    this.axis = "time_s";
    this.charts = new Map();
    new ResizeObserver(() => this.resize()).observe(place);
  }

  /** `courses`: [[name, columns], ...], one or two. */
  show(courses) {
    this.courses = courses;
    for (const kind of KINDS) {
      const tables = courses.map(([, columns]) => table(AXES[this.axis].of(columns), kind.of(columns)));
      const some = tables.some(([, values]) => values.some((value) => value != null));
      if (!some && !this.charts.has(kind)) continue;
      if (!this.charts.has(kind)) this.charts.set(kind, this.make(kind));
      const chart = this.charts.get(kind);
      chart.figure.hidden = !some;
      const data = tables.length === 2 ? uPlot.join(tables) : [...tables[0], tables[0][0].map(() => null)];
      chart.plot.setData(data);
      this.describe(kind, chart, tables);
    }
  }

  against(axis) {
    this.axis = axis;
    for (const { figure, plot } of this.charts.values()) {
      plot.destroy();
      figure.remove();
    }
    this.charts.clear();
    if (this.courses) this.show(this.courses);
  }

  make(kind) {
    const figure = element("figure");
    const caption = element("figcaption");
    const box = element("div", null, { role: "img" });
    figure.append(caption, box);
    // In the order of their kinds, whichever came first.
    const after = KINDS.slice(KINDS.indexOf(kind) + 1).find((other) => this.charts.has(other));
    this.place.insertBefore(figure, after ? this.charts.get(after).figure : null);
    const line = (colour) => ({ stroke: () => paint(colour), width: 2, spanGaps: true, points: { show: Boolean(kind.sparse) } });
    const grid = { stroke: () => paint("--line"), width: 1 };
    const ink = () => paint("--quiet");
    const plot = new uPlot(
      {
        ...this.size(figure),
        cursor: { y: false },
        legend: { show: false },
        scales: { x: { time: false }, y: { range: kind.range } },
        axes: [
          { stroke: ink, grid, ticks: grid, values: (_, all) => all.map(AXES[this.axis].words) },
          { stroke: ink, grid, ticks: grid, size: 62, values: (_, all) => all.map(kind.words) },
        ],
        series: [{}, line("--compute"), line("--second")],
      },
      [[], [], []],
      box,
    );
    return { figure, caption, box, plot };
  }

  describe(kind, chart, tables) {
    const said = this.courses.map(([name], at) => {
      const newest = tables[at][1].findLast((value) => value != null);
      return newest == null ? "" : `${this.courses.length > 1 ? `${name}: ` : ""}${kind.words(newest)}`;
    });
    const words = said.filter(Boolean).join(", ");
    chart.caption.replaceChildren(element("b", kind.title), ` ${words}`);
    chart.box.setAttribute("aria-label", `${kind.title} against ${AXES[this.axis].label}; newest: ${words}`);
  }

  size(figure) {
    return { width: Math.max(240, figure.clientWidth || 320), height: 190 };
  }

  resize() {
    for (const { figure, plot } of this.charts.values()) plot.setSize(this.size(figure));
  }
}

/** x and y without what lies before the point ahead of it: after a new start a run may go back in steps. */
function table(x, y) {
  const kept = [[], []];
  x.forEach((value, at) => {
    if (value != null && (kept[0].length === 0 || value > kept[0].at(-1))) {
      kept[0].push(value);
      kept[1].push(y[at]);
    }
  });
  return kept;
}

export function paint(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}
