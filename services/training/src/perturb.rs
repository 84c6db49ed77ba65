//! Small changes of a prompt that should not change its category.

use fastrand::Rng;

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Noise {
    /// A slip of the finger for about every tenth word, at least one.
    Typos,
    /// All upper case, all lower case, or a capital at each word.
    Case,
    /// Blanks doubled, turned into line breaks, or put around the prompt.
    Whitespace,
    /// Words of courtesy before the prompt or after it, or both.
    Templates,
}

impl Noise {
    pub(crate) const ALL: [Self; 4] = [Self::Typos, Self::Case, Self::Whitespace, Self::Templates];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Typos => "typos",
            Self::Case => "case",
            Self::Whitespace => "whitespace",
            Self::Templates => "templates",
        }
    }

    /// The changed prompt. The same generator state gives the same change.
    pub(crate) fn apply(self, text: &str, rng: &mut Rng) -> String {
        match self {
            Self::Typos => typos(text, rng),
            Self::Case => case(text, rng),
            Self::Whitespace => whitespace(text, rng),
            Self::Templates => template(text, rng),
        }
    }
}

fn typos(text: &str, rng: &mut Rng) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let slips = (text.split_whitespace().count() / 10).max(1);
    for _ in 0..slips {
        // A place between two letters, so that a slip neither joins words nor hits punctuation.
        let places: Vec<usize> = (1..chars.len())
            .filter(|&at| chars[at - 1].is_alphabetic() && chars[at].is_alphabetic())
            .collect();
        let Some(&at) = rng.choice(&places) else { break };
        match rng.u8(0..4) {
            0 => chars.swap(at - 1, at),
            1 => drop(chars.remove(at)),
            2 => chars.insert(at, chars[at]),
            _ => chars[at] = neighbour(chars[at], rng),
        }
    }
    chars.into_iter().collect()
}

/// A key beside the letter's on a common keyboard; other letters stay.
fn neighbour(letter: char, rng: &mut Rng) -> char {
    const ROWS: [&str; 3] = ["qwertyuiop", "asdfghjkl", "zxcvbnm"];
    for row in ROWS {
        if let Some(at) = row.find(letter.to_ascii_lowercase()) {
            let beside: Vec<char> =
                row.char_indices().filter(|(i, _)| i.abs_diff(at) == 1).map(|(_, key)| key).collect();
            return rng.choice(&beside).copied().unwrap_or(letter);
        }
    }
    letter
}

fn case(text: &str, rng: &mut Rng) -> String {
    match rng.u8(0..3) {
        0 => text.to_uppercase(),
        1 => text.to_lowercase(),
        _ => {
            let mut start = true;
            let mut out = String::with_capacity(text.len());
            for letter in text.chars() {
                if start {
                    out.extend(letter.to_uppercase());
                } else {
                    out.push(letter);
                }
                start = letter.is_whitespace();
            }
            out
        }
    }
}

/// What people put around any request.
const TEMPLATES: [(&str, &str); 8] = [
    ("Hi! ", ""),
    ("Please help me with the following.\n\n", ""),
    ("I need your help with this: ", "\n\nThank you!"),
    ("Hello, could you take care of this for me? ", ""),
    ("", "\n\nPlease keep your answer short."),
    ("", "\n\nTake your time and be careful."),
    ("User: ", "\nAssistant:"),
    ("### Request\n", "\n\n### Response\n"),
];

fn template(text: &str, rng: &mut Rng) -> String {
    let (before, after) = rng.choice(TEMPLATES).unwrap_or(("", ""));
    format!("{before}{text}{after}")
}

fn whitespace(text: &str, rng: &mut Rng) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    if rng.bool() {
        out.push_str("  \n");
    }
    for letter in text.chars() {
        match (letter, rng.u8(0..5)) {
            (' ', 0) => out.push_str("  "),
            (' ', 1) => out.push('\n'),
            _ => out.push(letter),
        }
    }
    if rng.bool() {
        out.push_str("\n ");
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn the_same_seed_gives_the_same_change(text in ".{0,80}", seed in any::<u64>()) {
            for noise in Noise::ALL {
                let twice = [0, 1].map(|_| noise.apply(&text, &mut Rng::with_seed(seed)));
                prop_assert_eq!(&twice[0], &twice[1]);
            }
        }

        #[test]
        fn whitespace_changes_no_word(text in "[a-z ,.]{0,60}", seed in any::<u64>()) {
            let changed = Noise::Whitespace.apply(&text, &mut Rng::with_seed(seed));
            prop_assert!(text.split_whitespace().eq(changed.split_whitespace()));
        }

        #[test]
        fn a_template_keeps_the_prompt_whole(text in ".{0,80}", seed in any::<u64>()) {
            let changed = Noise::Templates.apply(&text, &mut Rng::with_seed(seed));
            prop_assert!(changed.contains(&text) && changed.len() > text.len());
        }

        #[test]
        fn case_changes_no_letter(text in "[a-zA-Z ?]{0,60}", seed in any::<u64>()) {
            let changed = Noise::Case.apply(&text, &mut Rng::with_seed(seed));
            prop_assert_eq!(text.to_lowercase(), changed.to_lowercase());
        }

        #[test]
        fn typos_keep_the_words_apart(text in "[a-z]{2,9}( [a-z]{1,9}){0,30}", seed in any::<u64>()) {
            let changed = Noise::Typos.apply(&text, &mut Rng::with_seed(seed));
            prop_assert_eq!(text.split_whitespace().count(), changed.split_whitespace().count());
        }
    }

    #[test]
    fn a_text_without_letters_stays() {
        assert_eq!(Noise::Typos.apply("1 + 1 =", &mut Rng::with_seed(1)), "1 + 1 =");
        assert_eq!(Noise::Typos.apply("", &mut Rng::with_seed(1)), "");
    }
}
