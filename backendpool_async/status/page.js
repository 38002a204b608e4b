
const EVERY = 1000;
const EVERY_WHILE_HIDDEN = 30_000;
const SLOWEST = 10_000;
const PATIENCE = 5000;
// An answer this old is not shown as fresh, whatever becomes of the one that is awaited.
const FRESH = 4000;
const STATES = ["available", "ejected", "unhealthy"];

const title = document.title;
const byId = (id) => document.getElementById(id);
// The page is the same with and without a slash at the end, and below any prefix.
const base = location.origin + location.pathname.replace(/\/*$/, "/");

let asked = 0;
let failures = 0;
let lastAnswer = null;
let visibleSince = Date.now();
let problem = "";
let timer = null;
let told = "";

async function poll() {
  clearTimeout(timer);
  const mine = ++asked;
  try {
    const response = await fetch(address(), { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    const status = await response.json();
    if (mine !== asked) return;
    show(status);
    lastAnswer = Date.now();
    failures = 0;
  } catch (error) {
    if (mine !== asked) return;
    failures += 1;
    problem = error.message;
  }
  showFreshness();
  const pause = Math.min(EVERY * 2 ** Math.max(0, failures - 1), SLOWEST);
  timer = setTimeout(poll, document.hidden ? EVERY_WHILE_HIDDEN : pause);
}

function address() {
  const url = new URL("status.json", base);
  const limit = new URLSearchParams(location.search).get("limit");
  if (limit !== null) url.searchParams.set("limit", limit);
  if (byId("match").value) url.searchParams.set("match", byId("match").value.trim());
  return url;
}

function showFreshness() {
  const now = Date.now();
  const isStale = failures > 0 || (lastAnswer !== null && now - lastAnswer > FRESH);
  // A page that was hidden did not ask for a while: its answer is old, but not overdue.
  const isOverdue = failures > 0 || (isStale && !document.hidden && now - visibleSince > FRESH);
  document.body.classList.toggle("stale", isStale);
  byId("absence").hidden = !isOverdue;
  set(byId("absence"), isOverdue ? absence() : "");
  if (lastAnswer === null) return;
  const age = duration((now - lastAnswer) / 1000);
  set(byId("live"), isStale ? `last answer ${age} ago` : `live, ${clock(lastAnswer)}`);
}

/** Nothing in it counts the seconds: it is read aloud whenever it differs. */
function absence() {
  const why = failures ? ` (${problem})` : "";
  if (lastAnswer === null) return `No answer yet${why}.`;
  return `No answer since ${clock(lastAnswer)}${why}. What is shown is of then.`;
}

function show(status) {
  const verdicts = status.pools.map(verdictOf);
  const troubled = verdicts.filter((verdict) => verdict.tone !== "good").length;
  const pools = counted(status.pools.length, "pool");
  document.title = troubled ? `(${troubled}) ${title}` : title;
  set(byId("summary"), troubled ? `${pools}, ${number(troubled)} in trouble` : `${pools}, no trouble`);
  fill(byId("pools"), status.pools, "pool", (section, pool, index) => showPool(section, pool, verdicts[index]));
  const sentences = status.pools.map((pool, index) => `${pool.pool}: ${verdicts[index].text}.`);
  if (sentences.join() !== told) {
    set(byId("news"), sentences.filter((sentence) => !told.includes(sentence)).join(" "));
    told = sentences.join();
  }
}

function verdictOf(pool) {
  const texts = [];
  let tone = "good";
  const say = (text, its) => {
    texts.push(text);
    tone = its === "bad" || tone === "bad" ? "bad" : "warn";
  };
  if (pool.listed === 0) say("no backends", "bad");
  if (pool.is_panic) say("panic", "bad");
  if (pool.ejected) say(`${number(pool.ejected)} ejected`, "warn");
  if (pool.unhealthy) say(`${number(pool.unhealthy)} unhealthy`, "warn");
  if (pool.error !== null) say("refresh fails", "warn");
  if (pool.refresh === "stopped") say("not kept fresh", "warn");
  if (texts.length === 0) texts.push(pool.policy === null ? "fine" : "all available");
  return { text: texts.join(", "), tone };
}

function showPool(section, pool, verdict) {
  const at = (name) => section.querySelector(`.${name}`);
  const isBalanced = pool.policy !== null;
  section.classList.toggle("unbalanced", !isBalanced);
  section.classList.toggle("without-zones", pool.backends.every((backend) => backend.zone === null));
  set(at("name"), pool.pool);
  set(at("verdict"), verdict.text);
  at("verdict").className = `verdict ${verdict.tone}`;
  set(at("counts"), countsOf(pool));
  set(at("source"), pool.source);
  set(at("age"), ageOf(pool));
  set(at("refreshes"), refreshesOf(pool));
  set(at("generation"), number(pool.generation));
  set(at("policy"), pool.policy ?? "no balancer");
  set(at("retries"), pool.retries === null ? "–" : number(pool.retries));
  for (const state of STATES) at(`bar .${state}`).style.flexGrow = pool[state] ?? 0;
  at("panic").hidden = !pool.is_panic;
  at("error").hidden = pool.error === null;
  set(at("error"), pool.error ?? "");
  fill(section.querySelector("tbody"), pool.backends, "row", showBackend);
  section.querySelector("table").hidden = pool.backends.length === 0;
  at("more").hidden = pool.omitted === 0;
  set(at("more"), `and ${number(pool.omitted)} more; those in trouble come first`);
  at("changes").hidden = pool.changes.length === 0;
  fill(section.querySelector("ol"), pool.changes.toReversed(), "change", showChange);
}

function countsOf(pool) {
  if (pool.available === null) return number(pool.listed);
  const total = pool.listed === pool.total ? "" : `, a subset of ${number(pool.total)}`;
  return `${number(pool.available)} of ${number(pool.listed)} available${total}`;
}

function ageOf(pool) {
  if (pool.refresh === "none") return "fixed";
  if (pool.age === null) return "no good answer yet";
  return `${duration(pool.age)} old`;
}

function refreshesOf(pool) {
  if (pool.refresh === "none") return "–";
  const { good, ...failed } = pool.refreshes;
  return `${number(good)} good, ${number(Object.values(failed).reduce((sum, each) => sum + each, 0))} failed`;
}

function showBackend(row, backend) {
  const show = (name, text, usual = "0") => {
    const cell = row.querySelector(`.${name}`);
    set(cell, text ?? "–");
    cell.classList.toggle("nothing", text === null || text === usual);
  };
  set(row.querySelector(".backend"), backend.backend);
  show("weight", number(backend.weight), "1");
  show("zone", backend.zone);
  if (backend.state === undefined) return;
  row.querySelector(".state").dataset.is = backend.state;
  set(row.querySelector(".state b"), backend.state);
  set(row.querySelector(".why"), whyOf(backend));
  show("in_flight", number(backend.in_flight));
  show("latency", backend.latency === null ? null : milliseconds(backend.latency));
  show("requests", number(backend.requests));
  show("failures", number(backend.failures));
  show("ejections", number(backend.ejections));
  show("last_failure", backend.last_failure && `${duration(backend.last_failure_ago)} ago: ${backend.last_failure}`);
}

function whyOf(backend) {
  if (backend.ejected_for === null) return "";
  return `${duration(backend.ejected_for)} more: ${backend.ejected_because}`;
}

function showChange(item, change) {
  const names = (sign, list, count) => {
    const more = count > list.length ? ` and ${number(count - list.length)} more` : "";
    return list.map((name) => sign + name).join(" ") + more;
  };
  const time = item.querySelector("time");
  time.dateTime = change.time;
  set(time, clock(Date.parse(change.time)));
  const isSame = change.added_count + change.removed_count === 0;
  set(item.querySelector(".what"), `generation ${number(change.generation)}${isSame ? ": order or attributes" : ""}`);
  set(item.querySelector(".added"), names("+", change.added, change.added_count));
  set(item.querySelector(".removed"), names("−", change.removed, change.removed_count));
}

/** Make as many children from a template as there are things, and let `showOne` fill each. */
function fill(parent, things, template, showOne) {
  while (parent.children.length > things.length) parent.lastElementChild.remove();
  while (parent.children.length < things.length) {
    parent.append(byId(template).content.firstElementChild.cloneNode(true));
  }
  things.forEach((thing, index) => showOne(parent.children[index], thing, index));
}

/** Text only, never markup; what is the same is left alone, and so is what the reader selected. */
function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const number = (value) => value.toLocaleString("en");
const counted = (value, word) => `${number(value)} ${word}${value === 1 ? "" : "s"}`;
const clock = (time) => new Date(time).toLocaleTimeString("en-GB");

function milliseconds(seconds) {
  const value = seconds * 1000;
  if (value >= 10_000) return duration(seconds);
  if (value < 0.1) return "< 0.1 ms";
  return `${value < 10 ? value.toFixed(1) : number(Math.round(value))} ms`;
}

function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  if (whole < 7200) return `${Math.floor(whole / 60)} min`;
  if (whole < 172_800) return `${Math.floor(whole / 3600)} h`;
  return `${Math.floor(whole / 86_400)} days`;
}

for (const link of document.querySelectorAll("nav a")) link.href = new URL(link.getAttribute("href"), base);
byId("match").addEventListener("input", poll);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  visibleSince = Date.now();
  showFreshness();
  poll();
});
setInterval(showFreshness, 1000);
poll();
