//! Leases that other processes hold: a process that is gone holds nothing for ever.
//!
//! A lease lasts for a time and is renewed. It belongs to a term, which is a start of the owner: numbers begin anew with
//! each term, so that a call of an earlier one never means a lease of this one. What is held by the lease is let go
//! when the guard that it was granted with is dropped.
//!
//! Times are microseconds of a clock that the caller chose.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use routing::ExpertId;

use crate::owner::NotHeld;

/// All leases of one term, each with a guard that keeps its expert.
#[derive(Debug)]
pub struct Leases<G> {
    term: u64,
    lasts_us: u64,
    next: u64,
    all: HashMap<u64, Lease<G>>,
}

#[derive(Debug)]
struct Lease<G> {
    holder: Arc<str>,
    expert: ExpertId,
    until_us: u64,
    guard: G,
}

/// A lease as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its number in this term.
    pub lease: u64,
    /// Who has it.
    pub holder: Arc<str>,
    /// Whom it keeps.
    pub expert: ExpertId,
    /// When it ends, if it is not renewed.
    pub until_us: u64,
}

/// A lease that was not renewed in time.
#[derive(Debug)]
pub struct Expired<G> {
    /// Who had it.
    pub holder: Arc<str>,
    /// Whom it kept.
    pub expert: ExpertId,
    /// To be dropped by the caller, where no lock is in the way.
    pub guard: G,
}

/// The caller's term is not this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the term is {now}, not {given}: the owner of the pools has started anew, or is another one")]
pub struct WrongTerm {
    /// The term now.
    pub now: u64,
    /// The caller's.
    pub given: u64,
}

/// What became of leases that were to be renewed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Those that last on: the number that was given, and the number now, which differs where the lease had to be
    /// made anew.
    pub leases: Vec<(u64, u64)>,
    /// Those whose experts may be gone.
    pub lost: Vec<u64>,
    /// Those of whose experts nobody knows yet where they are; to be renewed again soon.
    pub unknown: Vec<u64>,
}

impl<G> Leases<G> {
    /// No leases yet. Each will last for `lasts`.
    pub fn new(term: u64, lasts: Duration) -> Self {
        Self { term, lasts_us: lasts.as_micros() as u64, next: 1, all: HashMap::new() }
    }

    /// The term.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// How long a lease lasts.
    pub fn lasts(&self) -> Duration {
        Duration::from_micros(self.lasts_us)
    }

    /// Grants a lease; its number.
    pub fn grant(&mut self, now_us: u64, holder: Arc<str>, expert: ExpertId, guard: G) -> u64 {
        let number = self.next;
        self.next += 1;
        let until_us = now_us.saturating_add(self.lasts_us);
        self.all.insert(number, Lease { holder, expert, until_us, guard });
        number
    }

    /// Has a holder's leases last on from now. Those of earlier terms, and those that have run out, are made anew with
    /// the guards of `take_back`.
    ///
    /// # Errors
    /// [`WrongTerm`] for a later term: another owner has taken over, and this one has no say any more.
    pub fn renew(
        &mut self,
        now_us: u64,
        holder: &Arc<str>,
        term: u64,
        leases: &[(u64, ExpertId)],
        mut take_back: impl FnMut(&ExpertId) -> Result<G, NotHeld>,
    ) -> Result<Renewed, WrongTerm> {
        if term > self.term {
            return Err(WrongTerm { now: self.term, given: term });
        }
        let mut renewed = Renewed::default();
        for (number, expert) in leases {
            let known = self.all.get_mut(number).filter(|_| term == self.term);
            if let Some(lease) = known {
                if lease.holder == *holder && lease.expert == *expert {
                    lease.until_us = now_us.saturating_add(self.lasts_us);
                    renewed.leases.push((*number, *number));
                } else {
                    renewed.lost.push(*number);
                }
                continue;
            }
            match take_back(expert) {
                Ok(guard) => {
                    let now = self.grant(now_us, holder.clone(), expert.clone(), guard);
                    renewed.leases.push((*number, now));
                }
                Err(NotHeld::Gone) => renewed.lost.push(*number),
                Err(NotHeld::Unknown) => renewed.unknown.push(*number),
            }
        }
        Ok(renewed)
    }

    /// Takes a lease back; `None` where there is none of that number any more. The guard is the caller's to drop, where
    /// no lock is in the way.
    ///
    /// # Errors
    /// [`WrongTerm`], and then nothing is taken back.
    pub fn release(&mut self, term: u64, number: u64) -> Result<Option<G>, WrongTerm> {
        if term != self.term {
            return Err(WrongTerm { now: self.term, given: term });
        }
        Ok(self.all.remove(&number).map(|lease| lease.guard))
    }

    /// Takes all leases back that have run out.
    pub fn expire(&mut self, now_us: u64) -> Vec<Expired<G>> {
        let over = self.all.extract_if(|_, lease| lease.until_us <= now_us);
        over.map(|(_, Lease { holder, expert, guard, .. })| Expired { holder, expert, guard }).collect()
    }

    /// When the first of them runs out.
    pub fn next_us(&self) -> Option<u64> {
        self.all.values().map(|lease| lease.until_us).min()
    }

    /// All of them, in the order in which they were granted.
    pub fn shown(&self) -> Vec<Shown> {
        let show = |(number, lease): (&u64, &Lease<G>)| Shown {
            lease: *number,
            holder: lease.holder.clone(),
            expert: lease.expert.clone(),
            until_us: lease.until_us,
        };
        let mut all: Vec<_> = self.all.iter().map(show).collect();
        all.sort_unstable_by_key(|shown| shown.lease);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const SECOND: u64 = 1_000_000;

    /// Says when it is let go.
    struct Guard(&'static str, Arc<Mutex<Vec<&'static str>>>);

    impl Drop for Guard {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    struct World {
        leases: Leases<Guard>,
        gone: Arc<Mutex<Vec<&'static str>>>,
    }

    fn id(text: &str) -> ExpertId {
        ExpertId::new(text).unwrap()
    }

    impl World {
        /// Leases of ten seconds in term 7.
        fn new() -> Self {
            Self { leases: Leases::new(7, Duration::from_secs(10)), gone: Arc::default() }
        }

        fn grant(&mut self, now_s: u64, holder: &str, expert: &'static str) -> u64 {
            let guard = Guard(expert, self.gone.clone());
            self.leases.grant(now_s * SECOND, holder.into(), id(expert), guard)
        }

        /// Where `x` is gone and nobody knows where `y` is.
        fn renew(
            &mut self,
            now_s: u64,
            holder: &str,
            term: u64,
            leases: &[(u64, &str)],
        ) -> Result<Renewed, WrongTerm> {
            let leases: Vec<_> = leases.iter().map(|(number, expert)| (*number, id(expert))).collect();
            let gone = self.gone.clone();
            self.leases.renew(now_s * SECOND, &holder.into(), term, &leases, |expert| match expert.as_str() {
                "x" => Err(NotHeld::Gone),
                "y" => Err(NotHeld::Unknown),
                _ => Ok(Guard("taken back", gone.clone())),
            })
        }

        fn expire(&mut self, now_s: u64) -> usize {
            self.leases.expire(now_s * SECOND).len()
        }

        fn gone(&self) -> Vec<&'static str> {
            std::mem::take(&mut self.gone.lock().unwrap())
        }
    }

    #[test]
    fn a_lease_ends_when_it_is_released_or_not_renewed() {
        let mut world = World::new();
        assert_eq!(world.leases.next_us(), None);
        let (a, b) = (world.grant(0, "one", "a"), world.grant(4, "two", "b"));
        assert_eq!((world.leases.next_us(), world.expire(9), world.gone()), (Some(10 * SECOND), 0, vec![]));
        let renewed = world.renew(9, "one", 7, &[(a, "a")]).unwrap();
        assert_eq!(renewed.leases, [(a, a)]);
        assert_eq!((world.expire(14), world.gone()), (1, vec!["b"]));
        assert_eq!(world.leases.shown().len(), 1);
        assert!(world.leases.release(7, a).unwrap().is_some());
        assert_eq!(world.gone(), ["a"]);
        // What is over is over.
        assert!(
            world.leases.release(7, a).unwrap().is_none() && world.leases.release(7, b).unwrap().is_none()
        );
        assert_eq!((world.expire(1000), world.leases.next_us()), (0, None));
    }

    #[test]
    fn what_ran_out_is_made_anew_where_its_expert_is_still_there() {
        let mut world = World::new();
        let old = [world.grant(0, "one", "a"), world.grant(0, "one", "x"), world.grant(0, "one", "y")];
        assert_eq!(world.expire(10), 3);
        let renewed = world.renew(11, "one", 7, &[(old[0], "a"), (old[1], "x"), (old[2], "y")]).unwrap();
        let [(given, now)] = renewed.leases[..] else { panic!("{renewed:?}") };
        assert_eq!(given, old[0]);
        assert!(!old.contains(&now), "a number means one lease for ever");
        assert_eq!((renewed.lost, renewed.unknown), (vec![old[1]], vec![old[2]]));
        assert_eq!(world.leases.next_us(), Some(21 * SECOND));
    }

    #[test]
    fn calls_of_another_term_mean_no_lease_of_this_one() {
        let mut world = World::new();
        let a = world.grant(0, "one", "a");
        // Before the owner's restart the same number was another lease.
        assert_eq!(world.leases.release(6, a).err(), Some(WrongTerm { now: 7, given: 6 }));
        assert_eq!(world.gone(), [""; 0]);
        let renewed = world.renew(5, "two", 6, &[(a, "b")]).unwrap();
        let [(given, b)] = renewed.leases[..] else { panic!("{renewed:?}") };
        assert!(given == a && b != a, "it got a number of this term");
        assert_eq!((world.expire(10), world.gone()), (1, vec!["a"]), "and a was not renewed by it");
        // A later term is another owner's, and this one has nothing to say about its leases.
        assert_eq!(world.renew(11, "two", 8, &[(b, "b")]), Err(WrongTerm { now: 7, given: 8 }));
        assert!(world.leases.release(8, b).is_err());
        assert_eq!(world.leases.shown().len(), 1);
    }

    #[test]
    fn nobody_renews_the_lease_of_another() {
        let mut world = World::new();
        let a = world.grant(0, "one", "a");
        for (holder, expert) in [("two", "a"), ("one", "b")] {
            let renewed = world.renew(5, holder, 7, &[(a, expert)]).unwrap();
            assert_eq!((renewed.leases, renewed.lost), (vec![], vec![a]), "{holder} {expert}");
        }
        assert_eq!(world.leases.next_us(), Some(10 * SECOND));
    }
}
