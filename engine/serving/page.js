"use strict";
(() => {
  const told = JSON.parse(document.getElementById("told").textContent);
  const form = document.getElementById("form");
  const go = document.getElementById("go");
  const state = document.getElementById("state");
  const result = document.getElementById("result");
  const MOST = 20;
  document.getElementById("here").textContent = new URL(".", location.href).href;

  // Everything that comes from the model or the reader goes in as text, never as HTML.
  function made(tag, kind, text) {
    const element = document.createElement(tag);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function number(value) {
    return Number.isInteger(value) ? String(value) : value.toPrecision(4);
  }

  function bars(pairs) {
    const sorted = [...pairs].sort((a, b) => b[1] - a[1]);
    const isShare = sorted.every(([, value]) => value >= 0 && value <= 1);
    const most = isShare ? 1 : Math.max(...sorted.map(([, value]) => Math.abs(value)), 1e-9);
    const box = made("div", "bars");
    for (const [name, value] of sorted.slice(0, MOST)) {
      const track = made("div", "track");
      const fill = made("div", "fill");
      fill.style.width = `${(100 * Math.abs(value)) / most}%`;
      track.append(fill);
      box.append(made("div", "name", name), track, made("div", "value", isShare ? `${(100 * value).toFixed(1)} %` : number(value)));
    }
    const all = made("div");
    all.append(box);
    if (sorted.length > MOST) all.append(made("p", "quiet", `and ${sorted.length - MOST} more`));
    return all;
  }

  function table(rows) {
    const names = Object.keys(rows[0]);
    const drawn = made("table");
    const head = drawn.createTHead().insertRow();
    for (const name of names) head.append(made("th", "", name));
    const body = drawn.createTBody();
    for (const row of rows.slice(0, 200)) {
      const line = body.insertRow();
      for (const name of names) line.insertCell().append(typeof row[name] === "number" ? number(row[name]) : String(row[name]));
    }
    const box = made("div", "wide");
    box.append(drawn);
    return box;
  }

  const isNumber = (value) => typeof value === "number";
  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

  // What a value is decides how it is drawn, whatever the task calls it.
  function drawn(value) {
    if (Array.isArray(value)) {
      if (!value.length) return made("p", "quiet", "(none)");
      if (value.every(isNumber)) {
        const some = value.slice(0, 8).map((each) => each.toFixed(4)).join("  ");
        return made("div", "text", value.length > 8 ? `${value.length} numbers: ${some} …` : some);
      }
      if (value.every((each) => Array.isArray(each) && each.length === 2 && isNumber(each[1]))) return bars(value);
      if (value.every(isObject)) return table(value);
      if (value.every((each) => typeof each === "string")) return made("div", "text", value.join(" · "));
      const box = made("div");
      value.forEach((each, at) => box.append(made("h3", "", String(at + 1)), drawn(each)));
      return box;
    }
    if (isObject(value)) {
      const pairs = Object.entries(value);
      if (pairs.length && pairs.every(([, each]) => isNumber(each))) return bars(pairs);
      return prediction(value);
    }
    if (typeof value === "string") return made("div", "text", value === "" ? "(nothing)" : value);
    return made("div", "headline", isNumber(value) ? number(value) : String(value));
  }

  function prediction(found) {
    const box = made("div");
    const rest = { ...found };
    if (isNumber(rest.cut_to_tokens)) {
      box.append(made("p", "cut", `The text is longer than the model reads: only ${rest.cut_to_tokens} tokens of it were read.`));
      delete rest.cut_to_tokens;
    }
    if ("label" in rest) {
      const label = Array.isArray(rest.label) ? rest.label.join(", ") || "(no label)" : String(rest.label);
      box.append(made("div", "headline", label));
      delete rest.label;
      if (isObject(rest.probabilities)) delete rest.score;
    }
    const entries = Object.entries(rest);
    for (const [name, value] of entries) {
      if (entries.length > 1 || !isObject(value)) box.append(made("h3", "", name));
      box.append(drawn(value));
    }
    return box;
  }

  function asBase64(file) {
    return new Promise((done, fail) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result);
      reader.onerror = () => fail(new Error("the picture cannot be read"));
      reader.readAsDataURL(file);
    });
  }

  async function asked() {
    const columns = {};
    for (const field of form.querySelectorAll("input[type=file]")) {
      if (!field.files.length) throw new Error("choose a picture");
      columns[field.dataset.column] = await asBase64(field.files[0]);
    }
    for (const field of form.querySelectorAll("textarea")) {
      const name = field.dataset.column;
      columns[name] = told.lists.includes(name) ? field.value.split("\n").filter((line) => line.trim()) : field.value;
    }
    return columns;
  }

  async function streamed(answer) {
    const box = made("div", "text");
    result.replaceChildren(box);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Error("the answer broke off");
      rest += value;
      let at;
      while ((at = rest.indexOf("\n\n")) >= 0) {
        const [kind, data] = rest.slice(0, at).split("\n");
        rest = rest.slice(at + 2);
        const said = JSON.parse(data.slice("data: ".length));
        if (kind === "event: part") box.append(said.text);
        else if (kind === "event: error") throw new Error(said.error);
        else return said.prediction;
      }
    }
  }

  form.addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    const headers = { "Content-Type": "application/json" };
    const token = document.getElementById("token");
    if (token) headers.Authorization = `Bearer ${token.value.trim()}`;
    go.disabled = true;
    state.textContent = "computing …";
    const start = performance.now();
    try {
      const body = told.streams ? { inputs: await asked(), stream: true } : { inputs: await asked() };
      const answer = await fetch("predict", { method: "POST", headers, body: JSON.stringify(body) });
      if (!answer.ok) throw new Error((await answer.json()).error);
      const found = told.streams ? await streamed(answer) : (await answer.json()).predictions[0];
      result.replaceChildren(prediction(found));
      state.textContent = `${Math.round(performance.now() - start)} ms`;
    } catch (error) {
      result.replaceChildren(made("p", "error", error instanceof TypeError ? "the server cannot be reached" : error.message));
      state.textContent = "";
    } finally {
      go.disabled = false;
    }
  });

  form.addEventListener("keydown", (key) => {
    if (key.key === "Enter" && (key.ctrlKey || key.metaKey)) form.requestSubmit();
  });
})();
