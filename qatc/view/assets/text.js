/* The text before and after, side by side: only the rows in sight are elements, so that thousands of lines scroll. */

const ROW = 20; // height of a row in pixels, as in style.css
const BEYOND = 15; // rows kept above and below those in sight
const CONTEXT = 3; // unchanged rows shown around a change when the rest is folded

const textView = { scene: null, lines: [], from: -1, to: -1, opened: new Set() };

/** Show a scene's rows. */
function showText(of) {
  if (textView.scene !== of) textView.opened = new Set();
  textView.scene = of;
  textView.lines = state.fold && !of.first ? foldedLines(of) : of.rows.map((_, row) => ({ row }));
  textView.lineOf = new Map(textView.lines.map((line, i) => [line.row, i]));
  const earlier = of.first ? null : page.steps[changedStep(of.index - 1)];
  $('before').textContent = earlier ? `before: ${earlier.name}` : '';
  $('after').textContent = earlier ? `after: ${of.step.name}` : of.step.nodes ? of.step.name : 'nothing changed';
  $('text').classList.toggle('single', of.first);
  $('spacer').style.height = `${textView.lines.length * ROW}px`;
  const longest = of.rows.reduce((most, row) => Math.max(most, length(row.left), length(row.right)), 0);
  $('sideways').firstElementChild.style.width = `calc(${longest + 6}ch + ${of.first ? 0 : 50}%)`;
  $('sideways').scrollLeft = 0;
  drawRows(true);
  drawTextStrip();
}

const length = (node) => (node ? node.text.length : 0);
const isChange = (of, row) => sideStatus(of, row, 'left') !== 'same' || sideStatus(of, row, 'right') !== 'same';

function foldedLines(of) {
  const near = new Uint8Array(of.rows.length);
  of.rows.forEach((row, i) => {
    if (isChange(of, row)) near.fill(1, Math.max(0, i - CONTEXT), i + CONTEXT + 1);
  });
  const lines = [];
  for (let i = 0; i < near.length;) {
    let end = i;
    while (end < near.length && !near[end]) end += 1;
    if (end - i > 1 && !textView.opened.has(i)) lines.push({ row: -1 - i, fold: end - i });
    else for (let k = i; k < end; k += 1) lines.push({ row: k });
    for (i = end; i < near.length && near[i]; i += 1) lines.push({ row: i });
  }
  return lines;
}

/** Draw the rows in sight, again if asked to though they are the same. */
function drawRows(again = false) {
  const box = $('rows');
  const from = Math.max(0, Math.floor(box.scrollTop / ROW) - BEYOND);
  const to = Math.min(textView.lines.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + BEYOND);
  if (!again && from >= textView.from && to <= textView.to) return;
  Object.assign(textView, { from: Math.max(0, from - BEYOND), to: Math.min(textView.lines.length, to + BEYOND) });
  $('window').style.transform = `translateY(${textView.from * ROW}px)`;
  $('window').replaceChildren(...textView.lines.slice(textView.from, textView.to).map(rowElement));
}

function rowElement(line) {
  const of = textView.scene;
  if (line.fold) {
    const open = () => {
      textView.opened.add(-1 - line.row);
      showText(of);
    };
    return element('div', { class: 'row fold', role: 'none', onclick: open }, `⋯ ${line.fold} unchanged`);
  }
  const row = of.rows[line.row];
  const cells = of.first ? [cell(of, row, 'right')] : [cell(of, row, 'left'), cell(of, row, 'right')];
  const chosen = [row.left, row.right].some((node) => node && node.name === state.selected);
  return element(
    'div',
    {
      class: 'row',
      role: 'option',
      id: `row-${line.row}`,
      'data-row': line.row,
      'aria-selected': chosen ? 'true' : 'false',
      'aria-posinset': line.row + 1,
      'aria-setsize': of.rows.length,
    },
    ...cells,
  );
}

function cell(of, row, side) {
  const node = row[side];
  const status = sideStatus(of, row, side);
  const classes = ['cell', status];
  if (!node) return element('span', { class: 'cell none' });
  if (node.name === state.selected) classes.push('selected');
  if (state.query && state.matches.includes(node.name)) classes.push('match');
  const other = side === 'left' ? row.right : row.left;
  const line = element('span', { class: 'line' });
  line.append(...(status === 'changed' ? marked(node.text, other.text) : parts(node.text)));
  const sign = element(
    'span',
    { class: 'sign', 'aria-label': status === 'same' ? null : STATUS[status].label },
    STATUS[status].sign,
  );
  return element('span', { class: classes.join(' '), 'data-name': node.name }, sign, line);
}

const PARTS = /^(%[^\s=]+)( = )([^\s(]+)(.*?)(  # .*)?$/;

/** Return the line with its name, kind and comment as elements of their own. */
function parts(text) {
  const found = PARTS.exec(text);
  if (!found) return [text];
  const [, name, is, kind, rest, comment] = found;
  const shown = [element('b', {}, name), is, element('i', {}, kind), rest];
  return comment ? [...shown, element('small', {}, comment)] : shown;
}

/** Return the line with the words that the other line, of the same node, lacks marked. */
function marked(text, other) {
  const name = /^%[^\s=]+(?= = )/.exec(text);
  const start = name && other.startsWith(`${name[0]} = `) ? name[0].length : 0;
  const mine = words(text.slice(start));
  const kept = common(mine, words(other.slice(start)));
  const shown = start ? [element('b', {}, name[0])] : [];
  let run = '';
  let marking = false;
  const flush = () => {
    if (run) shown.push(marking ? element('mark', {}, run) : run);
    run = '';
  };
  mine.forEach((word, i) => {
    if (kept[i] === marking) {
      flush();
      marking = !marking;
    }
    run += word;
  });
  flush();
  return shown;
}

const words = (text) => text.match(/[\w.]+|\s+|[^\w\s]/g) || [];

/** Return which words of `a` are in a longest common subsequence with `b`. */
function common(a, b) {
  const width = b.length + 1;
  const table = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let k = b.length - 1; k >= 0; k -= 1) {
      const at = i * width + k;
      table[at] = a[i] === b[k] ? table[at + width + 1] + 1 : Math.max(table[at + width], table[at + 1]);
    }
  }
  const kept = new Array(a.length).fill(false);
  for (let i = 0, k = 0; i < a.length && k < b.length;) {
    if (a[i] === b[k]) {
      kept[i] = true;
      i += 1;
      k += 1;
    } else if (table[(i + 1) * width + k] >= table[i * width + k + 1]) i += 1;
    else k += 1;
  }
  return kept;
}

/** Scroll a node's row into sight, to the middle if it is not; unfold what hides it. */
function revealRow(name) {
  const row = textView.scene.rowOf.get(name);
  if (row === undefined) return;
  if (!textView.lineOf.has(row)) {
    const hiding = textView.lines.find((line) => line.fold && -1 - line.row <= row && row < -1 - line.row + line.fold);
    textView.opened.add(-1 - hiding.row);
    showText(textView.scene);
  }
  const box = $('rows');
  const top = textView.lineOf.get(row) * ROW;
  if (top < box.scrollTop || top + ROW > box.scrollTop + box.clientHeight) box.scrollTop = top - box.clientHeight / 2;
  drawRows(true);
  box.setAttribute('aria-activedescendant', `row-${row}`);
}

function drawTextStrip() {
  const of = textView.scene;
  const marks = [];
  textView.lines.forEach((line, i) => {
    if (line.fold) return;
    const row = of.rows[line.row];
    const status = row.right ? sideStatus(of, row, 'right') : sideStatus(of, row, 'left');
    if (status !== 'same') marks.push([i / textView.lines.length, status]);
  });
  const box = $('rows');
  const whole = Math.max(1, box.scrollHeight);
  drawStrip($('text-strip'), marks, box.scrollTop / whole, (box.scrollTop + box.clientHeight) / whole);
}

/** Let the rows answer to the pointer; `select` is told the name of a node. */
function listenToText(select) {
  const box = $('rows');
  box.addEventListener(
    'scroll',
    () => {
      drawRows();
      drawTextStrip();
    },
    { passive: true },
  );
  box.addEventListener(
    'wheel',
    (event) => {
      if (event.deltaX) $('sideways').scrollLeft += event.deltaX;
    },
    { passive: true },
  );
  $('sideways').addEventListener(
    'scroll',
    () => {
      box.style.setProperty('--shift', `${-$('sideways').scrollLeft}px`);
    },
    { passive: true },
  );
  $('window').addEventListener('click', (event) => {
    const chosen = event.target.closest('.cell');
    if (chosen && chosen.dataset.name && getSelection().isCollapsed) select(chosen.dataset.name);
  });
  listenToStrip($('text-strip'), (share) => {
    box.scrollTop = share * box.scrollHeight - box.clientHeight / 2;
  });
}
