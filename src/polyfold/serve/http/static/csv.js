// CSV by RFC 4180, both ways, with any of three delimiters and any line ends.

export class CsvError extends Error {
  constructor(message, hint) {
    super(message);
    this.hint = hint;
  }
}

const DELIMITERS = [",", ";", "\t"];

// The delimiter that is most frequent in the first record, outside quotes; a comma where there is none.
export function sniffDelimiter(source) {
  const counts = new Map(DELIMITERS.map((delimiter) => [delimiter, 0]));
  let quoted = false;
  for (let at = 0; at < source.length; at += 1) {
    const character = source[at];
    if (character === '"') quoted = !quoted;
    else if (!quoted && (character === "\n" || character === "\r")) break;
    else if (!quoted && counts.has(character)) counts.set(character, counts.get(character) + 1);
  }
  return DELIMITERS.reduce((best, one) => (counts.get(one) > counts.get(best) ? one : best));
}

// All records as {rows, lines}: arrays of cells, and the line on which each begins. Blank lines are none.
export function parseCsv(source, delimiter) {
  const rows = [];
  const lines = [];
  let row = [];
  let line = 1;
  let began = 1;
  let at = 0;
  const finish = (quoted) => {
    if (row.length > 1 || row[0] !== "" || quoted) {
      rows.push(row);
      lines.push(began);
    }
    row = [];
  };
  while (at < source.length) {
    const cell = source[at] === '"' ? quotedCell(source, at, delimiter, line) : plainCell(source, at, delimiter);
    row.push(cell.value);
    line += cell.breaks;
    at = cell.end;
    if (source[at] === delimiter) {
      at += 1;
      if (at < source.length) continue;
      row.push(""); // the file ends on a delimiter: there is one more cell, empty
    } else {
      at += source[at] === "\r" && source[at + 1] === "\n" ? 2 : 1;
    }
    finish(cell.quoted);
    line += 1;
    began = line;
  }
  return { rows, lines };
}

function plainCell(source, start, delimiter) {
  let end = start;
  while (end < source.length && source[end] !== delimiter && source[end] !== "\n" && source[end] !== "\r")
    end += 1;
  return { value: source.slice(start, end), end, breaks: 0, quoted: false };
}

function quotedCell(source, start, delimiter, line) {
  const parts = [];
  let from = start + 1;
  for (;;) {
    const quote = source.indexOf('"', from);
    if (quote < 0) {
      throw new CsvError(
        `a quote that opens on line ${line} is never closed.`,
        "Close it; a quote within a cell is written twice.",
      );
    }
    parts.push(source.slice(from, quote));
    from = quote + 2;
    if (source[quote + 1] !== '"') break;
  }
  const value = parts.join('"');
  const end = from - 1;
  const breaks = (value.match(/\r\n|\r|\n/g) ?? []).length;
  if (end < source.length && ![delimiter, "\n", "\r"].includes(source[end])) {
    throw new CsvError(
      `on line ${line + breaks} there is text after a cell's closing quote.`,
      "Write a quote within a cell twice, and nothing between a closing quote and the next delimiter.",
    );
  }
  return { value, end, breaks, quoted: true };
}

// Cells as they are: one that begins with "=" stays a formula to a spreadsheet (SECURITY.md, Spreadsheets).
export function formatCsv(rows, delimiter) {
  const special = new RegExp(`["\\r\\n${delimiter}]`);
  const cell = (value) => (special.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const line = (row) => (row.length === 1 && row[0] === "" ? '""' : row.map(cell).join(delimiter));
  return rows.map((row) => `${line(row)}\r\n`).join("");
}
