"""Texts that a runtime is tried with: short and in many languages, to be decided as real ones are.

Token ids drawn at random would be valid too, but a model is unsure of all of them, and where every margin is thin
a rounding error cannot be told from a wrong graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyfold.text import Tokenizer, pad

SENTENCES = (
    "The parcel came two days late and the box was torn.",
    "Great value, I would buy it again.",
    "Staff were friendly but the room smelled of smoke.",
    "My phone's battery is empty before lunch since the update",
    "Die Lieferung kam pünktlich, nur die Anleitung fehlt.",
    "Leider reagiert der Kundendienst seit Wochen nicht.",
    "Le service était lent, mais le repas valait l'attente.",
    "Rien à redire, tout fonctionne parfaitement !",
    "El profesor explica muy bien y responde a todas las dudas.",
    "La pantalla llegó rota y nadie contesta.",
    "O preço subiu de novo e a qualidade caiu.",
    "Entrega rápida e produto como descrito.",
    "De app loopt steeds vast bij het betalen.",
    "Heel tevreden met deze koffiemolen.",
    "Il corso è interessante ma troppo breve.",
    "Качество отличное, доставили за один день.",
    "Кнопка сломалась через неделю, деньги не вернули.",
    "Ürün güzel ama kargo çok yavaştı.",
    "الطعام لذيذ والخدمة سريعة، شكرا لكم.",
    "التطبيق لا يعمل بعد التحديث الأخير",
    "部屋がとても清潔で、スタッフも親切でした。",
    "电池不耐用,客服态度也很差。",
    "배송이 빠르고 포장도 꼼꼼했어요.",
    "खाना ठंडा था और बहुत देर से आया।",
)

WHOLE = 4 * len(SENTENCES)
"""How many different documents there are."""


@dataclass(frozen=True)
class Probe:
    """One batch that is timed, with what it is called; int64 [batch, seq]."""

    name: str
    input_ids: np.ndarray
    attention_mask: np.ndarray


def probe_batches(tokenizer: Tokenizer, max_length: int, documents: int) -> list[Probe]:
    """One text alone, then `documents` (WHOLE at most) sorted by length and cut into three batches."""
    ids = tokenizer.encode(_texts(), max_length).ids
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    spread = np.linspace(0, len(order) - 1, min(documents, len(order))).astype(int)
    rows = [order[place] for place in spread]
    groups = [("one text", [order[len(order) // 2]])]
    for name, part in zip(("short", "middling", "long"), np.array_split(np.asarray(rows), 3), strict=True):
        if len(part):
            groups.append((f"{len(part)} {name} texts", part.tolist()))
    return [_probe(name, [ids[row] for row in group], tokenizer.spec.pad_id) for name, group in groups]


def _probe(name: str, ids: Sequence[np.ndarray], pad_id: int) -> Probe:
    return Probe(name, *pad(list(ids), pad_id))


def _texts() -> list[str]:
    """Beginnings of sentences, sentences, and two and four at once: five tokens to a hundred."""
    following = SENTENCES[1:] + SENTENCES[:1]
    pairs = [f"{one} {other}" for one, other in zip(SENTENCES, following, strict=True)]
    fours = [f"{pair} {other}" for pair, other in zip(pairs, pairs[5:] + pairs[:5], strict=True)]
    return [one[: len(one) // 2] for one in SENTENCES] + list(SENTENCES) + pairs + fours
