"use strict";
for (const figure of document.querySelectorAll(".slider")) {
  const input = figure.querySelector("input");
  const output = figure.querySelector("output");
  const pictures = figure.querySelectorAll("img");
  const labels = input.dataset.labels.split("|");
  const show = () => {
    const at = Number(input.value);
    pictures.forEach((picture, place) => { picture.hidden = place !== at; });
    output.textContent = labels[at];
    input.setAttribute("aria-valuetext", labels[at]);
  };
  input.addEventListener("input", show);
  show();
}
