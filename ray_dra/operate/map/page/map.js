// The map's page: listens to the server's events, keeps the state, and shows it. All text that comes from the server is set
// as text, never as HTML: gangs, nodes and reasons are named by users.
import * as racks from "./racks.js";

const $ = (id) => document.getElementById(id);
const STATES = {free: "free", held: "held by a gang", shared: "shared", others: "used by others", left_out: "left out: its node is not ready",
  unhealthy: "faulty", kept: "kept for somebody"};
const CLOSE = "close\n";  // key of a button; no gang is called so
const MOST_ROWS = 1000;  // of a table; a browser takes long for more
const gangs = new racks.Gangs();
let state = {nodes: {}, gangs: {}, racks: [], queue: [], cliques: {}, figures: null};
let layout = {blocks: [], height: 0, size: 0}, size = null, colours = racks.palette();
let chosen = null, opened = null, details = null, ghost = null, sought = "", behind = 0, dirty = false, heard = 0, waiting = null;

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}
function classed(made, name) { made.className = name; return made; }
function number(value) { return Number(value).toLocaleString("en-US"); }
function several(count, what) { return `${number(count)} ${what}${count === 1 ? "" : "s"}`; }
function gangName(id) { return (state.gangs[id] && state.gangs[id].name) || id; }
function inOrder() { const at = (id) => state.gangs[id].asked || 0; return Object.keys(state.gangs).sort((a, b) => at(a) - at(b)); }
function cliqueName(id) { return state.cliques[id] || id; }
function named(text) { return text.replace(/[0-9a-f]{36}/g, (id) => gangName(id)); }  // Ray's ids of placement groups
function now() { return Date.now() / 1000 - behind; }  // by the server's clock
function ago(seconds) {
  const s = Math.max(0, seconds);
  if (s < 120) return `${Math.floor(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}
function clock(at) { return new Date(at * 1000).toLocaleString(undefined, {dateStyle: "medium", timeStyle: "medium"}); }

function keeping(parent, change) {
  // A change of what is below an element, after which the same thing has the focus as before.
  const at = document.activeElement, key = parent.contains(at) ? at.dataset.key : undefined;
  change();
  if (key !== undefined) focusOn(parent, key);
}
function focusOn(parent, key) {
  const found = [...parent.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key);
  if (found) found.focus({preventScroll: true});
}
function opener(id) {
  // A button that opens a gang; the focus goes along.
  const open = classed(element("button", gangName(id)), "link");
  open.type = "button";
  open.dataset.key = id;
  open.onclick = () => { openGang(id); focusOn($("gang"), CLOSE); };
  return open;
}

// -- the server's events

const TABLES = ["nodes", "gangs"];
export function applied(before, change) {
  const after = {...before};
  for (const [name, value] of Object.entries(change)) {
    if (!TABLES.includes(name)) { after[name] = value; continue; }
    const table = {...after[name]};
    for (const [key, row] of Object.entries(value)) if (row === null) delete table[key]; else table[key] = row;
    after[name] = table;
  }
  return after;
}

function listen() {
  const events = new EventSource("events");
  const take = (found, event) => { heard = Date.now(); behind = Date.now() / 1000 - Number(event.lastEventId); if (found) found(JSON.parse(event.data)); };
  events.addEventListener("state", (event) => take((whole) => { state = whole; show(whole); }, event));
  events.addEventListener("change", (event) => take((change) => { state = applied(state, change); show(change); }, event));
  events.addEventListener("ping", (event) => { take(null, event); alive(); });
  events.onerror = () => { heard = 0; alive(); };
}

function show(change) {
  const has = (...names) => names.some((name) => name in change);
  if (has("gangs")) gangs.update(new Set(inOrder().filter((id) => state.gangs[id].nodes)));
  if (has("racks", "levels")) place();
  if (has("nodes", "racks", "gangs", "figures")) { draw(); totals(); }
  if (has("gangs", "queue")) { listGangs(); listQueue(); if (opened) openGang(opened, true); }
  if (has("teams")) listTeams();
  if (has("nodes", "problems", "unplanned", "aside", "pools")) listTroubles();
  if (has("nodes", "racks")) tableSoon();
  if (chosen && !state.nodes[chosen.node]) chosen = null;
  $("about").textContent = state.about || "";
  document.title = `ray-dra map${state.about ? ": " + state.about : ""}`;
  $("empty").hidden = state.racks.length > 0;
  alive();
}

function alive() {
  const connected = heard && Date.now() - heard < 35000, silent = state.silent;
  let text = "live", good = true, banner = "";
  if (!connected) { text = heard === 0 && !state.figures ? "connecting" : "the map's server does not answer"; good = false; }
  else if (silent) { text = "the coordinator does not answer"; good = false; }
  else if (state.live === false) text = "a snapshot file";
  if (!connected && state.figures) banner = "The map's server does not answer. What you see is what was last known; it is asked again.";
  else if (connected && silent)
    banner = `The coordinator has not answered for ${ago(now() - silent.since)}: ${silent.why} What you see is what was last known; it is asked again.`;
  $("alive").textContent = text;
  $("lamp").className = good ? "good" : "bad";
  if ($("banner").textContent !== banner) $("banner").textContent = banner;
  $("banner").hidden = !banner;
}

// -- the racks

function levels() { return state.racks.some((rack) => rack.above) ? state.levels || [] : []; }

function above(rack) {
  // The domains of levels above a rack, in words.
  return levels().flatMap((level, at) => rack.above && rack.above[at] ? [racks.domainName(level, rack.above[at])] : []).join(", ");
}

function place() {
  const view = $("view"), width = Math.max(120, view.clientWidth);
  const cells = size === null ? racks.fitting(state.racks, state.nodes, width, view.clientHeight, levels()) : size;
  layout = racks.layOut(state.racks, state.nodes, cells, width, levels());
  $("space").style.height = `${layout.height}px`;
  const canvas = $("racks"), ratio = window.devicePixelRatio || 1, clear = view.clientWidth;
  canvas.width = Math.round(clear * ratio);
  canvas.height = Math.round(view.clientHeight * ratio);
  canvas.style.width = `${clear}px`;
  canvas.style.height = `${view.clientHeight}px`;
  draw();
}

function draw() {
  if (dirty) return;
  dirty = true;
  requestAnimationFrame(() => { dirty = false; drawNow(); });
}

export function drawNow() {
  const canvas = $("racks"), ratio = window.devicePixelRatio || 1, view = $("view");
  racks.draw(canvas.getContext("2d", {alpha: false}), layout, state.nodes, gangs, colours,
    {top: view.scrollTop, width: canvas.width / ratio, height: canvas.height / ratio, chosen, gang: [sought, opened].find((id) => id && state.gangs[id] && state.gangs[id].nodes), ghost, ratio});
}

function zoom(by) {
  size = Math.max(racks.SMALLEST, Math.min(racks.LARGEST, by === 0 ? 0 : layout.size + by));
  if (by === 0) size = null;
  place();
  if (chosen) reveal();
}

function reveal() {
  const found = racks.placeOf(layout, chosen.node), view = $("view");
  if (!found) return;
  const y = found.block.top + found.row * found.block.row;
  if (y < view.scrollTop + 24) view.scrollTop = y - 40;
  if (y + layout.size > view.scrollTop + view.clientHeight - 12) view.scrollTop = y + layout.size - view.clientHeight + 40;
}

function told(where) {
  // A GPU in words: the tooltip's lines, and what a screen reader says.
  const node = state.nodes[where.node], cell = racks.cellOf(node.gpus[where.at]), lines = [];
  const gpu = cell.number === undefined ? where.at : cell.number;
  const rack = state.racks.find((each) => each.nodes.includes(where.node));
  lines.push(`${where.node}, GPU ${gpu}${rack ? `, ${rack.kind === "rack" ? "rack " : ""}${rack.name}` : ""}`);
  const aside = racks.heldFor(cell.gang);
  if (aside) lines.push(aside.why === "spares" ? `a spare of ${gangName(aside.gang)}\u2019s own` : `kept for the program of ${gangName(aside.gang)} after a fault`);
  else if (cell.gang) lines.push(`held by ${gangName(cell.gang)}`);
  else lines.push(cell.parted ? `in parts, ${STATES[cell.state]}` : STATES[cell.state]);
  for (const use of cell.uses || []) {
    const what = use.parts ? use.parts.join(", ") : `${use.share} of it`;
    lines.push(`${use.gang ? gangName(use.gang) : "others"}: ${what}`);
  }
  if (cell.sick) lines.push(`not well: ${cell.sick}`);
  if (node.ready === false) lines.push(`node not ready: ${node.why || "no reason said"}`);
  if (node.spare) lines.push("a spare node");
  if (node.imex) lines.push(`in the IMEX domain of ${node.imex_member || (node.imex === racks.OTHERS ? "others" : gangName(node.imex))}`);
  if (rack && above(rack)) lines.push(`below ${above(rack)}`);
  if (node.product) lines.push(node.product);
  return lines;
}

function choose(where, quiet) {
  chosen = where;
  $("said").textContent = where ? told(where).slice(0, 4).join("; ") : "";
  if (where && !quiet) reveal();
  draw();
}

function step(key) {
  const flat = state.racks.flatMap((rack, at) => rack.nodes.map((node) => ({node, rack: at}))).filter((each) => state.nodes[each.node] && state.nodes[each.node].gpus.length);
  if (!flat.length) return;
  let at = chosen ? flat.findIndex((each) => each.node === chosen.node) : -1, gpu = chosen ? chosen.at : 0;
  if (at < 0) { choose({node: flat[0].node, at: 0}); return; }
  const first = (rack) => flat.findIndex((each) => each.rack === rack);
  switch (key) {
    case "ArrowRight": gpu++; if (gpu >= state.nodes[flat[at].node].gpus.length) { at = Math.min(flat.length - 1, at + 1); gpu = 0; } break;
    case "ArrowLeft": gpu--; if (gpu < 0) { at = Math.max(0, at - 1); gpu = state.nodes[flat[at].node].gpus.length - 1; } break;
    case "ArrowDown": at = Math.min(flat.length - 1, at + 1); break;
    case "ArrowUp": at = Math.max(0, at - 1); break;
    case "PageDown": { const next = first(flat[at].rack + 1); at = next < 0 ? flat.length - 1 : next; break; }
    case "PageUp": { const next = first(Math.max(0, flat[at].rack - 1)); at = next < 0 ? 0 : next; break; }
    case "Home": at = 0; gpu = 0; break;
    case "End": at = flat.length - 1; break;
  }
  choose({node: flat[at].node, at: Math.min(gpu, state.nodes[flat[at].node].gpus.length - 1)});
}

function wire() {
  const view = $("view"), tip = $("tip");
  view.addEventListener("scroll", draw, {passive: true});
  const under = (event) => {
    const box = view.getBoundingClientRect();
    return racks.cellAt(layout, state.nodes, event.clientX - box.left, event.clientY - box.top + view.scrollTop);
  };
  view.addEventListener("mousemove", (event) => {
    const found = under(event);
    tip.hidden = !found;
    if (!found) return;
    tip.textContent = told(found).join("\n");
    tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8)}px`;
  });
  view.addEventListener("mouseleave", () => { tip.hidden = true; });
  view.addEventListener("click", (event) => { const found = under(event); choose(found, true); if (found) openOf(found); });
  view.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1 : -1);
  }, {passive: false});
  view.addEventListener("keydown", (event) => {
    if (event.key.startsWith("Arrow") || ["PageUp", "PageDown", "Home", "End"].includes(event.key)) step(event.key);
    else if (event.key === "Enter" && chosen) openOf(chosen);
    else if (event.key === "Escape") { choose(null); closeGang(); }
    else if (event.key === "+" || event.key === "=") zoom(1);
    else if (event.key === "-") zoom(-1);
    else if (event.key === "0") zoom(0);
    else return;
    event.preventDefault();
  });
  $("smaller").onclick = () => zoom(-2);
  $("larger").onclick = () => zoom(2);
  $("fit").onclick = () => zoom(0);
  $("find").addEventListener("input", seek);
  $("whatif").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  $("forget").onclick = () => { ghost = null; $("answer").replaceChildren(); draw(); };
  new ResizeObserver(place).observe($("frame"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours = racks.palette(); draw(); legend(); listGangs(); });
  tabs();
  setInterval(() => { alive(); for (const each of document.querySelectorAll("[data-since]")) each.textContent = ago(now() - Number(each.dataset.since)); }, 1000);
}

function seek() {
  const text = $("find").value.trim().toLowerCase();
  sought = "";
  if (text) {
    const found = Object.keys(state.gangs).find((id) => gangName(id).toLowerCase().includes(text) || id.toLowerCase() === text);
    if (found) sought = found;
    else {
      const node = Object.keys(state.nodes).find((name) => name.toLowerCase().includes(text));
      if (node) choose({node, at: 0});
    }
    $("said").textContent = found ? `gang ${gangName(found)} stands out` : chosen ? $("said").textContent : "nothing by that name";
  }
  draw();
}

// -- figures, legend

function totals() {
  const figures = state.figures;
  if (!figures) return;
  const gpus = figures.gpus, all = Object.values(gpus).reduce((a, b) => a + b, 0);
  const out = gpus.unhealthy + gpus.left_out;
  const facts = [[number(all), "GPUs"], [number(gpus.held + gpus.shared), "held"], [number(gpus.free), "free"]];
  if (gpus.others) facts.push([number(gpus.others), "others'"]);
  if (gpus.kept) facts.push([number(gpus.kept), "kept"]);
  facts.push([number(out), "out"], [number(figures.largest), "in the largest free piece"], [`${Math.round(100 * figures.fragmentation)}%`, "of the free ones are fragments"]);
  $("totals").replaceChildren(...facts.map(([value, what]) => element("div", "", element("dt", what), element("dd", value))));
  const cliques = figures.cliques;
  const said = `${number(all)} GPUs on ${number(figures.nodes)} nodes, ${number(gpus.free)} free; of ${number(cliques.free + cliques.partly + cliques.full)} cliques ${cliques.free} are free, ${cliques.partly} in part, ${cliques.full} full`;
  $("view").setAttribute("aria-label", `Racks, nodes and GPUs: ${said}`);
}

function swatch(raw, {spare = false, frame = null} = {}) {
  const made = classed(document.createElement("canvas"), "key"), ratio = 2, side = 16;
  made.width = made.height = side * ratio;
  made.setAttribute("aria-hidden", "true");
  const context = made.getContext("2d");
  context.scale(ratio, ratio);
  if (spare) { context.fillStyle = colours.accent; for (let y = 2; y < 14; y += 4) context.fillRect(0, y, 2, 2); }
  if (frame) { context.strokeStyle = frame; context.lineWidth = 1.5; context.strokeRect(1, 1, 14, 14); }
  racks.cell(context, raw, 2, 2, 12, gangs, colours, false);
  return made;
}

function legend() {
  const one = new racks.Gangs();
  one.update(new Set(["a"]));
  const key = (raw, text, more) => element("li", "", swatch(raw, more), element("span", text));
  const held = classed(document.createElement("canvas"), "key");
  held.width = held.height = 32;
  const context = held.getContext("2d");
  context.scale(2, 2);
  racks.cell(context, {state: "held", gang: "a"}, 1, 1, 14, one, colours, false);
  $("legend").replaceChildren(
    element("li", "", held, element("span", "a gang (colour, pattern, letter)")), key("free", "free"), key({state: "shared", uses: [{gang: "", share: 0.5}]}, "shared, or in parts"),
    key("others", "others\u2019"), key({state: "unhealthy", sick: "x"}, "faulty"), key("left_out", "left out"), key("kept", "kept"),
    key("free", "spare node", {spare: true}), key("free", "IMEX domain", {frame: colours.accent}));
}

// -- gangs

function listGangs() {
  const ids = inOrder(), rows = ids.slice(0, MOST_ROWS).map((id) => {
    const gang = state.gangs[id], open = opener(id);
    const cliques = (gang.cliques || []).map(cliqueName);
    const where = cliques.length > 2 ? `${cliques.slice(0, 2).join(", ")} and ${cliques.length - 2} more` : cliques.join(", ") || (gang.nodes ? several(gang.nodes, "node") : "");
    const phase = element("td", gang.phase);
    if (gang.stage && gang.since && gang.phase !== "ready") { const at = element("p", gang.stage === gang.phase ? "for " : `${gang.stage}, `); at.className = "why"; const since = element("span", ago(now() - gang.since)); since.dataset.since = gang.since; at.append(since); phase.append(at); }
    if (gang.notice) phase.append(classed(element("p", "has notice"), "why warn"));
    const row = element("tr", "", element("td", "", swatch(gang.nodes ? {state: "held", gang: id} : "free"), open), phase,
      classed(element("td", number(gang.gpus || 0)), "n"), element("td", where));
    row.dataset.gang = id;
    if (id === opened) row.className = "on";
    return row;
  });
  if (ids.length > MOST_ROWS) rows.push(element("tr", "", element("td", `and ${number(ids.length - MOST_ROWS)} more`)));
  if (!ids.length) rows.push(element("tr", "", element("td", "no gangs")));
  keeping($("gangs"), () => $("gangs").tBodies[0].replaceChildren(...rows));
  count("tab-gangs", ids.length);
}

function count(tab, value) {
  const button = $(tab);
  const old = button.querySelector("b");
  if (old) old.remove();
  if (value) button.append(element("b", number(value)));
}

function openOf(where) {
  const cell = racks.cellOf(state.nodes[where.node].gpus[where.at]);
  const id = cell.gang || ((cell.uses || []).find((use) => use.gang) || {}).gang;
  if (id && state.gangs[id]) { selectTab("tab-gangs"); openGang(id); } else closeGang();
}

function closeGang() {
  const id = opened, within = $("gang").contains(document.activeElement);
  opened = details = null;
  $("gang").hidden = true;
  listGangs();
  draw();
  if (within && id) focusOn($("gangs"), id);
}

async function openGang(id, again = false) {
  if (!state.gangs[id]) { closeGang(); return; }
  if (opened !== id) details = null;
  opened = id;
  showGang();
  if (!again) { listGangs(); draw(); selectTab("tab-gangs"); $("panel-gangs").scrollTop = 0; }
  clearTimeout(waiting);
  waiting = setTimeout(async () => {
    try {
      const answer = await fetch(`gangs/${encodeURIComponent(id)}`), found = await answer.json();
      if (opened !== id) return;
      details = answer.ok ? found : {error: found.error};
      showGang();
    } catch { /* the next change of the gang asks again */ }
  }, again ? 500 : 0);
}

function showGang() {
  const gang = state.gangs[opened], box = $("gang"), id = opened;
  const close = element("button", "Close");
  close.type = "button";
  close.dataset.key = CLOSE;
  close.onclick = closeGang;
  const head = classed(element("div", "", swatch(gang.nodes ? {state: "held", gang: id} : "free"), element("h2", gangName(id)), close), "head");
  const facts = [["Phase", gang.phase + (gang.stage && gang.stage !== gang.phase && gang.phase !== "ready" ? ` (${gang.stage})` : "")]];
  const add = (title, value) => { if (value) facts.push([title, String(value)]); };
  add("Id", id); add("Program", gang.owner && `job ${gang.owner}`); add("Namespace", gang.namespace); add("Team", gang.team);
  add("Bundles", `${number(gang.bundles || 0)}, with ${several(gang.gpus || 0, "GPU")}`);
  add("Locality", gang.locality); add("Priority", gang.priority); add("Moves", gang.moves);
  add("Asked for", gang.asked && clock(gang.asked)); add("Cliques", (gang.cliques || []).map(cliqueName).join(", "));
  add("Notice", gang.notice); add("Reason", gang.reason);
  const list = classed(element("dl"), "facts");
  for (const [title, value] of facts) list.append(element("dt", title), element("dd", value));
  const parts = [head, list];
  const spent = gang.spent || [];
  if (spent.length) {
    const bar = classed(element("div"), "clock"), going = gang.stage && gang.since ? now() - gang.since : 0;
    const total = spent.reduce((sum, [, seconds]) => sum + seconds, 0) + going || 1;
    for (const [stage, seconds] of spent) { const piece = element("i"); piece.style.width = `${100 * seconds / total}%`; piece.title = `${stage} ${seconds.toFixed(1)} s`; bar.append(piece); }
    if (going) { const piece = classed(element("i"), "now"); piece.style.width = `${100 * going / total}%`; piece.title = `${gang.stage} ${going.toFixed(1)} s so far`; bar.append(piece); }
    bar.setAttribute("aria-hidden", "true");
    parts.push(element("h3", "Stages"), bar, classed(element("p", spent.map(([stage, seconds]) => `${stage} ${seconds.toFixed(1)} s`).join(", ") + (going ? `; now ${gang.stage}` : "")), "why"));
  }
  if (!details) parts.push(classed(element("p", "asking for more"), "why"));
  else if (details.error) parts.push(classed(element("p", details.error), "why warn"));
  else parts.push(...moreOf(details));
  const scrolled = (box.querySelector(".scroll") || {}).scrollTop;
  box.hidden = false;
  keeping(box, () => box.replaceChildren(...parts));
  if (scrolled && box.querySelector(".scroll")) box.querySelector(".scroll").scrollTop = scrolled;
}

function moreOf(found) {
  const parts = [], lines = [...(found.shape || []), ...(found.waits || [])];
  if (lines.length) parts.push(element("h3", "What it waits for"), classed(element("ul", "", ...lines.map((line) => element("li", named(line)))), "list"));
  if (found.ranks && found.ranks.length) {
    const body = element("tbody", "", ...found.ranks.map((rank) => element("tr", "", classed(element("td", String(rank.rank)), "n"), element("td", rank.node),
      element("td", rank.gpus.map((gpu) => gpu.number + (gpu.part ? ` (${gpu.part})` : gpu.share ? ` (${gpu.share})` : "")).join(", ")))));
    const table = element("table", "", element("thead", "", element("tr", "", classed(element("th", "Rank"), "n"), element("th", "Node"), element("th", "GPUs"))), body);
    parts.push(element("h3", "Ranks"), classed(element("div", "", table), "scroll"));
    parts[parts.length - 1].tabIndex = 0;
    parts[parts.length - 1].dataset.key = "ranks";
    parts[parts.length - 1].setAttribute("role", "region");
    parts[parts.length - 1].setAttribute("aria-label", "Ranks");
    if (found.more_ranks) parts.push(classed(element("p", `and ${number(found.more_ranks)} more`), "why"));
  }
  if (found.history && found.history.length)
    parts.push(element("h3", "History"), classed(element("ul", "", ...found.history.map((change) => element("li", `${clock(change.at)}: ${change.was ? change.was + " \u2192 " : ""}${change.to}${change.why ? ": " + change.why : ""}`))), "list"));
  return parts;
}

// -- the queue, what if, health, the table

function listQueue() {
  const waits = state.queue.filter((id) => state.gangs[id]);
  const items = waits.slice(0, MOST_ROWS).map((id) => {
    const gang = state.gangs[id];
    const item = element("li", "", opener(id), ` ${several(gang.gpus || 0, "GPU")}${gang.priority ? `, priority ${gang.priority}` : ""}`);
    if (gang.starts) item.append(classed(element("p", `should start by ${clock(gang.starts)}${gang.after && gang.after.length ? `, once ${gang.after.join(", ")} ended` : ""}`), "why"));
    if (gang.takes && gang.takes.length) item.append(classed(element("p", `${gang.takes.join(", ")} end or move for it`), "why"));
    if (gang.reason) item.append(classed(element("p", gang.reason), "why"));
    return item;
  });
  $("queue").className = items.length ? "" : "none";
  keeping($("queue"), () => $("queue").replaceChildren(...(items.length ? items : [element("li", "nobody waits")])));
  count("tab-queue", waits.length);
}

function listTeams() {
  const teams = state.teams || [];
  const rows = teams.map((team) => element("tr", "", element("td", team.name), ...[team.guarantee, team.limit === null ? "" : team.limit, team.used, team.borrowed, team.waiting].map((value) => classed(element("td", String(value)), "n"))));
  $("teams").replaceChildren(...(teams.length ? [element("h3", "Queues of teams, in GPUs"), element("table", "", element("thead", "", element("tr", "", ...["Queue", "Guarantee", "Limit", "Used", "Borrowed", "Waiting"].map((head) => element("th", head)))), element("tbody", "", ...rows))] : []));
}

async function ask() {
  const form = new FormData($("whatif")), query = new URLSearchParams();
  for (const [name, value] of form) if (value !== "") query.set(name, value);
  $("answer").replaceChildren(element("p", "asking"));
  try {
    const answer = await fetch(`what-if?${query}`), found = await answer.json();
    if (!answer.ok) { ghost = null; $("answer").replaceChildren(classed(element("p", found.error), "warn")); draw(); return; }
    ghost = found.ghost;
    const verdict = found.fits ? "It fits; where, the map shows by dashed cells." : found.instead ? `It does not fit. Dashed: ${found.instead}` : "It does not fit.";
    const parts = [classed(element("p", verdict), "verdict")];
    if (found.leaving.length) parts.push(element("p", "It would fit without "));
    found.leaving.forEach((id, at) => parts[parts.length - 1].append(at ? ", " : "", opener(id)));
    $("answer").replaceChildren(...parts, element("pre", named(found.said)));
    draw();
  } catch { $("answer").replaceChildren(classed(element("p", "The map's server does not answer."), "warn")); }
}

function listTroubles() {
  const parts = [], nodes = Object.entries(state.nodes);
  const list = (title, lines) => {
    if (!lines.length) return;
    parts.push(element("h3", `${title} (${number(lines.length)})`), classed(element("ul", "", ...lines.slice(0, 200).map((line) => element("li", line))), "list"));
    if (lines.length > 200) parts.push(classed(element("p", `and ${number(lines.length - 200)} more`), "why"));
  };
  const sick = nodes.flatMap(([name, node]) => node.gpus.map(racks.cellOf).flatMap((cell, at) => cell.sick ? [`${name}, GPU ${cell.number === undefined ? at : cell.number}: ${cell.sick}${cell.gang ? ` (held by ${gangName(cell.gang)})` : ""}`] : []));
  const out = nodes.filter(([, node]) => node.ready === false).map(([name, node]) => `${name}: ${node.why || "not ready"}`);
  list("To be looked at", state.problems || []);
  list("Nodes left out", out);
  list("Faulty GPUs", sick);
  list("Waiting in Ray without a plan", (state.unplanned || []).map(([group, job, gpus]) => `${group}: ${gpus} GPUs, job ${job || "unknown"}`));
  list("Records set aside", (state.aside || []).map(([key, why]) => `${key}: ${why}`));
  list("Spare nodes", nodes.filter(([, node]) => node.spare).map(([name]) => name));
  list("Pools", (state.pools || []).map((pool) => `${pool.name}: ${several(pool.gpus, "GPU")}, ${pool.shared} shared by ${several(pool.gangs, "gang")}`));
  count("tab-troubles", (state.problems || []).length + out.length + sick.length);
  $("troubles").replaceChildren(...(parts.length ? parts : [element("p", "Nothing is amiss.")]));
}

let tableDue = false;
function tableSoon() {
  if (tableDue) return;
  tableDue = true;
  setTimeout(() => { tableDue = false; rackTable(); }, 300);
}

function rackTable() {
  const rows = state.racks.slice(0, MOST_ROWS).map((rack) => {
    const counts = {};
    for (const name of rack.nodes) for (const raw of (state.nodes[name] || {gpus: []}).gpus) { const {state: kind} = racks.cellOf(raw); counts[kind] = (counts[kind] || 0) + 1; }
    const sum = (...kinds) => number(kinds.reduce((total, kind) => total + (counts[kind] || 0), 0));
    const name = element("th", rack.name);
    name.scope = "row";
    if (above(rack)) name.append(classed(element("p", above(rack)), "why"));
    return element("tr", "", name, ...[number(rack.nodes.length), sum("free"), sum("held", "shared", "kept"), sum("others"), sum("unhealthy", "left_out")].map((value) => classed(element("td", value), "n")));
  });
  if (state.racks.length > MOST_ROWS) rows.push(element("tr", "", element("td", `and ${number(state.racks.length - MOST_ROWS)} more`)));
  $("rack-table").tBodies[0].replaceChildren(...rows);
}

function selectTab(id) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const on = tab.id === id;
    tab.setAttribute("aria-selected", String(on));
    tab.tabIndex = on ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !on;
  }
}

function tabs() {
  const all = [...document.querySelectorAll("[role=tab]")];
  for (const tab of all) tab.onclick = () => selectTab(tab.id);
  $("tabs").addEventListener("keydown", (event) => {
    const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!by) return;
    const next = all[(all.indexOf(document.activeElement) + by + all.length) % all.length];
    next.focus();
    selectTab(next.id);
    event.preventDefault();
  });
}

export function current() { return {state, layout, gangs, ghost, chosen}; }
wire();
legend();
listen();
window.rayDraMap = {current, drawNow, zoom};  // for tests, and for whoever wants to look
