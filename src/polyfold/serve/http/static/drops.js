// Files dropped anywhere on the page.

// `veil` shows while a file is over the page; `take(file)` gets it. Where several are dropped, the first counts.
export function acceptDrops(veil, take) {
  const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0; // elements entered less elements left: a browser tells both for every element on the way
  const move = (change) => {
    depth = Math.max(depth + change, 0);
    veil.hidden = depth === 0;
  };
  document.addEventListener("dragenter", (event) => holdsFile(event) && move(1));
  document.addEventListener("dragleave", (event) => holdsFile(event) && move(-1));
  document.addEventListener("dragover", (event) => holdsFile(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    move(-depth);
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
