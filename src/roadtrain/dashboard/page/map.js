// Machines by region, and the ways between them.

import { element } from "./tables.js";
import { figure } from "./words.js";

export const MATRIX_MAX = 16;

/** `regions`: [{region, machines}]; machines that are in none stand by themselves. `drain(machine)` makes its button, or null. */
export function drawMap(place, machines, regions, drain) {
  const known = new Map(machines.map((machine) => [machine.machine, machine]));
  const placed = new Set(regions.flatMap((region) => region.machines));
  const alone = machines.filter((machine) => !placed.has(machine.machine)).map((machine) => machine.machine);
  const boxes = [...regions, ...(alone.length ? [{ region: regions.length ? "not measured" : "", machines: alone }] : [])];
  place.replaceChildren(
    ...boxes.map((region) => {
      const box = element("div", null, { class: "region" });
      if (region.region) box.append(element("p", region.region));
      const list = element("ul");
      for (const name of region.machines) if (known.has(name)) list.append(item(known.get(name), drain));
      box.append(list);
      return box;
    }),
  );
}

function item(machine, drain) {
  const shown = element("li");
  const what = machine.kind ? `${machine.devices} ${machine.kind}` : `${machine.devices} workers`;
  shown.append(element("b", machine.machine), " ", element("span", machine.state, { class: machine.state }));
  const button = drain(machine);
  if (button) shown.append(" ", button);
  shown.append(element("small", [what, machine.host].join(", ")));
  return shown;
}

/** From each row to each column: round trip in ms, and MB/s. */
export function drawMatrix(table, links) {
  const names = [...new Set(links.flatMap((link) => [link.from, link.to]))].slice(0, MATRIX_MAX);
  table.replaceChildren();
  if (names.length < 2) return;
  table.createCaption().textContent = "From row to column: round trip in ms, and MB/s at least; * through the relay";
  table.caption.className = "quiet";
  const found = new Map(links.map((link) => [`${link.from} ${link.to}`, link]));
  const head = table.createTHead().insertRow();
  for (const name of ["", ...names]) head.append(element("th", name, { scope: "col" }));
  const body = table.createTBody();
  for (const one of names) {
    const row = body.insertRow();
    row.append(element("th", one, { scope: "row" }));
    for (const other of names) {
      const link = found.get(`${one} ${other}`);
      const rate = link?.mb_per_s == null ? "" : ` · ${figure(link.mb_per_s)}`;
      row.insertCell().textContent = link?.rtt_ms == null ? "" : `${figure(link.rtt_ms)}${rate}${link.via === "relay" ? " *" : ""}`;
    }
  }
}
