"""Requests about a given text: editing, summarising, extracting and classifying."""

OURS = "Apache-2.0"

EDIT = [
    "Correct the grammar: {x}", "Correct any grammar and spelling mistakes: {x}", "Fix the mistakes in the sentence below.\n\n{x}", "Proofread this: {x}",
    "Please proofread the following text and correct it.\n{x}", "Check my grammar: \"{x}\"", "Is this sentence correct? If not, fix it: {x}",
    "Can you fix my English? {x}", "Correct my English please: {x}", "Find the error and repair it: {x}", "Repair the errors in this sentence.\n> {x}",
    "Improve the wording: {x}", "Make this sound natural: {x}", "Make this sound more natural in English: {x}", "Rewrite so it reads fluently: {x}", "Make it more fluent: {x}",
    "Polish this sentence: {x}", "Polish my text:\n{x}", "Edit for clarity: {x}", "Rewrite the sentence with correct grammar.\n\n{x}", "Copy-edit: {x}",
    "Correct it but keep my words as far as possible: {x}", "Change only what is wrong: {x}", "Edit as little as possible, just make it correct: {x}",
    "I wrote this for my English class, could you correct it? {x}", "Any mistakes in here? {x}", "{x}\n\nFix the spelling and grammar.", "{x}\n\nPlease correct this.", "{x}\nCan you proofread that?",
    "Rewrite in a formal tone: {x}", "Make this more formal: {x}", "Rewrite it more formally: {x}", "Make this more polite: {x}", "Rewrite in a friendlier tone: {x}", "Rewrite this less formally: {x}",
    "Simplify this sentence: {x}", "Simplify: {x}", "Simplify the text so that a child can understand it.\n{x}", "Rewrite in plain English: {x}", "Make it easier to understand: {x}",
    "Make this easier to read: {x}", "Rewrite for a reader who is ten years old.\n\n{x}", "Use simpler words: {x}", "Explain the same in simpler words, keep the meaning: {x}",
    "Break this sentence into shorter ones: {x}", "Split this into two or three short sentences: {x}", "Shorten this sentence: {x}", "Make it shorter without losing the meaning: {x}", "Say the same in fewer words: {x}",
    "Make this more concise: {x}", "Remove the unnecessary words: {x}", "Rewrite in the active voice: {x}", "Turn passive into active voice where you can: {x}", "Change to the past tense: {x}", "Put this sentence into reported speech: {x}",
    "Paraphrase this sentence: {x}", "Paraphrase: {x}", "Paraphrase the text below.\n{x}", "Please paraphrase the following: {x}", "Paraphrase the next sentence: {x}", "Rephrase: {x}", "Rephrase this sentence in other words: {x}", "Reword this: {x}",
    "Write the sentence in a different way: {x}", "Say this differently: {x}", "Give me another way to say \"{x}\"", "Rewrite this sentence: {x}", "Rewrite the paragraph so that it flows better.\n\n{x}",
    "Fix punctuation and capital letters: {x}", "Add the missing commas: {x}", "Expand this note into a full sentence: {x}", "Make my message sound professional: {x}", "Clean up this text: {x}", "Improve this: {x}", "Rewrite for a general audience: {x}",
    "Say it in simpler words. {x}", "Put this in simple words. {x}", "In simpler words please. {x}", "Explain it so that a ten-year-old reader can follow: {x}", "Rephrase for a young reader.\n\n{x}", "Rephrase the next passage for readers of age ten.\n\n{x}", "Rephrase the following as a children's book would put it.\n\n{x}", "Rewrite this for a twelve-year-old: {x}",
    "Shorten without changing the meaning: {x}", "Shorten this: {x}", "Shorten this text, nothing important may be lost: {x}", "Cut this down, keep the meaning: {x}", "Rewrite this in easier English: {x}", "Make the sentence easier for learners: {x}", "Break up this long sentence: {x}", "Divide the long sentence into short ones: {x}", "Make this formal: {x}", "Put this more formally: {x}", "Change this to the active voice: {x}", "Active voice, please: {x}", "Rewrite as direct speech: {x}",
    "{x}\n\nIs that grammatical? Correct it if it is not.", "{x}\nIs this right? If not, fix it.", "Check the spelling and the punctuation: {x}", "Check spelling: {x}", "Polish this paragraph: {x}", "Polish the following for my essay: {x}", "Find and fix the errors.\n> {x}", "Repair this: {x}", "Paraphrase the next text: {x}", "Please reword: {x}", "Make this sound better: {x}", "Correct this for me: \"{x}\"",
]

SUMMARY = [
    "Summarize: {x}", "Summarize the following text:\n{x}", "Summarise this in one sentence.\n\n{x}", "Summary of the text below in two sentences:\n{x}", "Please summarise this article:\n\n{x}", "TL;DR: {x}", "{x}\n\nTL;DR:", "{x}\n\ntl;dr", "TLDR of this?\n\n{x}",
    "{x}\n\nSummarize the above.", "{x}\n\nSummarise that in one sentence.", "{x}\n===\nSummary:", "{x}\n\nSummary:", "Article: {x}\n\nSummary:", "Give the main points of this article:\n\n{x}", "What are the main points?\n\n{x}", "List the key points:\n{x}",
    "What are the key points of this?\n{x}", "Key takeaways from the text below, as bullets:\n\n{x}", "In 2 or 3 sentences, what is this about?\n\n{x}", "Boil this down to its essentials: {x}", "Condense this into a short paragraph:\n{x}", "Shorten the article to a summary of 50 words.\n\n{x}",
    "Give me the gist: {x}", "Recap this for me:\n{x}", "Outline this article in a few points.\n\nArticle: {x}", "Write an abstract of the following:\n{x}", "Write a headline for this article: {x}", "{x}\n\nGive this article a title.", "Suggest a title for the text:\n\n{x}",
    "{x}\n\n===\n\nWrite one sentence that sums up the document above.", "First read the article.\n\n{x}\n\nNow write a short summary of it.", "Sum up the following news: {x}", "I have no time to read this, what does it say in short?\n\n{x}", "Can you summarise the documents below together?\n\nDocument: {x}",
    "Write a brief summary for a mobile news app:\n\n{x}", "My notes:\n{x}\n\nCondense them.", "Pull the most important information for an investor out of this article, briefly:\n\n{x}", "Here are several news articles, what do they say in sum?\n\nArticle: {x}\n\nArticle: {y}",
    "Merge these documents into a single short one:\n\n- {x}\n- {y}", "Synthesize the documents below into one:\n\n- {x}\n- {y}", "Distill these articles into one:\n\nArticle: {x}\n\nArticle: {y}", "I am trying to distill this into a few lines:\n\n{x}", "{x} In a nutshell,", "In a nutshell: {x}", "{x}\n\nIn short:", "Make a title for this article: {x}", "{x}\n\n===\n\nA title for this article:", "First, read the article below.\n\n{x}\n\nNow write a very short abstract for it.", "Can you write an extremely short abstract of this?\n\n{x}", "Read the following article:\n\n{x}\n\nSummarise it.",
    "Article: {x}", "Article: {x}\n\nArticle: {y}", "Document: {x}", "Edit these articles into a shorter summary:\n\nArticle: {x}\n\nArticle: {y}", "What are the key points of these news articles?\n\nArticle: {x}\n\nArticle: {y}", "Write down the key points for people who follow the stock market:\n\n{x}", "Turn the article into short cards for a phone:\n\n{x}", "Give an outline of the article below in a few points.\n\nArticle: {x}", "In 2 or 3 sentences, the main points one should remember from this article?\n\nArticle: {x}", "{x}\n\n===\n\nGiven the document above, one sentence to summarise it:", "Summarize this document: {x}\nSummary:",
]

DIALOGUE_SUMMARY = [
    "Summarize this conversation:\n{x}", "Sum up the dialogue:\n{x}", "Write a summary of the dialogue.\n{x}", "{x}\n\nSummarise the conversation above.", "What was this chat about? One sentence.\n\n{x}", "TL;DR please:\n\n{x}", "Generate a short summary for this dialogue:\n{x}",
    "{x}\n\nWhat did they agree on? Summarise.", "Give a one-sentence summary.\n\n{x}", "{x}\n\nGive me a short summary.", "Condense the chat into one paragraph.\n\"\"\"\n{x}\n\"\"\"", "What are the key points of this conversation?\n\n{x}", "{x}\nGiven the dialogue above, write its summary.",
    "Minutes of this meeting in three bullets please:\n{x}", "Recap this call:\n\n{x}", "Here is a group chat. What happened?\n{x}", "Summarize this dialogue: {x}", "Sum up the following chat: \n{x}",
]

SENTIMENT = [
    "{x} Is this review positive or negative?", "{x} What does the writer think of the movie?", "{x} How does the author feel about it?", "{x}\nSentiment:", "Review: {x}\nSentiment (positive, negative, neutral):", "Classify the sentiment of this review: {x}", "Positive or negative? {x}",
    "Review text:\n{x}\n\nRating (1 to 5):", "Review: {x}\nHow many stars from 1 to 5 would you give?", "How would you rate this review on a scale of 1 to 5?\n{x}", "{x}\n\nStars:", "{x}\n\nReview score between 1 and 5:", "Did the reviewer like it? {x}", "{x} Did the reviewer enjoy the film?", "What sentiment does this text express? {x}",
    "The following review expresses what sentiment? {x}", "Would this customer recommend the product? {x}", "Title: My opinion\nReview: {x}\nIs the product review negative or positive?", "{x} Does it sound happy or angry?", "Label as POS or NEG: {x}", "Based on this review, would the user buy it again?\n===\nReview: {x}\nAnswer:",
    "{x} Did the reviewer find the movie good or bad?", "{x} Did the critic like the picture?", "{x} What is the sentiment of the reviewer?", "{x} What is the sentiment in this text?", "{x} How does the viewer feel about the movie?", "This review of a movie expresses which sentiment? {x}", "{x}\nIs the review of this product negative?", "Title: {y}\nReview: {x}\nIs this product review positive?", "{x}\nSo I would give it", "{x}\nOn a scale from 1 to 5, I would give this product", "Review: {x}\nOn a scale of 1 to 5, I would give it", "On a scale of 1-5 (1 the worst and 5 the best), how would you rate this review? \"{x}\"", "Review text:\n{x}\n\nScore:", "Guess how many stars this got: {x}", "{x} ===\nIs this good or bad?", "Does the reviewer recommend it? {x}",
    "Predict the rating that belongs to the review: {x}", "Tell me the tone of this message (angry, sad, happy): {x}", "Is the writer being sarcastic? {x}",
]

TOPIC = [
    "What is the topic of this article: politics, sport, business or science?\n{x}", "{x}\nWhich label fits this news article?", "Which section of a newspaper would this appear in? {x}", "{x}\nWhich of these sections would it be in: World News, Sports, Business, Science and Technology?", "Classify this news item: {x}", "Categorize the text: {x}", "Assign a category (sport, finance, politics, culture): {x}",
    "Text: {x}\nCategory:", "What kind of thing does this text describe: a company, a person, a place or an animal?\n{x}", "Is the following about a building, an athlete, a village or a film? {x}", "Pick one label for the paragraph from [company, artist, athlete, building, plant, album, film]: {x}", "Tag this text with its topic.\n\n{x}", "Is this news item about business or sport? {x}", "Title and text of an article: {x}\nTo which category does it belong?",
]

QUESTION_TYPE = [
    "What does this question ask for?\n\n{x}", "Is this question asking about a person, a number, a place or a description? {x}", "Classify the question type (Person, Location, Quantity, Entity, Abbreviation): {x}", "Which category describes this question best: {x}\nChoose from: Description, Entity, Person, Quantity, Location", "What type of answer does the question need? {x}", "Question: {x}\nExpected answer type:",
]

PAIR = [
    "Sentence 1: {x}\nSentence 2: {y}\nDo these sentences mean the same? Yes or no?", "Sentence 1: {x}\nSentence 2: {y}\nQuestion: Can Sentence 1 be rewritten as Sentence 2?", "Are the following two sentences paraphrases of each other?\n{x}\n{y}", "Do these two questions mean the same thing?\n{x}\n{y}", "I want to know whether two sentences say the same.\n{x}\n{y}\nDo they?", "{x}\n{y}\nDuplicates? Answer yes or no.",
    "Does the second sentence follow from the first?\n1. {x}\n2. {y}", "Sentence 1: {x}\nSentence 2: {y}\nQuestion: Does Sentence 1 paraphrase Sentence 2? Yes or No?", "Question 1: {x} Question 2: {y} Are they duplicates of one another?", "Is \"{x}\" equivalent to \"{y}\"?", "Given the sentence: {x}\nIs the following true or false: {y}", "{x} True or false: {y}",
    "Can I swap the sentence\n{x}\nfor the sentence\n{y}\nand keep the meaning?", "May I replace\n{x}\nby\n{y}\nso that it means the same thing?", "Are the questions \"{x}\" and \"{y}\" asking the same?", "Does an answer to \"{x}\" also answer \"{y}\"?", "Can an answer to \"{x}\" be used for \"{y}\" too?", "Do the following two sentences mean the same?\n{x}\n{y}", "Pick one: these two questions are \"duplicates\" or \"not duplicates\".\n{x}\n{y}", "{x} {y}\nPick one: equal, different", "\"{x}\" and \"{y}\": paraphrase or not?", "Do Sentence 1 and Sentence 2 say the same?\nSentence 1: {x}\nSentence 2: {y}", "{x} Is that true? {y}",
]

EXTRACT = [
    "Extract all names of people from this text: {x}", "List every location mentioned: {x}", "Which organisations are named here? {x}", "Find the dates in the following text.\n{x}", "Mark person, place and company names in: {x}", "Named entities in this tweet, please: {x}", "Pull the product names out of this post.\n{x}", "Extract the entities as JSON: {x}", "Return a JSON object with the keys person, place, date for: {x}",
    "Who and what is mentioned in this tweet? {x}", "Is this post spam? yes/no\n{x}", "Is this tweet an advertisement? {x}", "What details can be gathered from the bio?\n\nBio: {x}", "Which key details about {name} can be extracted from this bio?\n\nBio: {x}", "Get the phone numbers and email addresses from this text: {x}", "Find all numbers with their units: {x}", "Tag every word with its part of speech: {x}",
    "Does this tweet mention a person? {x}", "Give me every hashtag and user name in: {x}", "Extract keywords: {x}", "Which language register is this message, formal or informal? {x}", "Turn this text into a table with name, place and year: {x}", "Detect the intent of this message: {x}",
    "Bio: {x}\nWhat type of details does the bio give?", "What kind of details about {name} can be gathered from this bio?\n\nBio: {x}", "\"{x}\" Is this about a school, a company or a village?", "{x} Given the choices company, school, artist, athlete, politician, building, nature, village, animal, plant, album, film or book, the text refers to which one?", "Describe what category this belongs to: {x}", "What is this text about, an album or a film? {x}", "Text: {x}\nEntities:", "Does the tweet contain a product name? {x}", "Read the post and list who is mentioned.\n{x}", "Label each token of: {x}",
]


def text_of(grammar, rng, material, kind):
    """A (text, licence) pair of the wanted kind: our own grammar half of the time, a permitted row otherwise."""
    if kind == "sentence":
        roll = rng.random()
        if roll < 0.22:
            return grammar.sentence("essay") + rng.choice([" .", ".", ""]), OURS
        if roll < 0.42:
            return grammar.sentence("fact"), OURS
        if roll < 0.48:
            return grammar.sentence("news"), OURS
        if roll < 0.53:
            return grammar.sentence("plain"), OURS
        return rng.choice(material["sentences"])
    if kind == "article":
        if rng.random() < 0.5:
            parts = [grammar.sentence("news")] + [grammar.sentence("detail") for _ in range(rng.randint(1, 6))]
            rng.shuffle(parts[1:])
            return " ".join(parts), OURS
        return rng.choice(material["passages"])
    if kind == "dialogue":
        speakers = rng.choice([("A", "B"), tuple(rng.sample(grammar.rules["name"], 2)), tuple(rng.sample(grammar.rules["name"], 3))])
        lines, licence = [], OURS
        for turn in range(rng.randint(3, 11)):
            if rng.random() < 0.3:
                text, licence = rng.choice(material["chat"])
            else:
                text = grammar.pick("talk")
            lines.append(f"{speakers[turn % len(speakers)]}: {text}")
        return "\n".join(lines), licence
    if kind == "tweet":
        if rng.random() < 0.6:
            return rng.choice(material["tweets"])
        return grammar.pick("post"), OURS
    if kind == "question":
        return rng.choice(material["questions"])
    return grammar.sentence(kind), OURS


def fill(grammar, rng, material, template, kind):
    """One request: the template around one text, or around two where it has a second slot."""
    first, licence = text_of(grammar, rng, material, kind)
    second = first
    if "{y}" in template:
        words = first.split()
        if kind == "article" or rng.random() < 0.4:
            second, other = text_of(grammar, rng, material, kind)
            licence = licence if licence != OURS else other
        elif len(words) > 4:
            a, b = sorted(rng.sample(range(len(words)), 2))
            words[a], words[b] = words[b], words[a]
            second = " ".join(words)
    text = template.replace("{name}", rng.choice(grammar.rules["name"])).replace("{x}", first).replace("{y}", second)
    return text, licence


def rows(grammar, rng, material):
    """Yields (category, text, licence)."""
    plan = [
        ("text_editing", EDIT, "sentence", 2300),
        ("summarization", SUMMARY, "article", 1300),
        ("summarization", DIALOGUE_SUMMARY, "dialogue", 800),
        ("extraction_classification", SENTIMENT, "review", 620),
        ("extraction_classification", TOPIC, "article", 220),
        ("extraction_classification", TOPIC, "fact", 120),
        ("extraction_classification", QUESTION_TYPE, "question", 150),
        ("extraction_classification", PAIR, "fact", 170),
        ("extraction_classification", PAIR, "sentence", 220),
        ("extraction_classification", PAIR, "question", 160),
        ("extraction_classification", EXTRACT, "tweet", 160),
        ("extraction_classification", EXTRACT, "fact", 140),
        ("extraction_classification", SENTIMENT, "sentence", 60),
    ]
    for category, templates, kind, count in plan:
        for _ in range(count):
            text, licence = fill(grammar, rng, material, rng.choice(templates), kind)
            yield category, text, licence
