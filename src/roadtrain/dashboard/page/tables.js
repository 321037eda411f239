// Tables whose rows stay the same elements while their figures change, so that nothing jumps, and focus is kept.

/** `columns`: [head, row => text or element, class]. Rows are known by `key`. */
export class Table {
  constructor(table, columns, key) {
    this.columns = columns;
    this.key = key;
    this.rows = new Map();
    const head = table.createTHead().insertRow();
    for (const [name, , kind] of columns) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = name;
      cell.className = kind ?? "";
      head.append(cell);
    }
    this.body = table.createTBody();
  }

  show(items) {
    const left = new Set(this.rows.keys());
    items.forEach((item, place) => {
      const key = this.key(item);
      left.delete(key);
      let row = this.rows.get(key);
      if (!row) {
        row = document.createElement("tr");
        for (const [, , kind] of this.columns) row.insertCell().className = kind ?? "";
        this.rows.set(key, row);
      }
      if (this.body.rows[place] !== row) this.body.insertBefore(row, this.body.rows[place] ?? null);
      this.columns.forEach(([, of], column) => fill(row.cells[column], of(item, row.cells[column])));
    });
    for (const key of left) {
      this.rows.get(key).remove();
      this.rows.delete(key);
    }
  }
}

function fill(cell, value) {
  if (value instanceof Node) {
    if (cell.firstChild !== value) cell.replaceChildren(value);
  } else if (cell.textContent !== String(value ?? "")) {
    cell.textContent = value ?? "";
  }
}

/** An element with text and attributes. */
export function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text != null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
