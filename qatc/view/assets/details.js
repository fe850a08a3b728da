/* The panel at the right: everything known of the selected node, or what the pass did. */

function showDetails(of) {
  const found = state.selected === null ? null : of.byName.get(state.selected);
  const shown = found ? nodeDetails(of, found.node) : state.selected === null ? stepDetails(of) : absentDetails();
  $('details').replaceChildren(...shown);
  $('details').scrollTop = 0;
}

/** Return rows of a description list; what is empty is left out. */
function facts(pairs) {
  const list = element('dl', { class: 'facts' });
  for (const [term, value] of pairs) {
    if (value === null || value === undefined || value === '') continue;
    list.append(element('dt', {}, term), element('dd', {}, value));
  }
  return list;
}

function section(title, ...content) {
  return element('section', {}, element('h3', {}, title), ...content);
}

function nodeLinks(names) {
  const list = element('ul', { class: 'links' });
  list.append(
    ...names.map((name) => element('li', {}, element('button', { type: 'button', 'data-select': name }, `%${name}`))),
  );
  return list;
}

function nodeDetails(of, node) {
  const status = of.status.get(node.name);
  const head = element(
    'header',
    {},
    element('h2', {}, node.name),
    statusChip(status),
    element('p', { class: 'kind' }, node.kind || ''),
  );
  const readers = status === 'removed' ? [] : readersOf(of, node.name);
  const measured = Object.hasOwn(page.measured, node.name) ? page.measured[node.name] : {};
  return [
    head,
    element('pre', { class: 'whole' }, node.text),
    facts([
      ['source', node.file ? `${node.file}:${node.line}` : null],
      ['path', node.path],
      ['tensor', node.type],
      ['attributes', node.attributes],
      ['quantization', node.quant],
      ['range', node.range ? `${short(node.range[0])} to ${short(node.range[1])}` : null],
      ['why float', node.why_float],
      ['fused into', node.fused_into],
      ['part of', node.part_of],
      ['replaces', (node.replaces || []).length ? node.replaces.map((name) => `%${name}`).join(', ') : null],
      ['constant', node.weight ? 'computed from weights alone' : null],
    ]),
    ...measuredDetails(measured),
    (node.inputs || []).length ? section('Reads', nodeLinks(node.inputs)) : null,
    readers.length ? section('Read by', nodeLinks(readers)) : null,
    section('History', historyList(node.name)),
  ].filter(Boolean);
}

function statusChip(status) {
  const { sign, label } = STATUS[status];
  return element('span', { class: `chip ${status}` }, sign ? `${sign} ${label}` : label);
}

function measuredDetails({ histogram, figures, curves }) {
  const shown = [];
  if (histogram) {
    const clip = histogram.clip ? `lines: clipped at ${short(histogram.clip[0])} and ${short(histogram.clip[1])}` : '';
    shown.push(
      section(
        'Histogram',
        histogramPlot(histogram),
        element('p', { class: 'hint' }, `${clip}${clip ? '; ' : ''}heights by square root`),
      ),
    );
  }
  if (figures)
    shown.push(section('Measured', facts(Object.entries(figures).map(([name, value]) => [name, short(value)]))));
  for (const [name, points] of Object.entries(curves || {})) shown.push(section(name, curvePlot(name, points)));
  return shown;
}

function historyList(name) {
  const list = element('ol', { class: 'history' });
  for (const event of historyOf(name)) {
    const step = page.steps[event.index];
    const button = element('button', { type: 'button', 'data-step': event.index }, step.name);
    const into = event.into ? [nodeLinks([event.into]), ' in '] : [];
    const here = event.index === state.step ? 'here' : '';
    list.append(element('li', { class: `${event.status} ${here}` }, `${event.what} `, ...into, button));
  }
  return list;
}

function absentDetails() {
  const name = state.selected;
  return [
    element('header', {}, element('h2', {}, name), element('p', { class: 'kind' }, 'not in this step')),
    section('History', historyList(name)),
  ];
}

function stepDetails(of) {
  const { step } = of;
  const head = element(
    'header',
    {},
    element('h2', {}, step.name),
    element('p', { class: 'kind' }, step.nodes ? `${of.after.length} nodes` : 'changed nothing'),
  );
  const about = facts([
    ['options', step.options],
    ['time', duration(step.seconds)],
    ['nodes', String(of.after.length)],
  ]);
  const kinds = kindChanges(of);
  const table = element('table', { class: 'kinds' });
  for (const { kind, was, is } of kinds.slice(0, 30)) {
    const cells = of.first
      ? [element('td', {}, String(is))]
      : [element('td', {}, String(was)), element('td', {}, `→ ${is}`)];
    table.append(element('tr', {}, element('th', { scope: 'row' }, kind || '?'), ...cells));
  }
  return [
    head,
    about,
    kinds.length ? section(of.first ? 'Nodes by kind' : 'Nodes by kind, where their number changed', table) : null,
    ...worstFirst(of),
    page.notes.length ? section('Notes', ...page.notes.map((note) => element('p', { class: 'hint' }, note))) : null,
    element('p', { class: 'hint' }, 'Select a node in the graph or the text to see where it comes from.'),
  ].filter(Boolean);
}

/** Return bars of what was measured, the least (for an SQNR, the worst) first, a figure each. */
function worstFirst(of) {
  const known = Object.entries(page.measured).filter(([name, data]) => data.figures && of.byName.has(name));
  const labels = new Set(known.flatMap(([, data]) => Object.keys(data.figures)));
  return [...labels].map((label) => {
    const rows = known
      .map(([name, data]) => [name, data.figures[label]])
      .filter(([, value]) => typeof value === 'number');
    rows.sort((a, b) => a[1] - b[1]);
    const most = Math.max(...rows.map(([, value]) => Math.abs(value))) || 1;
    const bars = rows
      .slice(0, 20)
      .map(([name, value]) =>
        element(
          'li',
          { style: `--share: ${Math.round((100 * Math.abs(value)) / most)}%` },
          element('button', { type: 'button', 'data-select': name }, `%${name}`),
          element('span', {}, short(value)),
        ),
      );
    return section(label, element('ol', { class: 'bars' }, ...bars));
  });
}
