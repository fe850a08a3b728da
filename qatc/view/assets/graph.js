/* The drawing: only what is in sight, with a screen around it, is given to cytoscape, so that its work does not grow
 * with the graph. Places come from Python: a lane and a rank. */

const MOST = 700; // nodes that cytoscape is given at once; it is not zoomed out further than that

const graphView = { cy: null, scene: null, inside: null, ranks: 0, lanes: [0, 0], far: false, waiting: false };
let colors = {};

/** Read the theme's colours from the style sheet. */
function readColors() {
  const style = getComputedStyle(document.documentElement);
  const names = [
    'paper',
    'raised',
    'ink',
    'dim',
    'line',
    'shade',
    'accent',
    'same',
    'match',
    ...['new', 'changed', 'removed'].flatMap((status) => [status, `${status}-fill`, `${status}-vivid`]),
  ];
  colors = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  if (graphView.cy) graphView.cy.style(graphStyle());
}

function startGraph(select) {
  graphView.cy = cytoscape({
    container: $('canvas'),
    style: graphStyle(),
    layout: { name: 'preset' },
    autoungrabify: true,
    autounselectify: true,
    boxSelectionEnabled: false,
    userZoomingEnabled: false,
    maxZoom: 2.5,
    minZoom: 0.02,
  });
  graphView.cy.on('tap', (event) => select(event.target === graphView.cy ? null : event.target.id()));
  graphView.cy.on('viewport', () => {
    if (graphView.waiting) return;
    graphView.waiting = true;
    requestAnimationFrame(() => {
      graphView.waiting = false;
      restyle();
      fill();
      drawGraphStrip();
    });
  });
  $('canvas').addEventListener(
    'wheel',
    (event) => {
      event.preventDefault();
      const { cy } = graphView;
      const box = $('canvas').getBoundingClientRect();
      const at = { x: event.clientX - box.left, y: event.clientY - box.top };
      const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      const [dx, dy] = [event.deltaX * unit, event.deltaY * unit];
      if (event.ctrlKey || event.metaKey)
        cy.zoom({ level: limited(cy.zoom() * Math.exp(-dy / 300)), renderedPosition: at });
      else cy.panBy({ x: -dx, y: -dy });
    },
    { passive: false },
  );
  listenToStrip($('graph-strip'), (share) => lookAt(null, share * graphView.ranks));
}

/** Show a scene's graph at the zoom that there was. */
function showGraph(of) {
  const fresh = graphView.scene === null;
  graphView.scene = of;
  graphView.inside = null;
  graphView.ranks = 1 + of.places.reduce((most, value, i) => (i % 2 ? Math.max(most, value) : most), 0);
  graphView.lanes = of.places.reduce(
    ([least, most], value, i) => (i % 2 ? [least, most] : [Math.min(least, value), Math.max(most, value)]),
    [0, 0],
  );
  graphView.cy.minZoom(leastZoom());
  if (fresh) graphView.cy.zoom(0.85);
  if (!(state.selected && revealNode(state.selected))) {
    const first = of.changed.find((name) => state.ghosts || of.status.get(name) !== 'removed');
    const at = first ? place(of, of.byName.get(first).drawn) : [0, 0];
    if (fresh || !first || !inSight(first)) lookAt(...at);
  }
  fill();
  drawGraphStrip();
}

/** Change between nodes with text and nodes of one colour, where the zoom went past that. */
function restyle() {
  const far = graphView.cy.zoom() < FAR;
  if (far === graphView.far) return;
  graphView.far = far;
  graphView.cy.style(graphStyle());
}

const limited = (zoom) => Math.min(2.5, Math.max(graphView.cy.minZoom(), zoom));

/** Return the zoom below which more than MOST nodes would be in sight: on average as many as there are to a rank. */
function leastZoom() {
  const ranks = Math.max(12, (MOST / 3) * (graphView.ranks / Math.max(1, graphView.scene.drawn.length)));
  return Math.min(0.5, graphView.cy.height() / (RANK * ranks));
}

/** Put a place into the middle of the canvas, or as near as leaves no room above and below the graph.
 *
 * Without a lane, the canvas moves up and down alone; with one, aside only as far as the lane needs to be in sight.
 */
function lookAt(lane, rank) {
  const { cy } = graphView;
  const zoom = cy.zoom();
  const [middle, margin] = [cy.height() / 2, RANK * 0.7 * zoom];
  const least = Math.min(
    middle - ((graphView.ranks - 1) / 2) * RANK * zoom,
    cy.height() - margin - (graphView.ranks - 1) * RANK * zoom,
  );
  const y = Math.min(Math.max(margin, least), Math.max(least, middle - rank * RANK * zoom));
  const half = (LANE / 2) * zoom;
  const inside = (x, l) => Math.min(Math.max(x, half - l * LANE * zoom), cy.width() - half - l * LANE * zoom);
  cy.pan({ x: lane === null ? cy.pan().x : inside(centred(), lane), y });
}

/** Return the pan at which the lanes are in the middle, or the longest path is where they are too many. */
function centred() {
  const {
    cy,
    lanes: [from, to],
  } = graphView;
  const wide = LANE * cy.zoom();
  const middle = (to - from + 1) * wide < cy.width() ? (from + to) / 2 : 0;
  return cy.width() / 2 - middle * wide;
}

function fitGraph() {
  const {
    cy,
    ranks,
    lanes: [from, to],
  } = graphView;
  cy.zoom(limited(Math.min(1, cy.width() / (LANE * (to - from + 1.2)), cy.height() / (RANK * (ranks + 0.4)))));
  lookAt(0, 0);
}

/** Zoom about the middle. */
function zoomBy(factor) {
  const { cy } = graphView;
  cy.zoom({ level: limited(cy.zoom() * factor), renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
}

/** Return the ranks in sight. */
function ranksInSight() {
  const { cy } = graphView;
  const at = (y) => (y - cy.pan().y) / (RANK * cy.zoom());
  return [at(0), at(cy.height())];
}

function inSight(name) {
  const { cy, scene: of } = graphView;
  const [lane, rank] = place(of, of.byName.get(name).drawn);
  const [from, to] = ranksInSight();
  const x = lane * LANE * cy.zoom() + cy.pan().x;
  return rank > from + 0.3 && rank < to - 0.3 && x > 60 && x < cy.width() - 60;
}

/** Bring a node into sight; say whether the drawing has it. */
function revealNode(name) {
  const found = graphView.scene.byName.get(name);
  if (!found) return false;
  if (!inSight(name)) lookAt(...place(graphView.scene, found.drawn));
  fill();
  return true;
}

/** Give cytoscape what is in sight and a screen above and below, where that is not what it has. */
function fill() {
  const of = graphView.scene;
  if (!of) return;
  const [from, to] = ranksInSight();
  const { inside } = graphView;
  if (inside && inside[0] <= Math.max(0, from) && Math.min(graphView.ranks, to) <= inside[1]) return;
  const tall = to - from;
  graphView.inside = [Math.max(0, from - tall / 2), Math.min(graphView.ranks, to + tall / 2)];
  patch(wantedElements(of, ...graphView.inside));
  markNodes();
}

/** Make cytoscape's elements the wanted ones, leaving what is right as it is. */
function patch(wanted) {
  const { cy } = graphView;
  const kept = new Set();
  cy.batch(() => {
    const stale = cy.elements().filter((known) => {
      const now = wanted.get(known.id());
      const same =
        now &&
        known.data('label') === now.data.label &&
        known.data('distances') === now.data.distances &&
        known.data('weights') === now.data.weights;
      if (!same) return true;
      kept.add(known.id());
      if (now.position && (known.position('x') !== now.position.x || known.position('y') !== now.position.y))
        known.position(now.position);
      if (known.scratch('classes') !== now.classes) known.classes(now.classes).scratch('classes', now.classes);
      return false;
    });
    for (const edge of stale.nodes().connectedEdges()) kept.delete(edge.id());
    stale.remove();
  });
  const fresh = [...wanted.values()].filter((one) => !kept.has(one.data.id));
  for (const one of fresh) one.scratch = { classes: one.classes };
  cy.add(fresh);
}

/** Mark what is selected, the edges at it, and what was found. */
function markNodes() {
  const { cy } = graphView;
  cy.batch(() => {
    cy.$('.selected, .match, .touched').removeClass('selected match touched');
    if (state.query) for (const name of state.matches) cy.getElementById(name).addClass('match');
    if (state.selected !== null) {
      const node = cy.getElementById(state.selected).addClass('selected');
      node.connectedEdges().addClass('touched');
    }
  });
}

function drawGraphStrip() {
  const of = graphView.scene;
  const marks = of.changed.map((name) => [
    place(of, of.byName.get(name).drawn)[1] / graphView.ranks,
    of.status.get(name),
  ]);
  const [from, to] = ranksInSight();
  drawStrip($('graph-strip'), marks, from / graphView.ranks, to / graphView.ranks);
}
