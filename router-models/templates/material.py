"""Text to put inside requests: sentences of permitted rows, and sentences made from our own word lists."""

import re

NAMES = (
    "Anna Marco Lena Tom Priya Jonas Sofia Diego Mia Omar Elena Lucas Nora Ben Carla Hugo Ines Pavel Ruth Sam Tara Victor Wanda "
    "Yusuf Zoe Ivan Olga Peter Quinn Rosa Stefan Ursula Walter Alice Bruno Chloe Dan Emma Felix Greta Hassan Irene Jack Kim"
).split()
SURNAMES = (
    "Keller Moreau Ferrari Novak Larsen Okafor Silva Tanaka Walsh Brandt Costa Dubois Eriksson Fischer Grant Haines Ibrahim Jensen "
    "Kowalski Lopez Meyer Nolan Oconnor Petrov Quintana Rossi Schmidt Turner Ueda Vargas Weber Young Zimmer Hartley Blackwood"
).split()
PLACES = (
    "Lisbon|Hamburg|Nairobi|Osaka|Denver|Lyon|Krakow|Porto|Seville|Bristol|Calgary|Lima|Hanoi|Tunis|Oslo|Ghent|Turin|Perth|Leeds|Riga|"
    "Bologna|Utrecht|Cork|Malmo|Boston|Seattle|Phoenix|Austin|Toronto|Mumbai|Cairo|Athens|Dublin|Prague|Vienna|Quito|Accra|Manila|Busan"
).split("|")

WORLD = {
    "name": NAMES,
    "surname": SURNAMES,
    "place": PLACES,
    "person": ["{name} {surname}"],
    "country": "Portugal Germany Kenya Japan Canada France Poland Spain Peru Vietnam Norway Belgium Italy Australia Latvia Ireland Sweden India Egypt Greece Austria Ecuador Ghana Brazil Turkey Iran Mexico Chile".split(),
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "month": "January February March April May June July August September October November December".split(),
    "year": [str(y) for y in range(1740, 2024, 3)],
    "small": "two three four five six seven eight nine twelve fifteen".split(),
    "number": "12 18 24 37 45 60 85 110 150 240 320 480 750 1,200 3,500 8,000 12,000 25,000 48,000".split(),
    "percent": ["1.5 percent", "3 percent", "4.2 percent", "7 percent", "12 %", "18 percent", "a third", "a quarter", "nearly half"],
    "money": ["$ 2.4 million", "$ 18 million", "£40m", "1.3 billion euros", "$ 650,000", "$ 9 billion", "£ 3,000"],
    "trade": "politician painter composer footballer novelist architect actress singer botanist engineer cricketer journalist swimmer judge historian producer boxer physicist".split(),
    "nationality": "American German Italian Kenyan Japanese Canadian French Polish Spanish Norwegian Irish Indian Brazilian Australian Austrian Swedish Mexican Scottish Iranian".split(),
    "building": ["town hall", "castle", "railway station", "abbey", "lighthouse", "library", "market hall", "power plant", "stadium", "cathedral", "museum", "bridge"],
    "animal": "beetle moth frog snail lizard sparrow bat crab orchid fern shark spider antelope".split(),
    "subject": ["village", "small town", "municipality", "river", "mountain", "parish", "railway station", "suburb", "lake", "county", "commune", "island"],
    "team": ["United", "Rovers", "Athletic", "the Lions", "the Hawks", "the Eagles", "City", "the Bears", "Wanderers", "the Panthers"],
    "fact": [
        "{place} is a {subject} in the north of {country} , with a population of {number} .",
        "the {building} was completed in {year} and is now used as a {building} .",
        "{person} ( born {month} 14 , {year} ) is a {nationality} {trade} who played for {place} {team} .",
        "{person} was a {nationality} {trade} and {trade} , best known for the work he published in {year} .",
        "in {year} , the family moved from {place} to {place} , where {name} studied music under {person} .",
        "the album was released in {month} {year} and reached number {small} on the {nationality} chart .",
        "this species of {animal} is found in {country} and {country} , where it lives in dry forest at an altitude of {number} metres .",
        "it was originally a {building} , but the owners converted it into a {building} after the fire of {year} .",
        "the film was directed by {person} and stars {person} as a retired {trade} who returns to {place} .",
        "the {subject} of {place} lies between the {place} hills and the {country} border .",
        "although the treaty had been signed in {year} , it was not enforced until the government of {country} collapsed {small} years later .",
        "after retiring as a player , {surname} became the coach of {place} {team} , a post that he held until {year} .",
        "{person} and {person} won the silver medal in the women 's doubles , losing to {country} in the final .",
        "the {year} season was the {small}th for {place} {team} , who finished in {small}th place with {number} points .",
        "construction of the {building} , which was delayed several times by a shortage of stone , was supervised by {person} .",
        "he is the son of the {nationality} {trade} {person} and the brother of {name} {surname} , who is also a {trade} .",
        "because of its location on the trade route between {place} and {place} , the city grew rapidly in the {small}th century .",
        "the storm weakened over land and was downgraded to a tropical depression {number} km west of {place} .",
        "the term was introduced by {person} in {year} to describe the way in which {animal}s adapt to a colder climate .",
        "she appeared in several episodes of the series , and later received an award for her role as a {trade} in a drama set in {place} .",
    ],
    "official": ["police", "officials", "the prime minister", "a court", "the mayor", "union leaders", "the finance minister", "the company", "a spokeswoman", "rescue workers", "investigators", "the central bank", "campaigners"],
    "event": [
        "{number} people were injured when a train left the tracks near {place}",
        "talks with {country} over fishing rights had failed",
        "the factory in {place} will close with the loss of {number} jobs",
        "the {building} would be rebuilt at a cost of {money}",
        "a man aged 34 had been arrested after the fire at the {building}",
        "exports to {country} fell by {percent} in {month}",
        "shares in the bank had dropped {percent} after the profit warning",
        "{surname} would not stand for a second term",
        "the striker had signed a new contract with {place} {team}",
        "heavy rain had cut off villages along the border with {country}",
        "the airline would cancel {number} flights because of the strike",
        "two soldiers were killed in an attack on a convoy",
        "the trial of the former {trade} would begin in {month}",
        "new rules on plastic waste would come into force next year",
        "a new vaccine would be offered to {number} children",
        "hackers had stolen the data of {number} customers",
    ],
    "detail": [
        "witnesses said they heard a loud bang shortly before midnight .",
        "\" we have never seen anything like this , \" said {person} , who has lived in {place} for {small} years .",
        "the decision was criticised by opposition parties , which called it a mistake .",
        "analysts had expected a rise of {percent} .",
        "{surname} , {number} , denies all charges .",
        "the company employs {number} people in {country} .",
        "it is the third such incident since {month} .",
        "a final decision is expected on {day} , officials said .",
        "local residents have been told to stay indoors .",
        "{person} scored twice as {place} {team} beat {place} {small} - {small} on {day} night .",
        "the report , which was published on {day} , says that {percent} of families cannot pay their bills .",
        "\" it was a difficult match , but the boys showed great character , \" coach {person} told reporters .",
        "a crowd of {number} gathered outside the {building} to protest against the plan .",
        "the {building} has been closed since a storm damaged its roof in {month} .",
    ],
    "news": ["{official} said on {day} that {event} .", "{place} ({country}) -- {official} said {day} that {event} .", "{official} in {place} confirmed that {event} , {official} said ."],
    "headline": [
        "{country} and {country} sign trade accord", "{place} {team} crash out of cup", "stocks slip as oil rises", "{surname} wins in {place} , keeps lead",
        "{number} hurt in {place} train crash", "{country} to cut interest rates", "storm shuts airports in {country}", "{country} minister resigns over {building} scandal",
        "bank profits fall {percent}", "rebels release hostages in {country}", "{place} hosts talks on climate", "tennis : {surname} into final of {place} open", "gold ends higher in {place}",
    ],
    "product": ["phone case", "blender", "pair of headphones", "vacuum cleaner", "book", "coffee maker", "tent", "keyboard", "pair of boots", "charger", "game", "camera", "mattress", "juicer", "watch"],
    "venue": ["restaurant", "diner", "hotel", "nail salon", "pizza place", "bar", "dentist", "garage", "coffee shop", "taco truck", "gym"],
    "film": ["movie", "film", "thriller", "comedy", "documentary", "horror flick", "romance", "sequel"],
    "praise": [
        "absolutely loved it", "worth every penny", "the staff were friendly and the food came fast", "could not stop laughing", "the acting is superb and the script is sharp",
        "it works exactly as described", "a warm , funny and surprisingly moving piece of work", "best purchase i have made this year", "will definitely come back", "a quiet little gem",
    ],
    "blame": [
        "it broke after {small} days", "a complete waste of time and money", "the plot makes no sense and the jokes fall flat", "we waited {number} minutes and the order was still wrong",
        "the sound is awful", "dull , predictable and far too long", "customer service never answered my emails", "i want my money back", "the characters are made of cardboard", "never again",
    ],
    "mixed": ["the first half is fine , though it drags at the end", "decent for the price , nothing special", "nice location but overpriced", "the idea is clever and the execution is not", "some good moments , but it never quite comes together"],
    "opinion": ["{praise}", "{blame}", "{mixed}"],
    "review": [
        "I bought this {product} for my {relative} last {month} and {opinion}. {opinion}.",
        "This {film} was not what I expected. {opinion}. {opinion}, and {opinion}!",
        "We tried this {venue} in {place} on a {day} night. {opinion}. {opinion}.",
        "{opinion} . {opinion} , even if the director has made better .",
        "{opinion}",
        "{opinion} . ",
        "Ordered the {product} on {day}, it came {small} days late. {opinion}. I called them {small} times and nobody picked up. {opinion}.",
        "The doctor's office in {place} is rude and slow. {opinion}. They charged my insurance {number} dollars.",
        "the script has its moments , but as a portrait of a {trade} it is {mixed} , and {opinion} .",
        "an insightful documentary about {country} in which every {trade} has a say : {opinion} .",
        "i saw this {film} on cable last night . it stars {person} , who can not act , and {person} , who can . {opinion} . <br /><br />{opinion} .",
        "My {relative} got this {product} for his birthday and played with it twice. {opinion}. {opinion}. Very disappointed.",
        "Great {product}!! {opinion}. My {relative} says {opinion}.",
        "If you like a good {film}, look elsewhere. {opinion}.<br /><br />{opinion}. 3/10.",
        "as a {film} about a {trade} in {place} , it is {mixed} .",
        "The app crashes every time I open it since the last update. {opinion}.",
    ],
    "relative": "mother father sister brother wife husband son daughter boss neighbour friend grandmother roommate".split(),
    "essay": [
        "young people have many {thing}s that their parents did not have when they was young",
        "in my opinion it is more better to travel with a guide because he know the {place}",
        "advertisements makes the {thing}s look much better than they really is",
        "if you want to be success you must to take risks and learn new {thing}s",
        "nowadays people does not have enough time for helping to their {thing}s",
        "there will be less cars in twenty years because the oil will be finish",
        "students should to learn the ideas before they can understand the {thing}s",
        "for the example , my {relative} have learned three {thing}s in only one year",
        "the professor argue that the {thing} in the reading passage is not convinced",
        "i strongly agree with this statement for several reason",
        "on the other hand , knowing many {thing}s make you more flexible in the life",
        "another reason is that the {thing} are very important for the society",
        "it is true that the old people enjoys life not less than the young one",
        "she have been working in the {building} since five years",
        "he don't like to going to the {venue} becuase it is too much expensive",
        "me and my {relative} was walking in the park when it start to rain",
        "i am writting to ask informations about the course you offer in {month}",
        "their are to many peoples who thinks that {thing}s is not neccesary",
        "a person who has broad knowledge can {blunder} the problems in differents ways",
        "the teacher explain us how does the {thing} work but nobody did understood",
        "by the time we arrive the film already begin and we have loose our seats",
        "the number of {thing}s have increased dramaticly in the last decade",
    ],
    "blunder": ["resolved", "to solve", "solving", "dealing"],
    "thing": "problem idea facility subject computer experience product game community language opportunity benefit tradition newspaper machine holiday method rule".split(),
    "plain": [
        "can you send me the report before {day} , I need it for the meeting",
        "we regret to inform you that the delivery of your {product} will be delayed by {small} days",
        "hey , sorry for the late reply , been super busy with the {thing} stuff lol",
        "the meeting on {day} was attended by {small} people and lasted for a very long period of time",
        "due to the fact that the {building} is closed , we are not able to hold the event at this point in time",
        "the {product} was repaired by my {relative} in {place}",
        "thank you for your email , we will get back to you as soon as possible",
        "our new {product} is good and also cheap and people like it",
        "I think that maybe we should possibly consider moving the {thing} to {month}",
        "the results were analysed by the team and a report was written by {person}",
    ],
}

CUT = re.compile(r"(\n|Options?:|Choices:|Answer:|\([a-dA-D1-4]\)|\b[A-D][.)] )")
SPLIT = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")


def plain_sentences(rows):
    """(sentence, licence) pairs from permitted questions and stories: English prose, 6 to 40 words, no options."""
    wanted = ("RouteLLM copy of MMLU", "MMLU-Pro", "GSM8K", "StrategyQA", "AI2 ARC", "SVAMP", "TAT-QA", "OpenTriviaQA", "NQ-open", "MedQuAD")
    found = []
    for row in rows:
        if not row["source"].startswith(wanted):
            continue
        for sentence in SPLIT.split(CUT.split(row["text"])[0]):
            words = sentence.split()
            if 6 <= len(words) <= 40 and "_" not in sentence and sentence.isascii() and sentence[0].isupper():
                found.append((sentence.strip(), row["license"]))
    return found


def passages(rows):
    """(passage, licence) pairs of 40 to 160 words: the vignettes and stories that open long questions."""
    found = []
    for row in rows:
        if row["source"].startswith(("RouteLLM copy of MMLU", "MMLU-Pro", "MedQuAD", "TAT-QA", "LSAT", "GSM8K")):
            text = CUT.split(row["text"])[0].strip()
            if 40 <= len(text.split()) <= 160 and text.isascii():
                found.append((text, row["license"]))
    return found


def chat_lines(rows):
    """(line, licence) pairs of conversation."""
    return [
        (row["text"], row["license"])
        for row in rows
        if row["category"] == "chitchat" and len(row["text"]) < 200 and row["source"].startswith("Topical-Chat")
    ]


def tweets(rows):
    """(tweet, licence) pairs out of the WNUT-17 rows, whose last line or last clause is the tweet."""
    found = []
    for row in rows:
        if row["source"].startswith("WNUT-17") and "\n" in row["text"]:
            parts = [part for part in row["text"].split("\n") if part.strip()]
            found.append((max(parts, key=len), row["license"]))
    return found


def exam_questions(rows):
    """Short questions without options, as (question, licence) pairs by category."""
    found = {}
    for row in rows:
        if row["source"].startswith(("RouteLLM copy of MMLU", "MMLU-Pro", "AI2 ARC", "OpenTriviaQA", "NQ-open", "StrategyQA", "MedQuAD")):
            text = CUT.split(row["text"])[0].strip()
            if 5 <= len(text.split()) <= 60:
                found.setdefault(row["category"], []).append((text, row["license"]))
    return dict(sorted(found.items()))
