"""Small talk: single lines for chitchat, and turns for dialogues."""

RULES = {
    "talk": [
        "{greet}", "{greet} {ask}", "{ask}", "{reply}", "{reply} {ask}", "{plan}", "{plan} {ask}", "{feel}", "{feel} {reply}", "{service}", "{thanks}", "{open}", "{open}", "{open}", "{open} {ask}", "{reply} {open}",
    ],
    "open": [
        "How can you {do} that?", "How could you {do} it without me?", "I suggest you {do} with your {relative}.", "I think we should {do} together.", "You can {do} it, sir.", "You could have {done} something else.", "You should {do} more often.", "I used to {do} when I was a child.", "He {did} it again, didn't he?", "She never {did} it before.", "They {did} it last {day}.", "I am a {trade} in {place}.", "He works as a {trade}, doesn't he?", "I asked my {relative} to bring me a new {product}.", "My {relative} gave me a {product}, look!", "A {product}? Why?",
        "Can you call a cab?", "I'll need your name, sir.", "The police fined me for speeding.", "Do you know what he is suffering from?", "We have been married for {small} years.", "It's on me, really.", "Oh my god, are you kidding me?", "Yes, it's really annoying, that's why I {did} it alone.", "So you want to stay here?", "Where did you {do} it?", "Look, darling! There is a {building}.", "It was a good match, wasn't it?", "I heard that {name} and {name} broke up.", "Did you have a good {time}?", "That {product} looks lovely on you.", "Everybody says that {place} is beautiful in {month}.", "I never thought that you would {do}.", "No, I told you it's new.", "What a {adjective} {time} we had!", "This {product} is too {adjective}.", "Is your {relative} still {adjective}?", "The {building} is just around the corner, you can't miss it.", "I'd rather {do} than {do}.", "Why don't we {do} tonight?", "If I were you, I would {do}.", "Are you saying that a {trade} can't {do}?", "Well, I only {did} it once.", "Let me {do} it for you.", "Don't {do} that, please.", "It takes {small} hours to get to {place} by train.", "Your {relative} seems to be a very {adjective} person.", "I have no idea how to {do}.", "You mustn't {do} here.", "Tell me about your trip to {place}.",
    ],
    "do": ["cook", "sing", "talk about it", "go out", "pay the bill", "help them", "leave early", "try again", "take a break", "play tennis", "stay at home", "ask the manager", "travel", "fix it", "wait for her", "dance", "learn to drive", "apologise", "sell the car", "give up", "smoke"],
    "done": ["chosen", "said", "bought", "tried", "asked for", "eaten", "worn"],
    "did": ["forgot", "broke", "sold", "bought", "tried", "finished", "lost", "found", "did"],
    "time": ["time", "evening", "trip", "weekend", "holiday", "flight", "day", "interview"],
    "adjective": ["nice", "expensive", "boring", "busy", "strange", "lovely", "kind", "noisy", "small", "wonderful", "angry", "tired", "young"],
    "greet": ["Hi {name}!", "Hey, how are you?", "Good morning, sir.", "Hello there.", "Hiya :)", "Hey {name}, long time no see.", "Good evening, madam.", "Hi, it's me."],
    "ask": [
        "What time shall we meet?", "Are you coming tonight?", "How was your weekend?", "Do you want to grab a coffee?", "Did you finish the report?", "Where did you buy that {thing}?", "Can you pick me up at {small}?", "What do you think?", "Why didn't you call me?",
        "Have you heard from {name}?", "Is it far from here?", "How much is it?", "Shall we take a taxi?", "Could you do me a favour?", "What's wrong?", "Are you serious?", "You don't like it, do you?", "Who told you that?", "Do you have a minute?", "Would you like some more tea?", "Really?", "How long will it take?", "So, what happened?", "What does your {relative} do?", "Isn't she lovely?",
    ],
    "reply": [
        "Sure, no problem.", "I'm afraid I can't.", "Oh, I see.", "That's a good idea.", "Yes, I think so too.", "No, not at all.", "I don't know, maybe later.", "Come on, don't be like that.", "You're right, I should have told you.", "Haha, I knew it!", "That sounds great.", "Well, it depends.", "Of course, go ahead.", "I can't believe it.", "It's up to you.", "Never mind.", "Okay, fine.", "Don't worry about it.", "I told you so.", "Not really, it was boring.", "Congratulations!", "What a pity.", "Exactly.", "You must be kidding.", "It was nothing special.", "You look tired today.", "I wouldn't do that if I were you.", "She is always late, you know.", "I'm glad you like it.",
    ],
    "plan": [
        "Let's go to {place} this {month}.", "I'll be there in ten minutes.", "We could watch a movie at my place.", "I have to work until {small} on {day}.", "My {relative} is coming for dinner.", "I'm going to the {venue} with {name}.", "We should leave early, the traffic is terrible.", "I've booked a table for {small}.", "I want to learn how to drive.", "I'm looking for a new job.", "I need to return this {product}.", "Let me check my diary first.", "I'll call you back after the meeting.",
    ],
    "feel": [
        "I'm so tired today.", "I feel terrible about it.", "I've got a headache.", "I'm really excited!", "I'm a bit nervous about the interview.", "It's freezing outside.", "I miss my {relative} so much.", "My boss is driving me crazy.", "I love this song.", "I haven't slept well.", "I'm starving.", "I am proud of you.", "That makes me angry.", "I've never been so happy in my life.",
    ],
    "service": [
        "I'd like a room for {small} nights, please.", "How would you like your steak?", "This one costs {number} dollars.", "Can I see your ticket, please?", "I'd like to try it on.", "May I take your order?", "We have it in blue and in black.", "Here is your change.", "Excuse me, where is the {building}?", "I would like to open an account.", "Sorry, we are fully booked.",
    ],
    "thanks": ["Thanks a lot!", "Thank you so much, {name}.", "You're welcome.", "See you on {day}.", "Bye, take care.", "Have a nice day!", "Good night.", "Thanks, same to you."],
    "post": [
        "just saw {person} in {place} omg !!", "RT @{name}{small}: {talk}", "can't believe {team} lost again #{place}", "new {product} arrived today , so happy :) http://bit.ly/{surname}", "flying to {place} on {day} , anyone around ?", "@{name} {talk}", "{month} is the best month , see you at the {venue} in {place}", "Follow me for free {product}s !! only {number} left", "my {relative} works for {surname} & co and hates it lol", "watching the game with {name} and {name} , go {team}",
    ],
}

SMALL_TALK = [
    "how are you doing today", "what's up", "are you a real person", "tell me about yourself", "do you ever get bored", "i'm bored, talk to me", "what's your favourite colour", "you are funny", "i had a rough day", "can we be friends", "do you like music", "who made you", "good night, talk tomorrow", "are you smarter than me", "do you sleep", "you're annoying",
    "what should we talk about", "i love you", "nice weather, isn't it", "guess what happened to me today", "my cat is sleeping on my keyboard", "i just got a new job!", "do you have any brothers or sisters", "i feel lonely", "you made my day", "what are your plans for the weekend", "i don't want to go to work tomorrow", "do you believe in ghosts", "sing me something", "that was rude",
]


def rows(grammar, rng, material):
    """Yields (category, text, licence)."""
    for text in SMALL_TALK:
        yield "chitchat", text, "Apache-2.0"
    seen = set()
    while len(seen) < 1100:
        text = grammar.pick("talk")
        if rng.random() < 0.25:
            text += " " + grammar.pick("reply")
        if text not in seen:
            seen.add(text)
            yield "chitchat", text, "Apache-2.0"
