"use strict";
(() => {
  const root = document.documentElement;

  // The theme: the system's until one is chosen, which lasts as long as the page is open.
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const say = () => button.setAttribute("aria-pressed", String(isDark()));
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    say();
  });
  system.addEventListener("change", say);
  say();

  // Before and after: the range moves the line, and so does a finger or a mouse on the picture.
  const split = (card, range) => {
    const share = Number(range.value);
    card.querySelector(".frame").style.setProperty("--split", share + "%");
    range.setAttribute("aria-valuetext", share + " % before, " + (100 - share) + " % after");
  };
  const follow = (event) => {
    const frame = event.target.closest(".frame[data-compare]");
    if (!frame || !(event.buttons & 1)) return;
    const card = frame.closest(".card");
    const box = frame.getBoundingClientRect();
    const range = card.querySelector("input[type=range]");
    range.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    split(card, range);
  };
  for (const controls of document.querySelectorAll(".controls")) controls.hidden = false;
  document.addEventListener("pointerdown", follow);
  document.addEventListener("pointermove", follow);
  document.addEventListener("dragstart", (event) => event.target.closest?.(".frame") && event.preventDefault());
  document.addEventListener("input", (event) => {
    const card = event.target.closest(".card");
    if (!card) return;
    if (event.target.type === "range") {
      split(card, event.target);
    } else if (event.target.dataset.toggle) {
      card.querySelector("img." + event.target.dataset.toggle).hidden = !event.target.checked;
    }
  });

  // Photos of one attack: which are shown, and in which order.
  const arrange = (selectors) => {
    const place = document.getElementById(selectors.dataset.cards);
    const all = [...place.querySelectorAll(".card")];
    all.forEach((card, position) => (card.dataset.position ??= position));
    const wanted = [...selectors.querySelectorAll("select[data-filter]")];
    for (const card of all) {
      card.hidden = wanted.some((one) => one.value && card.dataset[one.dataset.filter] !== one.value);
    }
    const key = selectors.querySelector("select[data-sort]").value || "position";
    const compare = (a, b) =>
      key === "name" ? a.dataset.name.localeCompare(b.dataset.name) : a.dataset[key] - b.dataset[key];
    place.append(...all.sort(compare));
    const count = all.filter((card) => !card.hidden).length;
    selectors.querySelector(".shown").textContent = count + " of " + all.length + " shown";
  };
  document.addEventListener("change", (event) => {
    const selectors = event.target.closest(".selectors");
    if (selectors) arrange(selectors);
  });

  // A link to a run opens it, and one to a photo that is not shown shows it.
  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
    if (target?.classList.contains("card") && target.hidden) {
      target.hidden = false;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", open);
  open();
})();
