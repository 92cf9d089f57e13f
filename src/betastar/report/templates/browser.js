"use strict";
// The response browser. Responses are hostile text: they reach the page as text nodes only.
(() => {
  const VARIANT = 0, BETA = 1, SEED = 2, STEP = 3, PROBLEM = 4, TEXT = 5, PROXY = 6, DISAGREEMENT = 7, STRICT = 8, LENIENT = 9;
  const MOST_WORDS = 2500; // of a response that is compared word by word

  // Which words of `a` and of `b` belong to their longest common subsequence.
  function common(a, b) {
    const width = b.length + 1;
    const length = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        length[i * width + j] = a[i] === b[j]
          ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
      }
    }
    const inA = new Set(), inB = new Set();
    for (let i = 0, j = 0; i < a.length && j < b.length; ) {
      if (a[i] === b[j]) { inA.add(i++); inB.add(j++); }
      else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i++;
      else j++;
    }
    return [inA, inB];
  }

  // Text with the words outside `kept` in elements of this tag.
  function show(place, parts, kept, tag) {
    place.replaceChildren();
    let word = -1;
    for (const part of parts) {
      if (!part) continue;
      const space = /^\s+$/.test(part);
      if (!space) word++;
      if (space || kept === null || kept.has(word)) {
        place.append(document.createTextNode(part));
      } else {
        const mark = document.createElement(tag);
        mark.textContent = part;
        place.append(mark);
      }
    }
  }

  const pieces = (text) => text.split(/(\s+)/);
  const words = (parts) => parts.filter((part) => part && !/^\s+$/.test(part));
  const number = (value) => (value === null ? "unknown" : String(value).replace("-", "−"));
  const grade = (value) => (value === null ? "unknown" : value ? "right" : "wrong");

  function facts(place, row) {
    place.replaceChildren();
    const told = row === null ? [] : [
      ["proxy", number(row[PROXY])],
      ["û", number(row[DISAGREEMENT])],
      ["strict", grade(row[STRICT])],
      ["lenient", grade(row[LENIENT])],
    ];
    for (const [name, value] of told) {
      const pair = document.createElement("div");
      const term = document.createElement("dt"), detail = document.createElement("dd");
      term.textContent = name;
      detail.textContent = value;
      pair.append(term, detail);
      place.append(pair);
    }
  }

  function start(root, data) {
    const place = (name) => root.querySelector(`[data-place="${name}"]`);
    const choice = (name) => root.querySelector(`[data-choice="${name}"]`);
    const rowOf = new Map(data.rows.map((row) => [row.slice(0, 5).join(), row]));
    const seeds = [...new Set(data.rows.map((row) => row[SEED]))].sort((a, b) => a - b);
    const steps = [...new Set(data.rows.map((row) => row[STEP]))].sort((a, b) => a - b);

    function options(name, texts) {
      choice(name).replaceChildren(...texts.map((text, value) => new Option(text, value)));
    }
    options("variant", data.variants);
    options("beta", data.betas);
    options("seed", seeds);
    options("problem", data.problems.map((problem) => problem.name));
    choice("step").max = steps.length - 1;

    // Answers that were right at the start and are wrong later, the largest rise of the proxy first.
    const hacks = data.rows
      .map((row) => [row, rowOf.get([...row.slice(0, 3), steps[0], row[PROBLEM]].join())])
      .filter(([row, first]) => first && first[STRICT] === 1 && row[STRICT] === 0)
      .sort(([a, a0], [b, b0]) => b[PROXY] - b0[PROXY] - (a[PROXY] - a0[PROXY]))
      .map(([row]) => row);
    let hack = -1;

    function update() {
      const at = ["variant", "beta", "seed", "problem", "step"].map((name) => Number(choice(name).value));
      const [variant, beta, seed, problem] = at;
      const step = steps[at[4]];
      const row = (t) => rowOf.get([variant, beta, seeds[seed], t, problem].join()) ?? null;
      const before = row(steps[0]), after = row(step);
      place("step").textContent = place("step-title").textContent = String(step);
      choice("step").setAttribute("aria-valuetext", `step ${step}`);
      place("question").textContent = data.problems[problem].question;
      place("gold").textContent = data.problems[problem].gold || "unknown";
      facts(place("facts-before"), before);
      facts(place("facts-after"), after);
      const [a, b] = [before, after].map((r) => pieces(r === null ? "" : data.texts[r[TEXT]]));
      const [aWords, bWords] = [words(a), words(b)];
      const long = Math.max(aWords.length, bWords.length) > MOST_WORDS;
      const [inA, inB] = before === null || after === null || long ? [null, null] : common(aWords, bWords);
      show(place("before"), a, inA, "del");
      show(place("after"), b, inB, "ins");
      let status = "";
      if (after === null) status = "No response was kept at this step.";
      else if (before === null) status = "No response at t = 0 was kept here.";
      else if (long) status = "Too long to compare word by word.";
      else if (inA.size === aWords.length && inB.size === bWords.length) status = "The same words as at t = 0.";
      else status = `${bWords.length - inB.size} of ${bWords.length} words are new; ${aWords.length - inA.size} are gone.`;
      place("status").textContent = status;
    }

    function go(row) {
      choice("variant").value = row[VARIANT];
      choice("beta").value = row[BETA];
      choice("seed").value = seeds.indexOf(row[SEED]);
      choice("problem").value = row[PROBLEM];
      choice("step").value = steps.indexOf(row[STEP]);
      update();
    }
    function next() {
      hack = (hack + 1) % hacks.length;
      go(hacks[hack]);
    }
    for (const control of root.querySelectorAll("[data-choice]")) {
      control.addEventListener("input", update);
      control.addEventListener("change", update);
    }
    const button = root.querySelector("[data-action=hack]");
    button.addEventListener("click", next);
    if (hacks.length) next();
    else {
      button.disabled = true;
      button.textContent = "No kept answer went from right to wrong";
      choice("step").value = steps.length - 1;
      update();
    }
  }

  const report = JSON.parse(document.getElementById("report-data").textContent);
  for (const root of document.querySelectorAll("[data-browser]")) {
    start(root, report.browsers[Number(root.dataset.browser)]);
  }
  document.documentElement.dataset.browser = "done";
})();
