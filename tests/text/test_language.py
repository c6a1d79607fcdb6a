"""Languages by a sentence or two each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retromae.text.language import guess_language, languages_of, scripts_of
from retromae.text.language_marks import CYRILLIC, LATIN

SENTENCES = {
    "English": "The harbour master counts the boats twice, and then he writes their names into "
    "a book that is old.",
    "German": "Der Hafenmeister zählt die Boote zweimal, und dann schreibt er ihre Namen in "
    "ein Buch, das nicht neu ist.",
    "Dutch": "De havenmeester telt de boten twee keer en dan schrijft hij hun namen in een "
    "boek dat niet meer nieuw is.",
    "Swedish": "Hamnmästaren räknar båtarna två gånger och sedan skriver han namnen i en bok "
    "som inte är ny, men det är bra.",
    "Danish": "Havnefogeden tæller bådene to gange, og så skriver han navnene i en bog, som "
    "ikke er ny, efter hvad jeg ved af.",
    "Norwegian": "Havnefogden teller båtene to ganger, og så skriver han navnene i en bok som "
    "ikke er ny, etter hva jeg vet av.",
    "French": "Le maître du port compte les bateaux deux fois, et puis il écrit leurs noms "
    "dans un livre qui est vieux.",
    "Spanish": "El capitán del puerto cuenta los barcos dos veces y luego escribe los nombres "
    "en un libro que ya es viejo.",
    "Italian": "Il capitano del porto conta le barche due volte e poi scrive i loro nomi in un "
    "libro che non è più nuovo.",
    "Portuguese": "O capitão do porto conta os barcos duas vezes e depois escreve os nomes em um "
    "livro que já não é novo.",
    "Romanian": "Căpitanul portului numără bărcile de două ori și apoi scrie numele lor în "
    "caietul care nu mai este nou.",
    "Polish": "Kapitan portu liczy łodzie dwa razy, a potem zapisuje ich nazwy w książce, "
    "która nie jest już nowa.",
    "Czech": "Kapitán přístavu počítá lodě dvakrát a potom zapíše jejich jména do knihy, "
    "která již není nová, protože je stará.",
    "Slovak": "Kapitán prístavu počíta lode dvakrát a potom zapíše ich mená do knihy, ktorá už "
    "nie je nová, pretože sa používa.",
    "Slovene": "Kapitan pristanišča dvakrat prešteje čolne in potem zapiše njihova imena v "
    "knjigo, ki ni več nova, ker je stara.",
    "Croatian": "Kapetan luke dva puta broji brodove i onda zapisuje njihova imena u knjigu koja "
    "više nije nova, ali je dobra.",
    "Hungarian": "A kikötő kapitánya kétszer számolja meg a csónakokat, és aztán egy könyvbe írja "
    "a nevüket, hogy meg ne feledje.",
    "Finnish": "Satamapäällikkö laskee veneet kahdesti, ja sitten hän kirjoittaa niiden nimet "
    "kirjaan, joka ei ole enää uusi.",
    "Estonian": "Sadamakapten loeb paadid kaks korda üle ja siis kirjutab nende nimed "
    "raamatusse, mis ei ole enam uus, kuid on hea.",
    "Latvian": "Ostas kapteinis skaita laivas divas reizes un pēc tam ieraksta to vārdus "
    "grāmatā, kas vairs nav jauna, bet ir laba.",
    "Lithuanian": "Uosto kapitonas du kartus skaičiuoja valtis ir po to įrašo jų vardus į knygą, "
    "kuri jau yra sena, bet dar gera.",
    "Turkish": "Liman başkanı tekneleri iki kez sayar ve sonra adlarını bir deftere yazar, "
    "çünkü bu defter çok eski değil.",
    "Russian": "Капитан порта считает лодки два раза, а потом записывает их названия в книгу, "
    "которая уже не новая, но хорошая.",
    "Ukrainian": "Капітан порту рахує човни двічі, а потім записує їх назви у книгу, яка вже не "
    "нова, але ще добра і велика.",
    "Bulgarian": "Капитанът на пристанището брои лодките два пъти и след това записва имената им "
    "в книга, която не е нова.",
    "Serbian": "Капетан луке два пута броји бродове и онда записује њихова имена у књигу која "
    "више није нова, али је добра.",
    "Greek": "Ο λιμενάρχης μετρά τις βάρκες δύο φορές και μετά γράφει τα ονόματά τους.",
    "Japanese": "港長は船を二回数え、それから名前を本に書きます。",
    "Chinese": "港务长数两遍船，然后把船名写进一本旧书里。",
    "Korean": "항만장은 배를 두 번 세고 나서 이름을 책에 적는다.",
    "Hebrew": "מנהל הנמל סופר את הסירות פעמיים ואז רושם את שמותיהן בספר.",
    "Thai": "นายท่านับเรือสองครั้งแล้วเขียนชื่อลงในสมุด",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_of_each(language: str) -> None:
    assert guess_language(SENTENCES[language]) == language


def test_every_language_with_marks_is_tried() -> None:
    assert {*LATIN, *CYRILLIC} <= set(SENTENCES)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "unknown"),
        ("12 34 --- !!", "unknown"),
        ("xk7 qrt zzv bnm kkj wqx ppl", "unknown"),
        ("يعد رئيس الميناء القوارب مرتين", "unknown (Arabic script)"),
        ("बंदरगाह का मुखिया नावों को दो बार गिनता है", "unknown (Devanagari script)"),
    ],
)
def test_what_does_not_tell_is_unknown(text: str, language: str) -> None:
    assert guess_language(text) == language


def test_shares_go_by_words() -> None:
    texts = [(SENTENCES["English"], 60), (SENTENCES["French"], 20), ("", 20)]
    found = {share.language: share.share for share in languages_of(texts)}
    assert found == {"English": 0.6, "French": 0.2, "unknown": 0.2}
    assert languages_of([]) == languages_of([("nothing", 0)]) == []


@given(st.text(max_size=80))
def test_any_text_is_taken(text: str) -> None:
    scripts = scripts_of(text)
    assert not scripts or abs(sum(scripts.values()) - 1) < 1e-9
    assert guess_language(text)
