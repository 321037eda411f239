// What each worker did in the last minutes: shares of computing and waiting, line of metrics by line.

import { paint } from "./curves.js";
import { share, span } from "./words.js";

const SHOWN_S = 300;
const ROW = 20;
const LEFT = 64;
const PARTS = [
  ["compute_s", "--compute"],
  ["sync_wait_s", "--wait"],
  ["feed_wait_s", "--feed"],
];

/** `lanes`: by worker, columns of its last lines. Returns each one's share of computing in what is drawn. */
export function drawTimeline(canvas, lanes) {
  const names = Object.keys(lanes).sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
  const end = Math.max(0, ...names.map((name) => lanes[name].time_s.at(-1) ?? 0));
  const begin = Math.max(0, end - SHOWN_S, Math.min(end, ...names.map((name) => lanes[name].time_s[0] ?? end)));
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = names.length * ROW + 22;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  const at = (time) => LEFT + ((time - begin) / Math.max(1e-9, end - begin)) * (width - LEFT);
  const ink = paint("--quiet");
  const colours = PARTS.map(([, name]) => paint(name));
  const busy = {};
  names.forEach((name, row) => {
    pen.fillStyle = ink;
    pen.fillText(name, 0, row * ROW + ROW / 2);
    busy[name] = drawRow(pen, lanes[name], row * ROW + 3, at, begin, colours);
  });
  pen.fillStyle = ink;
  if (end > begin) {
    pen.fillText(`${span(end - begin)} ago`, LEFT, height - 8);
    pen.textAlign = "right";
    pen.fillText("now", width, height - 8);
  }
  const words = names.map((name) => `${name} computes ${share(busy[name])}`).join(", ");
  canvas.setAttribute("aria-label", `What each worker did in the last minutes: ${words || "nothing yet"}`);
  return busy;
}

function drawRow(pen, lane, top, at, begin, colours) {
  let computed = 0;
  let passed = 0;
  for (let line = 1; line < lane.time_s.length; line += 1) {
    const from = lane.time_s[line - 1];
    const to = lane.time_s[line];
    if (to <= begin || to <= from) continue;
    passed += to - from;
    let x = at(Math.max(from, begin));
    PARTS.forEach(([part], place) => {
      const spent = Math.max(0, lane[part][line] - lane[part][line - 1]);
      if (part === "compute_s") computed += spent;
      const long = Math.min(at(to) - x, at(from + spent) - at(from));
      pen.fillStyle = colours[place];
      pen.fillRect(x, top, Math.max(0, long), ROW - 6);
      x += long;
    });
  }
  return passed ? computed / passed : null;
}
