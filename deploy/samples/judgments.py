"""Generate look-alike criminal judgments in the schema of ``lbox_open/ljp_criminal``.

Every row is made up: names, numbers and wording come from the small tables below and
nothing is taken from a real data set. What a defendant gets follows one fixed rule, the
sentencing table, so that a model which has understood the table can be told from one that
guesses the commonest sentence.

The sentencing table
    Severity comes from the one measure that the kind of case turns on:

    ========================= =============== ================
    kind of case              light (0)       grave (1)
    ========================= =============== ================
    drunk driving, alcohol    under 0.10 %    0.10 % up
    fraud, won taken          under 1 million 1 million up
    violence, means           bare hands      a deadly object
    bodily and traffic        under 2 weeks   2 weeks up
    injury, treatment
    ========================= =============== ================

    A light case earns a fine and a grave one imprisonment, at level 1 for a first offence
    and level 2 for a repeat offence. Imprisonment is with labour, except for traffic
    injury, where it is without.

Everything else in the facts (name, age, place, weather, year, vehicle) decides nothing.

Run as a program, the module writes a training and a held-out file of JSON lines whose
facts do not overlap::

    python judgments.py --train-count 240 --heldout-count 100 --seed 0 --out data
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "ko")
GRAVE_SHARE = 0.5
REPEAT_SHARE = 0.4
ASIDE_SHARE = 0.5
LIGHT, GRAVE = 0, 1

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of case: its name, its measure by severity and the sentences that state it.

    Attributes:
        casename: The name of the kind of case by language.
        measure: Draws the measure for a severity in a language, such as ``0.12 %``.
        acts: Sentences by language; ``{who}``, ``{place}``, ``{vehicle}``, ``{measure}`` and,
            in Korean, the particle ``{with_}`` are filled in.
        labor: Whether imprisonment is with labour.
        weight: How common the kind is among the others.
    """

    casename: dict[str, str]
    measure: Callable[[random.Random, int, str], str]
    acts: dict[str, tuple[str, ...]]
    labor: bool = True
    weight: int = 1


def _alcohol(rng: random.Random, severity: int, language: str) -> str:
    low, high = {LIGHT: (3, 9), GRAVE: (10, 29)}[severity]
    level = f"0.{rng.randint(low, high):02d}"
    return f"{level} %" if language == "en" else f"{level}%"


def _money(rng: random.Random, severity: int, language: str) -> str:
    if severity == LIGHT:
        thousands = 10 * rng.randint(10, 99)
        return f"{thousands} thousand won" if language == "en" else f"{thousands // 10}만 원"
    millions = rng.randint(2, 99)
    return f"{millions} million won" if language == "en" else f"{millions * 100}만 원"


def _treatment(rng: random.Random, severity: int, language: str) -> str:
    low, high = {LIGHT: (3, 13), GRAVE: (2, 12)}[severity]
    unit = {"en": (" days", " weeks"), "ko": ("일", "주")}[language][severity]
    return f"{rng.randint(low, high)}{unit}"


_MEANS = {
    "en": {LIGHT: ("bare hands", "fists"), GRAVE: ("a knife", "an axe", "a hammer")},
    "ko": {LIGHT: ("맨손", "주먹"), GRAVE: ("칼", "도끼", "망치")},
}


def _means(rng: random.Random, severity: int, language: str) -> str:
    return rng.choice(_MEANS[language][severity])


KINDS = (
    Kind(
        casename={"en": "drunk driving", "ko": "음주운전"},
        measure=_alcohol,
        acts={
            "en": (
                "{who} drove a {vehicle} {place} with a blood alcohol level of {measure}.",
                "Police stopped {who} in a {vehicle} {place}; the breath test read {measure}.",
            ),
            "ko": (
                "{who}는 {place}에서 혈중알코올농도 {measure}로 {vehicle}를 몰았다.",
                "{place}에서 {vehicle}를 몰던 {who}는 음주측정에서 {measure}가 나왔다.",
            ),
        },
    ),
    Kind(
        casename={"en": "fraud", "ko": "사기"},
        measure=_money,
        acts={
            "en": (
                "{who} tricked a customer {place} out of {measure}.",
                "With a false promise {who} took {measure} from a friend {place}.",
            ),
            "ko": (
                "{who}는 {place}에서 손님을 속여 {measure}을 받았다.",
                "{who}는 {place}에서 거짓 약속으로 친구의 돈 {measure}을 가로챘다.",
            ),
        },
    ),
    Kind(
        casename={"en": "violence", "ko": "폭행"},
        measure=_means,
        acts={
            "en": (
                "{who} attacked a man {place} with {measure}.",
                "In a quarrel {place}, {who} went for a stranger with {measure}.",
            ),
            "ko": (
                "{who}는 {place}에서 {measure}{with_} 한 남자를 공격했다.",
                "{place}에서 다투던 {who}는 {measure}{with_} 행인에게 덤볐다.",
            ),
        },
    ),
    Kind(
        casename={"en": "bodily injury", "ko": "상해"},
        measure=_treatment,
        acts={
            "en": (
                "{who} beat a neighbour {place}, who needs {measure} of treatment.",
                "{who} pushed a man down {place}; his wounds take {measure} to heal.",
            ),
            "ko": (
                "{who}는 {place}에서 이웃을 때려 {measure} 치료가 필요하게 했다.",
                "{who}는 {place}에서 한 남자를 밀어 {measure}의 상처를 입혔다.",
            ),
        },
    ),
    Kind(
        casename={"en": "traffic injury", "ko": "교통사고"},
        measure=_treatment,
        acts={
            "en": (
                "{who}, careless in a {vehicle}, ran into a cyclist {place}: {measure} of treatment.",
                "{who} ran a red light in a {vehicle} {place} and hurt a woman, {measure} to heal.",
            ),
            "ko": (
                "{who}는 {place}에서 {vehicle}를 잘못 몰아 자전거를 치고 {measure} 치료를 받게 했다.",
                "{who}는 {place}에서 {vehicle}로 신호를 어겨 행인이 {measure} 치료를 받게 했다.",
            ),
        },
        labor=False,
        weight=2,
    ),
)

_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "name": ("Kim", "Lee", "Park", "Jung", "Kang", "Han", "Song", "Lim", "Yoon", "Shin"),
        "place": (
            "in Seoul", "in Busan", "near a school", "by the station", "at a market",
            "outside a bank", "in Daegu", "near the harbour", "on a bridge", "by a park",
        ),
        "vehicle": ("car", "van", "truck", "taxi", "bus"),
        "first": ("It is a first offence.", "This was a first offence.", "The court notes: first offence."),
        "repeat": ("It is a repeat offence.", "This was a repeat offence.", "The court notes: repeat offence."),
        "aside": (
            "It was raining.", "It was late.", "The defendant is {age}.",
            "This was in {year}.", "Two people saw it.",
        ),
    },
    "ko": {
        "name": ("김씨", "이씨", "박씨", "정씨", "강씨", "한씨", "송씨", "임씨", "윤씨", "신씨"),
        "place": (
            "서울", "부산", "학교 앞", "역 앞", "시장", "은행 앞", "대구", "항구", "다리 위", "공원",
        ),
        "vehicle": ("승용차", "화물차", "승합차", "택시", "버스"),
        "first": ("초범이다.", "피고인은 초범이다.", "이번이 초범이다."),
        "repeat": ("재범이다.", "피고인은 재범이다.", "이번이 재범이다."),
        "aside": ("비가 왔다.", "밤이었다.", "나이는 {age}세다.", "{year}년의 일이다.", "두 사람이 보았다."),
    },
}  # fmt: skip

_REASON = {
    "en": (
        "{casename}, {measure}: {severity}, so {penalty}; {offence}, so level {level}",
        ("light", "grave"),
        ("first offence", "repeat offence"),
        ("fine", "with labor", "without labor"),
    ),
    "ko": (
        "{casename}, {measure}: {severity}, {penalty}; {offence}, {level}단계",
        ("경함", "중함"),
        ("초범", "재범"),
        ("벌금", "징역", "금고"),
    ),
}

_FINES = {1: 3_000_000, 2: 8_000_000}
_MONTHS = {1: 8, 2: 18}


def sentence(severity: int, repeat: bool, labor: bool) -> dict[str, int]:
    """Look a case up in the sentencing table.

    Args:
        severity: 0 (light) or 1 (grave).
        repeat: Whether it is a repeat offence.
        labor: Whether imprisonment for this kind of case is with labour.

    Returns:
        The three levels under their names in the data set; 0 is none.
    """
    level = 2 if repeat else 1
    return {
        "fine_lv": level if severity == LIGHT else 0,
        "imprisonment_with_labor_lv": level if severity == GRAVE and labor else 0,
        "imprisonment_without_labor_lv": level if severity == GRAVE and not labor else 0,
    }


def _ruling(levels: dict[str, int], labor: bool, language: str) -> tuple[str, dict[str, Any]]:
    """Return a sentence in words and parsed; ``""`` and -1 stand for none."""
    fine: dict[str, Any] = {"type": "", "unit": "", "value": -1}
    prison: dict[str, Any] = {"type": "", "unit": "", "value": -1}
    if levels["fine_lv"]:
        won = _FINES[levels["fine_lv"]]
        text = f"a fine of {won:,} won" if language == "en" else f"벌금 {won:,}원"
        kind, unit = ("fine", "won") if language == "en" else ("벌금", "원")
        fine = {"type": kind, "unit": unit, "value": won}
    else:
        months = _MONTHS[levels["imprisonment_with_labor_lv"] or levels["imprisonment_without_labor_lv"]]
        if language == "en":
            kind = f"imprisonment {'with' if labor else 'without'} labor"
            text = f"{months} months of {kind}"
        else:
            kind = "징역" if labor else "금고"
            text = f"{kind} {months}월"
        prison = {"type": kind, "unit": "mo", "value": months}
    return text, {"fine": fine, "imprisonment": prison}


def _with(noun: str) -> str:
    """Return the Korean particle for "with" that suits the noun's last syllable."""
    final = (ord(noun[-1]) - ord("가")) % 28
    return "로" if final in (0, 8) else "으로"


def _facts(rng: random.Random, kind: Kind, measure: str, repeat: bool, language: str) -> str:
    """Word the facts of one case: the act, perhaps an aside, and the offence, which may come first."""
    words = _WORDS[language]

    def fill(text: str) -> str:
        return text.format(
            who=rng.choice(words["name"]),
            place=rng.choice(words["place"]),
            vehicle=rng.choice(words["vehicle"]),
            year=rng.randint(2010, 2023),
            age=rng.randint(20, 69),
            measure=measure,
            with_=_with(measure),
        )

    act = fill(rng.choice(kind.acts[language]))
    offence = fill(rng.choice(words["repeat" if repeat else "first"]))
    aside = fill(rng.choice(words["aside"])) if rng.random() < ASIDE_SHARE else ""
    parts = [act, aside, offence] if rng.random() < 0.7 else [offence, act, aside]
    return " ".join(part for part in parts if part)


def make_rows(count: int, seed: int, language: str = "en") -> list[Row]:
    """Make rows in the schema of ``lbox_open/ljp_criminal``, no two with the same facts.

    The first ``n`` rows are the same for every ``count`` of at least ``n``, so cutting one
    list in two gives training and held-out rows that are disjoint by text.

    Args:
        count: How many rows.
        seed: Seeds a generator of the function's own; the same arguments give the same rows.
        language: ``"en"`` or ``"ko"``; the rule is the same.

    Returns:
        The rows, with ``id`` counting from 0.

    Raises:
        ValueError: The language is unknown, or count is negative or above 20,000 (the
            wordings run out).
    """
    if language not in LANGUAGES:
        raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, not {language!r}")
    if not 0 <= count <= 20_000:
        raise ValueError(f"count must be between 0 and 20000, not {count}")
    rng = random.Random(seed)
    template, severities, offences, penalties = _REASON[language]
    rows: list[Row] = []
    seen: set[str] = set()
    while len(rows) < count:
        kind = rng.choices(KINDS, [kind.weight for kind in KINDS])[0]
        severity = GRAVE if rng.random() < GRAVE_SHARE else LIGHT
        repeat = rng.random() < REPEAT_SHARE
        measure = kind.measure(rng, severity, language)
        facts = _facts(rng, kind, measure, repeat, language)
        if facts in seen:
            continue
        seen.add(facts)
        levels = sentence(severity, repeat, kind.labor)
        text, parse = _ruling(levels, kind.labor, language)
        rows.append(
            {
                "id": len(rows),
                "casetype": "criminal",
                "casename": kind.casename[language],
                "facts": facts,
                "reason": template.format(
                    casename=kind.casename[language],
                    measure=measure,
                    severity=severities[severity],
                    offence=offences[repeat],
                    penalty=penalties[[*levels.values()].index(max(levels.values()))],
                    level=max(levels.values()),
                ),
                "label": {"text": text, **levels},
                "ruling": {"text": text, "parse": parse},
            }
        )
    return rows


def write_jsonl(path: Path, rows: list[Row]) -> None:
    """Write rows as JSON lines in UTF-8, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Write ``train.jsonl`` and ``test.jsonl``, disjoint by facts, into a folder."""
    parser = argparse.ArgumentParser(description="Write made-up criminal judgments as JSON lines.")
    parser.add_argument("--train-count", type=int, default=240, help="training rows (default: %(default)s)")
    parser.add_argument("--heldout-count", type=int, default=100, help="held-out rows (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rows (default: %(default)s)")
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="language (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder to write to (default: here)")
    args = parser.parse_args(argv)
    if args.train_count < 0 or args.heldout_count < 0:
        parser.error("counts must not be negative")
    rows = make_rows(args.train_count + args.heldout_count, args.seed, args.language)
    write_jsonl(args.out / "train.jsonl", rows[: args.train_count])
    write_jsonl(args.out / "test.jsonl", rows[args.train_count :])


if __name__ == "__main__":
    main()
