//! General requests that belong to nobody: what all prompts have in common can be told from them.
//!
//! Every subject is asked about in some of the ways, in a fixed pattern, so that neither a subject nor a way of asking
//! stands out. They were written for this purpose; they are no expert's prompts.

/// Ways of asking per subject.
const PER_SUBJECT: usize = 12;

const SUBJECTS: &[&str] = &[
    "the history of bread",
    "a broken bicycle brake",
    "the tides",
    "compound interest",
    "a wedding speech",
    "the French Revolution",
    "back pain after sitting",
    "a leaking tap",
    "the rules of chess",
    "a Python dictionary",
    "photosynthesis",
    "a rental contract",
    "the weather tomorrow",
    "my sister's birthday",
    "a cover letter",
    "the solar system",
    "a vegetarian lasagne",
    "quadratic equations",
    "a train ticket to Vienna",
    "the stock market",
    "an old castle at night",
    "vitamin D",
    "a customer complaint",
    "the second world war",
    "a monthly budget",
    "the alarm clock",
    "a database of books",
    "a poem about rain",
    "the constitution",
    "a puppy that bites",
    "learning Spanish",
    "an email to my manager",
    "electric cars",
    "a sore throat",
    "the meaning of justice",
    "a web server",
    "the Roman Empire",
    "a list of names",
    "the speed of light",
    "a pirate captain",
    "income tax",
    "a regular expression",
    "the novel on my desk",
    "jet lag",
    "a pair of shoes I ordered",
    "the human heart",
    "a riddle with three doors",
    "noise from the neighbours",
    "the periodic table",
    "a job interview",
    "garden tomatoes",
    "an insurance claim",
    "the last meeting",
    "a mountain hike",
    "probability of two sixes",
    "copyright of photographs",
    "a spreadsheet column",
    "the city of Lisbon",
    "a conversation with a robot",
    "sleep",
    "steel bridges",
    "a scientific abstract",
    "an argument between friends",
    "the price of gold",
    "a lullaby",
    "climate change",
    "a shell script",
    "antibiotics",
    "the kitchen lights",
    "a product review",
    "a detective story",
    "inflation",
    "the word for thank you",
    "a divorce",
    "prime numbers",
    "a news article",
    "music theory",
    "a hotel room",
    "the immune system",
    "a mortgage",
];

/// `{}` stands for the subject.
const WAYS: &[&str] = &[
    "What is {}?",
    "Tell me about {}.",
    "Can you help me with {}? I do not know where to begin.",
    "Explain {} to a child of ten.",
    "Write a short text about {}.",
    "I have a question about {}: what should I know first?",
    "{}",
    "Give me five facts about {}.",
    "Please improve this sentence: \"I has many thought about {} and it are good.\"",
    "Why do people care about {}? Answer in two paragraphs.",
    "Summarise what follows in one sentence. Yesterday we talked about {}. Some were for it, some against, and in the \
     end we agreed to talk again next week.",
    "Which of these has to do with {}? A) water B) time C) money D) none of them. Explain your choice.",
    "Translate into German: We would like to know more about {}.",
    "Imagine that you are an expert. Somebody asks you about {}. What do you say?",
    "How much does it cost, how long does it take, and what can go wrong? It is about {}.",
    "Hi! I was thinking about {} today. What do you think?",
    "List the steps that one has to take when it comes to {}, and number them.",
    "Is the following about {}? Answer yes or no.\n\nText: The committee met at nine and left at noon.",
    "Compare {} with something similar and put the differences into a table.",
    "Was kannst du mir über {} sagen?",
    "Find the names, places and dates: \"On 3 May, Anna wrote to Mr Brown in Leeds about {}.\"",
    "Write a function or a query that has something to do with {}, and say how it works.",
    "Remind me about {} at six o'clock.",
    "If there are 12 questions about {} and each takes 7 minutes, how long do all of them take?",
];

/// The requests, always the same ones.
pub(super) fn requests() -> Vec<String> {
    let mut requests = Vec::with_capacity(SUBJECTS.len() * PER_SUBJECT);
    for (number, subject) in SUBJECTS.iter().enumerate() {
        for turn in 0..PER_SUBJECT {
            // 7 and 24 have no common divisor, so that twelve turns meet twelve ways.
            let way = WAYS[(number * 5 + turn * 7) % WAYS.len()];
            requests.push(way.replace("{}", subject));
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_subject_is_asked_about_in_different_ways_and_every_way_is_used_alike() {
        let requests = requests();
        assert_eq!(requests.len(), SUBJECTS.len() * PER_SUBJECT);
        assert_eq!(requests.iter().collect::<BTreeSet<_>>().len(), requests.len());
        assert!(requests.iter().all(|request| !request.contains("{}")));
        for way in WAYS.iter().filter(|way| way.len() > 20) {
            let begin = way.split("{}").next().unwrap();
            let used = requests.iter().filter(|request| request.starts_with(begin)).count();
            assert!(used >= requests.len() / WAYS.len() / 2, "{way}: {used}");
        }
    }
}
