"""Makes up criminal judgments in the schema of `lbox_open/ljp_criminal`, for the demo and for tests.

Nothing is taken from a real data set: names, places and wording come from the small tables below. What a defendant
gets follows one fixed rule, so that a model which has learnt the rule can be told from one that guesses:

- minor harm is a fine, serious harm is imprisonment;
- imprisonment is with labour, but for traffic accidents without;
- a first offence is level 1, a repeat offence level 2; what isn't imposed is level 0.

Names, places, ages, years, vehicles and the weather decide nothing.

    python deploy/samples/judgments.py --out build/demo/judgments
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
MOST_ROWS = 5000
SERIOUS_SHARE = 0.5
REPEAT_SHARE = 0.4
ASIDE_SHARE = 0.5


@dataclass(frozen=True)
class Kind:
    """One kind of case.

    Attributes:
        casename: its name.
        acts: sentences that tell what was done.
        labour: whether imprisonment for it is with labour.
        weight: how common it is among the others.
    """

    casename: str
    acts: Sequence[str]
    labour: bool = True
    weight: int = 1


@dataclass(frozen=True)
class Language:
    """The wording of one language: `harm` and `record` have the words of the mild case first."""

    kinds: Sequence[Kind]
    words: Mapping[str, Sequence[str]]
    harm: tuple[Sequence[str], Sequence[str]]
    record: tuple[Sequence[str], Sequence[str]]
    harm_names: tuple[str, str]
    record_names: tuple[str, str]
    penalties: tuple[str, str, str]
    reason: str
    sentences: tuple[str, str, str]
    units: tuple[str, str]


ENGLISH = Language(
    kinds=(
        Kind("drunk driving", ("{who} drove a {vehicle} drunk {place}.",
                               "Police stopped {who}, drunk in a {vehicle} {place}.")),
        Kind("fraud", ("{who} tricked a customer {place} out of money.",
                       "With a false promise {who} took money from a friend {place}.")),
        Kind("violence", ("{who} threatened a man {place} with a stick.",
                          "In a quarrel {place} {who} went for a stranger.")),
        Kind("bodily injury", ("{who} beat a neighbour {place}.", "{who} pushed a man down the stairs {place}.")),
        Kind("traffic accident", ("{who}, careless in a {vehicle}, hit a cyclist {place}.",
                                  "{who} ran a red light in a {vehicle} {place} and hurt a woman."),
             labour=False, weight=2),
    ),
    words={
        "who": ("Kim", "Lee", "Park", "Jung", "Kang", "Han", "Song", "Lim", "Yoon", "Shin"),
        "place": ("in Seoul", "in Busan", "near a school", "by the station", "at a market", "outside a bank",
                  "in Daegu", "near the harbour", "on a bridge", "by a park"),
        "vehicle": ("car", "van", "truck", "taxi", "bus"),
        "aside": ("It was raining.", "It was late.", "The defendant is {age}.", "This was in {year}.",
                  "Two people saw it."),
    },
    harm=(("The harm was minor.", "It did minor harm.", "The court found minor harm."),
          ("The harm was serious.", "It did serious harm.", "The court found serious harm.")),
    record=(("It is a first offence.", "This was a first offence.", "The court notes a first offence."),
            ("It is a repeat offence.", "This was a repeat offence.", "The court notes a repeat offence.")),
    harm_names=("minor harm", "serious harm"),
    record_names=("first offence", "repeat offence"),
    penalties=("fine", "prison with labor", "prison without labor"),
    reason="{casename}, {harm}: {penalty}; {record}: level {level}",
    sentences=("a fine of {amount:,} won", "{amount} months of prison with labor", "{amount} months of prison"),
    units=("won", "mo"),
)

KOREAN = Language(
    kinds=(
        Kind("음주운전", ("{who}는 {place}에서 술에 취해 {vehicle}를 몰았다.",
                       "{place}에서 취한 채 {vehicle}를 몰던 {who}가 단속되었다.")),
        Kind("사기", ("{who}는 {place}에서 손님을 속여 돈을 받았다.",
                     "{who}는 {place}에서 거짓 약속으로 친구의 돈을 가로챘다.")),
        Kind("폭력", ("{who}는 {place}에서 막대기로 한 남자를 위협했다.",
                     "{place}에서 다투던 {who}는 행인에게 덤볐다.")),
        Kind("상해", ("{who}는 {place}에서 이웃을 때렸다.", "{who}는 {place}에서 한 남자를 계단 아래로 밀었다.")),
        Kind("교통사고", ("{who}는 {place}에서 {vehicle}를 부주의하게 몰아 자전거를 쳤다.",
                       "{who}는 {place}에서 {vehicle}로 신호를 어겨 행인을 다치게 했다."), labour=False, weight=2),
    ),
    words={
        "who": ("김씨", "이씨", "박씨", "정씨", "강씨", "한씨", "송씨", "임씨", "윤씨", "신씨"),
        "place": ("서울", "부산", "학교 앞", "역 앞", "시장", "은행 앞", "대구", "항구", "다리 위", "공원"),
        "vehicle": ("승용차", "화물차", "승합차", "택시", "버스"),
        "aside": ("비가 왔다.", "밤이었다.", "나이는 {age}세다.", "{year}년의 일이다.", "두 사람이 보았다."),
    },
    harm=(("피해가 경미하다.", "경미한 피해를 입혔다."), ("피해가 중대하다.", "중대한 피해를 입혔다.")),
    record=(("초범이다.", "피고인은 초범이다."), ("재범이다.", "피고인은 재범이다.")),
    harm_names=("경미한 피해", "중대한 피해"),
    record_names=("초범", "재범"),
    penalties=("벌금", "징역", "금고"),
    reason="{casename}, {harm}: {penalty}; {record}: {level}단계",
    sentences=("벌금 {amount:,}원", "징역 {amount}월", "금고 {amount}월"),
    units=("won", "mo"),
)

LANGUAGES = {"en": ENGLISH, "ko": KOREAN}
_FINES = {1: 3_000_000, 2: 8_000_000}
_MONTHS = {1: 8, 2: 18}


def make_rows(count: int, seed: int, language: str = "en") -> list[Row]:
    """Rows in the schema of ljp_criminal, no two with the same facts; the first `n` are the same for every count.

    Args:
        count: how many, at most `MOST_ROWS` (the wordings run out).
        seed: the same seed gives the same rows.
        language: `en` or `ko`; the rule is the same.

    Raises:
        ValueError: an unknown language, or too many rows.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, not {language!r}")
    if not 0 <= count <= MOST_ROWS:
        raise ValueError(f"count must be between 0 and {MOST_ROWS}, not {count}")
    chance = random.Random(seed)
    rows: dict[str, Row] = {}
    while len(rows) < count:
        row = _row(chance, LANGUAGES[language], len(rows))
        rows.setdefault(row["facts"], row)
    return list(rows.values())


def _row(chance: random.Random, language: Language, number: int) -> Row:
    kind = chance.choices(language.kinds, [kind.weight for kind in language.kinds])[0]
    serious = chance.random() < SERIOUS_SHARE
    repeat = chance.random() < REPEAT_SHARE
    penalty = (1 if kind.labour else 2) if serious else 0
    level = 2 if repeat else 1
    levels = [level if penalty == which else 0 for which in range(3)]
    text, parse = _ruling(language, penalty, level)
    return {
        "id": number,
        "casetype": "criminal",
        "casename": kind.casename,
        "facts": _facts(chance, language, kind, serious, repeat),
        "reason": language.reason.format(casename=kind.casename, harm=language.harm_names[serious],
                                         penalty=language.penalties[penalty], record=language.record_names[repeat],
                                         level=level),
        "label": {"text": text, "fine_lv": levels[0], "imprisonment_with_labor_lv": levels[1],
                  "imprisonment_without_labor_lv": levels[2]},
        "ruling": {"text": text, "parse": parse},
    }


def _facts(chance: random.Random, language: Language, kind: Kind, serious: bool, repeat: bool) -> str:
    """The act, then what decides and perhaps something that doesn't, in any order."""
    act = chance.choice(kind.acts)
    others = [chance.choice(language.harm[serious]), chance.choice(language.record[repeat])]
    if chance.random() < ASIDE_SHARE:
        others.append(chance.choice(language.words["aside"]))
    chance.shuffle(others)
    picked = {name: chance.choice(language.words[name]) for name in ("who", "place", "vehicle")}
    return " ".join([act, *others]).format(**picked, age=chance.randint(20, 69), year=chance.randint(2010, 2023))


def _ruling(language: Language, penalty: int, level: int) -> tuple[str, Row]:
    """A sentence in words and parsed; "" and -1 stand for none."""
    amount = (_MONTHS if penalty else _FINES)[level]
    imposed = {"type": language.penalties[penalty], "unit": language.units[penalty > 0], "value": amount}
    none = {"type": "", "unit": "", "value": -1}
    return (language.sentences[penalty].format(amount=amount),
            {"fine": none if penalty else imposed, "imprisonment": imposed if penalty else none})


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON lines in UTF-8, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Write `train.jsonl` and `test.jsonl`, disjoint by facts, into a folder."""
    parser = argparse.ArgumentParser(description="Make up criminal judgments as JSON lines.")
    parser.add_argument("--train-count", type=int, default=160, help="training rows (default: %(default)s)")
    parser.add_argument("--test-count", type=int, default=100, help="held-out rows (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rows (default: %(default)s)")
    parser.add_argument("--language", choices=tuple(LANGUAGES), default="en", help="language (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    rows = make_rows(arguments.train_count + arguments.test_count, arguments.seed, arguments.language)
    write_rows(arguments.out / "train.jsonl", rows[: arguments.train_count])
    write_rows(arguments.out / "test.jsonl", rows[arguments.train_count:])


if __name__ == "__main__":
    main()
