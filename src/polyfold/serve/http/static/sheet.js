// A CSV file that was dropped or opened: read, checked, and shown with the choice of its column.

import { CsvError, parseCsv, sniffDelimiter } from "./csv.js";
import { el, said } from "./dom.js";
import { count, plural, size } from "./format.js";

export const MOST_BYTES = 20e6;
export const MOST_ROWS = 100_000;
const SAMPLE = 200; // rows looked at to guess the column
const PREVIEW = 3;
const USUAL =
  /^(text|texts|comment|comments|feedback|review|message|body|content|verbatim|description|document)$/i;
const DELIMITER_NAMES = { ",": "commas", ";": "semicolons", "\t": "tabs" };
const LARGER = "Use polyfold predict on the command line: it reads files of any size. Or cut it in parts.";

// {name, bytes, bom, delimiter, records, lines}, or a CsvError that says what is wrong and what to do.
export async function readSheet(file) {
  if (file.size > MOST_BYTES) {
    throw new CsvError(`${file.name} has ${size(file.size)}; this page reads up to ${size(MOST_BYTES)}.`, LARGER);
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  const source = decoded(bytes, file.name);
  const delimiter = sniffDelimiter(source);
  const { rows: records, lines } = parsed(source, delimiter, file.name);
  if (!records.length)
    throw new CsvError(`${file.name} is empty.`, "Its first line names the columns, the others hold a row each.");
  if (records.length > MOST_ROWS + 1) {
    throw new CsvError(
      `${file.name} has ${count(records.length)} rows; this page takes up to ${count(MOST_ROWS)}.`,
      LARGER,
    );
  }
  const odd = records.findIndex((row) => row.length !== records[0].length);
  if (odd > 0) {
    throw new CsvError(
      `${file.name}: on line ${lines[odd]} there are ${plural(records[odd].length, "cell")}, ` +
        `but ${records[0].length} on the first.`,
      "Put cells that hold the delimiter or a line break in quotes.",
    );
  }
  return { name: file.name, bytes: file.size, bom: bytes[0] === 0xef && bytes[1] === 0xbb, delimiter, records };
}

function parsed(source, delimiter, name) {
  try {
    return parseCsv(source, delimiter);
  } catch (error) {
    if (error instanceof CsvError) throw new CsvError(`${name}: ${error.message}`, error.hint);
    throw error;
  }
}

function decoded(bytes, name) {
  const starts = (...signature) => signature.every((byte, place) => bytes[place] === byte);
  if (starts(0x50, 0x4b, 3, 4) || starts(0xd0, 0xcf, 0x11, 0xe0)) {
    throw new CsvError(`${name} is a workbook, no CSV.`, "In the spreadsheet program, save it as “CSV”.");
  }
  try {
    const source = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!source.includes("\0")) return source;
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
  }
  throw new CsvError(`${name} is not UTF-8 text.`, "Save it as “CSV UTF-8”, then open it again.");
}

// The panel that stands in for the text field while a file is open.
export class SheetPanel {
  #root;
  #read;
  #column = 0;
  #named = true; // whether the first record names the columns

  // `changed()` after a choice, `closed()` when the file is put away.
  constructor(root, read, { changed, closed }) {
    this.#root = root;
    this.#read = read;
    this.changed = changed;
    this.closed = closed;
    this.#named = read.records.length > 1;
    this.#column = guessColumn(read.records, this.#named);
    this.#draw();
  }

  get texts() {
    return this.sheet.rows.map((row) => row[this.#column]);
  }

  // {name, header, rows, delimiter, bom}, what a labelled file is written from.
  get sheet() {
    const { records, name, delimiter, bom } = this.#read;
    const header = this.#named ? records[0] : records[0].map((_, place) => `column ${place + 1}`);
    return { name, header, rows: this.#named ? records.slice(1) : records, delimiter, bom };
  }

  #draw() {
    const { name, header, rows, delimiter } = this.sheet;
    const column = el(
      "select",
      { id: "column" },
      header.map((title, place) =>
        el("option", { value: place, selected: place === this.#column }, title || `column ${place + 1}`),
      ),
    );
    const named = el("input", { type: "checkbox", id: "named", checked: this.#named });
    const away = el("button", { type: "button", class: "quiet small", id: "sheet-close" }, "Close the file");
    column.addEventListener("change", () => this.#choose(Number(column.value), this.#named, "column"));
    named.addEventListener("change", () => this.#choose(this.#column, named.checked, "named"));
    away.addEventListener("click", () => this.closed());
    this.#root.replaceChildren(
      el("div", { class: "line" }, el("p", { class: "title" }, said("span", name, "said file-name")), away),
      el(
        "p",
        { class: "note" },
        `${plural(rows.length, "row")}, ${plural(header.length, "column")}, ${size(this.#read.bytes)}, `,
        `parted by ${DELIMITER_NAMES[delimiter]}`,
      ),
      el(
        "div",
        { class: "line" },
        el("label", { class: "field" }, el("span", {}, "Column of texts"), column),
        el("label", { class: "check" }, named, "The first row names the columns"),
      ),
      el(
        "ol",
        { class: "preview", "aria-label": "First texts of this column" },
        rows.slice(0, PREVIEW).map((row) => said("li", row[this.#column], "said clamped")),
      ),
    );
  }

  #choose(column, named, focus) {
    this.#column = column;
    this.#named = named;
    this.#draw();
    this.#root.querySelector(`#${focus}`).focus();
    this.changed();
  }
}

// A usual name, or else the column with the longest cells.
export function guessColumn(records, named) {
  const usual = named ? records[0].findIndex((title) => USUAL.test(title.trim())) : -1;
  if (usual >= 0) return usual;
  const sample = records.slice(named ? 1 : 0, SAMPLE);
  const lengths = records[0].map((_, place) => sample.reduce((sum, row) => sum + row[place].length, 0));
  return lengths.indexOf(Math.max(...lengths));
}
