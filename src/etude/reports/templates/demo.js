// What is put into the page later comes alive too, and of all players one plays at a time.
new MutationObserver(() => {
  for (const article of document.querySelectorAll('.file[data-said]:not([data-alive])')) {
    article.dataset.alive = '';
    alive(article);
  }
}).observe(document, { childList: true, subtree: true });
document.addEventListener('play', event => {
  for (const other of document.querySelectorAll('audio')) if (other !== event.target) other.pause();
}, true);
