"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // Every colour of a scale leaves the page's ink readable on it.
  const scales = () => ({
    sequential: dark.matches
      ? [[0, "#1f2733"], [1, "#2b62a8"]]
      : [[0, "#f3f6fb"], [1, "#6ea8ea"]],
    diverging: dark.matches
      ? [[0, "#2a7a5c"], [0.5, "#232a35"], [1, "#a8433a"]]
      : [[0, "#5fc09a"], [0.5, "#f4f5f7"], [1, "#ee8074"]],
  });
  const themed = (figure) => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = (given) => ({
      gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, automargin: true, ...given,
    });
    const layout = {
      margin: { l: 56, r: 16, t: 28, b: 48 },
      ...figure.layout,
      xaxis: axis(figure.layout.xaxis),
      yaxis: axis(figure.layout.yaxis),
      height: figure.height,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
    };
    const traces = figure.traces.map((trace) =>
      trace.type === "heatmap" ? { ...trace, colorscale: scales()[trace.colorscale], textfont: { color: colour("--ink") } } : trace);
    return { traces, layout };
  };
  const draw = () => figures.forEach((figure, number) => {
    const { traces, layout } = themed(figure);
    Plotly.react(`figure-${number}`, traces, layout, { responsive: true, displaylogo: false, displayModeBar: false });
  });
  draw();
  dark.addEventListener("change", draw);
})();
