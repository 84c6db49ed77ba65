use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::settings::{LimitKind, Limits, Resource};
use crate::subject::Subject;
use crate::usd::Usd;

/// A subject with its limits, compiled for a [`Ledger`](super::Ledger). Made anew when the limits change;
/// what was used belongs to the subject and stays.
#[derive(Debug)]
pub struct Account {
    subject: Subject,
    rules: Box<[Rule]>,
    /// Where the embedded ledger last found the subject's counters. Only a hint: it checks.
    pub(super) slot: AtomicU32,
}

/// One limit of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What is counted, and over which time.
    pub kind: LimitKind,
    /// The most that may be used; money in nano-dollars.
    pub limit: u64,
}

impl Account {
    /// The account of a subject; `None` when nothing that a ledger counts is limited.
    pub fn new(subject: Subject, limits: &Limits) -> Option<Arc<Self>> {
        let rules: Box<[Rule]> = limits
            .counted()
            .into_iter()
            .filter_map(|(kind, limit)| limit.map(|limit| Rule { kind, limit }))
            .collect();
        let slot = AtomicU32::new(u32::MAX);
        (!rules.is_empty()).then(|| Arc::new(Self { subject, rules, slot }))
    }

    /// Whose it is.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Its limits; never empty.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// The accounts that one request is charged to. The default is none, which costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accounts<'a> {
    /// The key's.
    pub key: Option<&'a Arc<Account>>,
    /// The team's.
    pub team: Option<&'a Arc<Account>>,
    /// The route's.
    pub route: Option<&'a Arc<Account>>,
}

impl<'a> Accounts<'a> {
    /// Those that there are.
    pub fn iter(&self) -> impl Iterator<Item = &'a Arc<Account>> + use<'a> {
        [self.key, self.team, self.route].into_iter().flatten()
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.key.is_none() && self.team.is_none() && self.route.is_none()
    }
}

/// What one request uses, as estimated or as it turned out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub input_tokens: u64,
    /// Answer tokens.
    pub output_tokens: u64,
    /// What it costs.
    pub cost: Usd,
}

impl Usage {
    /// How much of a resource it is, money in nano-dollars.
    pub const fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Requests => 1,
            Resource::InputTokens => self.input_tokens,
            Resource::OutputTokens => self.output_tokens,
            Resource::Tokens => self.input_tokens.saturating_add(self.output_tokens),
            Resource::Cost => self.cost.nanos(),
        }
    }
}
