// Racks on a canvas: where each cell stands, how it looks, and which cell is at a point. Knows nothing of the network.
//
// A cell never says by colour alone whose or how it is, but where it is too small for more (below 5 pixels): gangs have a
// letter too where there is room, and colours come with four patterns; every other state has a shape of its own.

// Six and six: within each six any two are told apart with any of the three kinds of colour blindness, and the two sixes
// never have the same pattern among the first 42 gangs (tests/operate/map/browser/test_colours.py).
export const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00",
  "#4824c6", "#a2a200", "#90366c", "#907ed8", "#a27e48", "#a20012"];
export const OTHERS = "#others";  // whose IMEX domain it is where it is no gang's
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
export const SMALLEST = 2, LARGEST = 34;

export class Gangs {
  // A colour, a pattern and a letter for each gang, for as long as it is there.
  constructor() { this.slots = new Map(); }
  update(ids) {
    for (const id of this.slots.keys()) if (!ids.has(id)) this.slots.delete(id);
    const used = new Set(this.slots.values());
    let next = 0;
    for (const id of ids) {
      if (this.slots.has(id)) continue;
      while (used.has(next)) next++;
      this.slots.set(id, next); used.add(next);
    }
  }
  look(id) {
    const slot = this.slots.get(id);
    if (slot === undefined) return {colour: "#6b7480", pattern: 0, letter: "?"};
    const letter = LETTERS[slot % 26] + (slot >= 26 ? String(Math.floor(slot / 26)) : "");
    const six = Math.floor(slot / 6);
    return {colour: COLOURS[slot % COLOURS.length], pattern: (six + Math.floor(six / 4)) % 4, letter};
  }
}

export function heldFor(gang) {
  // What is held for a gang besides its devices; null for a gang's own.
  const found = /^(kept|spares)\/(.*)$/s.exec(gang || "");
  return found ? {why: found[1], gang: found[2]} : null;
}

export function cellOf(raw) { return typeof raw === "string" ? {state: raw} : raw; }

export function layOut(racks, nodes, size, width, levels = []) {
  // Places racks in lines from left to right; returns blocks with rows, brackets over those that share a domain of a level
  // (levels: their names, the lowest first), and the height of it all.
  const gap = size >= 9 ? 2 : size >= 4 ? 1 : 0, title = size >= 9 ? 20 : size >= 4 ? 3 : 1, margin = size >= 9 ? 16 : size >= 4 ? 9 : 3;
  const edge = size >= 9 ? 5 : size >= 4 ? 3 : 1, between = size >= 9 ? 3 : gap, blocks = [], brackets = [];
  const band = size >= 9 ? 17 : size >= 4 ? 5 : 2, over = levels.length * band;
  let x = margin, y = margin + over, tallest = 0, before = null;
  for (const rack of racks) {
    let most = 1;
    for (const name of rack.nodes) most = Math.max(most, nodes[name] ? nodes[name].gpus.length : 0);
    const wide = most * (size + gap) - gap + 2 * edge;
    const least = title > 3 ? Math.max(wide, Math.min(rack.name.length, 14) * 6.6 + 4) : wide;
    const high = title + rack.nodes.length * (size + between) - between + 2 * edge;
    const same = before !== null && domainOf(before, 0) === domainOf(rack, 0);
    if (levels.length && before !== null && !same) x += Math.round(margin * 0.75);
    if (x + least > width - margin && x > margin) { x = margin; y += tallest + margin + over; tallest = 0; }
    before = rack;
    for (let level = 0; level < levels.length; level++) {
      const name = domainOf(rack, level), at = y - (level + 1) * band;
      if (name === null) continue;
      const last = brackets.findLast((each) => each.level === level);
      if (last && last.name === name && last.y === at && last.block === blocks.length - 1) { last.right = x + least; last.block++; }
      else brackets.push({level, name, text: domainName(levels[level], name), x, right: x + least, y: at, high: band, block: blocks.length});
    }
    blocks.push({rack, x, y, wide, least, high, top: y + title + edge, left: x + edge, step: size + gap, row: size + between, size, title});
    x += least + margin;
    tallest = Math.max(tallest, high);
  }
  return {blocks, brackets, height: y + tallest + margin, size};
}

function domainOf(rack, level) { return (rack.above && rack.above[level]) || null; }

export function domainName(level, name) {
  // "leaf l1" of the label example.com/leaf; what begins with its level's name stays as it is.
  const what = level.split("/").pop();
  return name.toLowerCase().startsWith(what.toLowerCase()) ? name : `${what} ${name}`;
}

export function fitting(racks, nodes, width, height, levels = []) {
  // The largest size of cells with which all racks can be seen at once.
  let low = SMALLEST, high = 24;
  while (low < high) {
    const size = Math.ceil((low + high) / 2);
    if (layOut(racks, nodes, size, width, levels).height <= height) low = size; else high = size - 1;
  }
  return low;
}

export function cellAt(layout, nodes, x, y) {
  for (const block of layout.blocks) {
    if (x < block.x || x > block.x + block.wide || y < block.y || y > block.y + block.high) continue;
    const row = Math.floor((y - block.top) / block.row), column = Math.floor((x - block.left) / block.step);
    const node = block.rack.nodes[row];
    if (node === undefined || !nodes[node] || column < 0 || column >= nodes[node].gpus.length) return null;
    return {node, at: column};
  }
  return null;
}

export function placeOf(layout, node) {
  for (const block of layout.blocks) {
    const row = block.rack.nodes.indexOf(node);
    if (row >= 0) return {block, row};
  }
  return null;
}

export function palette() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue("--" + name).trim();
  return {paper: get("panel"), ink: get("ink"), soft: get("soft"), free: get("free"), freeLine: get("free-line"), others: get("others"),
    out: get("out"), outLine: get("out-line"), bad: get("bad"), rack: get("rack"), accent: get("accent")};
}

export function draw(context, layout, nodes, gangs, colours, view) {
  // view: {top, width, height, chosen: {node, at}, gang: highlighted, ghost: {node: positions}, ratio}
  const {top, width, height} = view;
  context.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
  context.fillStyle = colours.paper;
  context.fillRect(0, 0, width, height);
  context.translate(0, -top);
  for (const block of layout.blocks) {
    if (block.y > top + height || block.y + block.high < top) continue;
    rack(context, block, nodes, gangs, colours, view);
  }
  for (const each of layout.brackets)
    if (each.y <= top + height && each.y + each.high >= top) bracket(context, each, layout.size, colours);
  if (view.chosen) mark(context, layout, view.chosen, colours);
}

function rack(context, block, nodes, gangs, colours, view) {
  const {size} = block;
  if (size >= 4) {
    context.fillStyle = colours.rack;
    context.fillRect(block.x, block.y + block.title, block.wide, block.high - block.title);
  }
  if (block.title > 3) {
    context.fillStyle = colours.soft;
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "left"; context.textBaseline = "alphabetic";
    context.fillText(cut(context, block.rack.name, block.least), block.x, block.y + 14);
  }
  for (let row = 0; row < block.rack.nodes.length; row++) {
    const name = block.rack.nodes[row], node = nodes[name];
    if (!node) continue;
    const y = block.top + row * block.row, ghost = view.ghost ? view.ghost[name] : undefined;
    for (let at = 0; at < node.gpus.length; at++) {
      const raw = node.gpus[at], x = block.left + at * block.step;
      const faint = view.gang && !has(raw, view.gang);
      cell(context, raw, x, y, size, gangs, colours, faint);
      if (ghost && ghost.includes(at)) ghostly(context, x, y, size, colours);
    }
    if (node.spare && size >= 5) {
      context.fillStyle = colours.accent;
      for (let dot = 0; dot + 2 <= size; dot += 4) context.fillRect(block.x, y + dot, 2, 2);
    }
    if (node.ready === false && size >= 5) {
      context.fillStyle = colours.bad;
      context.fillRect(block.x + block.wide - 2, y, 2, size);
    }
  }
  if (size >= 5) frames(context, block, nodes, gangs, colours, view.gang);
}

function bracket(context, {x, right, y, high, text}, size, colours) {
  const line = y + high - (size >= 9 ? 4 : 2);
  context.fillStyle = colours.freeLine;
  context.fillRect(x, line, right - x, 1);
  if (size >= 4) for (const end of [x, right - 1]) context.fillRect(end, line, 1, 3);
  if (size < 9) return;
  context.fillStyle = colours.soft;
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "left"; context.textBaseline = "alphabetic";
  context.fillText(cut(context, text, right - x), x, line - 3);
}

function has(raw, gang) {
  if (typeof raw === "string") return false;
  const aside = heldFor(raw.gang);
  return raw.gang === gang || (aside !== null && aside.gang === gang) || (raw.uses !== undefined && raw.uses.some((use) => use.gang === gang));
}

function frames(context, block, nodes, gangs, colours, only) {
  // Nodes next to each other in one IMEX domain are framed together; others' in the colour of others.
  const names = block.rack.nodes, node = (row) => nodes[names[row]] || {};
  const same = (one, other) => one.imex === other.imex && one.imex_member === other.imex_member;
  for (let row = 0; row < names.length; row++) {
    const gang = node(row).imex;
    if (!gang) continue;
    let last = row;
    while (last + 1 < names.length && same(node(last + 1), node(row))) last++;
    context.strokeStyle = gang === OTHERS ? colours.others : gangs.look(gang).colour;
    context.lineWidth = 1.5;
    context.globalAlpha = only && only !== gang ? 0.22 : 1;
    context.strokeRect(block.x + 1, block.top + row * block.row - 2, block.wide - 2, (last - row) * block.row + block.size + 4);
    row = last;
  }
  context.globalAlpha = 1;
}

export function cell(context, raw, x, y, size, gangs, colours, faint) {
  const {state, gang, sick, uses} = cellOf(raw);
  if (faint) context.globalAlpha = 0.22;
  switch (state) {
    case "held": {
      const aside = heldFor(gang);
      if (aside) {
        hollow(context, x, y, size, colours.free, gangs.look(aside.gang).colour);
        if (size >= 4) dot(context, x, y, size, gangs.look(aside.gang).colour);
        break;
      }
      const look = gangs.look(gang);
      context.fillStyle = look.colour;
      context.fillRect(x, y, size, size);
      if (size >= 5) pattern(context, x, y, size, look.pattern);
      if (size >= 13 && !sick) letter(context, look, x, y, size);
      break;
    }
    case "shared": {
      hollow(context, x, y, size, colours.free, colours.freeLine);
      let bottom = y + size;
      for (const use of uses || []) {
        const part = use.share || Math.min(1, (use.parts || []).length / 7);
        const high = Math.max(1, Math.min(bottom - y, Math.round(part * size)));
        context.fillStyle = use.gang ? gangs.look(use.gang).colour : colours.others;
        context.fillRect(x, bottom - high, size, high);
        bottom -= high + (size >= 8 ? 1 : 0);
        if (bottom <= y) break;
      }
      if (size >= 5) outline(context, x, y, size, colours.ink);
      break;
    }
    case "others":
      context.fillStyle = colours.others;
      context.fillRect(x, y, size, size);
      if (size >= 5) stripes(context, x, y, size, colours.paper, Math.max(3, size / 4));
      break;
    case "left_out":
      hollow(context, x, y, size, colours.out, colours.outLine);
      if (size >= 4) line(context, x, y + size, x + size, y, colours.outLine, 1.2);
      break;
    case "unhealthy":
      hollow(context, x, y, size, colours.free, colours.bad);
      break;
    case "kept":
      hollow(context, x, y, size, colours.free, colours.freeLine);
      if (size >= 4) dot(context, x, y, size, colours.soft);
      break;
    default:
      hollow(context, x, y, size, colours.free, colours.freeLine);
  }
  if (sick) {
    if (size < 4) { context.fillStyle = colours.bad; context.fillRect(x, y, size, size); } else cross(context, x, y, size, colours);
  }
  if (faint) context.globalAlpha = 1;
}

function hollow(context, x, y, size, fill, stroke) {
  if (size < 4) {  // a line would be all there is
    const alpha = context.globalAlpha;
    context.fillStyle = stroke;
    context.globalAlpha = alpha * 0.45;
    context.fillRect(x, y, size, size);
    context.globalAlpha = alpha;
    return;
  }
  context.fillStyle = fill;
  context.fillRect(x, y, size, size);
  outline(context, x, y, size, stroke);
}

function outline(context, x, y, size, stroke) {
  context.strokeStyle = stroke;
  context.lineWidth = 1;
  context.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
}

function line(context, x, y, toX, toY, stroke, width) {
  context.strokeStyle = stroke;
  context.lineWidth = width;
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(toX, toY);
  context.stroke();
}

function cross(context, x, y, size, colours) {
  const inset = size * 0.2, width = Math.max(1.2, size / 8);
  for (const [stroke, wide] of [[colours.paper, width + 2], [colours.bad, width]]) {
    line(context, x + inset, y + inset, x + size - inset, y + size - inset, stroke, wide);
    line(context, x + inset, y + size - inset, x + size - inset, y + inset, stroke, wide);
  }
}

function dot(context, x, y, size, fill) {
  context.fillStyle = fill;
  context.beginPath();
  context.arc(x + size / 2, y + size / 2, Math.max(1, size / 6), 0, 7);
  context.fill();
}

function stripes(context, x, y, size, stroke, step) {
  context.save();
  context.beginPath();
  context.rect(x, y, size, size);
  context.clip();
  context.strokeStyle = stroke;
  context.lineWidth = Math.max(1, step / 4);
  context.beginPath();
  for (let at = -size; at < size; at += step) { context.moveTo(x + at, y + size); context.lineTo(x + at + size, y); }
  context.stroke();
  context.restore();
}

function pattern(context, x, y, size, kind) {
  const light = "rgb(255 255 255 / .55)";
  if (kind === 1) stripes(context, x, y, size, light, Math.max(4, size / 3));
  if (kind === 2) { context.fillStyle = light; context.fillRect(x, y + size * 0.4, size, Math.max(1, size * 0.2)); }
  if (kind === 3) { context.fillStyle = light; context.fillRect(x + size * 0.4, y, Math.max(1, size * 0.2), size); }
}

function letter(context, look, x, y, size) {
  context.font = `600 ${Math.round(size * 0.62)}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillStyle = "#fff";
  context.strokeStyle = "rgb(0 0 0 / .55)";
  context.lineWidth = 2;
  context.lineJoin = "round";
  context.strokeText(look.letter, x + size / 2, y + size / 2 + 0.5);
  context.fillText(look.letter, x + size / 2, y + size / 2 + 0.5);
}

function ghostly(context, x, y, size, colours) {
  context.strokeStyle = colours.accent;
  context.lineWidth = size >= 8 ? 2 : 1;
  context.setLineDash(size >= 8 ? [3, 2] : []);
  context.strokeRect(x + 1, y + 1, size - 2, size - 2);
  context.setLineDash([]);
  if (size >= 8) {
    line(context, x + size / 2, y + size * 0.3, x + size / 2, y + size * 0.7, colours.accent, 2);
    line(context, x + size * 0.3, y + size / 2, x + size * 0.7, y + size / 2, colours.accent, 2);
  }
}

function mark(context, layout, chosen, colours) {
  const found = placeOf(layout, chosen.node);
  if (!found) return;
  const {block, row} = found, x = block.left + chosen.at * block.step, y = block.top + row * block.row;
  for (const [stroke, wide] of [[colours.paper, 5], [colours.ink, 2.5]]) {
    context.strokeStyle = stroke;
    context.lineWidth = wide;
    context.strokeRect(x - 2, y - 2, block.size + 4, block.size + 4);
  }
}

function cut(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let most = text.length;
  while (most > 1 && context.measureText(text.slice(0, most) + "\u2026").width > width) most--;
  return text.slice(0, most) + "\u2026";
}
