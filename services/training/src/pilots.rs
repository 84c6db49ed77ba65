//! Pilots: for each expert the embeddings that stand for the prompts it is best at (`RouterRetriever`, arXiv 2409.02685,
//! algorithm 1).
//!
//! Every prompt goes to the expert that scored most on it; the prompts of one domain and one expert make a group; the
//! mean of the group's embeddings, at length 1, is one pilot of that expert. A prompt on which several experts did
//! equally well, or all the same, says nothing about who is best and belongs to no group. One centroid for each group
//! is the published choice: several were worse, because they draw prompts of others.

use std::collections::BTreeMap;

use crate::clusters::unit;

/// The only expert with the highest score; nothing on a tie.
fn winner(scores: &[f32]) -> Option<usize> {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut at = scores.iter().enumerate().filter(|(_, score)| **score >= highest).map(|(expert, _)| expert);
    let first = at.next()?;
    at.next().is_none().then_some(first)
}

/// Pilots by expert, in the order of the domains' names. A prompt is its domain, its embedding and everyone's scores.
/// Groups of fewer than `least` prompts have none.
pub(crate) fn fit<'a>(
    prompts: impl Iterator<Item = (&'a str, &'a [f32], &'a [f32])>,
    experts: usize,
    least: usize,
) -> Vec<Vec<Vec<f32>>> {
    let mut groups: BTreeMap<(&str, usize), (usize, Vec<f32>)> = BTreeMap::new();
    for (domain, embedding, scores) in prompts {
        let Some(expert) = winner(scores) else { continue };
        let (count, sum) = groups.entry((domain, expert)).or_insert_with(|| (0, vec![0.0; embedding.len()]));
        *count += 1;
        sum.iter_mut().zip(embedding).for_each(|(s, x)| *s += x);
    }
    let mut pilots = vec![Vec::new(); experts];
    for ((_, expert), (count, sum)) in groups {
        if count >= least {
            pilots[expert].extend(unit(&sum));
        }
    }
    pilots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_domain_gives_its_best_expert_one_pilot() {
        let prompts: [(&str, &[f32], &[f32]); 5] = [
            ("code", &[1.0, 0.0], &[0.9, 0.1]),
            ("code", &[0.0, 1.0], &[0.8, 0.2]),
            ("code", &[0.0, 1.0], &[0.5, 0.5]),
            ("law", &[0.0, 1.0], &[0.2, 0.7]),
            ("law", &[0.6, 0.8], &[0.9, 0.0]),
        ];
        let pilots = fit(prompts.into_iter(), 2, 1);
        let half = 0.5_f32.sqrt();
        assert_eq!(pilots[0].len(), 2);
        assert!((pilots[0][0][0] - half).abs() < 1e-6 && (pilots[0][0][1] - half).abs() < 1e-6);
        assert_eq!(pilots[0][1], [0.6, 0.8]);
        assert_eq!(pilots[1], [[0.0, 1.0]]);
        assert_eq!(fit(prompts.into_iter(), 2, 2)[1], Vec::<Vec<f32>>::new());
    }
}
