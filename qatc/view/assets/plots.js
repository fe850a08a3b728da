/* Plots of what was measured of a tensor, as SVG. The data is that of qatc.view.measured. */

const PLOT = { width: 292, height: 120, left: 6, right: 6, top: 8, bottom: 20 };

function svg(tag, attributes = {}, ...content) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...content);
  return made;
}

function frame(label) {
  return svg('svg', { viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, class: 'plot', role: 'img', 'aria-label': label });
}

const inner = () => ({ wide: PLOT.width - PLOT.left - PLOT.right, tall: PLOT.height - PLOT.top - PLOT.bottom });

/** Return a histogram with the grid that the values are rounded to, and the lines where they are clipped. */
function histogramPlot(data) {
  const { wide, tall } = inner();
  const plot = frame(`histogram of ${data.counts.length} bins from ${short(data.low)} to ${short(data.high)}`);
  const x = (value) => PLOT.left + ((value - data.low) / (data.high - data.low)) * wide;
  const most = Math.max(1, ...data.counts);
  const bin = wide / data.counts.length;
  for (const line of gridLines(data, x))
    plot.append(svg('line', { class: 'grid', x1: line, x2: line, y1: PLOT.top, y2: PLOT.top + tall }));
  const bars = data.counts.map((count, i) => {
    const height = Math.sqrt(count / most) * tall;
    return `M${(PLOT.left + i * bin).toFixed(2)} ${PLOT.top + tall}v${-height.toFixed(2)}h${bin.toFixed(2)}v${height.toFixed(2)}z`;
  });
  plot.append(svg('path', { class: 'bars', d: bars.join('') }));
  for (const end of data.clip || []) {
    if (end >= data.low && end <= data.high)
      plot.append(svg('line', { class: 'clip', x1: x(end), x2: x(end), y1: 0, y2: PLOT.top + tall }));
  }
  plot.append(axisLabel(short(data.low), PLOT.left, 'start'), axisLabel(data.unit || '', PLOT.width / 2, 'middle'));
  plot.append(axisLabel(short(data.high), PLOT.width - PLOT.right, 'end'));
  return plot;
}

/** Return where grid lines stand; none where they would be closer than three pixels. */
function gridLines(data, x) {
  if (!data.step || Math.abs(x(data.low + data.step) - x(data.low)) < 3) return [];
  const first = Math.ceil((data.low - data.origin) / data.step);
  const last = Math.floor((data.high - data.origin) / data.step);
  return Array.from({ length: last - first + 1 }, (_, i) => x(data.origin + (first + i) * data.step));
}

function axisLabel(text, x, anchor) {
  return svg('text', { x, y: PLOT.height - 6, 'text-anchor': anchor }, text);
}

/** Return a curve through [x, y] points. */
function curvePlot(name, points) {
  const { wide, tall } = inner();
  const plot = frame(`${name}, ${points.length} points`);
  const ends = (i) => [Math.min(...points.map((p) => p[i])), Math.max(...points.map((p) => p[i]))];
  const [[x0, x1], [y0, y1]] = [ends(0), ends(1)];
  const at = ([x, y]) =>
    `${(PLOT.left + ((x - x0) / (x1 - x0 || 1)) * wide).toFixed(1)} ${(PLOT.top + (1 - (y - y0) / (y1 - y0 || 1)) * tall).toFixed(1)}`;
  plot.append(svg('polyline', { class: 'curve', points: points.map(at).join(',') }));
  plot.append(
    axisLabel(short(x0), PLOT.left, 'start'),
    axisLabel(`${short(y0)} to ${short(y1)}`, PLOT.width / 2, 'middle'),
  );
  plot.append(axisLabel(short(x1), PLOT.width - PLOT.right, 'end'));
  return plot;
}
