// Draws the figures from the specifications in the page; one inside a closed fold waits until it has a width.
document.querySelectorAll("script[data-figure]").forEach((source) => {
  const place = document.getElementById(source.dataset.figure);
  const draw = () => vegaEmbed(place, JSON.parse(source.textContent), { actions: false, renderer: "svg" });
  const fold = place.closest("details:not([open])");
  if (fold) fold.addEventListener("toggle", draw, { once: true });
  else draw();
});
