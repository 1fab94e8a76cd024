// The playhead follows the player; a click, a drag or a key on the plots moves both.
function initialise(article) {
  const data = JSON.parse(article.dataset.predictions);
  const audio = article.querySelector('audio'), plots = article.querySelector('.file-plots');
  const outputs = [...article.querySelectorAll('[data-index]')], labels = [...article.querySelectorAll('.playhead-time')];
  const fileValues = outputs.map(node => node.textContent);
  let time = 0, moved = false, frame = 0;

  const formatClock = seconds => {
    const total = Math.floor(seconds), pad = n => String(n).padStart(2, '0');
    const minutes = Math.floor(total / 60) % 60, rest = pad(total % 60);
    return total >= 3600 ? `${Math.floor(total / 3600)}:${pad(minutes)}:${rest}` : `${minutes}:${rest}`;
  };
  const nearestWindow = seconds => data.windows.reduce((best, window) =>
    Math.abs((window[0] + window[1]) / 2 - seconds) < Math.abs((best[0] + best[1]) / 2 - seconds) ? window : best);
  const formatNumber = x => x.toFixed(Math.abs(x) >= 10 ? 1 : 2).replace('-', '−');

  const draw = () => {
    plots.style.setProperty('--position', time / data.seconds);
    const values = moved ? nearestWindow(time)[2] : null;
    outputs.forEach((node, i) => {
      const text = !moved ? fileValues[i] : values ? formatNumber(values[+node.dataset.index]) : 'silent';
      if (node.textContent !== text) node.textContent = text;
    });
    for (const node of labels) node.textContent = moved ? `at ${formatClock(time)}` : 'whole file';
    plots.setAttribute('aria-valuenow', time.toFixed(1));
    const texts = outputs.map(node => `${node.dataset.name} ${node.textContent}`).join(', ');
    plots.setAttribute('aria-valuetext', `${formatClock(time)} of ${formatClock(data.seconds)}: ${texts}`);
  };
  const follow = () => {
    time = Math.min(audio.currentTime, data.seconds);
    moved = true;
    draw();
    frame = audio.paused ? 0 : requestAnimationFrame(follow);
  };
  const seek = target => {
    time = Math.min(Math.max(target, 0), data.seconds);
    moved = true;
    const end = audio && (isFinite(audio.duration) ? audio.duration : +audio.dataset.seconds);
    if (audio && time <= end) audio.currentTime = time;
    else if (audio) audio.pause();
    draw();
  };
  const toggle = () => { if (audio) audio.paused ? audio.play() : audio.pause(); };

  if (audio) {
    audio.addEventListener('play', () => {
      for (const other of document.querySelectorAll('audio')) if (other !== audio) other.pause();
      if (!frame) frame = requestAnimationFrame(follow);
    });
    audio.addEventListener('seeked', () => { if (Math.abs(audio.currentTime - time) > 0.05) follow(); });
  }
  const seekToPointer = event => {
    const box = plots.querySelector('.area').getBoundingClientRect();
    seek((event.clientX - box.left) / box.width * data.seconds);
  };
  plots.addEventListener('pointerdown', event => { plots.setPointerCapture(event.pointerId); seekToPointer(event); });
  plots.addEventListener('pointermove', event => { if (plots.hasPointerCapture(event.pointerId)) seekToPointer(event); });
  const step = Math.max(0.5, Math.min(5, data.seconds / 20));
  plots.addEventListener('keydown', event => {
    const target = { ArrowRight: time + step, ArrowUp: time + step, ArrowLeft: time - step, ArrowDown: time - step,
      PageUp: time + 5 * step, PageDown: time - 5 * step, Home: 0, End: data.seconds }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (target !== undefined) seek(target);
    else if (event.key === ' ') toggle();
    else return;
    event.preventDefault();
  });
}
document.querySelectorAll('.file').forEach(initialise);
