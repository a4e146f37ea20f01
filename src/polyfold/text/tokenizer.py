"""Tokenizers over the two libraries, whichever is faster where both give the same ids."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from polyfold.errors import InputError
from polyfold.system import cores
from polyfold.text.charsmap import WORD_START, CharacterClasses, CharacterMap
from polyfold.text.encoding import Encoding, Frame, ends
from polyfold.text.spec import Tokenizer, TokenizerSpec
from polyfold.text.ties import Ties
from polyfold.text.unigram import Unigram
from polyfold.text.words import Cutter, Part, Splitter, reaches

LONGEST = 4096
"""Characters of a text that single precision has digits for: SentencePiece's sums grow with the text."""

CHUNK = 1024
"""Texts encoded at a time, by one thread: enough to share the cost of a numpy call, few enough to spread."""

FEW = 64
"""Texts that SentencePiece gets one by one: for a list it starts a thread, which takes longer than a text does."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonTokenizer:
    """A Hugging Face `tokenizers` JSON, run by its own library."""

    def __init__(self, folder: Path, spec: TokenizerSpec) -> None:
        from tokenizers import Tokenizer as Backend

        self.spec = spec
        path = folder / spec.file
        try:
            self._backend = Backend.from_str(path.read_text(encoding="utf8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the tokenizer: {error}", file=path) from None
        except Exception as error:  # noqa: BLE001  (the Rust library raises bare Exception)
            raise InputError(f"not a tokenizers JSON: {error}", file=path) from None
        self._backend.no_padding()
        # Cut here and not by the library: its truncation is a setting of the shared object (two threads with
        # different lengths would clash), is silently off where the special tokens alone fill max_length, and
        # keeps everything it cut off in memory.
        self._backend.no_truncation()
        probe = self._backend.encode("a")
        inner = [place for place, special in enumerate(probe.special_tokens_mask) if not special]
        first, last = (inner[0], inner[-1] + 1) if inner else (len(probe.ids), len(probe.ids))
        self._frame = Frame(tuple(probe.ids[:first]), tuple(probe.ids[last:]), spec.pad_id)

    @cached_property
    def vocabulary_size(self) -> int:
        """Rows the embedding table needs: the greatest id plus one, since a WordPiece numbering may have holes."""
        return int(max(self._backend.get_vocab(with_added_tokens=True).values())) + 1

    @cached_property
    def unknown_id(self) -> int | None:
        """The id that stands for what the vocabulary cannot spell."""
        model = json.loads(self._backend.to_str())["model"]
        if "unk_id" in model:
            return None if model["unk_id"] is None else int(model["unk_id"])
        token = model.get("unk_token")
        return None if token is None else self._backend.token_to_id(token)

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids without the special tokens around them, of whatever length."""
        encoded = self._backend.encode_batch_fast(_encodable(texts), add_special_tokens=False)
        return [one.ids for one in encoded]

    def encode(self, texts: Sequence[str], max_length: int) -> Encoding:
        """Ids framed by the special tokens of the JSON's own post-processor."""

        def encode(chunk: Sequence[str]) -> Encoding:
            flat, offsets = _flat(self.pieces(chunk))
            return self._frame.around(flat, offsets[:-1], np.diff(offsets), max_length)

        return _by_chunks(encode, texts, 1)


class SentencePieceTokenizer:
    """A SentencePiece model, run by its own library: several times faster than the JSON route."""

    def __init__(self, folder: Path, spec: TokenizerSpec, threads: int) -> None:
        self.spec = spec
        self.threads = threads
        path = folder / spec.file
        try:
            self._backend = _sentencepiece(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise InputError(f"not a SentencePiece model: {error}", file=path) from None
        begin = () if spec.begin_id is None else (spec.begin_id,)
        end = () if spec.end_id is None else (spec.end_id,)
        self._frame = Frame(begin, end, spec.pad_id)

    @property
    def vocabulary_size(self) -> int:
        """Rows the embedding table needs."""
        return int(self._backend.vocab_size()) + self.spec.offset + self.spec.extra

    @property
    def unknown_id(self) -> int:
        """The id that stands for what the vocabulary cannot spell."""
        if self.spec.unk_id is not None:
            return self.spec.unk_id
        return int(self._backend.unk_id()) + self.spec.offset

    def encode(self, texts: Sequence[str], max_length: int) -> Encoding:
        """Ids framed by `begin_id` and `end_id`."""
        unknown = int(self._backend.unk_id())

        def encode(chunk: Sequence[str]) -> Encoding:
            flat, offsets = _flat(_run(self._backend, _encodable(chunk)))
            ids = flat + self.spec.offset
            # The unknown piece is the only one from a text that does not follow the offset (XLM-R: 0 -> 3).
            ids[flat == unknown] = self.unknown_id
            return self._frame.around(ids, offsets[:-1], np.diff(offsets), max_length)

        return _by_chunks(encode, texts, self.threads)


class UnigramTokenizer:
    """A unigram JSON with SentencePiece's speed and the ids of `tokenizers`.

    SentencePiece's library takes the texts that both treat alike, `tokenizers` the others: those to which the
    character map is not applied alike (`charsmap`), that spell a special token, that hold two segmentations of
    equal score (`ties`; of these only the words concerned), or that are very long. It gets what it needs for them
    and not the whole vocabulary (`words`).

    What is left is chance: two segmentations into different pieces whose scores agree to the last digits of
    single precision, in which SentencePiece adds.
    """

    def __init__(self, spec: TokenizerSpec, unigram: Unigram, threads: int) -> None:
        self.spec = spec
        self.threads = threads
        self.vocabulary_size = unigram.size
        self.unknown_id: int | None = unigram.unknown_id
        self._frame = unigram.frame
        self._special = frozenset(unigram.special.values())
        self._backend = _sentencepiece(model_proto=unigram.sentencepiece())
        self._classes = CharacterClasses.of(CharacterMap.read(unigram.charsmap), unigram.marks)
        count = len(unigram.pieces)
        firsts = np.fromiter((ord(piece[0]) for piece in unigram.pieces), dtype=np.int32, count=count)
        lengths = np.fromiter(map(len, unigram.pieces), dtype=np.int64, count=count)
        # The library holds the pieces already, in less room than Python's strings take.
        self._ties = Ties.of(self._backend.id_to_piece, firsts, WORD_START)
        self._splitter = Splitter(unigram.form, {name: index for index, name in unigram.special.items()})
        lowest = int(unigram.scores.argmin())
        reach = reaches(firsts, lengths)
        self._cutter = Cutter(self._backend, unigram.digits, reach, unigram.unknown_id, lowest)

    def encode(self, texts: Sequence[str], max_length: int) -> Encoding:
        """Ids framed by the special tokens of the JSON's own post-processor."""
        room = self._frame.room(max_length)

        def encode(chunk: Sequence[str]) -> Encoding:
            lengths = np.fromiter(map(len, chunk), dtype=np.int64, count=len(chunk))
            other = self._unlike(chunk, lengths)
            given = list(chunk)
            for row in other:
                given[row] = ""
            flat, offsets = _flat(_run(self._backend, given))
            starts, counts = offsets[:-1], np.diff(offsets)
            parts = self._tied(flat, offsets)
            other += [row for row, some in parts.items() if not some]
            if other:
                split = self._splitter.parts(_encodable([chunk[row] for row in other]))
                # A word is one token or more, so that those further behind are cut off anyway.
                parts |= {row: some[: room + 1] for row, some in zip(other, split, strict=True)}
            if parts:
                found = self._cutter.cut(part for some in parts.values() for part in some if isinstance(part, str))
                more, bounds = _flat([_joined(some, found) for some in parts.values()])
                rows = list(parts)
                starts[rows], counts[rows] = len(flat) + bounds[:-1], np.diff(bounds)
                flat = np.concatenate([flat, more])
            return self._frame.around(flat, starts, counts, max_length)

        return _by_chunks(encode, texts, self.threads)

    def _tied(self, flat: np.ndarray, offsets: np.ndarray) -> dict[int, list[Part]]:
        """Rows whose segmentation rests on an order: their ids, with words in the place of those concerned.

        Both libraries have the same words, and pieces spell them, unless one is unknown: then nothing is returned
        for the row, which has to be split again.
        """
        parts: dict[int, list[Part]] = {}
        done: dict[int, int] = {}
        for start, stop in self._ties.words(flat).tolist():
            row = int(np.searchsorted(offsets, start, side="right")) - 1
            ids = flat[start:stop].tolist()
            known = row not in parts or bool(parts[row])
            before = flat[done.get(row, int(offsets[row])) : start].tolist()
            word = "".join(map(self._backend.id_to_piece, ids))
            whole = known and self.unknown_id not in ids
            parts[row] = [*parts.get(row, ()), *before, word] if whole else []
            done[row] = stop
        for row, some in parts.items():
            if some:
                some.extend(flat[done[row] : offsets[row + 1]].tolist())
        return parts

    def _unlike(self, texts: Sequence[str], lengths: np.ndarray) -> list[int]:
        """Texts that the two libraries may not treat alike, known before they are cut."""
        odd, marked = self._classes.sort_out(texts, lengths)
        other = {*odd.tolist(), *np.flatnonzero(lengths > LONGEST).tolist()}
        return sorted(other | {row for row in marked.tolist() if row not in other and self._spells(texts[row])})

    def _spells(self, text: str) -> bool:
        """Whether a special token's name is in the text, as it is or after the character map."""
        mapped = self._backend.normalize(text)
        return any(name in text or name in mapped for name in self._special)


def open_tokenizer(folder: Path, spec: TokenizerSpec, threads: int | None = None) -> Tokenizer:
    """The tokenizer of a model folder; without `threads` it uses every core this process may."""
    used = threads or cores()
    match spec.kind:
        case "tokenizers":
            unigram = Unigram.read(folder / spec.file, spec)
            return JsonTokenizer(folder, spec) if unigram is None else UnigramTokenizer(spec, unigram, used)
        case "sentencepiece":
            return SentencePieceTokenizer(folder, spec, used)


def _sentencepiece(**source: Any) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(**source)


def _run(backend: Any, texts: list[str]) -> list[list[int]]:
    if len(texts) <= FEW:
        return [backend.encode(text, out_type=int) for text in texts]
    return backend.encode(texts, out_type=int, num_threads=1)


def _flat(pieces: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of ids as one array, int64 [tokens], and where each begins and ends."""
    offsets = ends(np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces)))
    return np.fromiter(chain.from_iterable(pieces), dtype=np.int64, count=int(offsets[-1])), offsets


def _joined(parts: Sequence[Part], words: Mapping[str, list[int]]) -> list[int]:
    """A document's ids: those it has, and those of its words."""
    return [index for part in parts for index in (words[part] if isinstance(part, str) else (part,))]


def _by_chunks(encode: Callable[[Sequence[str]], Encoding], texts: Sequence[str], threads: int) -> Encoding:
    """The texts in their order, chunks of them side by side.

    Threads of ours, and not the library's own: these also share the work around it, which is a third of the whole.
    """
    chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
    if len(chunks) <= 1:
        return encode(texts)
    if threads == 1:
        return Encoding.joined([encode(chunk) for chunk in chunks])
    with ThreadPoolExecutor(min(threads, len(chunks)), "tokenize") as pool:
        return Encoding.joined(list(pool.map(encode, chunks)))


def _encodable(texts: Sequence[str]) -> list[str]:
    """Both libraries take UTF-8: surrogate pairs become the character they mean, lone surrogates U+FFFD."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return [
            text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            if not text.isascii() and _SURROGATE.search(text)
            else text
            for text in texts
        ]
    return list(texts)
