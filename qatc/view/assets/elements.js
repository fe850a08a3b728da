/* Nodes and edges of the drawing as cytoscape takes them, and how they look. */

const LANE = 208; // pixels from lane to lane and from rank to rank, at zoom 1
const RANK = 64;
const NAME = 27; // characters that fit in a node
const FAR = 0.3; // zoom below which nodes have no text and are full of their colour

const place = (of, i) => [of.places[2 * i], of.places[2 * i + 1]];

/** Return the style sheet of the drawing in the colours of the theme. */
function graphStyle() {
  const tinted = (status) => ({
    selector: `node.${status}`,
    style: {
      'background-color': colors[graphView.far ? `${status}-vivid` : `${status}-fill`],
      'border-color': colors[status],
      'border-width': 2,
    },
  });
  return [
    {
      selector: 'node',
      style: {
        shape: 'round-rectangle',
        width: 180,
        height: 40,
        'background-color': graphView.far ? colors.line : colors.raised,
        'border-width': 1,
        'border-color': colors.same,
        color: colors.ink,
        label: 'data(label)',
        'text-wrap': 'wrap',
        'font-size': 12,
        'text-valign': 'center',
        'text-halign': 'center',
        'line-height': 1.2,
        'font-family': 'system-ui, sans-serif',
        'min-zoomed-font-size': 6,
        'text-events': 'yes',
      },
    },
    { selector: 'node.grid', style: { height: 24, width: 132, 'corner-radius': 12, 'font-size': 11 } },
    tinted('new'),
    tinted('changed'),
    tinted('removed'),
    { selector: 'node.removed', style: { 'border-style': 'dashed', color: colors.dim } },
    { selector: 'node.match', style: { 'border-color': colors.match, 'border-width': 3 } },
    { selector: 'node.selected', style: { 'border-color': colors.accent, 'border-width': 4, 'border-style': 'solid' } },
    {
      selector: 'edge',
      style: {
        width: 1.6,
        'line-color': colors.dim,
        'target-arrow-color': colors.dim,
        'target-arrow-shape': 'triangle',
        'arrow-scale': 0.8,
        'curve-style': 'straight',
        events: 'no',
      },
    },
    {
      selector: 'edge.far',
      style: {
        'curve-style': 'round-segments',
        'segment-distances': 'data(distances)',
        'segment-weights': 'data(weights)',
        'segment-radii': 18,
        'edge-distances': 'node-position',
      },
    },
    {
      selector: 'edge.removed',
      style: {
        'line-style': 'dashed',
        'line-color': colors.removed,
        'target-arrow-color': colors.removed,
        opacity: 0.6,
      },
    },
    {
      selector: 'edge.touched',
      style: { 'line-color': colors.accent, 'target-arrow-color': colors.accent, width: 2.6 },
    },
  ];
}

/** Return the elements, by id, that are between two ranks, with what the edges there begin and end at. */
function wantedElements(of, from, to) {
  const wanted = new Map();
  const shown = (i) => state.ghosts || of.status.get(of.drawn[i].name) !== 'removed';
  const want = (i) => {
    const node = of.drawn[i];
    const [lane, rank] = place(of, i);
    if (!wanted.has(node.name)) wanted.set(node.name, nodeElement(node, of.status.get(node.name), lane, rank));
  };
  of.drawn.forEach((_, i) => {
    const rank = of.places[2 * i + 1];
    if (rank >= from - 1 && rank <= to + 1 && shown(i)) want(i);
  });
  for (let e = 0; e < of.edges.length; e += 3) {
    const [a, b, lane] = [of.edges[e], of.edges[e + 1], of.edges[e + 2]];
    if (of.places[2 * b + 1] < from || of.places[2 * a + 1] > to || !shown(a) || !shown(b)) continue;
    want(a);
    want(b);
    const made = edgeElement(of, a, b, lane);
    wanted.set(made.data.id, made);
  }
  return wanted;
}

function nodeElement(node, status, lane, rank) {
  const grid = Boolean(node.quant) && !/^\w+=/.test(node.quant);
  const { sign } = STATUS[status];
  const head = `${sign ? `${sign} ` : ''}${grid ? `${node.kind} ${node.quant}` : node.kind}`;
  const name = node.path || node.name;
  const label = grid ? head : `${head}\n${name.length > NAME ? `…${name.slice(1 - NAME)}` : name}`;
  return {
    group: 'nodes',
    pannable: true,
    data: { id: node.name, label },
    position: { x: lane * LANE, y: rank * RANK },
    classes: grid ? `${status} grid` : status,
  };
}

/** Return an edge: straight, or down a lane of its own between two bends. */
function edgeElement(of, a, b, lane) {
  const [source, target] = [of.drawn[a].name, of.drawn[b].name];
  const gone = [source, target].some((name) => of.status.get(name) === 'removed');
  const data = { id: `${source}\n${target}`, source, target };
  if (lane) {
    const [start, end] = [place(of, a), place(of, b)].map(([l, r]) => ({ x: l * LANE, y: r * RANK }));
    const bends = [
      { x: lane * LANE, y: start.y + RANK * 0.55 },
      { x: lane * LANE, y: end.y - RANK * 0.55 },
    ].map((p) => beside(start, end, p));
    data.weights = bends.map((bend) => bend.weight).join(' ');
    data.distances = bends.map((bend) => bend.distance).join(' ');
  }
  return { group: 'edges', data, classes: [lane ? 'far' : '', gone ? 'removed' : ''].filter(Boolean).join(' ') };
}

/** Return a point as cytoscape wants it: how far along the line between two others, and how far beside it. */
function beside(start, end, point) {
  const [dx, dy] = [end.x - start.x, end.y - start.y];
  const square = dx * dx + dy * dy;
  const [px, py] = [point.x - start.x, point.y - start.y];
  return { weight: (px * dx + py * dy) / square, distance: (dx * py - dy * px) / Math.sqrt(square) };
}
