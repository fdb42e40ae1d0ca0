// Elements made of texts: nothing that came from elsewhere is ever read as HTML.

export const find = (id) => document.getElementById(id);

/** An element with properties (`class` and `data-…` as attributes) and children: elements, texts, nothing. */
export function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class" || key.includes("-") || key === "scope") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Sets a text only when it is another one: a screen reader reads what changes. */
export function say(target, text) {
  const element = typeof target === "string" ? find(target) : target;
  if (element.textContent !== text) element.textContent = text;
}

/** Makes `parent` show `items`, in order, keeping the elements of those that were there: focus stays where it is. */
export function keyed(parent, items, key, make, fill) {
  const had = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let child = had.get(name);
    had.delete(name);
    if (!child) {
      child = make(item);
      child.dataset.key = name;
    }
    fill?.(child, item);
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
  for (const child of had.values()) child.remove();
}

/** Shows names and values; a value that is missing is left out. */
export function facts(list, pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = JSON.stringify(shown);
  if (list.dataset.shown === text) return;
  list.dataset.shown = text;
  list.replaceChildren(...shown.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))));
}

/** Rows of a table whose cells are texts or elements; `names` label the cells where the table is shown as a list. */
export function rows(table, names, items, key, cells) {
  table.hidden = items.length === 0;
  keyed(table.tBodies[0], items, key, () => el("tr"), (row, item) => {
    const made = cells(item);
    const text = JSON.stringify(made.map((cell) => (cell instanceof Node ? cell.className + cell.textContent : cell)));
    if (row.dataset.shown === text) return;
    row.dataset.shown = text;
    row.replaceChildren(...made.map((cell, at) => el("td", names[at] ? { "data-name": names[at] } : {}, cell)));
  });
}

export const tag = (kind, text) => el("span", { class: `tag ${kind}` }, text);

let fading;
/** Tells how an order went. */
export function outcome(text, kind = "") {
  clearTimeout(fading);
  find("outcome").replaceChildren(el("p", { class: kind }, text));
  fading = setTimeout(() => find("outcome").replaceChildren(), kind ? 15_000 : 6_000);
}

/** Asks before what can't be taken back. Resolves to whether the person said yes. */
export function confirmed(question, yes) {
  const dialog = find("confirm");
  const before = document.activeElement;
  say("confirm-text", question);
  say("confirm-yes", yes);
  dialog.returnValue = "";
  dialog.showModal();
  find("confirm-no").focus();
  return new Promise((resolve) => {
    find("confirm-yes").onclick = () => dialog.close("yes");
    find("confirm-no").onclick = () => dialog.close("");
    dialog.onclose = () => {
      before?.focus?.();
      resolve(dialog.returnValue === "yes");
    };
  });
}
