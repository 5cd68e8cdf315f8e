// Draws the figures from the specifications in the page; one inside a closed fold waits until it has a width.
// Expressions are interpreted, not compiled: the page's policy lets no text become code.
document.querySelectorAll("script[data-figure]").forEach((source) => {
  const name = source.dataset.figure;
  const figure = document.getElementById(`figure-${name}`);
  const options = { actions: false, renderer: "svg", ast: true, tooltip: { theme: "report" } };
  const draw = async () => {
    const { view } = await vegaEmbed(figure.querySelector(".drawing"), JSON.parse(source.textContent), options);
    offerSvg(figure, view, name);
  };
  const fold = figure.closest("details:not([open])");
  if (fold) fold.addEventListener("toggle", draw, { once: true });
  else draw();
});
