// What a model writes, as elements made of texts: paragraphs, headings, lists, quotes, code, and links to http(s) alone.
import { el } from "../dom.mjs";

/** Of lists and quotes in one another; what is deeper is text. */
const DEPTH_MAX = 6;
// Each piece is bounded, so that a hostile text takes no longer than its length.
const INLINE = /`([^`\n]{1,2000})`|\*\*([^*\n]{1,1000})\*\*|(?<![\w*])\*([^*\s][^*\n]{0,1000})\*(?![\w*])|\[([^[\]\n]{1,500})\]\((https?:\/\/[^\s()<>]{1,2000})\)|https?:\/\/[^\s<>"'`]{1,2000}/g;
const ITEM = /^( {0,12})([-*+]|\d{1,9}[.)])[ \t]+(.*)$/;

function link(address, text) {
  try {
    const url = new URL(address);
    if (url.protocol === "http:" || url.protocol === "https:") return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, text);
  } catch {
    // No address after all.
  }
  return text;
}

function inline(text, isInside = false) {
  const out = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, code, strong, weak, name, address] = match;
    let used = whole.length;
    let made;
    if (code !== undefined) made = el("code", {}, code);
    else if (strong !== undefined) made = isInside ? whole : el("strong", {}, ...inline(strong, true));
    else if (weak !== undefined) made = isInside ? whole : el("em", {}, ...inline(weak, true));
    else if (address !== undefined) made = link(address, name);
    else {
      const bare = whole.replace(/[.,;:!?)\]*]+$/, "");
      used = bare.length;
      made = link(bare, bare);
    }
    out.push(text.slice(at, match.index), made);
    at = match.index + used;
  }
  out.push(text.slice(at));
  return out.filter((part) => part !== "");
}

/** The lines of one list item or quote, without what marks them. */
function take(lines, at, isOf, strip) {
  const own = [];
  while (at < lines.length && isOf(lines[at], own)) own.push(strip(lines[at++]));
  return [own, at];
}

function list(lines, from, depth) {
  const [, indent, mark] = ITEM.exec(lines[from]);
  const isNumbered = /\d/.test(mark);
  const made = isNumbered ? el("ol", { start: Number.parseInt(mark, 10) }) : el("ul");
  let at = from;
  for (;;) {
    const item = ITEM.exec(lines[at] ?? "");
    if (!item || item[1].length !== indent.length || /\d/.test(item[2]) !== isNumbered) break;
    const [own, next] = take(lines, at + 1,
      (line, had) => line.startsWith(`${indent}  `) || (line === "" && (lines[at + 2 + had.length] ?? "").startsWith(`${indent}  `)),
      (line) => line.slice(Math.min(indent.length + 2, line.length - line.trimStart().length)));
    made.append(el("li", {}, ...inline(item[3]), ...(own.length ? blocks(own, depth + 1) : [])));
    at = next;
    // Blank lines between items.
    while (lines[at] === "" && ITEM.test(lines[at + 1] ?? "")) at += 1;
  }
  return [made, at];
}

function blocks(lines, depth) {
  const out = [];
  let words = [];
  const flush = () => {
    if (words.length) out.push(el("p", {}, ...inline(words.join("\n"))));
    words = [];
  };
  for (let at = 0; at < lines.length;) {
    const line = lines[at];
    const fence = /^ {0,3}(`{3,}|~{3,})/.exec(line);
    const heading = /^(#{1,6}) +(.*)$/.exec(line);
    if (fence) {
      flush();
      let end = at + 1;
      // An open one is code up to where the answer is now.
      while (end < lines.length && !lines[end].trim().startsWith(fence[1])) end += 1;
      out.push(el("pre", { tabIndex: 0 }, el("code", {}, lines.slice(at + 1, end).join("\n"))));
      at = end + 1;
    } else if (heading) {
      flush();
      out.push(el(heading[1].length < 3 ? "h3" : "h4", {}, ...inline(heading[2])));
      at += 1;
    } else if (depth < DEPTH_MAX && line.startsWith(">")) {
      flush();
      const [own, next] = take(lines, at, (other) => other.startsWith(">"), (other) => other.replace(/^> ?/, ""));
      out.push(el("blockquote", {}, ...blocks(own, depth + 1)));
      at = next;
    } else if (depth < DEPTH_MAX && ITEM.test(line)) {
      flush();
      const [made, next] = list(lines, at, depth);
      out.push(made);
      at = next;
    } else {
      if (line.trim() === "") flush();
      else words.push(line);
      at += 1;
    }
  }
  flush();
  return out;
}

/** Elements that show a text. */
export const markdown = (text) => blocks(text.replaceAll("\r", "").replaceAll("\t", "  ").split("\n").map((line) => line.trimEnd()), 0);
