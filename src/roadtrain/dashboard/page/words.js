// Numbers and times in words.

const UNITS = ["B", "kB", "MB", "GB", "TB"];

export function bytes(count) {
  if (count == null) return "";
  let unit = 0;
  while (count >= 1000 && unit < UNITS.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${figure(count)} ${UNITS[unit]}`;
}

/** About three digits. */
export function figure(value) {
  if (value == null || !Number.isFinite(value)) return "";
  const size = Math.abs(value);
  if (size >= 100) return Math.round(value).toLocaleString("en");
  if (size >= 10) return value.toFixed(1);
  if (size >= 1) return value.toFixed(2).replace(/\.?0+$/, "");
  if (size >= 0.001 || size === 0) return String(Number(value.toPrecision(2)));
  return value.toExponential(1);
}

export function share(part) {
  return part == null || !Number.isFinite(part) ? "" : `${Math.round(100 * Math.min(1, Math.max(0, part)))}%`;
}

export function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${figure(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

export function ago(since) {
  return since ? `${span(Math.max(0, Date.now() / 1000 - since))} ago` : "";
}
