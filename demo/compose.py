"""Compose the demo data set: `python demo/compose.py` writes demo/feedback.csv from the texts in demo/texts/.

Every document is hand-written, or two hand-written texts of one language, intent and sentiment after each other.
Nothing is drawn from a random generator: each choice is a hash of what it is about, so that the file is the same
byte for byte on every machine and Python version.
"""

import argparse
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

HERE = Path(__file__).parent
SEED = "polyfold demo 1"
COLUMNS = ("id", "text", "language", "group", "split", "intent", "sentiment", "topics")

SPLITS = {"train": 150, "dev": 40, "test": 50}
"""Scenarios a split."""

AT_LEAST = {"train": 3, "dev": 1, "test": 2}
"""Scenarios of every label in every split: the rarest label has six in all."""

TWINS = (
    ("p1-06", "p2-06"),
    ("p1-19", "p6-12"),
    ("p1-27", "p3-26"),
    ("p1-28", "p3-27"),
    ("p1-38", "p3-38", "p5-24"),
    ("p2-34", "p6-37"),
    ("p2-37", "p5-08"),
    ("p5-01", "p6-01"),
)
"""Scenarios that say nearly the same thing: all train, each set in one group, never joined with each other."""

CLUSTER = 6
"""Train scenarios that may be joined with each other, and so share a group."""

TRAIN_DOCUMENTS = {
    "complaint": 1820,
    "praise": 1360,
    "suggestion": 755,
    "question": 512,
    "request": 365,
    "cancellation": 192,
}
"""Goals by intent, 5,004 in all, in the shares of Task-1 in the paper's Table 1: 36 / 27 / 15 / 10 / 7 / 4 %."""

RARE_SENTIMENT = {"neutral": 165, "mixed": 130}
"""Goals in train: 3 % each, as Task-2's two rare classes in Table 1; the other two follow from the intents."""

MISSING = {
    "train": {"intent": 0.17, "sentiment+topics": 0.40, "sentiment": 0.05, "topics": 0.05},
    "dev": {"intent": 0.10, "sentiment+topics": 0.06, "sentiment": 0.03, "topics": 0.03},
    "test": {"intent": 0.10, "sentiment+topics": 0.06, "sentiment": 0.03, "topics": 0.03},
}
"""Shares of documents whose labels are left out: the paper's Task-2 and Task-3 are labelled on the same half.

The intent is left out only where another label stays, so about 10 % of the train documents lack it.
"""


@dataclass(frozen=True)
class Scenario:
    """One situation and its text in every language."""

    id: str
    intent: str
    sentiment: str
    topics: tuple[str, ...]
    texts: dict[str, str]

    @property
    def cell(self) -> tuple[str, str]:
        """Only scenarios of one cell are joined: their document has one intent and one sentiment."""
        return self.intent, self.sentiment

    @property
    def traits(self) -> tuple[str, ...]:
        """Every label this scenario carries, named by its task."""
        return (f"intent:{self.intent}", f"sentiment:{self.sentiment}", *(f"topic:{t}" for t in self.topics))


@dataclass(frozen=True)
class Document:
    """One row of the file; a label of None is missing, while topics of () means that none applies."""

    id: str
    text: str
    language: str
    group: str
    split: str
    intent: str | None
    sentiment: str | None
    topics: tuple[str, ...] | None

    def row(self) -> list[str]:
        """The cells: empty for a missing label, `[]` for no topic."""
        topics = "" if self.topics is None else "|".join(self.topics) or "[]"
        own = [self.id, self.text, self.language, self.group, self.split]
        return [*own, self.intent or "", self.sentiment or "", topics]


def draw(*about: str) -> float:
    """A number in [0, 1) that depends on nothing but what it is about."""
    digest = hashlib.blake2b("\n".join((SEED, *about)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def read_scenarios(folder: Path) -> list[Scenario]:
    """All parts, in the order of their names."""
    parts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("part-*.jsonl"))]
    raw = [json.loads(line) for part in parts for line in part.splitlines()]
    return [Scenario(**{**one, "topics": tuple(one["topics"])}) for one in raw]


def assign_splits(scenarios: list[Scenario]) -> dict[str, str]:
    """Each scenario's split: those of the rarest label first, each to the split that lacks its labels most.

    After Sechidis et al. 2011, "On the stratification of multi-label data"; there only the rarest label counts,
    here all of them do, each by its rarity.
    """
    counts = Counter(trait for scenario in scenarios for trait in scenario.traits)
    room = dict(SPLITS)
    goal = {
        (split, trait): max(AT_LEAST[split], count * size / len(scenarios))
        for split, size in SPLITS.items()
        for trait, count in counts.items()
    }
    lacking = dict(goal)
    twins = {name for names in TWINS for name in names}
    chosen: dict[str, str] = {}

    def lack(scenario: Scenario, split: str) -> float:
        return sum(lacking[split, t] / goal[split, t] / counts[t] for t in scenario.traits)

    def put(scenario: Scenario, split: str) -> None:
        chosen[scenario.id] = split
        room[split] -= 1
        for trait in scenario.traits:
            lacking[split, trait] -= 1

    for scenario in scenarios:
        if scenario.id in twins:
            put(scenario, "train")
    while left := [scenario for scenario in scenarios if scenario.id not in chosen]:
        rarest, _ = min(Counter(t for s in left for t in s.traits).items(), key=lambda item: item[::-1])
        scenario = min((s for s in left if rarest in s.traits), key=lambda s: draw("split", s.id))
        free = [split for split in SPLITS if room[split] > 0]
        put(scenario, max(free, key=lambda split: lack(scenario, split)))
    return chosen


def make_clusters(train: list[Scenario]) -> list[list[Scenario]]:
    """Train scenarios of one cell in clusters of about six; twins stay together."""
    by_id = {scenario.id: scenario for scenario in train}
    twins = {name for names in TWINS for name in names}
    units = list(TWINS) + [(scenario.id,) for scenario in train if scenario.id not in twins]
    clusters: list[list[Scenario]] = []
    for cell in sorted({scenario.cell for scenario in train}):
        members = [unit for unit in units if by_id[unit[0]].cell == cell]
        members.sort(key=lambda unit: draw("cluster", *unit))
        wanted = max(1, round(sum(map(len, members)) / CLUSTER))
        own: list[list[Scenario]] = [[] for _ in range(wanted)]
        for unit in sorted(members, key=len, reverse=True):
            min(own, key=len).extend(by_id[name] for name in unit)
        clusters += own
    return clusters


def group_names(clusters: list[list[Scenario]]) -> dict[str, str]:
    """The group of each train scenario: its cluster's first."""
    return {scenario.id: cluster[0].id for cluster in clusters for scenario in cluster}


def joined(first: Scenario, second: Scenario, language: str, group: str) -> Document:
    """Two texts as one document; its topics are those of both."""
    space = "" if language in ("ja", "zh") else " "
    return Document(
        id=f"{first.id}+{second.id}.{language}",
        text=first.texts[language] + space + second.texts[language],
        language=language,
        group=group,
        split="train",
        intent=first.intent,
        sentiment=first.sentiment,
        topics=tuple(dict.fromkeys(first.topics + second.topics)),
    )


def document_goals(scenarios: list[Scenario]) -> dict[tuple[str, str], int]:
    """How many documents each cell is to have in train."""
    counts = Counter(scenario.cell for scenario in scenarios)
    wanted = {}
    for (intent, sentiment), count in counts.items():
        rare = RARE_SENTIMENT.get(sentiment)
        if rare is not None:
            # A cell of one scenario cannot be joined with itself: only the others share the goal.
            of_sentiment = sum(n for cell, n in counts.items() if cell[1] == sentiment and n > 1)
            wanted[intent, sentiment] = rare * count // of_sentiment if count > 1 else 0
    for intent, total in TRAIN_DOCUMENTS.items():
        taken = sum(n for (other, _), n in wanted.items() if other == intent)
        [common] = [cell for cell in counts if cell[0] == intent and cell[1] not in RARE_SENTIMENT]
        wanted[common] = total - taken
    return wanted


def compose(train: list[Scenario], clusters: list[list[Scenario]]) -> Iterator[Document]:
    """Joined documents until each cell has its goal or no pair is left, as many (but one) in each language.

    Every pair comes in one order before any comes in the other.
    """
    groups = group_names(clusters)
    twins = {frozenset(pair) for names in TWINS for pair in combinations(names, 2)}
    languages = sorted(train[0].texts)
    for cell, goal in sorted(document_goals(train).items()):
        own = [cluster for cluster in clusters if cluster[0].cell == cell]
        base = sum(map(len, own)) * len(languages)
        pairs = [pair for cluster in own for pair in combinations(cluster, 2)]
        pairs = [pair for pair in pairs if frozenset(one.id for one in pair) not in twins]
        for position, language in enumerate(languages):
            lacking = max(0, goal - base)
            todo = lacking * (position + 1) // len(languages) - lacking * position // len(languages)
            drawn = [(draw("pair", language, a.id, b.id), a, b) for a, b in pairs]
            drawn.sort(key=lambda item: item[0])
            # The draw's last digits decide which of the two comes first.
            forth = [(a, b) if int(at * 2**20) % 2 else (b, a) for at, a, b in drawn]
            order = forth + [(b, a) for a, b in forth]
            for first, second in order[:todo]:
                yield joined(first, second, language, groups[first.id])


def mask(document: Document) -> Document:
    """The document with part of its labels missing, but never all of them."""
    share = MISSING[document.split]

    def missing(what: str) -> bool:
        return draw("missing", what, document.id) < share[what]

    both = missing("sentiment+topics")
    no_sentiment, no_topics = both or missing("sentiment"), both or missing("topics")
    no_intent = missing("intent") and not (no_sentiment and no_topics)
    return replace(
        document,
        intent=None if no_intent else document.intent,
        sentiment=None if no_sentiment else document.sentiment,
        topics=None if no_topics else document.topics,
    )


def documents(scenarios: list[Scenario]) -> list[Document]:
    """The whole data set: train, dev, test; within each the hand-written texts, then the joined ones."""
    splits = assign_splits(scenarios)
    train = [scenario for scenario in scenarios if splits[scenario.id] == "train"]
    clusters = make_clusters(train)
    groups = group_names(clusters)
    rows = []
    for split in SPLITS:
        for one in scenarios:
            if splits[one.id] == split:
                group = groups.get(one.id, one.id)
                labels = (one.intent, one.sentiment, one.topics)
                rows += [
                    Document(f"{one.id}.{language}", text, language, group, split, *labels)
                    for language, text in sorted(one.texts.items())
                ]
        if split == "train":
            rows += compose(train, clusters)
    return [mask(row) for row in rows]


def as_csv(rows: list[Document]) -> bytes:
    """UTF-8, one line ending on every system."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row.row() for row in rows)
    return sink.getvalue().encode()


def main() -> None:
    """Write the file and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "feedback.csv", help="the file to write")
    out: Path = parser.parse_args().out
    rows = documents(read_scenarios(HERE / "texts"))
    out.write_bytes(as_csv(rows))
    print(f"{out}: {dict(Counter(row.split for row in rows))} documents")


if __name__ == "__main__":
    main()
