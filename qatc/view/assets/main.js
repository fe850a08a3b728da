/* What the reader does, and what follows from it. */

const now = () => scene(state.step);
const sees = (view) => state.view === view || state.view === 'both';

/** Show a step. */
function goTo(index) {
  if (index === state.step) return;
  state.step = index;
  showStep();
}

function showStep() {
  const of = now();
  markPass();
  showBar(of);
  if (state.query) findAgain(of);
  if (sees('text')) showText(of);
  if (sees('graph')) showGraph(of);
  showDetails(of);
  if (sees('text')) revealSelectedOrFirst(of);
  $('said').textContent = `${of.step.name}: ${summary(of)}`;
  location.replace(`#${of.step.index}-${of.step.name}`);
}

function revealSelectedOrFirst(of) {
  if (state.selected !== null && of.rowOf.has(state.selected)) revealRow(state.selected);
  else if (of.changed.length) revealRow(of.changed[0]);
}

const statusCounts = (of) => {
  const counts = { new: 0, changed: 0, removed: 0 };
  for (const status of of.status.values()) if (status !== 'same') counts[status] += 1;
  return counts;
};

function summary(of) {
  const counts = statusCounts(of);
  const said = Object.entries(counts)
    .filter(([, count]) => count)
    .map(([status, count]) => `${count} ${STATUS[status].label}`);
  return said.join(', ') || (of.step.nodes ? `${of.after.length} nodes` : 'nothing changed');
}

function showBar(of) {
  $('step').replaceChildren(
    element('span', { class: 'number' }, String(of.step.index).padStart(2, '0')),
    ` ${of.step.name}`,
  );
  $('legend').hidden = of.first;
  $('legend').replaceChildren(
    ...Object.entries(statusCounts(of)).map(([status, count]) =>
      element(
        'li',
        { class: `chip ${status}${count ? '' : ' none'}` },
        `${STATUS[status].sign} ${count} ${STATUS[status].label}`,
      ),
    ),
  );
}

/** Select a node by name, or none; graph, text and panel follow. */
function select(name) {
  state.selected = name;
  const of = now();
  if (sees('text')) {
    if (name !== null && of.rowOf.has(name)) revealRow(name);
    else drawRows(true);
  }
  if (sees('graph')) {
    if (name !== null) revealNode(name);
    markNodes();
  }
  showDetails(of);
  sayFound();
  if (name !== null && of.byName.has(name)) $('said').textContent = of.byName.get(name).node.text;
}

function showView(view) {
  state.view = view;
  document.body.dataset.view = view;
  for (const button of $('views').children) button.setAttribute('aria-pressed', String(button.dataset.view === view));
  if (sees('graph')) graphView.cy.resize();
  showStep();
}

function search() {
  const of = now();
  findAgain(of);
  if (state.matches.length && !state.matches.includes(state.selected)) select(matchFrom(1, of));
  else {
    if (sees('text')) drawRows(true);
    if (sees('graph')) markNodes();
  }
}

function toggleFold() {
  $('fold').checked = state.fold = !state.fold;
  if (sees('text')) {
    showText(now());
    revealSelectedOrFirst(now());
  }
}

function toggleTheme() {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const root = document.documentElement;
  root.dataset.theme = (root.dataset.theme || (dark ? 'dark' : 'light')) === 'dark' ? 'light' : 'dark';
  recolor();
}

function recolor() {
  readColors();
  if (sees('graph')) drawGraphStrip();
  if (sees('text')) drawTextStrip();
}

function neighbour(by) {
  const of = now();
  const at = of.rowOf.get(state.selected);
  const rows = of.rows;
  for (let i = at === undefined ? (by > 0 ? 0 : rows.length - 1) : at + by; i >= 0 && i < rows.length; i += by) {
    const node = rows[i].right || rows[i].left;
    if (node) return node.name;
  }
  return state.selected;
}

const KEYS = {
  j: () => goTo(stepFrom(state.step, 1)),
  k: () => goTo(stepFrom(state.step, -1)),
  g: () => showView(state.view === 'graph' ? 'text' : 'graph'),
  '/': () => $('query').select(),
  n: () => state.matches.length && select(matchFrom(1, now())),
  N: () => state.matches.length && select(matchFrom(-1, now())),
  ']': () => select(changeFrom(1, now()) ?? state.selected),
  '[': () => select(changeFrom(-1, now()) ?? state.selected),
  '+': () => zoomBy(1.25),
  '=': () => zoomBy(1.25),
  '-': () => zoomBy(0.8),
  f: fitGraph,
  c: toggleFold,
  t: toggleTheme,
  '?': () => $('keys').showModal(),
  Escape: () => select(null),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $('keys').open) return;
  const typing = event.target.id === 'query';
  if (typing && event.key !== 'Escape') return;
  if (typing) {
    $('query').value = '';
    $('query').blur();
    search();
  }
  const arrow = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const inList = event.target.closest('#passes');
  if (arrow && inList) goTo(stepFrom(state.step, arrow));
  else if (arrow && event.target.closest('#rows, #canvas')) select(neighbour(arrow));
  else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
}

function listen() {
  document.addEventListener('keydown', onKey);
  listenToText(select);
  $('search').addEventListener('submit', (event) => event.preventDefault());
  $('query').addEventListener('input', search);
  $('query').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && state.matches.length) select(matchFrom(event.shiftKey ? -1 : 1, now()));
  });
  $('next').addEventListener('click', KEYS.n);
  $('previous').addEventListener('click', KEYS.N);
  $('views').addEventListener('click', (event) => event.target.dataset.view && showView(event.target.dataset.view));
  $('details').addEventListener('click', (event) => {
    const { select: name, step } = event.target.dataset;
    if (step !== undefined) goTo(Number(step));
    if (name !== undefined) select(name);
  });
  $('fold').addEventListener('change', () => {
    state.fold = !$('fold').checked;
    toggleFold();
  });
  $('ghosts').addEventListener('change', () => {
    state.ghosts = $('ghosts').checked;
    showGraph(now());
  });
  $('fit').addEventListener('click', fitGraph);
  $('zoom-in').addEventListener('click', KEYS['+']);
  $('zoom-out').addEventListener('click', KEYS['-']);
  $('theme').addEventListener('click', toggleTheme);
  $('help').addEventListener('click', KEYS['?']);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', recolor);
  new ResizeObserver(() => {
    if (sees('text') && textView.scene) {
      drawRows(true);
      drawTextStrip();
    }
    if (sees('graph') && graphView.scene) {
      graphView.cy.resize();
      graphView.cy.minZoom(leastZoom());
      fill();
      drawGraphStrip();
    }
  }).observe(document.querySelector('main'));
}

function start() {
  $('model').textContent = page.title;
  const made = [page.target, page.config, page.qatc && `qatc ${page.qatc}`].filter(Boolean);
  $('facts').textContent = made.join(' · ');
  $('skip').closest('label').hidden = page.steps.every((step) => step.nodes);
  const named = page.steps.findIndex((step) => location.hash === `#${step.index}-${step.name}`);
  const first = page.steps.findIndex((step, index) => index > 0 && step.nodes);
  state.step = named >= 0 ? named : Math.max(0, first);
  readColors();
  listPasses(goTo);
  startGraph(select);
  listen();
  sayFound();
  showView(innerHeight >= 760 ? 'both' : 'graph');
}

start();
performance.mark('ready');
