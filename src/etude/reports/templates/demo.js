// Initialise predictions that are inserted into the page later, and play one audio element at a time.
new MutationObserver(() => {
  for (const article of document.querySelectorAll('.file[data-predictions]:not([data-initialised])')) {
    article.dataset.initialised = '';
    initialise(article);
  }
}).observe(document, { childList: true, subtree: true });
document.addEventListener('play', event => {
  for (const other of document.querySelectorAll('audio')) if (other !== event.target) other.pause();
}, true);
