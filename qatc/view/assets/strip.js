/* The strip beside text and graph: where the changes of the whole are, and which part of it is in sight. */

/** Draw marks, each [share of the height, status], and the part in sight from one share to another. */
function drawStrip(strip, marks, from, to) {
  const canvas = strip.firstElementChild;
  const [width, height] = [strip.clientWidth, strip.clientHeight];
  if (!width || !height) return;
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const draw = canvas.getContext('2d');
  draw.setTransform(ratio, 0, 0, ratio, 0, 0);
  draw.clearRect(0, 0, width, height);
  const thick = Math.max(2, Math.min(6, height / Math.max(1, marks.length)));
  for (const [share, status] of marks) {
    draw.fillStyle = colors[`${status}-vivid`];
    draw.fillRect(2, share * height, width - 4, thick);
  }
  draw.fillStyle = colors.shade;
  draw.strokeStyle = colors.line;
  const top = Math.max(0, from) * height;
  const tall = Math.max(6, (Math.min(1, to) - Math.max(0, from)) * height);
  draw.fillRect(0, top, width, tall);
  draw.strokeRect(0.5, top + 0.5, width - 1, tall - 1);
}

/** Call `go` with the share of the height that is pressed or dragged to. */
function listenToStrip(strip, go) {
  const at = (event) => {
    const box = strip.getBoundingClientRect();
    go(Math.min(1, Math.max(0, (event.clientY - box.top) / box.height)));
  };
  strip.addEventListener('pointerdown', (event) => {
    strip.setPointerCapture(event.pointerId);
    at(event);
  });
  strip.addEventListener('pointermove', (event) => {
    if (event.buttons) at(event);
  });
}
