// The page: asks for tables every two seconds, and at once when something happens.

import { ask, forget, keep, listen, Refused, ticket } from "./api.js";
import { Curves } from "./curves.js";
import { drawMap, drawMatrix, MATRIX_MAX } from "./map.js";
import { element, Table } from "./tables.js";
import { drawTimeline } from "./timeline.js";
import { ago, bytes, figure, share } from "./words.js";

const LOOK_MS = 2000;
const REGIONS_EVERY = 5;
const RUNS_MAX = 30;
const EVENTS_MAX = 300;
const WORDS = { joined: "joined", lost: "was lost", left: "left", handoff: "handed over", quarantined: "is quarantined" };
const here = (id) => document.getElementById(id);

let chosen = [];
let picked = false;
let busy = {};
let due = true;
let sent = new Map();

// ------------------------------------------------------------------------------------------------------------ tables

const runs = new Table(
  here("runs"),
  [
    ["", choice],
    ["run", (run) => run.run],
    ["trains", (run) => [run.target.split("/").at(-1), run.sync].filter(Boolean).join(", ")],
    ["status", (run, cell) => styled(cell, run.status)],
    ["step", (run) => (run.step == null ? "" : `${run.step}${run.steps ? ` of ${run.steps}` : ""}`), "number"],
    ["loss", (run) => figure(run.loss), "number"],
    ["workers", (run) => run.workers, "number"],
    ["lost", (run) => run.lost || "", "number"],
    ["begun", (run) => ago(run.submitted)],
    ["", stopButton],
  ],
  (run) => run.run,
);

const workers = new Table(
  here("workers"),
  [
    ["worker", (worker) => worker.id],
    ["machine", (worker) => worker.machine],
    ["state", (worker, cell) => styled(cell, worker.state)],
    ["does", (worker) => (worker.state === "gone" ? "" : worker.waits ? "waits for others" : "computes")],
    ["step", (worker) => worker.step, "number"],
    ["loss", (worker) => figure(worker.loss), "number"],
    ["utilisation", (worker) => share(busy[worker.id]), "number"],
    ["sent", (worker) => bytes(worker.bytes_sent), "number"],
    ["now", (worker) => (worker.rate == null ? "" : `${bytes(worker.rate)}/s`), "number"],
    ["staleness", (worker) => figure(worker.staleness), "number"],
    ["to here", (worker) => (worker.rtt_ms ? `${figure(worker.rtt_ms)} ms` : ""), "number"],
  ],
  (worker) => `${worker.run} ${worker.id}`,
);

function styled(cell, word) {
  cell.className = word;
  return word;
}

function choice(run, cell) {
  const box = cell.querySelector("input") ?? element("input", null, { type: "checkbox", "aria-label": `show ${run.run}` });
  box.checked = chosen.includes(run.run);
  box.onchange = () => {
    picked = true;
    chosen = box.checked ? [...chosen, run.run].slice(-2) : chosen.filter((other) => other !== run.run);
    due = true;
    look();
  };
  return box;
}

function stopButton(run, cell) {
  if (!["running", "queued"].includes(run.status)) return "";
  const button = cell.querySelector("button") ?? element("button", "Stop", { type: "button", "aria-label": `stop ${run.run}` });
  button.onclick = () => sure(`Stop ${run.run}? It saves a checkpoint and ends.`, `/api/runs/${run.run}/stop`);
  return button;
}

function drainButton(machine) {
  if (!("takes_code" in machine) || !machine.kind || machine.state === "leaving") return null;
  const button = element("button", "Drain", { type: "button", "aria-label": `drain ${machine.machine}` });
  const what = `Have ${machine.machine} leave? Others take over what it holds.`;
  button.onclick = () => sure(what, `/api/machines/${machine.machine}/leave`);
  return button;
}

/** Ask the person, then the coordinator. */
function sure(question, path) {
  const dialog = here("sure");
  here("sure-what").textContent = question;
  dialog.returnValue = "no";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "yes") return;
    try {
      await ask(path, { method: "POST" });
    } catch (error) {
      say(element("span", error.message, { class: "failed" }));
    }
    due = true;
  };
  dialog.showModal();
}

// -------------------------------------------------------------------------------------------------------------- looks

const curves = new Curves(here("curves"));
here("axis").onchange = (event) => curves.against(event.target.value);
let looking = false;
let looks = 0;
let near = [];

async function look() {
  if (looking || document.hidden) return;
  looking = true;
  try {
    const [allRuns, machines] = await Promise.all(["/runs", "/machines"].map((path) => ask(path)));
    if (looks % REGIONS_EVERY === 0) near = await ask("/regions?machines=true");
    looks += 1;
    showRuns(allRuns);
    await showWorkers((await Promise.all(chosen.map((run) => ask(`/workers?run=${run}`)))).flat());
    drawMap(here("map"), machines, near, drainButton);
    if (due) await showChosen();
    due = false;
  } catch (error) {
    if (error instanceof Refused) askForTicket(error.message);
    else here("standing").textContent = "the coordinator does not answer";
  } finally {
    looking = false;
  }
}

function showRuns(all) {
  const shown = all.slice(-RUNS_MAX).reverse();
  if (!picked) {
    const first = shown.find((run) => run.status === "running") ?? shown[0];
    const now = first ? [first.run] : [];
    if (now[0] !== chosen[0]) due = true;
    chosen = now;
  }
  runs.show(shown);
  const slow = all.find((run) => run.run === chosen[0])?.bottleneck;
  here("slows").textContent = slow ? `What slows it: ${slow}.` : "";
  here("no-runs").hidden = shown.length > 0;
}

async function showWorkers(found) {
  const now = performance.now() / 1000;
  for (const worker of found) {
    const key = `${worker.run} ${worker.id}`;
    const [before, then, rate] = sent.get(key) ?? [];
    if (worker.bytes_sent === before) worker.rate = rate;
    else if (before != null && now > then) worker.rate = Math.max(0, worker.bytes_sent - before) / (now - then);
    if (worker.bytes_sent !== before) sent.set(key, [worker.bytes_sent, now, worker.rate]);
  }
  if (chosen[0] && found.length) busy = drawTimeline(here("timeline"), await ask(`/api/runs/${chosen[0]}/recent`));
  workers.show(found);
  here("no-workers").hidden = found.length > 0;
}

async function showChosen() {
  if (!chosen.length) return;
  const courses = await Promise.all(chosen.map(async (run) => [run, await ask(`/api/runs/${run}/series`)]));
  curves.show(courses);
  drawMatrix(here("matrix"), await ask(`/links?most=${MATRIX_MAX}`));
}

// ------------------------------------------------------------------------------------------------------------- events

function hear(record) {
  due = true;
  if (record.event === "together") return record.records.forEach(hear);
  if (record.event === "metrics") return;
  const { event, run, worker, machine, time_s: time, ...more } = record;
  delete more.id;
  const who = worker ?? machine ?? run ?? "";
  const rest = Object.entries(more)
    .map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join(", ");
  const line = element("span", `${who} ${WORDS[event] ?? event}${rest ? `: ${rest.slice(0, 200)}` : ""}`, { class: event });
  say(line, time);
}

function say(line, time) {
  const item = element("li");
  item.append(element("time", time == null ? new Date().toLocaleTimeString() : `${figure(time)} s`), line);
  here("events").prepend(item);
  while (here("events").children.length > EVENTS_MAX) here("events").lastChild.remove();
}

async function tellEvents() {
  const [run] = chosen;
  let after = 0;
  for (let more = Boolean(run); more; ) {
    const records = await ask(`/api/runs/${run}/events?after=${after}`);
    after = records.at(-1)?.id ?? after;
    more = records.length > 0;
    records.slice(-EVENTS_MAX).forEach(hear);
  }
}

// ------------------------------------------------------------------------------------------------------------- ticket

function askForTicket(why) {
  const dialog = here("ticket");
  if (dialog.open) return;
  here("ticket-wrong").textContent = ticket() ? why : "";
  forget();
  dialog.onclose = () => {
    keep(here("ticket-word").value);
    here("ticket-word").value = "";
    begin();
  };
  dialog.showModal();
}

here("make-join").onclick = async () => {
  try {
    const made = await ask("/api/tokens", { method: "POST", body: { role: "worker", expires_s: 86400, uses: 1 } });
    here("join-code").textContent = `roadtrain join ${made.ticket}`;
    here("join-line").hidden = false;
  } catch (error) {
    say(element("span", error.message, { class: "failed" }));
  }
};
here("copy-join").onclick = () => navigator.clipboard.writeText(here("join-code").textContent);

async function tellPaths() {
  const { paths } = await ask("/openapi.json");
  here("join").hidden = !paths["/api/tokens"];
  const rows = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).flatMap(([method, said]) => [
      element("dt", `${method.toUpperCase()} ${path}`),
      element("dd", said.description ?? ""),
    ]),
  );
  here("paths").replaceChildren(...rows);
}

let listening = false;

async function begin() {
  if (!ticket()) return askForTicket("");
  await look();
  if (here("ticket").open || listening) return;
  listening = true;
  await Promise.allSettled([tellEvents(), tellPaths()]);
  listen(hear, (stands) => {
    here("standing").textContent = stands ? "live" : "the coordinator does not answer; trying again";
    due = true;
  });
  setInterval(look, LOOK_MS);
}

addEventListener("resize", look);
begin();
