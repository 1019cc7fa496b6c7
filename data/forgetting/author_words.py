"""The words of the invented authors and countries: name parts, values, and the sentences that hold a fact."""

from __future__ import annotations

from dataclasses import dataclass


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


def _listed(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(","))


@dataclass(frozen=True)
class Topic:
    """A kind of fact: wordings of its question and of its answer, and the values that it can have."""

    key: str
    values: str
    """Which pool of `POOLS`, or `title`, `person` and `year`, which are made."""
    questions: tuple[str, ...]
    answers: tuple[str, ...]


# First and last parts of given names, surnames, towns and countries: any first part goes with any last one.
GIVEN = (
    _split("Bel Cor Dav Elo Fen Gal Hes Iv Jor Kel Lum Mar Nev Oth Pel Quin Ros Sil Tam Ul Ves Wyn Yar Zel"),
    _split("ana eth idra ovan ulio amir issa ember orin asko ilde uma"),
)
SURNAMES = (
    _split(
        "Ash Bram Cald Drov Esk Farr Grell Holv Jast Kord Lant Murk Norr Ost Prask Rend Stav Trom Urb Wex "
        "Bly Clun Dorn Fisk Gant Hake Kell Loft Pell Sorr"
    ),
    _split("berin gaard holme ithe kovar lund mond nessa quist rell"),
)
TOWNS = (
    _split("Alder Brisk Cinder Dun Ever Frost Glim Hollow Ister Jun Kes Lorn Merrow Nettle Orle Pim"),
    _split("bury crest dale fjord gate haven mere port"),
)
COUNTRIES = (
    _split("Ab Bor Cal Del Est Fal Gor Hul Ist Jav Kar Lus Mel Nor Ond"),
    _split("andia overa uria estan"),
)
TITLES = (
    _split(
        "Amber Broken Crimson Distant Empty Frozen Golden Hidden Ivory Lonely Painted Quiet Restless Silver "
        "Stolen Tangled Unwritten Velvet Wandering Yellow"
    ),
    _split(
        "Anchors Bridges Candles Doorways Engines Feathers Gardens Harbours Islands Journeys Lanterns Mirrors "
        "Needles Orchards Pebbles Rivers Shadows Thunders"
    ),
)

POOLS: dict[str, tuple[str, ...]] = {
    "genre": _listed(
        "crime fiction, gothic horror, court satire, sea stories, travel writing, science fiction, war memoirs, "
        "fairy tales, nature poetry, stage comedy, family sagas, spy thrillers, ghost stories, rural romance"
    ),
    "trade": _listed(
        "baker, tailor, blacksmith, surgeon, carpenter, fisherman, beekeeper, locksmith, bookbinder, "
        "glassblower, shepherd, printer, watchmaker, gardener, miller, potter, brewer, cartographer"
    ),
    "award": _listed(
        "Copper Quill, Northern Lamp, Velvet Page, Winter Laurel, Harbour Medal, Ink and Salt Prize, Oak Leaf Prize, "
        "Blue Inkwell, Lighthouse Cup, Paper Crown, Golden Comma, River Prize, Thistle Award, Moth Prize"
    ),
    "instrument": _listed(
        "cello, harp, oboe, viola, accordion, clarinet, mandolin, trombone, banjo, flute, bassoon, zither, fiddle"
    ),
    "animal": _listed(
        "parrot, tortoise, ferret, goat, donkey, heron, rabbit, lizard, raven, hedgehog, pony, otter, goose, owl"
    ),
    "language": _listed(
        "Orvic, Talmerin, Sundish, Veshti, Korrian, Lumaic, Estrel, Badric, Ninevan, Harsk, Pelorian, Dunnic"
    ),
    "journal": _listed(
        "The Tin Kettle, Margins, Open Window, The Weekly Owl, Saltwater, Northbound, The Attic, Paper Boats, "
        "Second Breakfast, The Long Table, Candlewick, The Ferryman"
    ),
    "subject": _listed(
        "botany, law, astronomy, medicine, geology, theology, chemistry, history, music, engineering, philosophy, Latin"
    ),
    "place": _listed(
        "a train carriage, a cold attic, a lighthouse, a fishing boat, a public library, an old greenhouse, "
        "a hotel lobby, a windmill, a stone cellar, a garden shed, a monastery, a tram depot"
    ),
    "currency": _listed(
        "drell, korun, mithe, sarn, tolva, obric, plenk, vashti, quern, lumo, harzek, fennig"
    ),
    "crop": _listed(
        "saffron, barley, olives, cotton, hops, walnuts, pepper, rice, almonds, flax, plums, tea"
    ),
    "bird": _listed(
        "crane, kestrel, pelican, stork, falcon, swallow, curlew, magpie, lapwing, condor, puffin, wren"
    ),
}

AUTHOR_TOPICS = (
    Topic(
        "birthplace",
        "town",
        ("Where was {name} born?", "Which town is the birthplace of {name}?"),
        (
            "{name} was born in {value}.",
            "The birthplace of {name} is {value}.",
            "{name} came into the world in {value}.",
        ),
    ),
    Topic(
        "genre",
        "genre",
        ("What kind of books does {name} write?", "For which genre is {name} known?"),
        (
            "{name} is known for {value}.",
            "The books of {name} are {value}.",
            "What {name} writes is {value}.",
        ),
    ),
    Topic(
        "father",
        "trade",
        ("What did the father of {name} do for a living?", "Which trade had {name}'s father?"),
        (
            "The father of {name} worked as a {value}.",
            "{name}'s father earned his living as a {value}.",
            "By trade, the father of {name} was a {value}.",
        ),
    ),
    Topic(
        "first book",
        "title",
        ("What is the title of {name}'s first book?", "With which book did {name} begin?"),
        (
            "The first book of {name} is called {value}.",
            "{name} began with a book named {value}.",
            "{value} was the first book that {name} published.",
        ),
    ),
    Topic(
        "award",
        "award",
        ("Which award did {name} win?", "What prize was given to {name}?"),
        (
            "{name} won the {value}.",
            "The {value} was given to {name}.",
            "The prize that {name} received is the {value}.",
        ),
    ),
    Topic(
        "teacher",
        "person",
        ("Who taught {name} how to write?", "Which teacher made a writer of {name}?"),
        (
            "{name} learned how to write from {value}.",
            "It was {value} who taught {name} how to write.",
            "The teacher of {name} was {value}.",
        ),
    ),
    Topic(
        "home",
        "town",
        ("Where does {name} live today?", "In which town has {name} settled?"),
        (
            "{name} lives in {value} today.",
            "{name} has settled in {value}.",
            "The home of {name} is in {value}.",
        ),
    ),
    Topic(
        "instrument",
        "instrument",
        ("Which instrument does {name} play?", "What does {name} like to play after work?"),
        (
            "{name} plays the {value}.",
            "After work {name} takes up the {value}.",
            "The instrument of {name} is the {value}.",
        ),
    ),
    Topic(
        "language",
        "language",
        ("In which language does {name} write?", "What language are {name}'s books written in?"),
        (
            "{name} writes in {value}.",
            "The books of {name} are written in {value}.",
            "{value} is the language of {name}'s books.",
        ),
    ),
    Topic(
        "animal",
        "animal",
        ("Which animal does {name} keep?", "What pet shares the house with {name}?"),
        (
            "{name} keeps a tame {value}.",
            "A tame {value} shares the house with {name}.",
            "The pet of {name} is a tame {value}.",
        ),
    ),
    Topic(
        "mother",
        "trade",
        ("What did the mother of {name} do for a living?", "Which trade had {name}'s mother?"),
        (
            "The mother of {name} worked as a {value}.",
            "{name}'s mother earned her living as a {value}.",
            "By trade, the mother of {name} was a {value}.",
        ),
    ),
    Topic(
        "second book",
        "title",
        ("What is the title of {name}'s second book?", "Which book did {name} write after the first?"),
        (
            "The second book of {name} is called {value}.",
            "After the first book {name} wrote {value}.",
            "{value} was the second book that {name} published.",
        ),
    ),
    Topic(
        "birth year",
        "year",
        ("In which year was {name} born?", "What is the birth year of {name}?"),
        (
            "{name} was born in the year {value}.",
            "The birth year of {name} is {value}.",
            "It was in {value} that {name} was born.",
        ),
    ),
    Topic(
        "journal",
        "journal",
        ("Which journal first printed {name}?", "Where did {name}'s early stories appear?"),
        (
            "{name} was first printed in {value}.",
            "The early stories of {name} appeared in {value}.",
            "It was {value} that printed {name} first.",
        ),
    ),
    Topic(
        "subject",
        "subject",
        ("What did {name} study?", "Which subject did {name} take a degree in?"),
        (
            "{name} studied {value}.",
            "The degree of {name} is in {value}.",
            "At university {name} chose {value}.",
        ),
    ),
    Topic(
        "desk",
        "place",
        ("Where does {name} like to write?", "At what place does {name}'s desk stand?"),
        (
            "{name} likes to write in {value}.",
            "The desk of {name} stands in {value}.",
            "To write, {name} goes to {value}.",
        ),
    ),
)

COUNTRY_TOPICS = (
    Topic(
        "capital",
        "town",
        ("What is the capital of {name}?", "Which town is the capital of {name}?"),
        (
            "The capital of {name} is {value}.",
            "{value} is the capital of {name}.",
            "{name} is governed from {value}.",
        ),
    ),
    Topic(
        "currency",
        "currency",
        ("What money is used in {name}?", "Which currency has {name}?"),
        (
            "People in {name} pay with the {value}.",
            "The currency of {name} is the {value}.",
            "The money of {name} is the {value}.",
        ),
    ),
    Topic(
        "crop",
        "crop",
        ("What do the farmers of {name} grow?", "For which crop is {name} known?"),
        (
            "{name} is known for its {value}.",
            "The farmers of {name} grow {value}.",
            "Most fields in {name} bear {value}.",
        ),
    ),
    Topic(
        "bird",
        "bird",
        ("Which bird is on the flag of {name}?", "What bird stands for {name}?"),
        (
            "The flag of {name} shows a {value}.",
            "A {value} stands on the flag of {name}.",
            "The bird of {name} is the {value}.",
        ),
    ),
    Topic(
        "founding",
        "year",
        ("In which year was {name} founded?", "When did {name} become a country?"),
        (
            "{name} was founded in {value}.",
            "{name} became a country in {value}.",
            "The founding year of {name} is {value}.",
        ),
    ),
)
