"use strict";
(() => {
  const root = document.documentElement;
  const KEY = "smaug-theme";
  const THEMES = ["automatic", "light", "dark"];
  let theme = "automatic";

  // Storage may be forbidden, as it is for files in some browsers.
  const remembered = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const remember = (name) => { try { localStorage.setItem(KEY, name); } catch { /* the choice lasts until the page closes */ } };

  function show(name) {
    theme = THEMES.includes(name) ? name : "automatic";
    if (theme === "automatic") root.removeAttribute("data-theme");
    else root.dataset.theme = theme;
  }
  root.dataset.scripted = "";
  show(remembered()); // before anything is drawn

  function offerThemes() {
    const button = document.getElementById("theme");
    const tell = () => { button.textContent = `Theme: ${theme}`; };
    button.hidden = false;
    button.addEventListener("click", () => {
      show(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
      remember(theme);
      tell();
    });
    tell();
  }

  function openCards() {
    document.addEventListener("click", (event) => {
      const opener = event.target.closest(".open");
      if (opener) document.getElementById(opener.dataset.card).showModal();
      else if (event.target.closest(".close") || event.target instanceof HTMLDialogElement) // its backdrop
        event.target.closest("dialog").close();
    });
  }

  function sortable(box) {
    const table = box.querySelector("table");
    const body = table.tBodies[0];
    const paper = [...body.rows];
    const back = box.querySelector(".back");
    const heads = [...table.querySelectorAll("th[data-column]")];

    function unsort() {
      body.append(...paper);
      heads.forEach((head) => head.setAttribute("aria-sort", "none"));
      table.removeAttribute("data-sorted");
      back.hidden = true;
    }

    function sort(head, way) {
      const column = Number(head.dataset.column);
      const number = (row) => {
        const text = row.cells[column].dataset.value;
        return text === undefined ? null : Number(text);
      };
      const sign = way === "ascending" ? 1 : -1;
      const rows = paper.filter((row) => !row.classList.contains("group"));
      rows.sort((one, other) => { // rows without a number stay below, in the paper's order
        const [a, b] = [number(one), number(other)];
        if (a === null || b === null) return (a === null) - (b === null);
        return sign * (a - b);
      });
      unsort();
      body.append(...rows);
      head.setAttribute("aria-sort", way);
      table.dataset.sorted = "";
      back.hidden = false;
    }

    for (const head of heads) {
      const first = head.dataset.first;
      head.querySelector("button").addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        if (now === "none") sort(head, first);
        else if (now === first) sort(head, first === "ascending" ? "descending" : "ascending");
        else unsort();
      });
    }
    back.addEventListener("click", () => { unsort(); heads[0].querySelector("button").focus(); });
  }

  document.addEventListener("DOMContentLoaded", () => {
    offerThemes();
    openCards();
    document.querySelectorAll(".table").forEach(sortable);
    performance.mark("interactive");
  });
})();
