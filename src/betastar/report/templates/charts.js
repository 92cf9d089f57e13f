"use strict";
// Draws every panel of the page and lets the legends filter all of them at once.
(async () => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const views = [];
  let shown = null; // the β that are shown; null: all

  const buttons = [...document.querySelectorAll(".legend button")];
  const names = [...new Set(buttons.map((button) => button.dataset.beta))];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const beta = button.dataset.beta;
      if (shown === null) shown = [beta];
      else if (shown.includes(beta)) shown = shown.filter((name) => name !== beta);
      else shown = [...shown, beta];
      if (shown.length === 0 || shown.length === names.length) shown = null;
      for (const other of buttons) {
        other.setAttribute("aria-pressed", String(shown === null || shown.includes(other.dataset.beta)));
      }
      for (const view of views) view.signal("shown", shown).runAsync();
    });
  }

  for (const place of document.querySelectorAll("[data-panel]")) {
    const title = place.parentElement.querySelector(".panel-title");
    const heading = place.closest("figure").querySelector("h3").textContent;
    const { view } = await vegaEmbed(place, report.panels[place.dataset.panel], {
      mode: "vega-lite",
      ast: true, // the interpreter instead of generated functions: the page forbids eval
      renderer: "svg",
      actions: false,
      defaultStyle: false,
      config: report.theme,
      tooltip: { disableDefaultStyle: true },
    });
    const svg = place.querySelector("svg");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", title ? `${heading}: ${title.textContent}` : heading);
    if (shown !== null) view.signal("shown", shown).runAsync();
    views.push(view);
  }
  document.documentElement.dataset.charts = "done";
})();
