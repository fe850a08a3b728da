/* The list of passes at the left: what each did to the number of nodes, and how long it took. */

/** Make the list once. */
function listPasses(go) {
  const longest = Math.max(...page.steps.map((step) => step.seconds || 0));
  let count = 0;
  const items = page.steps.map((step, index) => {
    const delta = step.nodes ? step.nodes.length - count : 0;
    if (step.nodes) count = step.nodes.length;
    return passItem(step, index, index === 0 ? null : delta, count, longest, go);
  });
  $('passes').append(...items);
}

function passItem(step, index, delta, count, longest, go) {
  const share = longest ? Math.round((100 * (step.seconds || 0)) / longest) : 0;
  const said =
    delta === null ? `${count}` : !step.nodes ? '' : delta ? `${delta > 0 ? '+' : '−'}${Math.abs(delta)}` : '~';
  return element(
    'li',
    {
      id: `pass-${index}`,
      role: 'option',
      class: step.nodes ? null : 'quiet',
      'aria-selected': 'false',
      onclick: () => go(index),
      title: step.nodes ? `${step.name}: ${count} nodes` : `${step.name} changed nothing`,
    },
    element('span', { class: 'number' }, String(step.index).padStart(2, '0')),
    element('span', { class: 'name' }, step.name),
    element(
      'span',
      { class: `delta ${delta > 0 ? 'more' : delta < 0 ? 'fewer' : ''}`, 'aria-label': `${said || 'no change'} nodes` },
      said,
    ),
    element('span', { class: 'bar', style: `--share: ${share}%` }),
    element('span', { class: 'time' }, duration(step.seconds)),
  );
}

function markPass() {
  const list = $('passes');
  for (const item of list.querySelectorAll('[aria-selected=true]')) item.setAttribute('aria-selected', 'false');
  const item = $(`pass-${state.step}`);
  item.setAttribute('aria-selected', 'true');
  item.scrollIntoView({ block: 'nearest' });
  list.setAttribute('aria-activedescendant', item.id);
}

/** Return the step that is so many further, or the same one at an end; those that changed nothing are skipped if asked. */
function stepFrom(index, by) {
  for (let at = index + by; at >= 0 && at < page.steps.length; at += by) {
    if (page.steps[at].nodes || !$('skip').checked) return at;
  }
  return index;
}
