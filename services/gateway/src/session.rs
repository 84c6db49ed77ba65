//! Who answered a conversation last, so that a tool loop stays with its expert, and how well experts suited its
//! last turn, for routes that are sticky.
//!
//! A conversation is named by `x-guildhall-session`, or else by the digest of its first messages, which
//! every later turn repeats. The memory is bounded: the sessions that were quiet longest are forgotten, and
//! a forgotten tool loop is routed by its last user turn, which is the one that started the loop, so that
//! the same policy sends it to the same expert.

use std::sync::Arc;

use quick_cache::sync::Cache;
use routing::{ExpertId, Plan};

/// Scores that are kept of a turn.
const REMEMBERED: usize = 8;

/// The memory of conversations.
pub struct Sessions {
    holders: Cache<u64, ExpertId>,
    scores: Cache<u64, Arc<[(ExpertId, f32)]>>,
}

/// Names a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionKey(u64);

impl SessionKey {
    /// The key of a request: the client's own name for the session, or the conversation's digest. `flow` tells
    /// API keys apart, so that nobody joins another's session by guessing its name.
    pub fn new(flow: u64, named: Option<&str>, conversation: u64) -> Self {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        match named {
            Some(name) => Self(hasher.hash_one(("named", flow, name))),
            None => Self(hasher.hash_one(("opening", flow, conversation))),
        }
    }
}

impl Sessions {
    /// A memory of `capacity` conversations.
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { holders: Cache::new(capacity), scores: Cache::new(capacity) })
    }

    /// Who answered this conversation last.
    pub fn holder(&self, key: SessionKey) -> Option<ExpertId> {
        self.holders.get(&key.0)
    }

    /// The scores that this conversation's last turn gave to the experts.
    pub fn scores(&self, key: SessionKey) -> Option<Arc<[(ExpertId, f32)]>> {
        self.scores.get(&key.0)
    }

    /// Notes a turn's scores: those of the first candidates, which are all that a later turn could go back to.
    pub fn remember(&self, key: SessionKey, plan: &Plan) {
        let scores = plan.candidates.iter().take(REMEMBERED).map(|c| (c.expert.clone(), c.score));
        self.scores.insert(key.0, scores.collect());
    }

    /// Notes who answered.
    pub fn hold(&self, key: SessionKey, expert: &ExpertId) {
        self.holders.insert(key.0, expert.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_an_opening_are_different_sessions() {
        let sessions = Sessions::new(100);
        let expert = ExpertId::new("coder").unwrap();
        sessions.hold(SessionKey::new(0, Some("s1"), 7), &expert);
        assert_eq!(sessions.holder(SessionKey::new(0, Some("s1"), 8)), Some(expert));
        assert_eq!(sessions.holder(SessionKey::new(0, None, 7)), None);
        assert_eq!(sessions.holder(SessionKey::new(0, Some("s2"), 7)), None);
        assert_eq!(sessions.holder(SessionKey::new(1, Some("s1"), 8)), None);
    }

    #[test]
    fn the_memory_is_bounded() {
        let sessions = Sessions::new(16);
        let expert = ExpertId::new("coder").unwrap();
        for n in 0..10_000 {
            sessions.hold(SessionKey::new(0, None, n), &expert);
        }
        assert!(sessions.holders.len() <= 32);
    }
}
