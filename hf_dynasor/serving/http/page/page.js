"use strict";

const byId = (id) => document.getElementById(id);
let current = null; // the program that is followed: {id, abort, branches, curve}

function makeHeaders(more) {
  const key = byId("key").value;
  return key ? { Authorization: `Bearer ${key}`, ...more } : { ...more };
}

async function callServer(path, options = {}) {
  const reply = await fetch(path, { ...options, headers: makeHeaders(options.headers) });
  const row = await reply.json();
  if (!reply.ok) throw new Error(row.error ? row.error.message : `status ${reply.status}`);
  return row;
}

byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  startOver();
  try {
    const body = {
      question: byId("question").value,
      program: byId("program").value,
      budget: Number(byId("budget").value),
      temperature: Number(byId("temperature").value),
      stream_paths: true,
    };
    const job = await callServer("/v1/programs", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    current = { id: job.id, abort: new AbortController(), branches: new Map(), curve: [], budget: body.budget };
    byId("cancel").disabled = false;
    await followProgram(current);
  } catch (error) {
    if (error.name !== "AbortError") say(`Error: ${error.message}`);
  } finally {
    byId("send").disabled = false;
    byId("cancel").disabled = true;
  }
});

byId("cancel").addEventListener("click", async () => {
  if (!current) return;
  try {
    await callServer(`/v1/programs/${current.id}/cancel`, { method: "POST" });
  } catch (error) {
    say(`Error: ${error.message}`);
  }
});

function startOver() {
  if (current) current.abort.abort();
  for (const id of ["answer", "certainty-text", "units", "tokens", "saved"]) byId(id).textContent = "–";
  byId("certainty").value = 0;
  byId("branches").replaceChildren();
  byId("branch-count").textContent = "";
  drawCurve("curve", []);
  byId("send").disabled = true;
  say("Asked.");
}

async function followProgram(program) {
  const path = `/v1/programs/${program.id}/events`;
  const reply = await fetch(path, { headers: makeHeaders(), signal: program.abort.signal });
  if (!reply.ok) throw new Error(`status ${reply.status}`);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const text of events) takeEvent(program, text);
  }
}

function takeEvent(program, text) {
  const fields = Object.fromEntries(
    text.split("\n").filter((line) => /^\w+: /.test(line)).map((line) => {
      const at = line.indexOf(": ");
      return [line.slice(0, at), line.slice(at + 2)];
    }),
  );
  if (!fields.event) return;
  const show = handlers[fields.event];
  if (show) show(program, JSON.parse(fields.data));
}

const handlers = {
  running: () => say("Running."),
  progress: (program, data) => data.paths.forEach((path) => growBranch(program, path)),
  completion: endBranch,
  grant: showGrant,
  completed: showEnd,
  cancelled: () => say("Cancelled."),
  failed: (program, data) => say(`Failed: ${data.error}`),
};

function findBranch(program, name) {
  let branch = program.branches.get(name);
  if (!branch) {
    const make = (tag, className) => Object.assign(document.createElement(tag), { className });
    const [item, title, box] = [make("li", "growing"), make("small", ""), make("pre", "")];
    const [thought, said] = [make("span", "thought"), make("span", "")];
    box.append(thought, said);
    item.append(title, box);
    byId("branches").append(item);
    branch = { item, title, box, thought, said, text: "", numTokens: 0, answer: null };
    program.branches.set(name, branch);
    byId("branch-count").textContent = `(${program.branches.size})`;
  }
  return branch;
}

// Thinking is set apart; its markers need not be shown.
function showText(branch, text) {
  branch.text = text;
  const parts = /^\s*<think>([^]*?)(?:<\/think>([^]*)|$)/.exec(text);
  branch.thought.textContent = parts ? parts[1] : "";
  branch.said.textContent = parts ? parts[2] ?? "" : text;
}

function growBranch(program, path) {
  const branch = findBranch(program, path.request_id);
  if (branch.item.className !== "growing") return;
  branch.numTokens += path.num_tokens;
  showText(branch, branch.text + path.text);
  branch.title.textContent = `${nameBranch(path.request_id)} · ${branch.numTokens} tokens …`;
  branch.box.scrollTop = branch.box.scrollHeight;
}

const ENDS = { eos: "", stop: "", length: " · cut at its limit", cancelled: " · cancelled", failed: " · failed" };

function endBranch(program, data) {
  const branch = findBranch(program, data.request_id);
  showText(branch, data.text);
  branch.box.scrollTop = branch.box.scrollHeight;
  const end = ENDS[data.finish_reason] ?? ` · ${data.finish_reason}`;
  branch.title.textContent = `${nameBranch(data.request_id)} · ${data.usage.net_tokens} tokens${end}`;
  branch.item.className = data.finish_reason === "cancelled" ? "cancelled" : "done";
  const boxed = [...data.text.matchAll(/\\boxed\{([^{}]*)\}/g)].pop();
  branch.answer = boxed ? boxed[1] : null;
}

function nameBranch(id) {
  const parts = /^sample-(\d+)$/.exec(id);
  return parts ? `sample ${Number(parts[1]) + 1}` : id;
}

const SIGNALS = ["entropy", "reward", "agreement", "answer_probability"];

function showGrant(program, data) {
  const signal = SIGNALS.find((name) => name in data.certaindex);
  const value = signal ? data.certaindex[signal] : 0;
  byId("certainty").value = value;
  byId("certainty-text").textContent = signal ? `${value.toFixed(2)} (${signal})` : "not known yet";
  byId("units").textContent = `${data.total} of ${program.budget}`;
  byId("tokens").textContent = data.net_tokens.toLocaleString("en");
  program.curve.push([data.total / program.budget, value]);
  drawCurve("curve", program.curve);
}

function showEnd(program, data) {
  byId("answer").textContent = data.answer ?? "none";
  byId("units").textContent = `${data.units_spent} of ${data.budget} ${data.unit}`;
  const net = data.usage.net_tokens;
  byId("tokens").textContent = net.toLocaleString("en");
  byId("saved").textContent = describeSaving(data, " tokens");
  for (const branch of program.branches.values()) {
    if (branch.answer !== null && branch.answer === data.answer) branch.item.className = "agrees";
  }
  say(`Ended (${data.stop_reason}): ${data.explanation}`);
}

// An estimate: what the units that were not spent would have cost, at the mean of those that were.
function describeSaving(data, unit) {
  const full = data.full_budget_tokens ?? 0;
  const saved = Math.max(0, full - data.usage.net_tokens);
  return saved ? `about ${saved.toLocaleString("en")}${unit} (${Math.round((100 * saved) / full)}%)` : "nothing";
}

// Points in the unit square; its upper edge is 1.
function drawCurve(id, points, hasDots = true) {
  const make = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  const grid = [5, 35, 65].map((y) => make("line", { x1: 0, x2: 300, y1: y, y2: y, class: "grid" }));
  const places = points.map(([x, y]) => [6 + 288 * x, 65 - 60 * y]);
  const line = make("polyline", { points: places.map((place) => place.join(",")).join(" ") });
  const dots = hasDots ? places.map(([x, y]) => make("line", { x1: x, x2: x, y1: y, y2: y, class: "dot" })) : [];
  byId(id).replaceChildren(...grid, line, ...dots);
}

function say(text) {
  byId("status").textContent = text;
}

const tabs = [...document.querySelectorAll('[role="tab"]')];
for (const tab of tabs) {
  tab.addEventListener("click", () => selectTab(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      const other = tabs[(tabs.indexOf(tab) + 1) % tabs.length];
      selectTab(other);
      other.focus();
    }
  });
}

function selectTab(chosen) {
  for (const tab of tabs) {
    const isChosen = tab === chosen;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !isChosen;
  }
  if (chosen.id === "tab-load") refreshLoad();
}

const HISTORY_S = 60;
let loads = []; // [seconds, requests running]
let timer = null;

async function refreshLoad() {
  clearTimeout(timer);
  if (byId("load").hidden) return;
  try {
    const [load, list] = await Promise.all([callServer("/load"), callServer("/v1/programs?limit=20")]);
    byId("running").textContent = `${load.num_running} of ${load.max_running}`;
    byId("waiting").textContent = `${load.num_waiting} of ${load.max_waiting}`;
    byId("programs-running").textContent = load.num_programs;
    byId("programs").replaceChildren(...list.data.map(makeRow));
    showHistory(load.num_running);
  } catch (error) {
    byId("running").textContent = error.message;
  }
  clearTimeout(timer);
  timer = setTimeout(refreshLoad, 1000);
}

function showHistory(numRunning) {
  const now = performance.now() / 1000;
  loads.push([now, numRunning]);
  loads = loads.filter(([when]) => now - when <= HISTORY_S);
  const most = Math.max(...loads.map(([, number]) => number));
  byId("load-most").textContent = most;
  const points = loads.map(([when, number]) => [1 - (now - when) / HISTORY_S, number / Math.max(1, most)]);
  drawCurve("load-curve", points, false);
}

function makeRow(job) {
  const row = document.createElement("tr");
  const result = job.result;
  const cells = [job.custom_id ?? job.id, job.status];
  cells.push(...(result ? [result.answer ?? "none", `${result.units_spent} of ${result.budget}`, describeSaving(result, "")] : ["", "", ""]));
  for (const text of cells) row.append(Object.assign(document.createElement("td"), { textContent: text }));
  return row;
}

drawCurve("curve", []);
callServer("/v1/models").then((list) => { byId("model").textContent = list.data[0].id; }, () => {});
