/* What the page shows: the data that Python wrote, and questions asked of it. Everything else reads it from here. */

const page = JSON.parse(document.getElementById('data').textContent);

/** Status of a node under a pass: how it is called, and the sign that stands beside its colour. */
const STATUS = {
  new: { sign: '+', label: 'new' },
  changed: { sign: '~', label: 'changed' },
  removed: { sign: '−', label: 'removed' },
  same: { sign: '', label: 'unchanged' },
};

/** What the reader looks at; `main.js` alone changes it. */
const state = { step: 0, selected: null, view: 'graph', fold: false, ghosts: true, matches: [], query: '' };

const $ = (id) => document.getElementById(id);

/** Return a new element; `content` is text or elements, never markup. */
function element(tag, attributes = {}, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...content.filter((part) => part !== null));
  return made;
}

/** Return the index of the last step up to this one that changed the graph. */
function changedStep(index) {
  while (index > 0 && !page.steps[index].nodes) index -= 1;
  return index;
}

const scenes = new Map();

/** Return a step as it is shown: nodes before and after, rows, statuses; made when it is first asked for. */
function scene(index) {
  if (!scenes.has(index)) scenes.set(index, page.steps[index].nodes ? changedScene(index) : quietScene(index));
  return scenes.get(index);
}

function changedScene(index) {
  const step = page.steps[index];
  const record = (id) => page.records[id];
  const first = index === 0 || !page.steps.slice(0, index).some((s) => s.nodes);
  const earlier = first ? null : page.steps[changedStep(index - 1)];
  const before = earlier ? earlier.nodes.map(record) : [];
  const after = step.nodes.map(record);
  const drawn = [...after, ...step.removed.map(record)];
  const texts = new Map(before.map((node) => [node.name, node.text]));
  const status = new Map();
  for (const node of after) {
    const known = texts.get(node.name);
    status.set(node.name, first || known === node.text ? 'same' : known === undefined ? 'new' : 'changed');
  }
  for (let i = after.length; i < drawn.length; i += 1) status.set(drawn[i].name, 'removed');
  const rows = first ? after.map((node) => ({ left: null, right: node })) : pairedRows(step.rows, before, after);
  return finished({ index, step, first, before, after, drawn, status, rows, places: step.places, edges: step.edges });
}

/** Return the scene of a pass that changed nothing: the graph as it was, without marks. */
function quietScene(index) {
  const earlier = scene(changedStep(index));
  const count = earlier.after.length;
  const edges = [];
  for (let i = 0; i < earlier.edges.length; i += 3) {
    if (earlier.edges[i] < count && earlier.edges[i + 1] < count) edges.push(...earlier.edges.slice(i, i + 3));
  }
  return finished({
    index,
    step: page.steps[index],
    first: true,
    before: earlier.after,
    after: earlier.after,
    drawn: earlier.after,
    status: new Map(earlier.after.map((node) => [node.name, 'same'])),
    rows: earlier.after.map((node) => ({ left: null, right: node })),
    places: earlier.places,
    edges,
  });
}

function pairedRows(runs, before, after) {
  const rows = [];
  for (let r = 0; r < runs.length; r += 3) {
    for (let i = 0; i < runs[r + 2]; i += 1) {
      rows.push({
        left: runs[r] < 0 ? null : before[runs[r] + i],
        right: runs[r + 1] < 0 ? null : after[runs[r + 1] + i],
      });
    }
  }
  return rows;
}

function finished(made) {
  made.byName = new Map(made.drawn.map((node, i) => [node.name, { node, drawn: i }]));
  made.rowOf = new Map();
  made.rows.forEach((row, i) => {
    if (row.left) made.rowOf.set(row.left.name, i);
  });
  made.rows.forEach((row, i) => {
    if (row.right) made.rowOf.set(row.right.name, i);
  });
  made.changed = made.drawn.map((node) => node.name).filter((name) => made.status.get(name) !== 'same');
  made.changed.sort((a, b) => made.rowOf.get(a) - made.rowOf.get(b));
  return made;
}

/** Return the status of one side of a row. */
function sideStatus(of, row, side) {
  const node = row[side];
  if (!node || of.first) return 'same';
  const other = side === 'left' ? row.right : row.left;
  if (other && other.name === node.name) return other.text === node.text ? 'same' : 'changed';
  return side === 'left' ? 'removed' : 'new';
}

/** Return the names of the nodes that read this one in the scene's graph. */
function readersOf(of, name) {
  return of.after.filter((node) => (node.inputs || []).includes(name)).map((node) => node.name);
}

/** Return the node's events through the steps: where it was born, changed and removed, and what took its place. */
function historyOf(name) {
  if (!Object.hasOwn(page.histories, name)) return [];
  const [born, changed, removed, into] = page.histories[name];
  const events = [{ index: born, what: born ? 'born in' : 'from', status: 'new' }];
  events.push(...changed.map((index) => ({ index, what: 'changed by', status: 'changed' })));
  if (removed !== null)
    events.push({ index: removed, what: into ? 'gave its place to' : 'removed by', status: 'removed', into });
  return events;
}

/** Return how the number of nodes of each kind changed, the greatest change first. */
function kindChanges(of) {
  const counts = new Map();
  const count = (nodes, side) => {
    for (const { kind } of nodes) {
      if (!counts.has(kind)) counts.set(kind, [0, 0]);
      counts.get(kind)[side] += 1;
    }
  };
  count(of.before, 0);
  count(of.after, 1);
  const moved = [...counts].map(([kind, [was, is]]) => ({ kind, was, is }));
  return moved
    .filter(({ was, is }) => of.first || was !== is)
    .sort((a, b) => Math.abs(b.is - b.was) - Math.abs(a.is - a.was));
}

/** Return the names of the nodes of a scene that hold the text in name, kind, path or file, in the order of its rows. */
function matching(of, query) {
  const wanted = query.trim().toLowerCase();
  if (!wanted) return [];
  const place = (node) => `${node.name}\n${node.kind || ''}\n${node.path || ''}\n${node.file || ''}:${node.line || ''}`;
  const found = of.drawn.filter((node) => place(node).toLowerCase().includes(wanted)).map((node) => node.name);
  return found.sort((a, b) => of.rowOf.get(a) - of.rowOf.get(b));
}

/** Return a number as short text. */
function short(value) {
  if (typeof value !== 'number') return String(value);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}

/** Return a time as text. */
function duration(seconds) {
  if (seconds === null || seconds === undefined) return '';
  if (seconds < 0.001) return '<1 ms';
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}
