// The playhead follows the sound; a click, a drag or a key on the plots moves both.
function alive(article) {
  const data = JSON.parse(article.dataset.said);
  const sound = article.querySelector('audio'), stack = article.querySelector('.stack');
  const values = [...article.querySelectorAll('[data-place]')], when = [...article.querySelectorAll('.when')];
  const whole = values.map(node => node.textContent);
  let at = 0, moved = false, frame = 0;

  const clock = s => {
    const whole = Math.floor(s), two = n => String(n).padStart(2, '0');
    const minutes = Math.floor(whole / 60) % 60, rest = two(whole % 60);
    return whole >= 3600 ? `${Math.floor(whole / 3600)}:${two(minutes)}:${rest}` : `${minutes}:${rest}`;
  };
  const nearest = s => data.windows.reduce((best, window) =>
    Math.abs((window[0] + window[1]) / 2 - s) < Math.abs((best[0] + best[1]) / 2 - s) ? window : best);
  const shortest = x => x.toFixed(Math.abs(x) >= 10 ? 1 : 2).replace('-', '−');

  const draw = () => {
    stack.style.setProperty('--at', at / data.seconds);
    const said = moved ? nearest(at)[2] : null;
    values.forEach((node, i) => {
      const text = !moved ? whole[i] : said ? shortest(said[+node.dataset.place]) : 'silent';
      if (node.textContent !== text) node.textContent = text;
    });
    for (const node of when) node.textContent = moved ? `at ${clock(at)}` : 'whole file';
    stack.setAttribute('aria-valuenow', at.toFixed(1));
    const read = values.map(node => `${node.dataset.name} ${node.textContent}`).join(', ');
    stack.setAttribute('aria-valuetext', `${clock(at)} of ${clock(data.seconds)}: ${read}`);
  };
  const follow = () => {
    at = Math.min(sound.currentTime, data.seconds);
    moved = true;
    draw();
    frame = sound.paused ? 0 : requestAnimationFrame(follow);
  };
  const seek = to => {
    at = Math.min(Math.max(to, 0), data.seconds);
    moved = true;
    const end = sound && (isFinite(sound.duration) ? sound.duration : +sound.dataset.heard);
    if (sound && at <= end) sound.currentTime = at;
    else if (sound) sound.pause();
    draw();
  };
  const toggle = () => { if (sound) sound.paused ? sound.play() : sound.pause(); };

  if (sound) {
    sound.addEventListener('play', () => {
      for (const other of document.querySelectorAll('audio')) if (other !== sound) other.pause();
      if (!frame) frame = requestAnimationFrame(follow);
    });
    sound.addEventListener('seeked', () => { if (Math.abs(sound.currentTime - at) > 0.05) follow(); });
  }
  const there = event => {
    const box = stack.querySelector('.area').getBoundingClientRect();
    seek((event.clientX - box.left) / box.width * data.seconds);
  };
  stack.addEventListener('pointerdown', event => { stack.setPointerCapture(event.pointerId); there(event); });
  stack.addEventListener('pointermove', event => { if (stack.hasPointerCapture(event.pointerId)) there(event); });
  const step = Math.max(0.5, Math.min(5, data.seconds / 20));
  stack.addEventListener('keydown', event => {
    const to = { ArrowRight: at + step, ArrowUp: at + step, ArrowLeft: at - step, ArrowDown: at - step,
      PageUp: at + 5 * step, PageDown: at - 5 * step, Home: 0, End: data.seconds }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (to !== undefined) seek(to);
    else if (event.key === ' ') toggle();
    else return;
    event.preventDefault();
  });
}
document.querySelectorAll('.file').forEach(alive);
