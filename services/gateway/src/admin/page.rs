//! Lists in pages.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Entries of a page when the caller does not say.
const DEFAULT: usize = 100;
/// Most entries of a page.
const MOST: usize = 1_000;

/// Which part of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// At most so many entries, 1 to 1000; 100 when not given.
    limit: Option<usize>,
    /// Only entries after this one: `next` of the page before.
    after: Option<String>,
}

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The entries, in the order of their names.
    pub(super) items: Vec<T>,
    /// What to send as `after` to get the rest; null at the end.
    pub(super) next: Option<String>,
}

/// The number of entries to give for a wish.
pub(super) fn limit(wish: Option<usize>) -> usize {
    wish.unwrap_or(DEFAULT).clamp(1, MOST)
}

impl PageParams {
    /// After which name, and how many at most.
    pub(super) fn parts(self) -> (String, usize) {
        (self.after.unwrap_or_default(), limit(self.limit))
    }

    /// Cuts the page out of entries sorted by name.
    pub(super) fn cut<'a, E: 'a, T>(
        &self,
        entries: impl Iterator<Item = (&'a str, E)>,
        show: impl Fn(E) -> T,
    ) -> Page<T> {
        let after = self.after.as_deref();
        let mut rest = entries.skip_while(|(name, _)| after.is_some_and(|a| *name <= a)).peekable();
        let mut items = Vec::new();
        let mut last = None;
        for (name, entry) in rest.by_ref().take(limit(self.limit)) {
            items.push(show(entry));
            last = Some(name);
        }
        let next = rest.peek().and(last).map(str::to_owned);
        Page { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_the_list_once() {
        let names = ["a", "b", "c", "d", "e"];
        let entries = || names.iter().map(|n| (*n, *n));
        for size in 1..=6 {
            let mut seen = Vec::new();
            let mut after = None;
            loop {
                let page = PageParams { limit: Some(size), after }.cut(entries(), |n| n);
                seen.extend(page.items);
                match page.next {
                    None => break,
                    next => after = next,
                }
            }
            assert_eq!(seen, names);
        }
        let past = PageParams { limit: None, after: Some("z".into()) }.cut(entries(), |n| n);
        assert!(past.items.is_empty() && past.next.is_none());
        assert_eq!(limit(Some(0)), 1);
        assert_eq!(limit(Some(9_999)), MOST);
    }
}
