"""Which encoding a text is in that is no UTF-8, or only seems to be: the one under which its words look like words."""

from __future__ import annotations

import codecs
import re
import unicodedata
from typing import NamedTuple

CANDIDATES = (
    *("cp1252", "mac_roman", "cp850", "cp1250", "cp1251", "koi8_r", "cp866", "iso8859_5", "cp1253", "cp1254"),
    *("cp1255", "cp1256", "cp874", "shift_jis", "euc_jp", "euc_kr", "gb18030", "big5"),
)
"""What offices write, the commonest first: it wins where several fit equally well."""
EBCDIC = ("cp037", "cp500", "cp273", "cp1026")
"""What mainframes write. Letters, digits and most signs are the same in all of them, and no byte is as in ASCII."""
SEVEN_BITS = {
    "utf-7": re.compile(r"\+[A-Za-z0-9+/]{3,}"),
    "iso2022_jp": re.compile(r"\x1b\$[@B][!-~]+"),
}
"""Encodings whose bytes are all ASCII, and how each of them spells what is not: such a file is UTF-8, too, and would be
read as if the spelling were the text."""
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
"""Bytes that no encoding below writes a text with: those of a sound, a picture, a program."""
_LIKE = 0.75
"""`plausibility` from which on a spelling is believed: formulas and telephone numbers give characters of any kind."""
_NEEDS = {"shift_jis": "kana", "euc_jp": "kana", "euc_kr": "hangul"}
"""Scripts without which these are not believed: by their bytes alone, Chinese texts often pass for them."""
_JOINED = {"kana": "cjk"}  # one Japanese word is written in both
SAMPLE = 20_000
"""Bytes around the first one that is no UTF-8, by which the encoding is told."""
_WESTERN = set("äöüßàâáãåæçèéêëìíîïñòóôõøœùúûÄÖÜÀÂÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕØŒÙÚÛ")
_OTHER_LATIN = set("şğıİŞĞąćęłńśźżĄĆĘŁŃŚŹŻčďěňřšťůžČĎĚŇŘŠŤŮŽőűŐŰăâîșțȘȚ")
_PUNCTUATION = set("“”„‘’‚«»–—…€£§°©®™·•¿¡´ \u00a0¨ªº。，、！？：；（）「」『』《》・ー،؛؟")
_COMMON = {
    "cyrillic": set("оеаинтсрвлк"),
    "greek": set("αοιετσςνηυρίόάέύ"),
    "hebrew": set("יהולאתבמרש"),
    "arabic": set("اليمنترهبو"),
    "thai": set("นรอกงมยลวดสตเาะแ"),
    "hangul": set(
        "이다는의에가을하고로지한기사어나도은를리자아서대스그시인정수과부라일해전있만들보주여것없게안오상장원내제세마우면비조거년"
        "공중동신국무선유구위성소화까했니요네문모방처못건물결더좋음때습입됩던생각말별점싶품배송최너진짜재미감추천굿와"
    ),
    "cjk": set(
        "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事"
        "成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已"
        "工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信"
        "表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才"
        "结反受目太量再感建务做接必场件计管期市直德资命山金指许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且"
        "权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运坏差评价服态质订单退货"
        "满喜欢推荐宜贵买卖店客慢快错谢请吗负男您哪订箱包装垃圾"
        "這個們來為國說時會對過發後還樣開從實長機關點業將兩間應戰體見產門給東聲題氣爾變總電數報結場員論處義認條別訊帳戶單訂貨買"
        "賣質評務態優壞讓謝請嗎與無當動經麼學現頭種進裡於著錯負貴薦歡滿"
    ),
}
"""Characters that make up most of a text in a language: the wrong encoding of a text gives mostly rare ones."""
_FINAL, _BEFORE_FINAL = set("ךםןףץ"), set("כמנפצ")
"""Hebrew letters at the end of a word, and those that have such a form."""


class Guessed(NamedTuple):
    """An encoding, by the name that iconv and Python know, and a text as it reads under it."""

    encoding: str
    sample: str


def guess_encoding(raw: bytes, position: int) -> Guessed | None:
    """The likeliest encoding of a text that has no UTF-8 at `position`; None if no candidate reads it."""
    start = raw.rfind(b"\n", 0, position) + 1
    start = max(start, position - 2000)
    sample = raw[start : start + SAMPLE]
    if (mainframe := _mainframe(raw[: max(SAMPLE, position)])) is not None:
        return mainframe
    if _NO_TEXT.search(sample):
        return None
    best, best_score = None, float("-inf")
    for encoding in CANDIDATES:
        try:
            # Not final: the sample may end within a character.
            text = codecs.getincrementaldecoder(encoding)().decode(sample)
        except UnicodeDecodeError:
            continue
        if encoding in _NEEDS and not any(_script(character) == _NEEDS[encoding] for character in text):
            continue
        score = plausibility(text)
        if score > best_score + 1e-9:
            best, best_score = encoding, score
    if best is None or best_score <= 0:
        return None
    line = raw[start:].split(b"\n", 1)[0]
    return Guessed(best, line.decode(best, "replace").strip())


def hidden_encoding(text: str) -> tuple[int, Guessed] | None:
    """The encoding that an ASCII text spells other characters in (UTF-7, ISO-2022-JP), and where it does so first."""
    if not text.isascii():
        return None
    for encoding, spelling in SEVEN_BITS.items():
        first = spelling.search(text)
        if first is None:
            continue
        start = text.rfind("\n", 0, first.start()) + 1
        sample = text[max(start, first.start() - 2000) :][:SAMPLE]
        try:
            read = codecs.getincrementaldecoder(encoding)().decode(sample.encode("ascii"))
        except UnicodeDecodeError:
            continue
        enough = len(spelling.findall(sample)) > 1 or text.startswith("+/v")  # its byte-order mark
        if enough and plausibility(read.removeprefix("\ufeff")) >= _LIKE:
            return first.start(), Guessed(encoding, read.split("\n", 1)[0].removeprefix("\ufeff").strip())
    return None


def _mainframe(raw: bytes) -> Guessed | None:
    """The EBCDIC of these bytes, if they are that: most of them common letters and spaces in it, and not in ASCII."""
    if raw.count(b" ") >= raw.count(b"\x40"):
        return None
    best, most = "", 0.8 * len(raw)
    for encoding in EBCDIC:
        text = raw.decode(encoding)
        usual = sum(character.isalnum() or character in " .,;:!?'\"()-\t\r\n\x85" for character in text)
        if usual > most:
            best, most = encoding, usual
    lines = raw.decode(best).splitlines() if best else []
    return Guessed(best, next(line.strip() for line in lines if line.strip())) if lines else None


def plausibility(text: str) -> float:
    """-1 to 1: how much the characters beyond ASCII fit their neighbours.

    A letter fits beside letters of its own script, lower case after lower case; signs such as quotation marks fit at a
    word's edge. A capital within a word, a sign between two letters, or two scripts in one word are what the wrong
    encoding makes of a text.
    """
    score, count = 0.0, 0
    for place, character in enumerate(text):
        if character < "\x80":
            continue
        count += 1
        before = text[place - 1] if place else " "
        after = text[place + 1] if place + 1 < len(text) else " "
        score += _fit(before, character, after)
    return score / count if count else 0.0


def _fit(before: str, character: str, after: str) -> float:
    category = unicodedata.category(character)
    if category in ("Cc", "Cn", "Co"):
        return -2.0
    if category == "Mn":  # a vowel or a tone above or below a letter, of Thai and Arabic
        return 0.9 if _script(before) == _script(character) != "other" else -2.0
    if not category.startswith("L"):
        within = before.isalpha() and after.isalpha() and character not in "’·´"
        return -1.0 if within or character not in _PUNCTUATION else 0.8
    script = _script(character)
    if any(
        other.isalpha() and _JOINED.get(_script(other), _script(other)) != _JOINED.get(script, script)
        for other in (before, after)
    ):
        return -1.0
    if script == "other":
        return -0.5
    if script in ("cjk", "hangul"):
        return 1.3 if character in _COMMON[script] else 0.7
    if script == "kana":
        return 1.2
    if script == "hebrew" and character in (_FINAL if after.isalpha() else _BEFORE_FINAL if before.isalpha() else ()):
        return -1.0
    if script in ("hebrew", "arabic", "thai"):
        return _by_frequency(character, script)
    if not before.isalpha() and not after.isalpha():
        return 0.5
    if character.isupper() and before.islower():
        return -1.0
    if character.islower() and before.isupper() and after.isupper():
        return -1.0
    if script == "latin":
        return 0.9 if character in _WESTERN else 0.6 if character in _OTHER_LATIN else 0.0
    # one encoding's small letters are another's capitals
    return _by_frequency(character.lower(), script) - (0.1 if character.isupper() else 0.0)


def _by_frequency(letter: str, script: str) -> float:
    return 1.2 if letter in _COMMON[script] else 0.8


def _script(character: str) -> str:
    if character < "\x80":
        return "latin"
    name = unicodedata.name(character, "")
    for start, script in (
        *(("LATIN", "latin"), ("CYRILLIC", "cyrillic"), ("GREEK", "greek"), ("CJK", "cjk")),
        *(("HIRAGANA", "kana"), ("KATAKANA", "kana"), ("HANGUL", "hangul"), ("MODIFIER", "latin")),
        *(("HEBREW", "hebrew"), ("ARABIC", "arabic"), ("THAI", "thai")),
    ):
        if name.startswith(start):
            return script
    return "other"
