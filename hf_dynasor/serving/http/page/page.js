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
    current = { id: job.id, abort: new AbortController(), branches: new Map(), curve: [] };
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
  if (current) await callServer(`/v1/programs/${current.id}/cancel`, { method: "POST" });
});

function startOver() {
  if (current) current.abort.abort();
  for (const id of ["answer", "certainty-text", "units", "tokens", "saved"]) byId(id).textContent = "–";
  byId("certainty").value = 0;
  byId("branches").replaceChildren();
  byId("curve").replaceChildren();
  byId("send").disabled = true;
  say("Asked.");
}

async function followProgram(program) {
  const path = `/v1/programs/${program.id}/events`;
  const reply = await fetch(path, { headers: makeHeaders(), signal: program.abort.signal });
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
    const item = document.createElement("li");
    const title = document.createElement("small");
    const text = document.createElement("pre");
    title.textContent = name;
    item.append(title, text);
    byId("branches").append(item);
    branch = { item, title, text, numTokens: 0 };
    program.branches.set(name, branch);
  }
  return branch;
}

function growBranch(program, path) {
  const branch = findBranch(program, path.request_id);
  branch.numTokens += path.num_tokens;
  branch.text.textContent += path.text;
  branch.title.textContent = `${path.request_id} · ${branch.numTokens} tokens`;
  branch.text.scrollTop = branch.text.scrollHeight;
}

function endBranch(program, data) {
  const branch = findBranch(program, data.request_id);
  branch.text.textContent = data.text;
  branch.title.textContent = `${data.request_id} · ${data.usage.net_tokens} tokens · ${data.finish_reason}`;
  branch.item.className = data.finish_reason === "cancelled" ? "cancelled" : "done";
}

const SIGNALS = ["entropy", "reward", "agreement", "answer_probability"];

function showGrant(program, data) {
  const signal = SIGNALS.find((name) => name in data.certaindex);
  const value = signal ? data.certaindex[signal] : 0;
  byId("certainty").value = value;
  byId("certainty-text").textContent = signal ? `${value.toFixed(2)} (${signal})` : "not known yet";
  byId("units").textContent = `${data.total} of ${byId("budget").value}`;
  byId("tokens").textContent = data.net_tokens;
  program.curve.push([data.total, value]);
  drawCurve(program.curve, Number(byId("budget").value));
}

function showEnd(program, data) {
  byId("answer").textContent = data.answer ?? "none";
  byId("units").textContent = `${data.units_spent} of ${data.budget} ${data.unit}`;
  byId("tokens").textContent = data.usage.net_tokens;
  const full = data.units_spent ? (data.usage.net_tokens / data.units_spent) * data.budget : 0;
  const saved = Math.max(0, Math.round(full - data.usage.net_tokens));
  const share = full ? Math.round((100 * saved) / full) : 0;
  byId("saved").textContent = `${saved} tokens (${share}%, by estimate)`;
  say(`Ended (${data.stop_reason}): ${data.explanation}`);
}

function drawCurve(points, budget) {
  const make = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  const places = points.map(([x, y]) => [(300 * x) / budget, 55 - 50 * y]);
  const line = make("polyline", { points: places.map((place) => place.join(",")).join(" ") });
  byId("curve").replaceChildren(line, ...places.map(([cx, cy]) => make("circle", { cx, cy, r: 3 })));
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

async function refreshLoad() {
  if (byId("load").hidden) return;
  try {
    const [load, list] = await Promise.all([callServer("/load"), callServer("/v1/programs?limit=20")]);
    byId("running").textContent = `${load.num_running} of ${load.max_running}`;
    byId("waiting").textContent = `${load.num_waiting} of ${load.max_waiting}`;
    byId("programs-running").textContent = load.num_programs;
    byId("programs").replaceChildren(...list.data.map(makeRow));
  } catch (error) {
    byId("running").textContent = error.message;
  }
  setTimeout(refreshLoad, 1000);
}

function makeRow(job) {
  const row = document.createElement("tr");
  const result = job.result ?? {};
  for (const text of [job.id, job.status, result.answer ?? "", result.units_spent ?? ""]) {
    row.append(Object.assign(document.createElement("td"), { textContent: text }));
  }
  return row;
}

callServer("/v1/models").then((list) => { byId("model").textContent = list.data[0].id; }, () => {});
