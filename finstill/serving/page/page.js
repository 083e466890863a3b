"use strict";

// The student of student.js on the runtime of onnxruntime.js. Both are scripts and not files to fetch, so that the page
// works where it is opened from a disk.
const bytes = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

async function load() {
  const source = new Blob([ONNXRUNTIME.module], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(source));
  ort.env.wasm.wasmBinary = bytes(ONNXRUNTIME.wasm);
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(bytes(STUDENT.graph));
  const tokenizer = new WordPiece(STUDENT.tokenizer);
  // Runs one after the other: a session takes one at a time.
  let last = Promise.resolve();

  const run = async (text) => {
    const whole = tokenizer.encode(text);
    const tokens = whole.ids.length;
    if (tokens > STUDENT.max_length && !STUDENT.cut) return { tokens };
    const { ids, wordOf, words } = tokens > STUDENT.max_length ? tokenizer.cut(whole, STUDENT.max_length) : whole;
    const shape = [1, ids.length];
    const answer = await session.run({
      input_ids: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), shape),
      attention_mask: new ort.Tensor("int64", new BigInt64Array(ids.length).fill(1n), shape),
    });
    const logits = Array.from(answer.logits.data);
    const weights = words.map(() => 0);
    wordOf.forEach((word, i) => word >= 0 && (weights[word] += answer.attention.data[i]));
    const rule = STUDENT.decision;
    return {
      tokens,
      label: STUDENT.labels[logits.indexOf(Math.max(...logits))],
      probabilities: softmax(logits, 1),
      calibrated: STUDENT.temperature === null ? null : softmax(logits, STUDENT.temperature),
      decision: rule === null ? null : softmax(logits, STUDENT.temperature ?? 1)[rule.position] >= rule.threshold,
      attention: words.map((word, i) => ({ ...word, weight: weights[i] })),
    };
  };
  // After one that failed, too.
  return (text) => (last = last.catch(() => {}).then(() => run(text)));
}

function softmax(logits, temperature) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp((logit - largest) / temperature));
  const sum = powers.reduce((total, power) => total + power);
  return powers.map((power) => power / sum);
}

// What a person gives, as Finstill reads it: with entities decoded where those of the corpus were. A textarea decodes
// them and takes no markup.
function given(text) {
  if (!STUDENT.unescape) return text;
  const area = document.createElement("textarea");
  area.innerHTML = text.replaceAll("\0", " ").replaceAll("<", "&lt;");
  return area.value;
}

// Texts are set as text, never as markup.
function element(tag, text = "", properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, properties);
}

function show(text, score) {
  const answer = document.getElementById("answer");
  answer.replaceChildren();
  if (score.label === undefined) {
    answer.append(element("p", `The text has ${score.tokens} tokens, and the student reads ${STUDENT.max_length} at once.`));
    return;
  }
  answer.append(element("p", score.label, { id: "label" }));
  if (score.tokens > STUDENT.max_length) {
    answer.append(element("p", `The text has ${score.tokens} tokens, and the student reads the first ${STUDENT.max_length}.`, { id: "cut" }));
  }
  if (score.decision !== null) {
    const { label, threshold } = STUDENT.decision;
    const words = score.decision ? `Decision: ${label}` : `Decision: not ${label}`;
    answer.append(element("p", `${words} (from a probability of ${threshold.toFixed(3)} on).`, { id: "decision" }));
  }
  const table = element("table");
  STUDENT.labels.forEach((label, i) => {
    const row = element("tr");
    const bar = element("div", "", { className: "bar" });
    bar.style.width = `${(16 * score.probabilities[i]).toFixed(2)}rem`;
    row.append(element("td", label), element("td", score.probabilities[i].toFixed(3)));
    if (score.calibrated) row.append(element("td", score.calibrated[i].toFixed(3)));
    row.append(element("td"));
    row.lastChild.append(bar);
    table.append(row);
  });
  const head = element("tr");
  head.append(element("th", "label"), element("th", "T = 1"));
  if (score.calibrated) head.append(element("th", "calibrated"));
  head.append(element("th"));
  table.prepend(head);
  const words = element("p", "", { id: "words" });
  const folded = WordPiece.fold(text);
  const largest = Math.max(...score.attention.map((word) => word.weight), 1e-9);
  let position = 0;
  for (const word of score.attention) {
    words.append(folded.slice(position, word.start));
    const shaded = element("span", word.text, { title: word.weight.toFixed(3) });
    shaded.style.background = `rgba(230, 159, 0, ${((0.8 * word.weight) / largest).toFixed(2)})`;
    words.append(shaded);
    position = word.start + word.text.length;
  }
  words.append(folded.slice(position));
  answer.append(table, words);
}

async function main() {
  const status = document.getElementById("status");
  const input = document.getElementById("text");
  const score = await load();
  window.score = score;
  const answer = async (text) => show(text, await score(text));
  const update = () => answer(given(input.value));
  input.addEventListener("input", update);
  const body = document.querySelector("#samples tbody");
  for (const sample of STUDENT.samples) {
    const { label, probabilities } = await score(sample.text);
    const row = element("tr");
    const said = label === undefined ? "–" : `${label} (${Math.max(...probabilities).toFixed(2)})`;
    row.append(element("td", sample.text), element("td", sample.truth ?? "–"), element("td", sample.teacher), element("td", said));
    row.addEventListener("click", () => ((input.value = sample.text), answer(sample.text)));
    body.append(row);
  }
  status.textContent = "";
  await update();
  document.body.dataset.ready = "yes";
}

main().catch((error) => {
  document.getElementById("status").textContent = `This page cannot run here: ${error}`;
});
