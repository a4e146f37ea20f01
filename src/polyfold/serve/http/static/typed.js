// Texts that were typed or pasted, and the same request without this page.

import { el } from "./dom.js";

export const EXAMPLES = [
  "Where is my parcel? It was promised for Monday.",
  "أين طردي؟ كان من المفترض أن يصل يوم الاثنين.",
  "荷物はどこですか。月曜日に届くはずでした。",
  "Die App stürzt seit dem Update ständig ab.",
  "El personal fue amable, pero el precio es demasiado alto.",
];

// Each line that holds something, or all of it as one text.
export const linesOf = (value, byLine) =>
  byLine ? value.split(/\r\n|\r|\n/).filter((line) => line.trim()) : [value];

// A panel that `draw()` brings up to date; it stays open over that.
export function curl(request, documents) {
  const command = el("pre", { tabindex: "0", dir: "ltr" });
  const copy = el("button", { type: "button", class: "quiet small" }, "Copy");
  const panel = el("details", { class: "curl" }, el("summary", {}, "The same with curl"), command, copy);
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command.textContent);
      copy.textContent = "Copied";
    } catch (error) {
      if (!(error instanceof DOMException || error instanceof TypeError)) throw error;
      copy.textContent = "Copy it by hand"; // on plain HTTP, browsers forbid it
    }
  });
  const draw = () => {
    command.textContent = commandOf({ ...request(), texts: documents });
    copy.textContent = "Copy";
    return panel;
  };
  return { draw };
}

function commandOf(request) {
  const body = JSON.stringify(request).replaceAll("'", String.raw`'\''`);
  const address = new URL("predict", document.baseURI);
  return `curl '${address}' \\\n  -H 'content-type: application/json' \\\n  -d '${body}'`;
}
