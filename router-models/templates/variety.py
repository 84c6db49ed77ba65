"""A second helping for the categories whose own requests are most uniform, and layouts around permitted questions."""

from templates.subjects import LOGIC

OURS = "Apache-2.0"

RULES = {
    "everyday": [
        "My employer cut my hours.", "I have been going to that {venue} for years.", "Could you take a picture of us?", "My {relative} sent me here with some {food}.", "Use the side door, please.", "And the other one?", "I would like to learn more about the job first.", "We ran out of {food}.", "The {product} doesn't work any more.", "That's {number} dollars, please.", "I parked the car behind the {building}.", "She broke her leg when she was skiing.", "He has two children and a dog.", "There's a party at {name}'s on {day}.", "The doctor told me to stay in bed.",
        "I'd prefer {food} to {food}.", "What kind of {food} do you like?", "Who is the man next to {name}?", "Would you mind closing the window?", "You shouldn't smoke so much.", "I've lost my {product}.", "We met at university.", "He was promoted last {month}.", "My flight was delayed by {small} hours.", "I can't stand this weather any longer.", "Let's split the bill.", "How many sisters do you have?", "Is this seat taken?", "My computer crashed again.", "I usually get up at {small}.", "They have been engaged since {month}.", "It's the best {food} in {place}.", "That can't be true!", "Could you speak up, please?", "Nothing much, just watching TV.", "Mind your own business.", "I'm allergic to {food}.", "We need to talk.", "Our neighbours are very noisy.", "I bought it on sale for {number} dollars.", "The exam was harder than I thought.", "If you hurry, you can still catch the bus.", "What a surprise to see you here!", "I'm afraid that he is out at the moment.", "Do you want to leave a message?", "My {relative} thinks that {place} is too crowded.", "I wish I could {do}.", "Did they {do} in the end?", "She told me not to {do}.", "We were about to {do} when it started to rain.",
    ],
    "food": ["rice", "coffee", "noodles", "fish", "vegetables", "soup", "chicken", "ice cream", "tea", "cheese", "beer", "bread", "curry"],
    "situation": [
        "In your dream somebody {act} , and when you wake up the bruise is still there .", "The day after {act2} you get a phone call : \" {order} \"", "When you die you must {fate} .", "On your first day as a {role2} you {act3} . It gets out of hand .", "You are a {role2} of the highest rank , and you are bored .", "You are a {role2} called the {surname} . Instead of ruling the world you {act3} .", "Every person gets one wish at birth . Yours was {theme} .", "A {role2} and a {role2} are stuck in a lift .", "You find out that your {relative} is a {role2} .", "\" {order} \" , the note says . It is in your own handwriting .", "The old {building} .", "The {adjective} {product} .", "For the first time in history nobody {act4} today .", "People can now {power} . It ruins everything .", "You can {power} , but only on {day}s .", "An ordinary {trade} is mistaken for a {role2} .", "Everyone on Earth suddenly hears the same {small} words .", "The king has no heir , so {hero} is crowned .", "A colony ship arrives after {number} years and finds {hero} .", "Make me afraid of {theme} .", "It turns out that {theme} was invented by {hero} .", "After {number} years in prison {name} walks out , and nothing has changed . Nothing .", "Your cat starts to talk . It has been waiting for the right moment .", "All doors in the world now lead to {place} .", "The last human being sits in a room . There is a knock at the door .",
    ],
    "act": ["hits you", "gives you a {product}", "tells you a number", "steals your shadow"],
    "act2": ["giving blood", "your own funeral", "the moon landing", "winning the lottery", "the wedding"],
    "order": ["Do not go home", "Leave the city now", "They know", "Forget me", "Come to the {building} alone", "Do not trust your {relative}"],
    "fate": ["fight every animal that you have killed", "explain your browser history", "pick one memory to keep", "work in customer service", "replay your life as somebody else"],
    "role2": ["supervillain", "superhero", "wizard", "werewolf", "demon hunter", "space pirate", "queen", "sorcerer", "thief", "angel", "necromancer", "monster", "dungeon boss", "guardian angel"],
    "act3": ["swap all coffee on Earth for tea", "free the other villains from prison", "start a band", "press the wrong button", "adopt a child", "save the wrong person"],
    "act4": ["lies", "dies", "wakes up", "sleeps", "remembers"],
    "power": ["stop time", "read minds", "fly", "talk to the dead", "trade years of life", "see the future", "turn invisible"],
    "creative_ask": [
        "[WP] {s}", "[WP] {s}", "{s}", "Writing prompt: {s}", "I need a creative piece in the first person and the past tense about this: {s}", "A creative piece about this, please: {s}", "Opening scene of a novel: {s}", "Turn this premise into a scene: {s}", "Flash fiction, at most 200 words. {s}", "Write a monologue for the hero. {s}", "Story starter: {s}", "Continue this as a story.\n\n{s}", "Write a screenplay scene about this: {s}", "Compose a poem that this inspires: {s}", "Write a short story based on the prompt below.\n\n{s}",
    ],
    "plot": ["{name} informs {name} about a delay of the train. {name} wants to complain.", "{name}'s trip was postponed, so {name} can come along.", "{name} bought a {product} online and is happy with it.", "{name} believes that {name} has a bad influence on {name}.", "{name} and {name} will go to {place} on {day}. {name} will bring {food}.", "{name} is angry because {name} forgot the {product}."],
    "dialogue_ask": ["Write a dialogue that matches this summary: {plot}", "Write the dialogue that this summary describes: {plot}", "Make up a chat between friends from this summary: {plot} {plot}", "Invent a conversation: {plot}"],
    "bio": [
        "{name} {surname} -lrb- born {month} {day2} , {year} -rrb- is a {nationality} {trade} who played for the {place} {team} .", "{name} `` {name} '' {surname} -lrb- b. {year} in {place} -rrb- was a {nationality} {trade} , {trade} and author of {small} books . he received the national award in {year} .", "{name} {surname} , obe , -lrb- {year} -- {year} -rrb- was a {nationality} {trade} . she studied in {place} and moved to {country} in {year} .", "{surname} was drafted by the {place} {team} with the {number}th pick and threw for {number} yards .",
    ],
    "day2": [str(n) for n in range(1, 29, 3)],
    "bio_ask": ["What key details about {name} can be read out of the following bio?\n\nBio: {bio}", "What type of details can be gathered from this bio?\n\nBio: {bio}", "Bio: {bio}\nList name, birth and profession.", "{bio} Is it true that he was a {trade}? True or false?", "Text: {bio}\nIs this about an athlete, an artist or a politician?", "Which facts about {surname} does the bio give?\n\nBio: {bio} {bio}"],
    "lower_news": ["{official} {moved} {event} , {official} said {day} ."],
    "moved": ["said", "confirmed", "announced that", "denied reports that", "warned that"],
    "news_ask": ["{n} In a nutshell,", "{n}\n\nTL;DR:", "{n}\n\n===\n\nWrite a title for this article:", "{n} How would you put that in a few words?", "{n}\nIn a few words, please.", "{n}\nHow would you rephrase that in a few words?", "First, read the article.\n\n{n} {detail}\n\nNow a very short abstract:", "Article: {n} {detail} {detail}", "{n} {detail}\n\nIn one sentence:", "{n}\n\nTo sum up:"],
    "clause2": [
        "Such audits shall be at the cost of the auditing party, except that if an audit shows a deficiency of more than {percent}, the audited party shall pay the cost within {small} business days.", "During the term and for {small} years thereafter Franchisee shall not own or operate a competing {venue} within {number} miles of any unit operated by Franchisor or its Affiliates.", "Supplier shall maintain insurance of at least {money} and name Buyer as an additional insured.", "This Support Plan covers a period of {number} months with a maximum of {number} hours.", "The Receiving Party shall destroy all Confidential Information upon request, except one archival copy kept by its counsel.", "if you register on our website or take part in our offers and programs.", "No amendment is valid unless made in writing and signed by both parties.", "Upon a change of control the other party may terminate this Agreement immediately.", "The royalty shall be {percent} of net sales, with a minimum of {money} per year.",
    ],
    "law": [
        "Clause: {clause2}", "Clause: {clause2}", "{clause2}\n\nDoes the clause restrict competition?", "Does the clause limit a party's ability to compete or to work in a certain area or business?\n\nClause: {clause2}", "Does the clause grant a right to audit books and records?\n\nClause: {clause2}", "Identify whether the clause allows a copy of Confidential Information to be kept.\n\nClause: {clause2}", "As a lobbyist you read bills of Congress for their impact on companies. Given title and summary of the bill and a description of the company, is the bill relevant?\n\nBill: {place} Water Settlement Act of {year}. The Bureau must construct the project.\nCompany: we sell {product}s.", "Answer the following question.\n\nStatute: § {number}. There is hereby imposed on the taxable income of every head of a household a tax of {percent}.\nQuestion: how much tax does {person} owe for {year}?", "Does the post discuss questions of small firms, such as incorporation, licences and rules?\n\nPost: {post2}", "Post: {post2}", "Post: {post2}", "Does the post discuss {area}?\n\nPost: {post2}", "{post2} Any advice is greatly appreciated.", "Statute: {clause2}\n\nDescription: {person} employed {person} in {place}.\n\nQuestion: does the statute apply?",
    ],
    "post2": [
        "I hope this is the right sub. When I went through immigration in {month} they pulled me aside because of an old charge, even though I was never convicted. Will I have this problem again?", "My landlord in {place} wants me out by {month} because he is selling. The lease runs until {month}. He says that the new owner does not have to honor it.", "So my {relative} co-signed my car loan and now the bank says that we both owe {number}00 dollars. I never got a letter. Throwaway account, sorry.", "I run a small {venue} in {place} and a former employee now says that I owe him overtime. He was on salary. Do I need a lawyer?", "Three weeks ago a cop stopped me for a broken light and then searched my trunk. I didn't consent. There's a court date in {month}.", "My ex and I have shared custody of our son. She wants to move to {place} and take him along. Can she do that without my agreement?", "A guy on an online market place sold me a {product} that does not work, and he ignores my messages. I paid {number} dollars. Small claims?", "We are {small} roommates on one lease, and one stopped paying. The landlord threatens to evict all of us.",
    ],
    "body": [
        "can i get pregnant during my period?", "I keep having pain in my {part} and my arms go numb, and I get dizzy?", "my {part} twitches at night – is it a seizure?", "there was blood in the toilet instead of stool?", "I have two stones of {small} mm in my left kidney. Is there any medicine to pass them?", "Question: My hair falls out, please help!!", "my {relative} is {age} and has {ill}, can he still exercise?", "Is {sign} a symptom of {ill}?", "Trying for a baby for {small} years, any advice?", "Question: Why do I feel {sign}?", "Bumps on my {part}, could it be {ill} or {ill}?", "had {ill} as a child, now {sign}, related?", "how much {drug} is safe for a child of {months} months?", "my girlfriend and i had sex and the condom broke, what should we do?", "I failed my exams and feel really depressed. Please help me, doctor.", "what can we eat when rice raises the blood sugar?", "spots on my {part}, now they peel?", "Will {drug} interact with alcohol?", "does {ill} run in families?", "I stare and cannot move for some seconds – what is it?",
    ],
    "program": ["Output the result of dividing {number} by 4.", "Display the multiplication table of {small}.", "Enhance the following code so that it detects an error.\na = 3\nb = 0\nprint(a / b)", "Generate the HTML for a page with a centered headline.", "Generate logic that updates a field of a record.", "Classify a document as English or Spanish with a few lines of code.", "Create a query that sorts the documents by the field \"stock\".", "Print the numbers from 1 to {number} in reverse order.", "Modify the program so that it stops at {number}.\nwhile True:\n    x += 1", "Find the bug.\nif x = 3:\n    print(x)", "Generate an array of {small} random numbers.", "Rewrite this function without recursion.\ndef f(n): return 1 if n == 0 else n * f(n - 1)", "Calculate the mean of the list [3, 5, 8, 9].", "Make a class that represents a {animal}.", "Insert a new key-value pair into the dictionary.\nd = {'a': 1}", "Name the main parts of an operating system."],
}

ARGUMENTS = [
    "{x} {x2}{stem}", "{x}{stem}", "{x}\n{x2}{stem}", "{role}: {x} {x2}{stem}", "{role}: {x} But this does not follow, for {x2}{stem}", "{x} Therefore, {x2}{stem}", "Some say: {x} Others reply: {x2}{stem}", "{role}: {x}\n\n{role2}: I disagree. {x2}{stem}", "{x} {x2}{stem}\n(A){o1}\n(B){o2}\n(C){o3}", "{x}{stem}\n(A){o1}\n(B){o2}\n(C){o3}\n(D){o4}", "{stem2}\n{x} {x2}",
]

LAYOUTS = [
    "Q: {q}\n\nA:", "Q: {q}\nA:", "Question: {q}\nAnswer:", "Answer the following question: {q}", "Answer this: {q}", "{q} Explain briefly.", "Please help me with this question. {q}", "Quiz: {q}", "Here is an exam question: {q}", "{q}\n\nWhat is the right answer?", "Answer the question given this paragraph:\n\n{p}\n\nQ: {q}\n\nA:", "Read the paragraph and choose the right option.\n\n{p}\n\n{q}", "You are given the quiz \"{q}\" and do not know the answer, so you ask your teacher, who says \"{h}\". What is the best answer?", "You get the question \"{q}\" and know that {h} Choose the best answer.", "My teacher asked: {q}", "I was asked this in an exam and have no idea: {q}", "{q}\n\nThink step by step.", "True or false? {h}", "Tell me: {q}",
]


def rows(grammar, rng, material):
    """Yields (category, text, licence)."""
    plan = [("chitchat", "everyday", 420), ("creative_writing", "dialogue_ask", 70), ("extraction_classification", "bio_ask", 150), ("legal", "law", 330), ("medical", "body", 220), ("coding", "program", 90)]
    for category, rule, count in plan:
        for _ in range(count):
            text = rng.choice(grammar.rules[rule])
            yield category, text if "{'a'" in text else grammar.expand(text), OURS
    for _ in range(520):
        situation = grammar.sentence("situation")
        yield "creative_writing", rng.choice(grammar.rules["creative_ask"]).replace("{s}", situation), OURS
    for _ in range(260):
        template = rng.choice(grammar.rules["news_ask"]).replace("{n}", grammar.pick("lower_news"))
        yield "summarization", grammar.expand(template), OURS

    def sentence():
        text, licence = rng.choice(material["sentences"])
        return text.rstrip(".?! ") + ".", licence

    for _ in range(900):
        (first, licence), (second, _) = sentence(), sentence()
        if rng.random() < 0.5:
            # Neighbouring sentences of one source speak about one thing, as an argument does.
            at = rng.randrange(len(material["sentences"]) - 1)
            (first, licence), (second, _) = material["sentences"][at : at + 2]
        stem = grammar.expand(rng.choice(LOGIC["stem"]))
        values = {"{x}": first, "{x2}": second, "{stem}": stem, "{stem2}": stem.strip(), "{role}": rng.choice(LOGIC["role"]), "{role2}": rng.choice(LOGIC["role"])}
        text = rng.choice(ARGUMENTS)
        for number in range(1, 5):
            values[f"{{o{number}}}"] = sentence()[0]
        for slot, value in values.items():
            text = text.replace(slot, value)
        yield "logical_reasoning", text, licence

    for category, questions in material["exam"].items():
        for _ in range(min(110, len(questions))):
            (question, licence), (passage, _), (hint, _) = rng.choice(questions), rng.choice(questions), rng.choice(questions)
            text = rng.choice(LAYOUTS).replace("{q}", question).replace("{p}", passage).replace("{h}", hint)
            yield category, text, licence
