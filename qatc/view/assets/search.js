/* The search box: what matches in the step at hand, and going from match to match. */

function findAgain(of) {
  state.query = $('query').value;
  state.matches = matching(of, state.query);
  sayFound();
}

function sayFound() {
  const at = state.matches.indexOf(state.selected);
  const { length: count } = state.matches;
  $('found').textContent = !state.query.trim()
    ? ''
    : !count
      ? 'no match'
      : at < 0
        ? `${count} found`
        : `${at + 1} of ${count}`;
  for (const id of ['previous', 'next']) $(id).disabled = !count;
}

/** Return the match that is so many behind the selected one, round the end; the first one from it where it is none. */
function matchFrom(by, of) {
  return cyclic(state.matches, by, of);
}

/** Return the changed node that is so many behind the selected one. */
function changeFrom(by, of) {
  return cyclic(of.changed, by, of);
}

function cyclic(names, by, of) {
  if (!names.length) return null;
  const at = names.indexOf(state.selected);
  if (at >= 0) return names[(at + by + names.length) % names.length];
  const row = of.rowOf.get(state.selected) ?? -1;
  const behind = names.findIndex((name) => of.rowOf.get(name) >= row);
  const first = behind < 0 ? 0 : behind;
  return by > 0 ? names[first] : names[(first - 1 + names.length) % names.length];
}
