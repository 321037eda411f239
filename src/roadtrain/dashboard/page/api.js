// Requests to the coordinator, and its events. The ticket stays in this tab.

const KEPT = "roadtrain-ticket";

export class Refused extends Error {}

/** The ticket of this tab: what follows the # of the address, or what was typed; "" for none. */
export function ticket() {
  const given = decodeURIComponent(location.hash.slice(1));
  if (given && given !== "main") {
    sessionStorage.setItem(KEPT, given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(KEPT) ?? "";
}

export function keep(word) {
  sessionStorage.setItem(KEPT, word.trim());
}

export function forget() {
  sessionStorage.removeItem(KEPT);
}

/** What the coordinator answers. Throws Refused, or what fetch throws. */
export async function ask(path, { method = "GET", body } = {}) {
  const headers = { authorization: `Bearer ${ticket()}` };
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401 || answer.status === 403) throw new Refused(said.error ?? said.detail ?? "refused");
  if (!answer.ok) throw new Error(said.error ?? said.detail ?? `HTTP ${answer.status}`);
  return said;
}

/** Have `hear` told each event, for ever, over as many connections as it takes; `standing` is told whether one stands. */
export function listen(hear, standing) {
  let pause = 500;
  const open = () => {
    const secure = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${secure}://${location.host}/ws/events?together=true`, ["roadtrain", `bearer.${ticket()}`]);
    socket.onopen = () => {
      pause = 500;
      standing(true);
    };
    socket.onmessage = (message) => hear(JSON.parse(message.data));
    socket.onclose = () => {
      standing(false);
      setTimeout(open, pause);
      pause = Math.min(2 * pause, 10000);
    };
  };
  open();
}
